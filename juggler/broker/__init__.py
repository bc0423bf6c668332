"""The three roles of a broker, as abstract classes: caller, callee, pub-sub.

A server needs a `CallerBroker` and a `PubSubBroker`, a callee needs a `CalleeBroker`. One object may play all roles, or
each role may use a Redis of its own. Outcomes arrive through callbacks, so that no greenlet blocks while it waits.

Rules for every callback (``on_…``): it runs in the broker's own greenlet, or inside the call that it was passed to. It
must be quick, must not block and must not raise.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, ClassVar, TypeAlias

from msgspec import UNSET, Raw, Struct, UnsetType, structs

from juggler.errors import BrokerError
from juggler.process.tracing import current_trace, log_fields
from juggler.protocol.codec import StoredParts, decode_args, encode_args
from juggler.protocol.messages import NULL
from juggler.protocol.server_commands import TIMEOUT, CommandOutcome, ServerAnswer, ServerCommand
from juggler.protocol.server_status import ServerStatus

Done: TypeAlias = Callable[[BrokerError | None], None]
"""Called once when a request has succeeded (``None``) or failed."""


CALL_CAPACITY, CALL_BYTES = 10_000, 64 * 1024 * 1024
"""Default limits of brokers for the calls to one URI: their number, and the bytes of their arguments."""

PATTERN_CAPACITY = 500
"""Default limit of brokers for the distinct patterns of a process."""

MAX_SCHEMAS = 2**20
"""Maximum size of the JSON Schemas in a catalogue, in bytes. Those of further functions are left out."""

COUNTED_EVENTS = 1000
"""Events whose channels a broker remembers, see `PubSubBroker.take_event_counts`."""


def count_events(channels: Collection[str], total: int) -> dict[str, float]:
    """Return how often each channel occurs among ``total`` events, of which ``channels`` are the latest."""
    return {channel: count * total / len(channels) for channel, count in Counter(channels).items()}


class PendingCall(ABC):
    """A call on the server's side of Redis, from before it is stored until it completes.

    `on_stored` is called first and exactly once. After a success, exactly one of `on_result` and `on_expired` follows,
    unless the call is forgotten or its owner abandons it.

    Attributes:
        owner: whose call it is, see `CallerBroker.abandon`; to be set before the call is made.
        call_id: identifier of the call in the broker. The broker sets this and what follows.
        uri: URI of the function.
        deadline: when the call expires, in seconds on the broker's clock.
        size: bytes of its arguments.
        stored: whether the broker has confirmed the call.
        early_result: a result that arrived before the confirmation.
        max_time: maximum seconds from the first to the last part of its result. Default: unlimited.
    """

    __slots__ = ("call_id", "deadline", "early_result", "owner", "size", "stored", "uri")

    owner: object
    call_id: str
    uri: str
    deadline: float
    size: int
    stored: bool
    early_result: tuple[bytes, bool | None] | None
    max_time: ClassVar[float] = math.inf

    @abstractmethod
    def on_stored(self, error: BrokerError | None) -> None:
        """The call is registered, or was refused because of ``error``."""

    @abstractmethod
    def on_result(self, args: bytes, failed: bool | None) -> None:
        """The call has completed.

        Args:
            args: the result as JSON text, valid UTF-8.
            failed: see `juggler.protocol.messages.Res`.
        """

    @abstractmethod
    def on_expired(self) -> None:
        """No result arrived within the timeout."""

    def on_part(self, seq: int, args: bytes, joined: bool) -> None:  # noqa: B027  # few calls ask for parts
        """A part of the result of a call that asked for parts. May precede `on_stored`.

        Args:
            seq: number of the part, from 1; of joined parts that of the first.
            args: the part as JSON text; a JSON array of the parts, if several were joined.
            joined: whether several parts were joined.
        """

    def on_unqueued(self) -> None:  # noqa: B027  # few calls are cancelled
        """The call was cancelled before a callee took it. It has completed: no result follows."""


class BrokerStats(Struct, frozen=True):
    """Counters of a broker since it was created, and the state of its links.

    Attributes:
        calls: calls stored.
        dropped: results of calls that had expired or were abandoned.
        invalid_results: malformed results.
        events: events received.
        invalid_events: malformed publications.
        gaps: how often events may have been lost.
        links: whether each link is up.
        losses: connections lost by each link, also by links that no longer exist: a value never decreases.
        expired_calls: calls that had expired or been abandoned when a callee popped them.
        invalid_calls: malformed calls popped by a callee.
        unchecked_calls: failed attempts to check whether popped calls are still wanted; the check is repeated.
        late_results: results that were ready only after their call had expired or been abandoned.
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
        """Close connections and stop greenlets. Pending requests fail, consumers and subscriptions end. Idempotent."""

    def stats(self) -> BrokerStats:
        """Return the counters; zeros for a broker that does not count."""
        return BrokerStats()

    def queue_lengths(self, uris: Sequence[str]) -> dict[str, int]:
        """Return the number of queued calls by URI, without the URIs whose number is not known within a second."""
        return {}

    def check_ready(self) -> None:  # noqa: B027  # one in memory always is
        """Check that requests can be processed now and that all subscriptions are in place, except for refused ones.

        Raises:
            BrokerUnavailable: not ready; contains the reason.
        """


