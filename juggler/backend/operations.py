"""Everything that a backend does, as steps: publish, call, wait for results and parts, cancel, ask processes.

PURE: time and UUIDs are handed in. See `juggler.backend.steps`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count, islice
from typing import Any, Literal

from juggler.backend.calls import BackendCall
from juggler.backend.routing import Reply, Router, is_unknown_script
from juggler.backend.steps import Pause, Steps
from juggler.broker import MARK
from juggler.broker.names import check_channel, check_uri, is_reserved, reserved
from juggler.broker.redis import commands
from juggler.broker.redis.commands import CALLS_TTL, pack
from juggler.broker.redis.keys import Names
from juggler.broker.streams import CANCELLED, GONE, LOST, TOO_LONG
from juggler.errors import (
    BrokerError,
    BrokerUnavailable,
    Cancelled,
    CapacityExceeded,
    Expired,
    InvalidMessage,
    InvalidValue,
    JugglerError,
    NackCode,
    OutcomeUnknown,
)
from juggler.protocol import codec
from juggler.protocol.codec import StoredParts, check_args, check_timeout, encode_args
from juggler.protocol.control import Control, encode_control
from juggler.protocol.identity import encode_identity
from juggler.protocol.messages import check_parts

MAX_SIZE = 16 * 1024 * 1024
"""Maximum bytes of the JSON of an event or of the arguments of a call: what servers send to a client at most."""

MAX_EVENTS, MAX_BATCH = 10_000, 8 * 1024 * 1024
"""Maximum number of events in a batch, and of their bytes with channels and overhead.

