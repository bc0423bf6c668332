"""What a client knows of its connection: the requests under way, its subscriptions, what each incoming message means.

PURE: no I/O, no clock, no locks. `juggler.client` puts threads around it; it takes care that one thread at a time
enters, and that SUB and UNSB are sent in the order in which they were registered here.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeAlias

from juggler.errors import CallFailed, Cancelled, ConnectionClosed, Expired, JugglerError, NackCode, Nacked
from juggler.process.uuids import new_uuid
from juggler.protocol.codec import decode_args, decode_response
from juggler.protocol.messages import NULL, Ack, Call, Evnt, Message, MessageType, Nack, Pub, Res, Response, Sub, Unsb

Outcome: TypeAlias = Res | JugglerError | None
"""What becomes of a request: a call's result, ``None`` for an ACK, or why it failed."""

_FEW = 64
_LATER = (NackCode.TOO_MANY_REQUESTS, NackCode.UNAVAILABLE)
_MAX_MESSAGE = 200


class Waiter(Protocol):
    """Is told, exactly once, what became of a request."""

    def settle(self, outcome: Outcome) -> None: ...


class Sink(Protocol):
    """Receives the events of a subscription. Is told apart by identity."""

    def on_event(self, event: Evnt) -> None: ...

    def on_gap(self) -> None:
        """Events may have been missed: the connection was lost, and the subscription is made anew."""

    def on_end(self, error: JugglerError) -> None:
        """No more events come."""


class Exp(Message, frozen=True, gc=False):
    """No result came in time for the CALL ``for_``. Local to the client: it never travels.

    Attributes:
        uri: of the call.
        args: of the call, as JSON text.
    """

    type: ClassVar[MessageType] = MessageType.CUSTOM

    for_: str
    uri: str
    args: bytes = NULL