class Announcement(Struct, frozen=True):
    """What a callee announces of a registered function.

    Attributes:
        signature: parameters of the function.
        doc: docstring, or its beginning.
        rate: recent calls per second.
        example: arguments that the function accepts, as JSON text for people to edit; empty if it takes none.
        process: host and process id of the callee, for operators; empty if unknown.
        schema: JSON Schemas of arguments and result, as JSON text, see docs/protocol.md; unset if unknown or too large.
    """

    signature: str = ""
    doc: str = ""
    rate: float = 0.0
    example: str = ""
    process: str = ""
    schema: Raw | UnsetType = UNSET


class Registered(Struct, frozen=True):
    """A URI and the callees that serve it.

    Attributes:
        uri: the URI.
        waiting: queued calls.
        announcements: what each callee announces, by its identifier; not empty.
    """

    uri: str
    waiting: int
    announcements: dict[str, Announcement]


class ServedFunction(Struct, frozen=True, omit_defaults=True):
    """An entry of the catalogue: what all callees of a URI announce.

    Attributes:
        uri: URI of the function.
        signature: parameters of the function.
        doc: docstring, or its beginning.
        callees: number of callees.
        rate: recent calls per second of all callees.
        waiting: queued calls.
        example: arguments that the function accepts, as JSON text for people to edit; empty if it takes none.
        schema: JSON Schemas of arguments and result, as JSON text, see docs/protocol.md; unset if unknown or too large.
    """

    uri: str
    signature: str
    doc: str
    callees: int
    rate: float
    waiting: int
    example: str = ""
    schema: Raw | UnsetType = UNSET


def served_function(registered: Registered) -> ServedFunction:
    """Return the catalogue entry of a URI."""
    announcements = list(registered.announcements.values())
    # While a callee is being replaced, one of an older version may announce no schema.
    first = next((each for each in announcements if each.schema is not UNSET), announcements[0])
    return ServedFunction(
        registered.uri,
        first.signature,
        first.doc,
        len(announcements),
        sum(each.rate for each in announcements),
        registered.waiting,
        first.example,
        first.schema,
    )


def _without_schemas_beyond(limit: int, functions: Iterable[ServedFunction]) -> list[ServedFunction]:
    """Return the functions, without the schemas of those after which there would be more than ``limit`` bytes."""
    found = []
    for function in functions:
        if function.schema is not UNSET:
            limit -= memoryview(function.schema).nbytes
            if limit < 0:
                function = structs.replace(function, schema=UNSET)
        found.append(function)
    return found


OnServed: TypeAlias = Callable[[Mapping[str, bool] | None], None]
"""Called with whether each URI is announced by a callee; with ``None`` if that is unknown now."""