Redis buffers what a server process has not read yet, and closes its connection beyond 32 MiB, or 8 MiB for a minute
(``client-output-buffer-limit pubsub``). A batch stays below both, even if a server reads nothing meanwhile.
"""

CHUNK_EVENTS, CHUNK_BYTES = 500, 256 * 1024
"""Maximum events and bytes of a batch that are sent before Redis has replied to those before."""

OVERHEAD = 128
"""Bytes of an event in Redis beside its channel and its JSON, at most."""

SLICE, LOOK = 1.0, 1.0
"""Seconds for which Redis blocks while there is no result, and between two looks whether the callee lives."""

KEEP = 2.0
"""Seconds after which the credit of a stream is repeated whose reader is busy."""

BATCH = 256
"""Maximum number of parts that are popped in one go."""

GRACE = 5.0
"""Seconds without a connection to Redis after which a wait for a result fails."""

PAUSE = 0.2
"""Seconds between two attempts to wait for a result."""

DEFAULT_WINDOW = 64
"""Parts that a callee may send before some have been read."""


class Operations:
    """The operations of one backend. Threads may share it, but not a call.

    Attributes:
        is_closed: whether the backend is closed: operations fail.
    """

    def __init__(
        self,
        router: Router,
        names: Names,
        *,
        by: Any,
        call_timeout: float,
        call_capacity: int,
        max_stream_time: float,
        sharded: bool,
        clock: Callable[[], float],
        new_uuid: Callable[[], str],
        trace: Callable[[], str],
    ) -> None:
        self.is_closed = False
        self._router = router
        self._names = names
        self._by = self._identity(by)
        self._call_timeout = self.timeout_of(call_timeout)
        if call_capacity < 0:
            raise ValueError(f"call_capacity: expected at least 0, got {call_capacity}")
        self._capacity = call_capacity
        self._max_stream_time = max_stream_time
        self._publish = b"SPUBLISH" if sharded else b"PUBLISH"
        self._sharded = sharded
        self._clock = clock
        self._new_uuid = new_uuid
        self._trace = trace
        self.begin_process()

    def begin_process(self) -> None:
        """Let the next call choose what the identifiers of all calls of this process have in common.

        Not here: just after a fork, random numbers may still be those of the parent.
        """
        self._suffix = ""
        self._count = count(1)

    def _new_call_id(self) -> str:
        # What follows the mark names the caller, see `juggler.broker.client_of`: callees share their workers among
        # backends. If two threads make the first call, the process has two names.
        suffix = self._suffix
        if not suffix:
            suffix = self._suffix = f"{MARK}{self._new_uuid()[19:]}"
        number = next(self._count)
        return f"{number >> 16 & 0xFFFFFFFF:08x}-{number & 0xFFFF:04x}{suffix}"

    def timeout_of(self, timeout: float | None) -> float:
        """Return the timeout of a call, with the backend's own one in place of ``None``.

        Raises:
            ValueError: it is out of range.
        """
        return check_timeout(self._call_timeout if timeout is None else timeout)

    def _identity(self, by: Any) -> bytes:
        return b"" if by is None else encode_identity(by)

    # Events

    def publish(self, channel: str, args: bytes) -> Steps[int]:
        """Publish JSON text. Return the number of receivers."""
        event = self._event(channel, args)
        receivers = yield from self._router.execute(*event)
        return int(receivers)

    def publish_many(self, events: Iterable[tuple[str, bytes]]) -> Steps[list[int]]:
        """Publish JSON texts in their order, nothing if one is invalid. Return the number of receivers of each.

        Raises:
            BrokerError: too many events or bytes (code 413); or Redis refused an event.
            BrokerUnavailable: the connection was lost; the error contains how many events were published before.
        """
        packed: list[tuple[bytes, bytes]] = []
        size = 0
        for channel, args in events:
            key, *command = self._event(channel, args)
            packed.append((key, pack(*command)))
            size += len(key) + len(args) + OVERHEAD
            if len(packed) > MAX_EVENTS:
                reason = f"batch: expected at most {MAX_EVENTS} events; publish them in several batches"
                raise BrokerError(reason, NackCode.TOO_LARGE)
            if size > MAX_BATCH:
                reason = f"batch: expected at most {MAX_BATCH} bytes, got more with event {len(packed)}"
                raise BrokerError(f"{reason}; publish them in several batches", NackCode.TOO_LARGE)
        receivers: list[int] = []
        for chunk in _chunks(packed, self._sharded):
            try:
                replies = yield from self._router.gather(chunk[0][0], [command for _, command in chunk])
            except BrokerUnavailable as error:
                raise _interrupted(error, len(receivers), len(packed)) from error
            for reply in replies:
                if isinstance(reply, BrokerError):
                    raise _interrupted(reply, len(receivers), len(packed)) from reply
                receivers.append(int(reply))
        return receivers

    def _event(self, channel: str, args: bytes) -> tuple[bytes, bytes, bytes, bytes]:
        """Return the key of an event for the router, and the command that publishes it."""
        self._check_open()
        check_channel(channel)
        if is_reserved(channel):
            raise reserved(channel)
        _check_size("event", args)
        name = self._names.channel(channel)
        return name, self._publish, name, codec.encode_event(self._new_uuid(), args, self._trace())

    # Calls

    def new_call(
        self,
        uri: str,
        args: bytes,
        timeout: float | None,
        by: Any = None,
        parts: StoredParts | None = None,
    ) -> BackendCall:
        """Return a call that is not stored yet. ``by`` is the identity of its caller; ``None``: that of the backend.

        Raises:
            BrokerError: the URI is invalid, or the arguments are too large.
            InvalidValue: JSON cannot carry ``by``, or it is too large.
            ValueError: the timeout or the parts are out of range.
        """
        self._check_open()
        check_uri(uri)
        _check_size("args", args)
        if parts is not None:
            check_parts(parts.mode, parts.until)
        timeout = self.timeout_of(timeout)
        call_id = self._new_call_id()
        now = self._clock()
        call = BackendCall(call_id, self._new_uuid(), uri, timeout, now)
        identity = self._by if by is None else self._identity(by)
        call.payload = codec.encode_call(call.conn_uuid, call_id, uri, args, identity, parts, self._trace())
        if parts is not None:
            call.begin_stream(parts, now + self._max_stream_time)
        return call

    def start(self, call: BackendCall) -> Steps[None]:
        """Store a call.

        Raises:
            CapacityExceeded: too many calls to its URI are queued.
            BrokerUnavailable: there is no connection.
            OutcomeUnknown: the connection was lost meanwhile. The function may run.
        """
        timeout_key, list_key = self._names.call_keys(call.uri, call.call_id)
        ttl_ms = max(1, int(call.timeout * 1000))
        list_ttl_ms = max(int(CALLS_TTL * 1000), -(-ttl_ms // 1000) * 1000)
        push = self._push_in_cluster if self._router.is_cluster else self._push
        try:
            reply = yield from push(timeout_key, list_key, call.payload, ttl_ms, list_ttl_ms)
        except OutcomeUnknown:
            call.stored = True  # perhaps: it can be cancelled
            raise
        if isinstance(reply, BrokerError):
            raise reply
        if reply == commands.OVER_CAPACITY:
            raise CapacityExceeded
        call.stored = True

    def _push(self, timeout_key: bytes, list_key: bytes, payload: bytes, ttl_ms: int, list_ttl_ms: int) -> Steps[Reply]:
        """Push a call. Return the length of the list, `commands.OVER_CAPACITY`, or an error."""
        for known in (True, False):
            packed = commands.push_by_script(
                timeout_key, list_key, payload, ttl_ms, list_ttl_ms, self._capacity, known=known
            )
            (reply,) = yield from self._router.gather(list_key, [packed])
            if not is_unknown_script(reply):
                break
        return reply

    def _push_in_cluster(
        self, timeout_key: bytes, list_key: bytes, payload: bytes, ttl_ms: int, list_ttl_ms: int
    ) -> Steps[Reply]:
        """Push a call with commands of one key each: while a slot migrates, no node executes those of two."""
        set_key, length, expiry, _ = yield from self._router.gather(
            list_key,
            [
                pack(b"SET", timeout_key, ttl_ms, b"PX", ttl_ms),
                pack(b"LPUSH", list_key, payload),
                pack(b"PEXPIRE", list_key, list_ttl_ms, b"NX"),
                pack(b"PEXPIRE", list_key, list_ttl_ms, b"GT"),
            ],
        )
        if isinstance(expiry, BrokerError):  # before Redis 7
            yield from self._router.gather(list_key, [pack(b"PEXPIRE", list_key, list_ttl_ms)])
        if isinstance(set_key, BrokerError):
            return set_key
        if type(length) is int and 0 < self._capacity < length:
            removal = [pack(b"LREM", list_key, 1, payload), pack(b"DEL", timeout_key)]
            (removed, _) = yield from self._router.gather(list_key, removal)
            return commands.OVER_CAPACITY if removed == 1 else length
        return length

    def wait(self, call: BackendCall, timeout: float | None = None) -> Steps[bool]:
        """Wait until a call has a result, or a part to read. Return whether it has.

        Args:
            call: the call.
            timeout: seconds to wait. ``None``: until it expires.

        Raises:
            OutcomeUnknown: Redis was unreachable for `GRACE` seconds.
            BrokerError: Redis refuses to wait, or all connections are in use.
        """
        began = self._clock()
        lost: float | None = None
        has_asked = False
        while not call.is_readable:
            now = self._clock()
            if call.deadline <= now:
                yield from self._expire(call)
                break
            if timeout is not None and began + timeout <= now and has_asked:
                return False
            until = call.deadline if timeout is None else min(call.deadline, began + timeout)
            try:
                yield from self._receive(call, min(SLICE, until - now))
                lost, has_asked = None, True
            except BrokerUnavailable as error:
                self._check_open()
                now = self._clock()
                lost = now if lost is None else lost
                if now - lost >= GRACE:
                    reason = f"no connection to Redis while waiting for the result of {call.uri}; its function may run"
                    raise OutcomeUnknown(reason, detail=error.detail) from error
                has_asked = True
                yield Pause(PAUSE)
        return True

    def next_part(self, call: BackendCall) -> Steps[bytes | None]:
        """Wait for a part, and return its JSON text; ``None`` once the call is settled and all parts are read.

        A call that is not stored yet starts.
        """
        if not call.stored and not call.is_settled:
            yield from self.start(call)
        if not call.is_readable:
            # The time that the reader took does not count.
            call.prolong(self._clock())
            yield from self.wait(call)
        part = call.take()
        if part is not None:
            with suppress(BrokerUnavailable):
                yield from self.renew(call)
        return part

    def renew(self, call: BackendCall) -> Steps[None]:
        """Grant credit for further parts, if it is due."""
        now = self._clock()
        until = call.renewal(now)
        if until is not None:
            yield from self._control(call.callee_id, Control(credit={call.call_id: until}))
            call.on_renewed(until, now)

    def keep(self, call: BackendCall) -> Steps[None]:
        """Repeat the credit of a stream whose reader is busy: its callee would give it up. Any thread may do so."""
        if call.stream is not None and call.callee_id and not call.is_awaited and not call.is_settled:
            yield from self._control(call.callee_id, Control(credit={call.call_id: call.stream.until}))

    def cancel(self, call: BackendCall, wait: bool = False) -> Steps[None]:
        """Cancel a call that is not settled. Best effort.

        Args:
            call: the call.
            wait: leave it to the result to settle the call. Otherwise, settle it with `Cancelled`.
        """
        if call.is_settled:
            return
        if not wait:
            call.settle(Cancelled(f"the call of {call.uri} was cancelled; its function may still run"))
        if call.stored:
            with suppress(JugglerError):
                yield from self._cancel(call)

    def _cancel(self, call: BackendCall) -> Steps[None]:
        names, left = self._names, call.deadline - self._clock()
        callees_key = names.callees(call.uri)
        deleted, removed, callees = yield from self._router.gather(
            callees_key,
            [
                pack(b"DEL", names.call_timeout(call.uri, call.call_id)),
                pack(b"LREM", names.calls(call.uri), -1, call.payload),
                pack(b"SMEMBERS", callees_key),
            ],
        )
        if deleted == 1 or removed == 1:
            yield from self._wake(call)
            return
        if left > 0:
            mark = pack(b"SET", names.cancelled(call.uri, call.call_id), b"", b"PX", max(1, int(left * 1000)))
            yield from self._router.gather(callees_key, [mark])
        known = [call.callee_id] if call.callee_id else _texts(callees)
        for callee_id in known:
            yield from self._control(callee_id, Control(cancel=[call.call_id]))
        if call.is_settled and call.is_awaited:
            yield from self._wake(call)

    def _wake(self, call: BackendCall) -> Steps[None]:
        """Let those continue who wait for the result of a call that no callee will answer."""
        if not call.is_awaited:
            call.settle_with(CANCELLED, True)
            return
        key = self._names.results(call.conn_uuid)
        text = codec.encode_result(call.conn_uuid, call.call_id, call.uri, CANCELLED, True)
        yield from self._router.gather(key, commands.push_control(key, text))

    def _expire(self, call: BackendCall) -> Steps[None]:
        call.settle(Expired(f"no result of {call.uri} within {call.timeout:g} s"))
        if call.stored:
            key = self._names.calls(call.uri)
            with suppress(BrokerError):
                yield from self._router.gather(key, [pack(b"LREM", key, -1, call.payload)])

    def _receive(self, call: BackendCall, seconds: float) -> Steps[None]:
        """Wait at most some seconds for what arrives for a call, and process it."""
        key = self._names.results(call.conn_uuid)
        # 0 would mean to wait forever.
        packed = [pack(b"BRPOP", key, f"{max(0.001, seconds):.3f}")]
        if call.stream is not None:
            packed.append(pack(b"RPOP", key, BATCH))
        with call.awaited():
            popped, *more = yield from self._router.gather(key, packed, waits=True)
        if isinstance(popped, BrokerError):
            raise popped
        payloads: list[bytes] = [popped[1]] if popped else []
        if call.stream is not None and isinstance(more[0], list):
            payloads += more[0]
        for payload in payloads:
            yield from self._process(call, payload)
        if not call.is_settled:
            yield from self._check(call)

    def _process(self, call: BackendCall, payload: bytes) -> Steps[None]:
        try:
            if call.on_payload(payload, self._clock()):
                timeout_key = self._names.result_timeout(call.conn_uuid, call.call_id)
                yield from self._router.gather(timeout_key, [pack(b"DEL", timeout_key)])
        except InvalidMessage:
            if call.stream is not None and not call.is_settled:
                with suppress(BrokerError):
                    yield from self._cancel(call)
                call.settle_with(LOST, True)

    def _check(self, call: BackendCall) -> Steps[None]:
        """Fail a stream that takes too long, and a call whose callee has gone. Repeat the credit of a slow stream."""
        now = self._clock()
        if call.stream is not None and call.stream.ends_at <= now:
            with suppress(BrokerError):
                yield from self._cancel(call)
            call.settle_with(TOO_LONG, True)
        elif call.callee_id and call.looked_at + LOOK <= now:
            call.looked_at = now
            call.lifetimes.keep([call.callee_id], now)
            key = self._names.alive(call.callee_id)
            pttl = yield from self._router.execute(key, b"PTTL", key)
            if call.lifetimes.has_gone(call.callee_id, pttl, self._clock()):
                call.settle_with(GONE, True)
            else:
                yield from self.renew(call)

    # Processes

    def _control(self, process_id: str, control: Control) -> Steps[None]:
        key = self._names.control(process_id)
        yield from self._router.gather(key, commands.push_control(key, encode_control(control)))

    def ask(self, messages: Mapping[bytes, bytes], replies_key: bytes, timeout: float) -> Steps[list[bytes]]:
        """Push a message onto each of several lists, and collect one answer to each from another list.

        Args:
            messages: JSON texts by the keys of their lists.
            replies_key: key of the list of answers.
            timeout: seconds to wait for all answers.

        Returns:
            The answers that have arrived in time.
        """
        self._check_open()
        until = self._clock() + timeout
        for key, text in messages.items():
            yield from self._router.gather(key, commands.push_control(key, text))
        answers: list[bytes] = []
        while len(answers) < len(messages) and (left := until - self._clock()) > 0:
            packed = [pack(b"BRPOP", replies_key, f"{max(0.001, min(SLICE, left)):.3f}")]
            (popped,) = yield from self._router.gather(replies_key, packed, waits=True)
            if isinstance(popped, BrokerError):
                raise popped
            if popped:
                answers.append(popped[1])
        return answers

    def _check_open(self) -> None:
        if self.is_closed:
            raise BrokerUnavailable("the backend is closed")


def encoded(events: Iterable[tuple[str, Any]]) -> list[tuple[str, bytes]]:
    """Return events with JSON text, at most one more than a batch may have.

    Raises:
        InvalidValue: JSON cannot carry a value. The error has the number of the event, from 1.
    """
    result = []
    for number, (channel, value) in enumerate(islice(events, MAX_EVENTS + 1), 1):
        try:
            result.append((channel, encode_args(value)))
        except InvalidValue as error:
            raise InvalidValue(f"event {number} of the batch: {error}") from None
    return result


def checked(args: bytes) -> bytes:
    """Return JSON text that a program passes on. Raises `InvalidValue` if it is no JSON value."""
    check_args(args)
    return args


def stored_parts(mode: Literal["all", "latest"], window: int) -> StoredParts:
    """Return how a stream asks for parts."""
    return StoredParts(mode, window)


def _check_size(what: str, args: bytes) -> None:
    if len(args) > MAX_SIZE:
        reason = f"{what}: expected at most {MAX_SIZE} bytes of JSON, got {len(args)}"
        raise BrokerError(reason, NackCode.TOO_LARGE)


def _chunks(packed: Sequence[tuple[bytes, bytes]], sharded: bool) -> Iterator[list[tuple[bytes, bytes]]]:
    """Yield what is sent together, in order. With sharded pub-sub, that is one channel, which has one node."""
    chunk: list[tuple[bytes, bytes]] = []
    size = 0
    for key, command in packed:
        is_full = len(chunk) >= CHUNK_EVENTS or size + len(command) > CHUNK_BYTES
        if chunk and (is_full or (sharded and key != chunk[0][0])):
            yield chunk
            chunk, size = [], 0
        chunk.append((key, command))
        size += len(command)
    if chunk:
        yield chunk


def _interrupted(error: BrokerError, published: int, total: int) -> BrokerError:
    """Return an error with how far a batch has come."""
    kind = type(error) if isinstance(error, BrokerUnavailable) else BrokerError
    maybe = ", and perhaps some more" if isinstance(error, OutcomeUnknown) else ""
    return kind(f"{published} of {total} events were published{maybe}: {error.reason}", error.code, detail=error.detail)


def _texts(reply: Reply) -> list[str]:
    if isinstance(reply, JugglerError) or not reply:
        return []
    return [each.decode(errors="replace") for each in reply]