class _Channel:
    """All subscriptions of this client to one channel or pattern: one subscription for the server."""

    __slots__ = ("_channels", "_unrenewed", "confirmed", "is_renewed", "key", "sinks", "waiters")

    def __init__(
        self, channels: dict[tuple[str, bool], _Channel], unrenewed: list[_Channel], key: tuple[str, bool]
    ) -> None:
        self._channels = channels
        self._unrenewed = unrenewed
        self.key = key
        self.sinks: list[Sink] = []
        self.waiters: list[Waiter] = []
        self.confirmed = False
        self.is_renewed = False

    def join(self, sink: Sink, waiter: Waiter) -> None:
        self.sinks.append(sink)
        if self.confirmed:
            waiter.settle(None)
        else:
            self.waiters.append(waiter)

    def settle(self, outcome: Outcome) -> None:
        """The server answered the SUB: tell all who wait for it."""
        if self.is_renewed and isinstance(outcome, Nacked) and outcome.code in _LATER:
            self._unrenewed.append(self)
            return
        self.confirmed = outcome is None
        if not self.confirmed and self._channels.get(self.key) is self:
            del self._channels[self.key]
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            waiter.settle(outcome)
        if self.is_renewed:
            self.is_renewed = False
            self.tell(outcome)

    def tell(self, outcome: Outcome) -> None:
        """Tell all sinks how it went to make the subscription anew."""
        for sink in self.sinks:
            if isinstance(outcome, JugglerError):
                sink.on_end(outcome)
            else:
                sink.on_gap()

    def lose(self, error: ConnectionClosed) -> bool:
        """The connection is lost. Return whether the subscription is to be made anew with the next one."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            waiter.settle(ConnectionClosed(error.code, error.reason))
        # Whoever has waited for a first confirmation was told that there is none, and is out.
        was_confirmed, self.confirmed = self.confirmed or self.is_renewed, False
        self.is_renewed = was_confirmed
        return was_confirmed


class ClientState:
    """The state of a client: of one connection, or of several one after the other.

    Requests are registered here before they are sent. Each waiter is settled once: by the answer, by `expire`, or by
    `end`; never when its request was forgotten.
    """

    def __init__(self) -> None:
        self._replies: dict[str, Waiter] = {}
        self._calls: dict[str, tuple[Call, Waiter]] = {}
        self._deadlines: list[tuple[float, str]] = []
        self._channels: dict[tuple[str, bool], _Channel] = {}
        self.unrenewed: list[_Channel] = []
        self.ended: ConnectionClosed | None = None
        self.lost: ConnectionClosed | None = None

    # Requests

    def call(self, message: Call, deadline: float, waiter: Waiter) -> None:
        """Register a call, to be settled with its result, or with `Expired` once ``deadline`` is over."""
        self._check_open()
        self._calls[message.uuid] = (message, waiter)
        heapq.heappush(self._deadlines, (deadline, message.uuid))
        if len(self._deadlines) > 2 * len(self._calls) + _FEW:
            # Mostly calls that were answered long before their deadline.
            self._deadlines = [entry for entry in self._deadlines if entry[1] in self._calls]
            heapq.heapify(self._deadlines)

    def publish(self, message: Pub, waiter: Waiter) -> None:
        """Register a publication, to be settled by its ACK or NACK."""
        self._check_open()
        self._replies[message.uuid] = waiter

    def subscribe(self, message: Sub, sink: Sink, waiter: Waiter) -> bool:
        """Add a subscription. Returns whether the message is to be sent: not when another one covers it already."""
        self._check_open()
        key = (message.channel, message.pattern)
        channel = self._channels.get(key)
        is_first = channel is None
        if channel is None:
            channel = self._channels[key] = _Channel(self._channels, self.unrenewed, key)
            self._replies[message.uuid] = channel
        channel.join(sink, waiter)
        return is_first

    def unsubscribe(self, message: Unsb, sink: Sink | None, waiter: Waiter) -> bool:
        """End the subscription of ``sink``, or of all sinks with ``None``; one that does not exist is no error.

        Returns whether the message is to be sent: only when the last one ends.
        """
        if self.ended is not None:
            self._check_open()
        channel = self._channels.get((message.channel, message.pattern))
        if self.lost is not None:
            return self._leave_while_lost(channel, sink, waiter)
        leaving = [] if channel is None else [s for s in channel.sinks if sink is None or s is sink]
        if channel is None or not leaving:
            waiter.settle(None)
            return False
        for each in leaving:
            channel.sinks.remove(each)
            each.on_end(ConnectionClosed(1000, "unsubscribed"))
        if channel.sinks:
            waiter.settle(None)
            return False
        del self._channels[channel.key]
        self._replies[message.uuid] = waiter
        return True

    def _leave_while_lost(self, channel: _Channel | None, sink: Sink | None, waiter: Waiter) -> bool:
        """End subscriptions of which no server knows now."""
        if channel is not None:
            for each in [s for s in channel.sinks if sink is None or s is sink]:
                channel.sinks.remove(each)
                each.on_end(ConnectionClosed(1000, "unsubscribed"))
            if not channel.sinks:
                del self._channels[channel.key]
        waiter.settle(None)
        return False

    def forget(self, uuid: str) -> None:
        """Nobody waits for the ACK of this request any more. Idempotent.

        That of a SUB is expected all the same: others may count on the same subscription.
        """
        if not isinstance(self._replies.get(uuid), _Channel):
            self._replies.pop(uuid, None)

    def cancel(self, uuid: str) -> None:
        """Settle a call with `Cancelled`; its result is dropped. Nothing happens when it is settled already."""
        call, waiter = self._calls.pop(uuid, (None, None))
        if call is not None and waiter is not None:
            waiter.settle(Cancelled(f"the result of {call.uri} is not waited for any more"))

    # What happens to them

    def receive(self, text: str) -> Response:
        """Process a message from the server, and return it. One that answers nothing here is no error.

        Raises:
            InvalidMessage: the text is not one of a server's messages.
        """
        message = decode_response(text)
        self._processors[type(message)](self, message)
        return message

    def expire(self, now: float) -> list[Exp]:
        """Settle the calls whose deadline is over, and return what tells of them."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, uuid = heapq.heappop(self._deadlines)
            if uuid in self._calls:
                call, waiter = self._calls.pop(uuid)
                waiter.settle(Expired(f"no result of {call.uri} within {call.timeout:g} s"))
                expired.append(Exp(for_=uuid, uri=call.uri, args=call.args))
        return expired

    def next_deadline(self) -> float | None:
        """Return when `expire` is to be called next, ``None`` when no call is under way."""
        while self._deadlines and self._deadlines[0][1] not in self._calls:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def lose(self, error: ConnectionClosed) -> None:
        """The connection is lost and another one is to come: settle all requests, and keep the subscriptions.

        Until `resume`, requests are refused. What was under way is never sent again.
        """
        self.lost = error
        lost = [waiter for waiter in self._replies.values() if not isinstance(waiter, _Channel)]
        lost += [waiter for _, waiter in self._calls.values()]
        self._replies.clear()
        self._calls.clear()
        self._deadlines.clear()
        for channel in list(self._channels.values()):
            if not channel.lose(error):
                self._channels.pop(channel.key, None)
        for waiter in lost:
            waiter.settle(ConnectionClosed(error.code, error.reason))

    def resume(self) -> list[Sub]:
        """There is a connection again. Return what has to be sent first: the subscriptions, each to be confirmed."""
        self.lost = None
        self.unrenewed.clear()
        return [self._renewal(channel) for channel in self._channels.values()]

    def renew_again(self) -> list[Sub]:
        """Return the subscriptions to be sent once more that the server could not make anew for the time being."""
        again = [channel for channel in self.unrenewed if self._channels.get(channel.key) is channel]
        self.unrenewed.clear()
        return [] if self.lost or self.ended else [self._renewal(channel) for channel in again]

    def _renewal(self, channel: _Channel) -> Sub:
        message = Sub(uuid=new_uuid(), channel=channel.key[0], pattern=channel.key[1])
        self._replies[message.uuid] = channel
        return message

    def end(self, error: ConnectionClosed) -> None:
        """The connection is over: settle all requests and end all subscriptions. Later calls change nothing."""
        if self.ended is not None:
            return
        self.ended = error
        sinks = [sink for channel in self._channels.values() for sink in channel.sinks]
        waiters = [*self._replies.values(), *(waiter for _, waiter in self._calls.values())]
        for table in (self._channels, self._replies, self._calls):
            table.clear()
        self._deadlines.clear()
        # An exception object of his own for each, since each may raise it in a thread of his own.
        for waiter in waiters:
            waiter.settle(ConnectionClosed(error.code, error.reason))
        for sink in sinks:
            sink.on_end(ConnectionClosed(error.code, error.reason))

    def _check_open(self) -> None:
        closed = self.ended or self.lost
        if closed is not None:
            raise ConnectionClosed(closed.code, closed.reason)

    def _on_ack(self, ack: Ack) -> None:
        waiter = self._replies.pop(ack.for_, None)
        if waiter is not None:
            waiter.settle(None)

    def _on_nack(self, nack: Nack) -> None:
        waiter = self._replies.pop(nack.for_, None) or self._pop_call(nack.for_)
        if waiter is not None:
            waiter.settle(Nacked(nack.code, nack.message))

    def _on_res(self, res: Res) -> None:
        waiter = self._pop_call(res.for_)
        if waiter is not None:
            waiter.settle(res)

    def _on_evnt(self, event: Evnt) -> None:
        channel = self._channels.get((event.pattern, True) if event.pattern else (event.channel, False))
        if channel is not None:
            for sink in channel.sinks:
                sink.on_event(event)

    def _pop_call(self, uuid: str) -> Waiter | None:
        _, waiter = self._calls.pop(uuid, (None, None))
        return waiter

    _processors: ClassVar[dict[type, Callable[[ClientState, Any], None]]] = {
        Ack: _on_ack,
        Nack: _on_nack,
        Res: _on_res,
        Evnt: _on_evnt,
    }


def result_value(res: Res) -> Any:
    """Decode a result.

    Raises:
        CallFailed: the callee says that the function failed, or does not say and the result is
            ``{"error": {"message": …}}``, as callees answer then.
        InvalidValue: it has no Python value.
    """
    value = decode_args(res.args)
    if res.failed is False:
        return value
    error = value["error"] if isinstance(value, dict) and value.keys() == {"error"} else None
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        code = error.get("code")
        raise CallFailed(
            error["message"],
            str(error.get("type", "")),
            code=code if isinstance(code, (int, str)) else None,
            data=error.get("data"),
        )
    if res.failed:
        # An error of another make: its type may look as it likes.
        raise CallFailed(res.args[:_MAX_MESSAGE].decode(errors="replace"), data=value)
    return value