class ServerListener(ABC):
    """Executes commands for the connections of a server process.

    Attributes:
        server_id: identifier of the server, a UUID.
    """

    server_id: str

    @abstractmethod
    def on_command(self, command: ServerCommand, answer: Callable[[ServerAnswer], None]) -> None:
        """A command has arrived. To be executed in a greenlet of its own, which calls ``answer`` once."""

    @abstractmethod
    def status(self) -> ServerStatus:
        """Return what other processes may know of the server. Called once a second."""


class CallerBroker(Broker):
    """Registers calls and delivers their results: the server's side of RPC. Greenlets may share it."""

    @abstractmethod
    def call(
        self,
        uri: str,
        args: bytes,
        timeout: float,
        pending: PendingCall,
        limit: int | None = None,
        max_bytes: int | None = None,
        by: bytes = b"",
        parts: StoredParts | None = None,
        trace: str = "",
    ) -> None:
        """Register a call. Returns at once; every outcome, errors included, goes to ``pending``.

        Args:
            uri: URI of the function, not empty.
            args: JSON text.
            timeout: seconds until the call expires, more than 0.
            pending: receives the outcome. It may be used again once the call has completed.
            limit: maximum calls in flight of this owner; another one fails with code 429. ``None`` = unlimited.
            max_bytes: maximum bytes of arguments of this owner's calls in flight, likewise. One call may always be in
                flight, whatever its size.
            by: identity of the caller as JSON text; empty if unknown.
            parts: how the caller asks for parts; ``None`` if it does not. ``timeout`` then counts from part to part.
            trace: W3C traceparent; empty without one.
        """

    @abstractmethod
    def forget(self, pending: PendingCall) -> None:
        """Abandon a call: its outcome is dropped, and it is removed from its queue. Idempotent."""

    @abstractmethod
    def abandon(self, owner: object, cancel: bool = False) -> None:
        """Abandon all calls of an owner that has gone, as `forget`. Idempotent.

        Args:
            owner: the owner.
            cancel: also cancel those that callees run.
        """

    def cancel(self, pending: PendingCall) -> None:  # optional
        """Cancel a call. Returns at once; best effort.

        A call that is still queued completes with `PendingCall.on_unqueued`. Otherwise the callee is notified, and the
        call stays in flight until it is answered or expires: its function may go on.
        """

    def credit(self, pending: PendingCall, until: int) -> None:  # optional
        """Allow the callee to send the parts of a call up to number ``until``. Returns at once."""

    @abstractmethod
    def in_flight(self, owner: object) -> int:
        """Return how many calls of an owner are in flight."""

    def calls_of(self, owner: object) -> Sequence[PendingCall]:
        """Return the calls of an owner that are in flight; none if the broker does not support `cancel`."""
        return ()

    def pending_calls(self) -> int:
        """Return how many calls are in flight in all; 0 if the broker does not count them."""
        return 0

    def ask_served(self, uris: Sequence[str], on_served: OnServed) -> None:
        """Look up which URIs callees have announced. Returns at once."""
        on_served(None)

    def functions(self, limit: int = 1000, max_schemas: int = MAX_SCHEMAS) -> list[ServedFunction]:
        """Return the first ``limit`` entries of the catalogue, sorted by URI. Blocks for at most 5 seconds.

        Args:
            limit: maximum number of entries.
            max_schemas: maximum size of all schemas in bytes. Those of further functions are left out.

        Raises:
            BrokerError: the catalogue is not available now.
        """
        return _without_schemas_beyond(max_schemas, map(served_function, self.registered(limit)))

    def registered(self, limit: int = 1000) -> list[Registered]:
        """Return the first ``limit`` URIs with their callees, sorted by URI. Blocks and raises as `functions`."""
        return []

    def attend(self, listener: ServerListener) -> None:  # optional
        """Announce a server process, and pass commands to its listener, until `leave`. Returns at once. Idempotent."""

    def leave(self, server_id: str) -> None:  # optional
        """Stop what `attend` has started. Returns at once. Idempotent."""

    def servers(self, timeout: float = TIMEOUT) -> list[ServerStatus]:
        """Return the server processes that live. Blocks for at most ``timeout`` seconds.

        Raises:
            BrokerError: they are not known now.
        """
        return []

    def command(self, command: ServerCommand, timeout: float = TIMEOUT) -> CommandOutcome:
        """Send a command to all server processes that live, and wait for their answers, at most ``timeout`` seconds.

        Args:
            command: the command; its ``reply`` is set here.
            timeout: seconds. Servers that have not answered by then may execute it later.

        Raises:
            BrokerError: the servers are not known now; no command was sent.
        """
        return CommandOutcome()


