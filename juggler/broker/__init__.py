"""The three roles of a broker, as abstract classes: caller, callee, pub-sub.

A server needs a `CallerBroker` and a `PubSubBroker`, a callee needs a `CalleeBroker`. They may be one object, or use
different servers. What happens later is told through callbacks, so that nobody has to hold a greenlet while he waits.

Rules for every callback (``on_…``): it runs in the broker's own greenlet, or inside the very call that it was given to;
it must be quick, must not block and must not raise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from msgspec import Struct

from juggler.errors import BrokerError

Done: TypeAlias = Callable[[BrokerError | None], None]
"""Told once whether a request succeeded (``None``) or why not."""


class PendingCall(ABC):
    """What a caller keeps for a call until its result has come or its time is over.

    `on_stored` is told first and exactly once. After it has been told of success, exactly one of `on_result` and
    `on_expired` follows, unless the call was forgotten.

    Attributes:
        call_id: the broker's own name for the call, set by `CallerBroker.call`.
    """

    __slots__ = ("call_id",)

    call_id: str

    @abstractmethod
    def on_stored(self, error: BrokerError | None) -> None:
        """The call is registered, or it was refused because of ``error``."""

    @abstractmethod
    def on_result(self, args: bytes, failed: bool | None) -> None:
        """The result is here: JSON text, valid UTF-8; ``failed`` as that of `juggler.protocol.messages.Res`."""

    @abstractmethod
    def on_expired(self) -> None:
        """No result came within the timeout."""


class BrokerStats(Struct, frozen=True):
    """What a broker has counted since it was made, and how its links are.

    Attributes:
        calls: calls pushed.
        dropped: results for which nobody waited any more.
        invalid_results: results that are none.
        events: events received.
        invalid_events: publications that are no events.
        gaps: how often events may have been lost.
        links: whether each link is up.
        losses: how many connections each link has lost.
        expired_calls: calls that a callee popped when nobody wanted them any more.
        invalid_calls: what a callee popped and is no call.
        unchecked_calls: failed attempts to learn whether popped calls are still wanted; they are asked about again.
        late_results: results that nobody wanted any more when they were ready.
    """

    calls: int = 0
    dropped: int = 0
    invalid_results: int = 0
    events: int = 0
    invalid_events: int = 0
    gaps: int = 0
    links: dict[str, bool] = {}
    losses: dict[str, int] = {}
    expired_calls: int = 0
    invalid_calls: int = 0
    unchecked_calls: int = 0
    late_results: int = 0


class Broker(ABC):
    """What all roles have in common."""

    @abstractmethod
    def close(self) -> None:
        """Release connections and greenlets. What waits fails, consumers and subscriptions end. Idempotent."""

    def stats(self) -> BrokerStats:
        """Return what was counted; a broker that does not count says zeros."""
        return BrokerStats()

    def queue_lengths(self, uris: Sequence[str]) -> dict[str, int]:
        """Return how many calls wait for a callee, for those of the URIs of which it can be told within a second."""
        return {}

    def check_ready(self) -> None:  # noqa: B027  # one in memory always is
        """See that requests can be processed now, and that all subscriptions are in place.

        Raises:
            BrokerUnavailable: not yet, or not now; says why.
        """


class Announcement(Struct, frozen=True):
    """What a callee says of a function that it serves.

    Attributes:
        signature: its parameters, for people.
        doc: its docstring, or the beginning of it.
        rate: calls that it got of late, a second.
    """

    signature: str = ""
    doc: str = ""
    rate: float = 0.0


class ServedFunction(Struct, frozen=True):
    """What all callees together say of a URI.

    Attributes:
        uri: the function's URI.
        signature: its parameters, for people.
        doc: its docstring, or the beginning of it.
        callees: how many serve it.
        rate: calls that they got of late, a second.
        waiting: calls that wait for a callee.
    """

    uri: str
    signature: str
    doc: str
    callees: int
    rate: float
    waiting: int


def served_function(uri: str, said: Sequence[Announcement], waiting: int) -> ServedFunction:
    """Return what several callees, at least one, say of a URI."""
    first = said[0]
    return ServedFunction(uri, first.signature, first.doc, len(said), sum(each.rate for each in said), waiting)


OnServed: TypeAlias = Callable[[Mapping[str, bool] | None], None]
"""Told which URIs callees have announced; ``None`` when that cannot be known now."""


class CallerBroker(Broker):
    """Registers calls and delivers their results: the server's side of RPC. Greenlets may share it."""

    @abstractmethod
    def call(self, uri: str, args: bytes, timeout: float, pending: PendingCall) -> None:
        """Register a call. Returns at once; every outcome, failure included, is told to ``pending``.

        Args:
            uri: the function's URI, not empty.
            args: JSON text.
            timeout: how long the result is wanted, in seconds, more than 0.
            pending: is told what becomes of the call.
        """

    @abstractmethod
    def forget(self, pending: PendingCall) -> None:
        """Tell ``pending``, which was given to `call`, nothing more; its result is dropped. Idempotent."""

    def ask_served(self, uris: Sequence[str], on_served: OnServed) -> None:
        """Ask which of some URIs are served, as callees have announced. Returns at once."""
        on_served(None)

    def functions(self, limit: int = 1000) -> list[ServedFunction]:
        """Return at most ``limit`` of the functions that callees have announced, by URI. Waits for at most 5 seconds.

        Raises:
            BrokerError: they cannot be told now.
        """
        return []


