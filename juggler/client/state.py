"""The state of a client: checks arguments, encodes requests, and decides what messages and lost connections mean.

PURE: no I/O, clock, locks or randomness. `juggler.client.blocking` and `juggler.client.aio` add sockets and waiting.
Clients with threads hold a lock around each method. Texts that a method returns as a list change subscriptions: they
are sent in the order in which they were returned.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, ClassVar, TypeAlias

from juggler.client.bookkeeping import Callback, PendingRequest, Requests, Subscriptions
from juggler.client.events import EventQueue
from juggler.client.reconnect import Reconnect
from juggler.client.renewal import Renewal, checked
from juggler.errors import ConnectionClosed, Nacked, NotSupported
from juggler.protocol.codec import check_timeout, decode_response, encode
from juggler.protocol.messages import (
    NULL,
    Ack,
    Auth,
    Call,
    Cncl,
    Crdt,
    Ends,
    Evnt,
    Message,
    MessageType,
    Nack,
    Part,
    Parts,
    Pub,
    Res,
    Sub,
    Unsb,
    Wlcm,
)
from juggler.protocol.subprotocols import CANCEL, JUGGLER_0, JUGGLER_1, PARTS

RENEWAL_PAUSE = 1.0
"""Seconds before a subscription is retried that the server refused to re-establish for the time being."""


class State(Enum):
    """What ``on_state`` reports of a client."""

    CONNECTED = "connected"
    """Connected, for the first time or again. After a reconnect, subscriptions are being re-established."""
    DISCONNECTED = "disconnected"
    """The connection was lost, or the first attempt to connect failed; the client tries again."""
    CLOSED = "closed"
    """Closed for good."""


Trace: TypeAlias = Callable[[PendingRequest, str, str], str]
"""Returns the W3C traceparent that a request carries, empty for none. Takes the request, before it is in flight, and
the URI or the channel; the other of the two is empty."""


class Exp(Message, frozen=True, gc=False):
    """No result arrived in time for the CALL ``for_``. Local to the client: it never travels.

    Attributes:
        uri: URI of the call.
        args: arguments of the call as JSON text.
    """

    type: ClassVar[MessageType] = MessageType.CUSTOM

    for_: str
    uri: str
    args: bytes = NULL


class ClientState:
    """The state of one client, over all its connections.

    Each `PendingRequest` is settled once: by the answer, `expire`, `on_failure` or `close`; never after `forget`.

    Attributes:
        closed: why the client has closed, ``None`` while it is open.
        lost: why there is no connection, ``None`` while there is one.
        callbacks: calls of the user's code that are due.
        subprotocol: subprotocol of the connection, or of the last one.
        features: features of its server; see `juggler.protocol.subprotocols`.
        limits: limits of its server by name.
        renewal: when the token is due to be renewed.
    """

    def __init__(
        self,
        *,
        call_timeout: float,
        reconnect: Reconnect,
        renewal: Renewal,
        new_uuid: Callable[[], str],
        follow_gaps: bool = False,
        trace: Trace = lambda *_: "",
    ) -> None:
        self.closed: ConnectionClosed | None = None
        self.lost: ConnectionClosed | None = reconnect.failure
        self.callbacks: deque[Callback] = deque()
        self.subprotocol = JUGGLER_0
        self.features: frozenset[str] = frozenset()
        self.limits: Mapping[str, Any] = {}
        self.renewal = renewal
        self._call_timeout = call_timeout
        self._reconnect = reconnect
        self._new_uuid = new_uuid
        self._follow_gaps = follow_gaps
        self._trace = trace
        self._is_renewing = False
        self._requests = Requests()
        self._subscriptions = Subscriptions(self._requests, self.callbacks, new_uuid)

    @property
    def is_connected(self) -> bool:
        """Whether requests can be made."""
        return self.closed is None and self.lost is None

    def status(self) -> tuple[State, ConnectionClosed | None]:
        """Return what `State` the client is in, and why."""
        if self.closed is not None:
            return State.CLOSED, self.closed
        return (State.CONNECTED, None) if self.lost is None else (State.DISCONNECTED, self.lost)

    def check_open(self) -> None:
        """Raise `ConnectionClosed` if the client has closed."""
        if self.closed is not None:
            raise ConnectionClosed(self.closed.code, self.closed.reason)

    def _check_connected(self) -> None:
        self.check_open()
        if self.lost is not None:
            raise ConnectionClosed(self.lost.code, self.lost.reason)

    def require(self, feature: str) -> None:
        """Check that the server has a feature, before a request that needs it.

        Raises:
            NotSupported: it has not.
            ConnectionClosed: there is no connection.
        """
        self._check_connected()
        if feature in self.features:
            return
        if self.subprotocol == JUGGLER_0:
            raise NotSupported(f"{feature}: not supported by the server, which speaks only {JUGGLER_0}")
        known = ", ".join(sorted(self.features)) or "none"
        raise NotSupported(f"{feature}: not supported by the server; its features: {known}")

    # Requests

    def timeout_of(self, timeout: float | None) -> float:
        """Return the timeout of a call, with the client's own one in place of ``None``.

        Raises:
            ValueError: it is out of range.
        """
        return check_timeout(self._call_timeout if timeout is None else timeout)

    def call(
        self,
        pending: PendingRequest,
        uri: str,
        args: bytes,
        timeout: float | None,
        now: float,
        parts: Parts | None = None,
    ) -> bytes:
        """Register a call, to be settled with its result. Return its text.

        Raises:
            NotSupported: it asks for parts, and the server has none.
            ValueError: the timeout is out of range.
            InvalidValue: the URI cannot travel as UTF-8.
            ConnectionClosed: there is no connection.
        """
        timeout = self.timeout_of(timeout)
        trace = self._trace(pending, uri, "")
        message = Call(uuid=self._new_uuid(), uri=uri, args=args, timeout=timeout, parts=parts, trace=trace)
        text = encode(message)
        self._check_connected()
        if parts is not None:
            self.require(PARTS)
        pending.begin(message, now + timeout)
        self._requests.add_call(message, pending, now + timeout)
        return text

    def publish(self, pending: PendingRequest, channel: str, args: bytes) -> bytes:
        """Register a publication, to be settled by its ACK or NACK. Return its text. Errors as those of `call`."""
        message = Pub(uuid=self._new_uuid(), channel=channel, args=args, trace=self._trace(pending, "", channel))
        text = encode(message)
        self._check_connected()
        pending.begin(message)
        self._requests.add(message, pending)
        return text

    def authenticate(self, pending: PendingRequest, token: Any) -> bytes:
        """Register the renewal of the token, to be settled by its ACK or NACK. Return its text.

        Raises:
            ConfigError: it is no token.
            ConnectionClosed: there is no connection.
        """
        message = Auth(uuid=self._new_uuid(), token=checked(token))
        self._check_connected()
        pending.begin(message)
        self._requests.add(message, pending)
        return encode(message)

    def subscribe(self, pending: PendingRequest, queue: EventQueue) -> list[bytes]:
        """Register a subscription, to be settled by its ACK or NACK. Return what to send: nothing if one exists."""
        message = Sub(uuid=self._new_uuid(), channel=queue.channel, is_pattern=queue.pattern)
        text = encode(message)
        self._check_connected()
        pending.begin(message)
        texts = [text] if self._subscriptions.add(message, queue, pending) else []
        gaps = self._subscriptions.follow_gaps() if self._follow_gaps else None
        return texts if gaps is None else [*texts, encode(gaps)]

    def unsubscribe(
        self, pending: PendingRequest, channel: str, pattern: bool, queue: EventQueue | None
    ) -> list[bytes]:
        """End a subscription, or with ``None`` all of a channel. Return what to send.

        The server is only asked when the last subscription of the channel ends. A subscription that does not exist is
        no error.
        """
        message = Unsb(uuid=self._new_uuid(), channel=channel, is_pattern=pattern)
        text = encode(message)
        self.check_open()
        pending.begin(message)
        is_last = self._subscriptions.remove((channel, pattern), queue)
        if not is_last or self.lost is not None:
            pending.settle(None)
            return []
        self._requests.add(message, pending)
        return [text]

    @property
    def has_overfull(self) -> bool:
        """Whether `drop_overfull` has something to do."""
        return bool(self._subscriptions.overfull)

    def drop_overfull(self) -> list[bytes]:
        """Unsubscribe the queues that ended because they were full. Return what to send; the answers are ignored."""
        texts = []
        while self._subscriptions.overfull:
            queue = self._subscriptions.overfull.pop()
            is_last = self._subscriptions.remove((queue.channel, queue.pattern), queue)
            if is_last and self.is_connected:
                texts.append(encode(Unsb(uuid=self._new_uuid(), channel=queue.channel, is_pattern=queue.pattern)))
        return texts

    def forget(self, pending: PendingRequest) -> None:
        """Drop a request whose caller no longer waits. Idempotent."""
        self._requests.forget(pending.uuid, pending)

    def cancel(self, pending: PendingRequest, wait: bool = False) -> list[bytes]:
        """Cancel a call; no effect on one that is settled already. Return what to send. The answer is ignored.

        Args:
            pending: the call.
            wait: leave it to the result to settle the call. Otherwise, settle it with `Cancelled`.

        Raises:
            NotSupported: to wait makes no sense, since the server cannot cancel calls.
        """
        if wait and self.is_connected:
            self.require(CANCEL)
        if not self._requests.is_call(pending.uuid):
            return []
        if not wait:
            self._requests.cancel(pending.uuid)
        if not self.is_connected or CANCEL not in self.features:
            return []
        return [encode(Cncl(uuid=self._new_uuid(), for_=pending.uuid, wait=wait))]

    def credit(self, pending: PendingRequest, until: int) -> bytes:
        """Return the text that allows the parts of a call up to number ``until``."""
        return encode(Crdt(uuid=self._new_uuid(), for_=pending.uuid, until=until))

    # Messages and time

    def receive(self, text: str, now: float = 0.0) -> Message:
        """Process a message from the server, and return it. An answer to an unknown request is no error.

        Args:
            text: the message.
            now: current time.

        Raises:
            InvalidMessage: the text is not a message that servers send.
        """
        message = decode_response(text)
        if type(message) is Part:
            self._requests.on_part(message, now)
            return message
        if type(message) is Ack and message.for_type == MessageType.AUTH:
            self.renewal.on_ttl(message.ttl, now)
        processor = self._processors.get(type(message))
        if processor is not None:
            processor(self, message)
        return message

    def expire(self, now: float) -> list[Exp]:
        """Settle the calls whose deadline has passed, and return an `Exp` for each."""
        return [Exp(for_=call.uuid, uri=call.uri, args=call.args) for call in self._requests.expire(now)]

    def next_deadline(self) -> float | None:
        """Return when `expire` is due, ``None`` without a call in flight."""
        return self._requests.next_deadline()

    # Connections

    def on_connected(self, now: float, welcome: Wlcm | None = None) -> list[bytes]:
        """Start using a new connection. Return what to send first: a SUB for each channel.

        Args:
            now: current time.
            welcome: the server's first message, ``None`` under juggler.0.
        """
        self.lost = None
        self.subprotocol = JUGGLER_0 if welcome is None else JUGGLER_1
        self.features = frozenset() if welcome is None else frozenset(welcome.features)
        self.limits = {} if welcome is None else welcome.limits
        self._reconnect.on_connected(now)
        self.renewal.on_ttl(None if welcome is None else welcome.ttl, now)
        return [encode(message) for message in self._subscriptions.renew()]

    def on_failure(self, error: BaseException, now: float) -> float | None:
        """Process the loss of the connection, or the failure of an attempt to connect.

        Requests in flight fail, and are never sent again. Subscriptions are kept until `on_connected`.

        Returns:
            Seconds to wait before `may_connect`, or ``None`` if the client has closed.
        """
        if self.closed is not None:
            return None
        self.renewal.stop()
        if self.lost is None:
            self._reconnect.on_lost(now)
        pause = self._reconnect.pause_after(error)
        if pause is None:
            self.close(self._reconnect.failure)
        elif self.lost is None:
            self.lost = self._reconnect.failure
            self._subscriptions.lose(self.lost)
            self._requests.settle_all(self.lost)
        elif self._reconnect.is_first:
            self.lost = self._reconnect.failure
        return pause

    def may_connect(self, now: float) -> bool:
        """Return whether to connect. If the client has tried for long enough, it closes."""
        if self.closed is None and self._reconnect.is_over(now):
            self.close(self._reconnect.failure)
        return self.closed is None

    def begin_renewal(self) -> bool:
        """Return whether `renew` has to be called in `RENEWAL_PAUSE` seconds. True once for each such call."""
        if self._is_renewing or not self._subscriptions.refused_for_now:
            return False
        self._is_renewing = True
        return True

    def renew(self) -> list[bytes]:
        """Retry the subscriptions that the server refused for the time being. Return what to send."""
        self._is_renewing = False
        return [encode(message) for message in self._subscriptions.renew_refused()] if self.is_connected else []

    def close(self, reason: ConnectionClosed) -> None:
        """Close the client: settle all requests, end all subscriptions. The first reason counts."""
        if self.closed is None:
            self.closed = reason
            self.renewal.stop()
            self._requests.settle_all(reason)
            self._subscriptions.end(reason)

    def _on_ack(self, ack: Ack) -> None:
        self._requests.on_ack(ack.for_)

    def _on_nack(self, nack: Nack) -> None:
        self._requests.settle(nack.for_, Nacked(nack.code, nack.message))

    def _on_res(self, res: Res) -> None:
        self._requests.on_res(res)

    def _on_evnt(self, event: Evnt) -> None:
        self._subscriptions.deliver(event)

    def _on_ends(self, ends: Ends) -> None:
        self._subscriptions.on_ends((ends.channel, ends.is_pattern), Nacked(ends.code, ends.message))

    _processors: ClassVar[dict[type, Callable[[ClientState, Any], None]]] = {
        Ack: _on_ack,
        Nack: _on_nack,
        Res: _on_res,
        Evnt: _on_evnt,
        Ends: _on_ends,
    }