PublishArgs: TypeAlias = Callable[[str, bytes, str], None]
"""Publishes JSON text on a channel, with a W3C traceparent or an empty text, and returns once the broker has it."""


SendPart: TypeAlias = Callable[[bytes, bool], None]
"""Sends a part as JSON text. The flag is true for progress, which never blocks."""


class Caller:
    """The identity of a caller, as the server derived it from the connection. Clients cannot set it. Immutable.

    Not a struct or dataclass: a function's parameter of this type must never be filled from arguments.
    """

    __slots__ = ("_identity",)

    def __init__(self, identity: Any = None) -> None:
        self._identity = identity

    @property
    def identity(self) -> Any:
        """Any JSON value, decoded: what the server's connect hook or caller hook returned. ``None`` if unknown."""
        return self._identity

    @property
    def known(self) -> bool:
        """Whether the server sent an identity. Servers of the Go package send none."""
        return self._identity is not None

    def __eq__(self, other: object) -> bool:
        return self._identity == other._identity if isinstance(other, Caller) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # the identity may be a dict

    def __repr__(self) -> str:
        return f"Caller({self._identity!r})" if self.known else "Caller()"


MARK = "-8ca1-"
"""The middle of the identifiers of calls that servers of juggler generate, UUIDs of version 8."""


def client_of(conn_uuid: str, msg_uuid: str) -> str:
    """Return what identifies the connection that made a call.

    Servers of juggler name it in a marked ``msg_uuid``. Servers of the Go package have a ``conn_uuid`` for each
    connection, and random UUIDs.
    """
    return msg_uuid[19:] if msg_uuid[13:19] == MARK else conn_uuid


def is_from_juggler(msg_uuid: str) -> bool:
    """Return whether a server of juggler made a call. It knows itself how long it waits, and understands what servers
    of the Go package do not."""
    return msg_uuid[13:19] == MARK


class IncomingCall(Struct, gc=False, tag=True):
    """A call on the callee's side of the broker. Functions know it as `callee.Call`.

    Attributes:
        conn_uuid: identifies the consumer of the result; clients of one server share it.
        msg_uuid: identifies the call, for example in logs.
        uri: URI of the function.
        args: arguments as JSON text, as the client sent them.
        deadline: time on the clock ``time.monotonic`` after which the result is not wanted, in seconds.
        waited: time the call spent in its queue, in seconds.
        publisher: publishes for the function; set by the worker that runs the call.
        by: identity of the caller as JSON text, as the server derived it; empty if unknown.
        parts: how the caller asks for parts; ``None`` if it does not.
        cancelled: whether the caller has cancelled the call, or its connection has closed.
        sender: sends parts for the function; set by the worker that runs the call if its caller has asked for them.
        trace: W3C traceparent of the caller; empty without a valid one.
        client: identifies the connection of the caller, see `client_of`.
        span: traceparent of the span in which the function runs; empty without OpenTelemetry.
    """

    conn_uuid: str
    msg_uuid: str
    uri: str
    args: bytes
    deadline: float
    waited: float = 0.0
    publisher: PublishArgs | None = None
    by: bytes = b""
    parts: StoredParts | None = None
    cancelled: bool = False
    sender: SendPart | None = None
    trace: str = ""
    client: str = ""
    span: str = ""

    @property
    def log_fields(self) -> dict[str, str]:
        """The trace of the call, for log lines; see `juggler.process.tracing.log_fields`."""
        return log_fields(self.span or self.trace)

    @property
    def value(self) -> Any:
        """The decoded arguments. Raises `juggler.errors.InvalidValue` if they have no Python value."""
        return decode_args(self.args)

    @property
    def caller(self) -> Caller:
        """The caller. Raises `juggler.errors.InvalidValue` if its identity has no Python value."""
        return Caller(decode_args(self.by) if self.by else None)

    def time_left(self) -> float:
        """Return the seconds until the deadline; 0 after it."""
        return max(0.0, self.deadline - monotonic())

    def given_up(self) -> bool:
        """Return whether the call was abandoned: it was cancelled, or its deadline has passed."""
        return self.cancelled or self.deadline <= monotonic()

    def progress(self, value: Any) -> None:
        """See `callee.progress`."""
        if self.sender is not None:
            self.sender(encode_args(value), True)

    def publish(self, channel: str, value: Any = None) -> None:
        """See `callee.publish`."""
        text = encode_args(value)
        if self.publisher is None:
            raise RuntimeError(f"cannot publish on {channel!r}: no worker runs this call")
        self.publisher(channel, text, current_trace() or self.trace)


