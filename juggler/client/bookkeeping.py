"""The two ledgers of a client: its requests in flight, and its subscriptions.

PURE: time and UUIDs are handed in. Nothing here may be used by two threads at once.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias

from juggler.client.events import EventQueue
from juggler.errors import Cancelled, ConnectionClosed, Expired, JugglerError, NackCode, Nacked
from juggler.protocol.messages import Call, Evnt, Part, Request, Res, Sub

Outcome: TypeAlias = Res | JugglerError | None
"""Outcome of a request: the result of a call, ``None`` for an ACK, or the reason why it failed."""

Key: TypeAlias = tuple[str, bool]
"""A channel and False, or a pattern and True."""

GAP_CHANNEL = "juggler.gap"
"""A server publishes on it when it may have lost events."""

NEVER = float("inf")

_MAX_SETTLED = 64
"""Deadlines of settled calls that are kept, beside one for each request in flight."""

_TRY_LATER = (NackCode.TOO_MANY_REQUESTS, NackCode.UNAVAILABLE, NackCode.OUTCOME_UNKNOWN)


class Waiter(Protocol):
    """Receives the outcome of one request, exactly once."""

    def settle(self, outcome: Outcome) -> None: ...


class Callback(NamedTuple):
    """A call of the user's code, which has to wait until the client's state is consistent and its lock is free.

    Attributes:
        name: of the option or method that it was passed to.
        about: URI or channel, for the log.
        run: the call.
    """

    name: str
    about: str
    run: Callable[[], None]


class PendingRequest:
    """A request in flight and, once it is settled, its outcome. Clients add the waiting.

    Attributes:
        uuid: UUID of the request.
        uri: URI of a call, else empty.
        deadline: time at which a call expires.
        is_settled: whether there is an outcome.
        on_settled: functions to be called with this object when it is settled.
    """

    def __init__(self, callbacks: deque[Callback], wake: Callable[[], object]) -> None:
        """Create a request that is not in flight yet.

        Args:
            callbacks: receives those that become due.
            wake: called when the request is settled, for those who wait.
        """
        self.uuid = ""
        self.uri = ""
        self.deadline = NEVER
        self.is_settled = False
        self.on_settled: list[Callable[[Any], None]] = []
        self._callbacks = callbacks
        self._wake = wake
        self._type = ""
        self._outcome: Outcome = None

    def begin(self, message: Request, deadline: float = NEVER) -> None:
        """Take the identity of the message, before it is registered."""
        self.uuid = message.uuid
        self.uri = message.uri if isinstance(message, Call) else ""
        self.deadline = deadline
        self._type = message.type.name

    def settle(self, outcome: Outcome) -> None:
        """Store the outcome, and wake those who wait for it."""
        self._outcome = outcome
        self.is_settled = True
        for function in self.on_settled:
            self._callbacks.append(Callback("on_done", self.uri, partial(function, self)))
        self.on_settled.clear()
        self._wake()

    def on_part(self, part: Part, now: float) -> None:
        """Process a part of the result of a call that has asked for parts."""

    def extend(self, now: float) -> bool:
        """Return whether the deadline of the call is later than it was at first: not over yet."""
        return False

    def outcome(self) -> Res | None:
        """Return the RES, or ``None`` for an ACK. If the request failed, raise the reason."""
        if isinstance(self._outcome, JugglerError):
            raise self._outcome
        return self._outcome

    def unacknowledged(self, timeout: float) -> Expired:
        """Return the error for a request without an ACK."""
        return Expired(f"no acknowledgement of {self._type} within {timeout:g} s")


class Requests:
    """The requests in flight. Each leaves the ledger once: when it is settled, or forgotten.

    Attributes:
        deadlines: heap of the deadlines of calls with their UUIDs; calls that were settled leave it later.
    """

    def __init__(self) -> None:
        self.deadlines: list[tuple[float, str]] = []
        self._entries: dict[str, tuple[Request, Waiter]] = {}

    def add(self, message: Request, waiter: Waiter) -> None:
        """Register a request."""
        self._entries[message.uuid] = (message, waiter)

    def add_call(self, call: Call, waiter: Waiter, deadline: float) -> None:
        """Register a call that expires at ``deadline``."""
        self._entries[call.uuid] = (call, waiter)
        heapq.heappush(self.deadlines, (deadline, call.uuid))
        if len(self.deadlines) > 2 * len(self._entries) + _MAX_SETTLED:
            self.deadlines = [entry for entry in self.deadlines if entry[1] in self._entries]
            heapq.heapify(self.deadlines)

    def on_ack(self, uuid: str) -> None:
        """Settle a request that is not a call: a call is settled by its result."""
        entry = self._entries.get(uuid)
        if entry is not None and not isinstance(entry[0], Call):
            self.settle(uuid, None)

    def on_res(self, res: Res) -> None:
        """Settle a call with its result."""
        entry = self._entries.get(res.for_)
        if entry is not None and isinstance(entry[0], Call):
            self.settle(res.for_, res)

    def on_part(self, part: Part, now: float) -> None:
        """Pass a part to its call."""
        entry = self._entries.get(part.for_)
        if entry is not None and isinstance(entry[1], PendingRequest):
            entry[1].on_part(part, now)

    def is_call(self, uuid: str) -> bool:
        """Return whether a call with this UUID is in flight."""
        entry = self._entries.get(uuid)
        return entry is not None and isinstance(entry[0], Call)

    def cancel(self, uuid: str) -> None:
        """Settle a call with `Cancelled`, if it is still in flight."""
        entry = self._entries.get(uuid)
        if entry is not None and isinstance(entry[0], Call):
            self.settle(uuid, Cancelled(f"the call of {entry[0].uri} was cancelled; its function may still run"))

    def settle(self, uuid: str, outcome: Outcome) -> None:
        """Settle a request, if it is still in flight."""
        entry = self._entries.pop(uuid, None)
        if entry is not None:
            entry[1].settle(outcome)

    def settle_all(self, error: ConnectionClosed) -> None:
        """Settle every request with an error of its own: each waiter may raise it in a different thread."""
        entries = list(self._entries.values())
        self._entries.clear()
        self.deadlines.clear()
        for _, waiter in entries:
            waiter.settle(ConnectionClosed(error.code, error.reason))

    def forget(self, uuid: str, waiter: Waiter) -> None:
        """Drop a request whose caller no longer waits. Idempotent.

        A SUB stays, since its waiter is the channel: other subscriptions may depend on the answer.
        """
        entry = self._entries.get(uuid)
        if entry is not None and entry[1] is waiter:
            del self._entries[uuid]

    def expire(self, now: float) -> list[Call]:
        """Settle the calls whose deadline has passed with `Expired`. Return them."""
        expired = []
        while self.deadlines and self.deadlines[0][0] <= now:
            _, uuid = heapq.heappop(self.deadlines)
            entry = self._entries.get(uuid)
            if entry is not None and isinstance(entry[0], Call):
                waiter = entry[1]
                if isinstance(waiter, PendingRequest) and waiter.extend(now):
                    heapq.heappush(self.deadlines, (waiter.deadline, uuid))
                    continue
                self.settle(uuid, Expired(f"no result of {entry[0].uri} within {entry[0].timeout:g} s"))
                expired.append(entry[0])
        return expired

    def next_deadline(self) -> float | None:
        """Return the deadline of the call that expires first, ``None`` without a call in flight."""
        while self.deadlines and self.deadlines[0][1] not in self._entries:
            heapq.heappop(self.deadlines)
        return self.deadlines[0][0] if self.deadlines else None


class _Channel:
    """All subscriptions of a client to one channel or pattern: a single subscription on the server.

    Attributes:
        is_confirmed: whether the server has acknowledged it on this connection.
        is_renewed: whether it was confirmed on an earlier connection, and has been re-established or will be.
        is_own: whether the client itself needs it, with or without subscriptions of the user.
    """

    __slots__ = ("_on_answer", "is_confirmed", "is_own", "is_renewed", "key", "queues", "waiters")

    def __init__(self, key: Key, on_answer: Callable[[_Channel, Outcome], None]) -> None:
        self._on_answer = on_answer
        self.key = key
        self.queues: list[EventQueue] = []
        self.waiters: list[Waiter] = []
        self.is_confirmed = False
        self.is_renewed = False
        self.is_own = False

    def settle(self, outcome: Outcome) -> None:
        """Process the answer to the SUB."""
        self._on_answer(self, outcome)

    def take_waiters(self) -> list[Waiter]:
        """Return those who wait for an answer, once."""
        waiters, self.waiters = self.waiters, []
        return waiters


class Subscriptions:
    """The subscriptions of a client, by channel and pattern.

    Attributes:
        refused_for_now: channels that the server could not re-establish, but may later (NACK 429, 503 or 504).
        overfull: queues that ended because they were full, to be unsubscribed.
    """

    def __init__(self, requests: Requests, callbacks: deque[Callback], new_uuid: Callable[[], str]) -> None:
        self.refused_for_now: list[_Channel] = []
        self.overfull: list[EventQueue] = []
        self._requests = requests
        self._callbacks = callbacks
        self._new_uuid = new_uuid
        self._channels: dict[Key, _Channel] = {}

    def add(self, sub: Sub, queue: EventQueue, waiter: Waiter) -> bool:
        """Add a subscription. Return whether the SUB has to be sent: the server knows each channel once."""
        key = (sub.channel, sub.is_pattern)
        channel = self._channels.get(key)
        is_first = channel is None
        if channel is None:
            channel = self._channels[key] = _Channel(key, self._on_answer)
            self._requests.add(sub, channel)
        channel.queues.append(queue)
        if channel.is_confirmed:
            waiter.settle(None)
        else:
            channel.waiters.append(waiter)
        return is_first

    def follow_gaps(self) -> Sub | None:
        """Subscribe the client itself to the gaps of its server. Return the SUB to send, if any."""
        key = (GAP_CHANNEL, False)
        channel = self._channels.get(key)
        if channel is not None:
            channel.is_own = True
            return None
        channel = self._channels[key] = _Channel(key, self._on_answer)
        channel.is_own = True
        return self._renew(channel)

    def remove(self, key: Key, queue: EventQueue | None) -> bool:
        """End one subscription to a channel, or with ``None`` all of them. Return whether the last one has ended."""
        channel = self._channels.get(key)
        leaving = [] if channel is None else [each for each in channel.queues if queue is None or each is queue]
        if channel is None or not leaving:
            return False
        for each in leaving:
            channel.queues.remove(each)
            each.on_end(ConnectionClosed(1000, "unsubscribed"))
        if channel.queues or channel.is_own:
            return False
        del self._channels[key]
        return True

    def deliver(self, event: Evnt) -> None:
        """Pass an event to the subscriptions of its channel, or of the pattern that it matched."""
        channel = self._channels.get((event.pattern, True) if event.pattern else (event.channel, False))
        if channel is not None:
            for queue in channel.queues:
                if not queue.on_event(event):
                    self.overfull.append(queue)
        if event.channel == GAP_CHANNEL:
            for each in self._channels.values():
                for queue in each.queues:
                    self._count_gap(queue)

    def on_ends(self, key: Key, error: JugglerError) -> None:
        """End the subscriptions to a channel for which the server has sent ENDS.

        Those that the server has not acknowledged stay: the message is about an earlier subscription.
        """
        channel = self._channels.get(key)
        if channel is not None and channel.is_confirmed:
            del self._channels[key]
            for queue in channel.queues:
                queue.on_end(error)

    def lose(self, error: ConnectionClosed) -> None:
        """Mark all channels as to be re-established. Drop those that the server had never confirmed."""
        for channel in list(self._channels.values()):
            channel.is_renewed = channel.is_confirmed or channel.is_renewed
            channel.is_confirmed = False
            if not channel.is_renewed:
                del self._channels[channel.key]
            for waiter in channel.take_waiters():
                waiter.settle(ConnectionClosed(error.code, error.reason))

    def renew(self) -> list[Sub]:
        """Register a SUB for each channel, to re-establish it on a new connection. Return them."""
        self.refused_for_now.clear()
        return [self._renew(channel) for channel in self._channels.values()]

    def renew_refused(self) -> list[Sub]:
        """Register a SUB for each channel that the server refused for the time being. Return them."""
        channels = [each for each in self.refused_for_now if self._channels.get(each.key) is each]
        self.refused_for_now.clear()
        return [self._renew(channel) for channel in channels]

    def end(self, error: ConnectionClosed) -> None:
        """End all subscriptions."""
        channels = list(self._channels.values())
        self._channels.clear()
        for channel in channels:
            for waiter in channel.take_waiters():
                waiter.settle(ConnectionClosed(error.code, error.reason))
            for queue in channel.queues:
                queue.on_end(ConnectionClosed(error.code, error.reason))

    def _renew(self, channel: _Channel) -> Sub:
        message = Sub(uuid=self._new_uuid(), channel=channel.key[0], is_pattern=channel.key[1])
        self._requests.add(message, channel)
        return message

    def _on_answer(self, channel: _Channel, outcome: Outcome) -> None:
        if isinstance(outcome, ConnectionClosed):
            return  # `lose` and `end` settle all channels
        if channel.is_renewed and isinstance(outcome, Nacked) and outcome.code in _TRY_LATER:
            self.refused_for_now.append(channel)
            return
        channel.is_confirmed = outcome is None
        if not channel.is_confirmed and self._channels.get(channel.key) is channel:
            del self._channels[channel.key]
        for waiter in channel.take_waiters():
            waiter.settle(outcome)
        if channel.is_renewed:
            channel.is_renewed = False
            for queue in channel.queues:
                self._on_renewed(queue, outcome)

    def _on_renewed(self, queue: EventQueue, outcome: Outcome) -> None:
        if isinstance(outcome, JugglerError):
            queue.on_end(outcome)
            return
        self._count_gap(queue)

    def _count_gap(self, queue: EventQueue) -> None:
        queue.gaps += 1
        if queue.gap_callback is not None:
            self._callbacks.append(Callback("on_gap", queue.channel, queue.gap_callback))