class IncomingCall(Struct, frozen=True, gc=False):
    """A call that a callee has popped.

    Attributes:
        conn_uuid: the consumer of the result; only echoed.
        msg_uuid: the call's identifier; only echoed.
        uri: the function's URI.
        args: JSON text.
        deadline: until when the result is wanted, on the clock ``time.monotonic``, in seconds.
        waited: seconds for which it has waited for a callee.
    """

    conn_uuid: str
    msg_uuid: str
    uri: str
    args: bytes
    deadline: float
    waited: float = 0.0


class CallConsumer(ABC):
    """Pops the calls to a fixed set of URIs. One greenlet at a time may pop."""

    @abstractmethod
    def pop(self, limit: int) -> list[IncomingCall]:
        """Wait for calls and return 1 to ``limit`` of them, oldest first; expired ones are dropped and counted.

        Returns an empty list from time to time (after at most the broker's blocking timeout) when there are none, and
        always once the consumer is closed.

        Raises:
            BrokerUnavailable: the connection is lost; it is being made anew, pop again later.
        """

    @abstractmethod
    def close(self) -> None:
        """Pop no more; a `pop` under way returns soon with what it has. Idempotent."""


class CalleeBroker(Broker):
    """Hands out calls and takes their results: the callee's side of RPC. Greenlets may share it."""

    @abstractmethod
    def calls(self, uris: Sequence[str]) -> CallConsumer:
        """Return a consumer of the calls to these URIs.

        Raises:
            ValueError: no URI, or one that cannot be used, is given.
        """

    @abstractmethod
    def result(self, call: IncomingCall, args: bytes, on_done: Done, failed: bool | None = None) -> None:
        """Store the result of a call, for as long as it is wanted. One that comes too late is dropped and counted.

        Args:
            call: the call, as popped.
            args: JSON text.
            on_done: told once the result is stored or dropped, or why it could not be stored.
            failed: whether ``args`` are an error; ``None`` leaves it to their look.
        """

    def announce(self, callee_id: str, functions: Mapping[str, Announcement], lifetime: float) -> None:
        """Say which functions a callee serves; to be said again before it is forgotten. Never blocks, nor fails.

        Args:
            callee_id: tells callees apart.
            functions: by URI.
            lifetime: seconds after which it is forgotten.
        """

    def withdraw(self, callee_id: str, uris: Sequence[str]) -> None:
        """Take back what was announced. Never blocks, nor fails."""


class Event(Struct, gc=False):
    """An event on its way to subscribers; all of them get the same object.

    Attributes:
        channel: the channel on which it was published.
        pattern: the pattern that matched, empty for a subscription to the channel itself.
        uuid: the UUID of the PUB.
        args: JSON text, valid UTF-8.
        shared: a place for whoever delivers it to keep what has to be built only once; ``None`` at first.
    """

    channel: str
    pattern: str
    uuid: str
    args: bytes
    shared: Any = None


class Subscriber(ABC):
    """Receives events. Subscribers are told apart by identity: equality must stay that of plain objects."""

    __slots__ = ()

    @abstractmethod
    def on_event(self, event: Event) -> None:
        """An event on a channel, or matching a pattern, that this subscriber has subscribed to."""


class PubSubBroker(Broker):
    """Publishes events and delivers them to subscribers. Greenlets may share it."""

    @abstractmethod
    def publish(self, channel: str, uuid: str, args: bytes, on_done: Done) -> None:
        """Publish an event.

        Args:
            channel: the channel, not empty.
            uuid: UUID of the PUB.
            args: JSON text.
            on_done: told once it is published.
        """

    @abstractmethod
    def subscribe(self, channel: str, pattern: bool, subscriber: Subscriber, on_done: Done) -> None:
        """Subscribe to a channel, or with ``pattern`` to all channels that match this Redis glob. Idempotent.

        ``on_done`` is told once the broker has confirmed it: each later publication is delivered. When it fails, things
        are as they were before: a new subscription is not made, one that existed goes on.
        """

    @abstractmethod
    def unsubscribe(self, channel: str, pattern: bool, subscriber: Subscriber, on_done: Done) -> None:
        """End a subscription; one that does not exist is no error. No event of it is delivered from now on."""

    @abstractmethod
    def unsubscribe_all(self, subscriber: Subscriber) -> None:
        """End all subscriptions of a subscriber that is gone. Idempotent."""