Choose: TypeAlias = Callable[[Sequence[str]], list[int]]
"""Chooses among queued calls: takes the `IncomingCall.client` of each, and returns the indexes of those to pop, in the
order of preference."""


class CallConsumer(ABC):
    """Pops the calls to a fixed set of URIs. One greenlet at once may pop.

    Attributes:
        closed: whether it was closed, by `close` or with its broker.
    """

    closed = False

    @abstractmethod
    def pop(self, limit: int) -> list[IncomingCall]:
        """Wait for calls and return 1 to ``limit`` of them, oldest first. Expired calls are dropped and counted.

        Returns an empty list after the broker's blocking timeout without calls, and always once the consumer is closed.

        Raises:
            BrokerUnavailable: the connection is lost and being re-established; pop again later.
        """

    def pop_chosen(self, limit: int, choose: Choose) -> list[IncomingCall]:
        """Return up to ``limit`` of the calls that are queued now, in the order of ``choose``. Others stay queued.

        Does not wait. Of many queued calls, only the oldest of each URI are looked at. A broker that cannot choose
        pops as `pop` does, which is the default.

        Raises:
            BrokerUnavailable: as `pop`.
        """
        return self.pop(limit)

    @abstractmethod
    def close(self) -> None:
        """Stop popping; a `pop` in progress returns soon with what it has. Idempotent."""


class ControlListener(ABC):
    """Receives the control messages for a callee process.

    Attributes:
        listed: whether the catalogue has this process. If not, servers do not notify it of cancels before they know
            which calls it runs, and it has to look for them.
    """

    listed = True

    @abstractmethod
    def on_cancel(self, call_id: str) -> None:
        """A call was cancelled. It may not have been popped yet, have completed, or belong to another callee."""

    @abstractmethod
    def on_credit(self, call_id: str, until: int) -> None:
        """The parts of a call may be sent up to number ``until``. May be repeated, and lower than before."""

    @abstractmethod
    def running(self) -> Iterable[IncomingCall]:
        """Return the calls in progress."""


class CalleeBroker(Broker):
    """Hands out calls and takes their results: the callee's side of RPC. Greenlets may share it."""

    @abstractmethod
    def calls(self, uris: Sequence[str]) -> CallConsumer:
        """Return a consumer of the calls to these URIs.

        Raises:
            ValueError: no URI is given, or one is invalid.
        """

    @abstractmethod
    def result(self, call: IncomingCall, args: bytes, on_done: Done, failed: bool | None = None) -> None:
        """Store the result of a call until the call expires. A late result is dropped and counted.

        Args:
            call: the call, as popped.
            args: JSON text.
            on_done: called once the result is stored or dropped, or could not be stored.
            failed: whether ``args`` are an error; ``None`` leaves that to their shape.
        """

    def part(
        self,
        call: IncomingCall,
        callee_id: str,
        on_done: Done,
        seq: int = 0,
        args: bytes = NULL,
        joined: bool = False,
    ) -> None:
        """Store a part of the result of a call that asked for parts. Parts arrive in order, and before the result.

        Of other calls, it can only be stored that this process has taken them, and only if `is_from_juggler`.

        Args:
            call: the call, as popped.
            callee_id: identifier of this process, for credit and to notice that it has gone.
            on_done: called once it is stored, or could not be stored.
            seq: number of the part, from 1; of joined parts that of the first. 0 stores no part: the call was taken.
            args: the part as JSON text; a JSON array of the parts, if several are joined.
            joined: whether several parts are joined.
        """
        on_done(BrokerError("this broker does not support parts"))

    def listen(self, callee_id: str, listener: ControlListener) -> None:  # optional
        """Start to pass control messages for this process to a listener. Servers notice if the process dies.

        Args:
            callee_id: identifier of this process, as announced.
            listener: called in the broker's own greenlet.
        """

    def unlisten(self, callee_id: str) -> None:  # optional
        """Stop what `listen` has started. Idempotent."""

    def announce(self, callee_id: str, functions: Mapping[str, Announcement], lifetime: float) -> None:
        """Announce the registered functions of a callee; to be repeated before they expire. Never blocks, never fails.

        Args:
            callee_id: identifier of the callee.
            functions: announcements by URI.
            lifetime: seconds until the announcement expires.
        """

    def withdraw(self, callee_id: str, uris: Sequence[str]) -> None:
        """Withdraw an announcement. Never blocks, never fails."""


class Event(Struct, frozen=True, gc=False):
    """An event in delivery; all its subscribers get the same object.

    Attributes:
        channel: channel on which it was published.
        pattern: pattern that matched; empty for a subscription to the channel itself.
        uuid: UUID of the PUB.
        args: JSON text, valid UTF-8.
        trace: W3C traceparent; empty without a valid one.
    """

    channel: str
    pattern: str
    uuid: str
    args: bytes
    trace: str = ""


class Subscriber(ABC):
    """Receives events. Subscribers are compared by identity: subclasses must not override equality."""

    __slots__ = ()

    @abstractmethod
    def on_event(self, event: Event) -> None:
        """An event of one of the subscriber's channels or patterns."""


class PubSubBroker(Broker):
    """Publishes events and delivers them to subscribers. Greenlets may share it."""

    @abstractmethod
    def publish(self, channel: str, uuid: str, args: bytes, on_done: Done, trace: str = "") -> None:
        """Publish an event.

        Args:
            channel: the channel, not empty.
            uuid: UUID of the PUB.
            args: JSON text.
            on_done: called once it is published or has failed.
            trace: W3C traceparent; empty without one.
        """

    @abstractmethod
    def subscribe(self, channel: str, pattern: bool, subscriber: Subscriber, on_done: Done) -> None:
        """Subscribe to a channel, or with ``pattern`` to all channels that match this Redis glob. Idempotent.

        ``on_done`` is called once the broker has confirmed it: every later publication is delivered. On an error, a new
        subscription is not made and an existing one remains.
        """

    @abstractmethod
    def is_subscribed(self, channel: str, pattern: bool, subscriber: Subscriber) -> bool:
        """Return whether a subscription exists, confirmed or not."""

    @abstractmethod
    def subscriptions_of(self, subscriber: Subscriber) -> list[tuple[str, bool]]:
        """Return the subscriptions of a subscriber, confirmed or not: the channel, or the pattern and ``True``."""

    @abstractmethod
    def subscription_count(self, subscriber: Subscriber) -> int:
        """Return how many subscriptions a subscriber has, confirmed or not."""

    @abstractmethod
    def pattern_count(self, subscriber: Subscriber) -> int:
        """Return how many patterns a subscriber is subscribed to, confirmed or not."""

    @abstractmethod
    def unsubscribe(self, channel: str, pattern: bool, subscriber: Subscriber, on_done: Done) -> None:
        """Remove a subscription; one that does not exist is no error. None of its events is delivered from now on."""

    @abstractmethod
    def unsubscribe_all(self, subscriber: Subscriber) -> None:
        """Remove all subscriptions of a subscriber that has gone. Idempotent."""

    def take_event_counts(self) -> Mapping[str, float]:
        """Return the number of events received since the last call, by channel; estimated from the last
        `COUNTED_EVENTS`, if there were more."""
        return {}
