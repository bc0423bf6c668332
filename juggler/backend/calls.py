"""`BackendCall`: a call of a backend, with the parts and the result that have arrived. PURE: time is handed in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from juggler.broker import PendingCall
from juggler.broker.redis.lifetimes import Lifetimes
from juggler.broker.streams import Stream, Taken
from juggler.errors import InvalidMessage, JugglerError
from juggler.protocol.codec import StoredParts, decode_result, split_parts
from juggler.protocol.messages import Res

RENEWAL = 1.0
"""Seconds after which credit is granted again: the call of a slow reader must not expire."""


class BackendCall(PendingCall):
    """A call, which has a list of results of its own.

    Attributes:
        conn_uuid: names its list of results.
        timeout: seconds until it expires; for a stream, from part to part.
        payload: the call as it is stored.
        taken: which callee has taken it, if that is known.
        stream: what is known of its parts; ``None`` if it asks for none.
        lifetimes: whether its callee lives.
        looked_at: when its callee was looked up.
        is_awaited: whether its list of results is being waited for.
    """

    __slots__ = (
        *("_outcome", "_read", "_renewed_at", "_unread", "_window"),
        *("conn_uuid", "is_awaited", "lifetimes", "looked_at", "payload", "stream", "taken", "timeout"),
    )

    def __init__(self, call_id: str, conn_uuid: str, uri: str, timeout: float, now: float) -> None:
        self.call_id = call_id
        self.conn_uuid = conn_uuid
        self.uri = uri
        self.timeout = timeout
        self.deadline = now + timeout
        self.payload = b""
        self.stored = False
        self.taken = Taken(self, "")
        self.stream: Stream | None = None
        self.lifetimes = Lifetimes()
        self.looked_at = now
        self.is_awaited = False
        self._outcome: Res | JugglerError | None = None
        self._unread: deque[bytes] = deque()
        self._read = 0
        self._window = 0
        self._renewed_at = now

    def begin_stream(self, parts: StoredParts, ends_at: float) -> None:
        """Ask for parts, before the call is stored."""
        self.taken = self.stream = Stream(self, self.timeout, parts, ends_at)
        self._window = parts.until

    @property
    def callee_id(self) -> str:
        """The callee that has taken the call; empty if it is unknown."""
        return self.taken.callee_id

    # Outcome

    @property
    def is_settled(self) -> bool:
        """Whether there is an outcome."""
        return self._outcome is not None

    @property
    def is_readable(self) -> bool:
        """Whether there is a part to read, or an outcome."""
        return bool(self._unread) or self.is_settled

    def settle(self, outcome: Res | JugglerError) -> None:
        """Store the outcome. The first one counts."""
        if self._outcome is None:
            self._outcome = outcome

    def settle_with(self, args: bytes, failed: bool | None) -> None:
        """Store a result as the outcome."""
        self.settle(Res(for_=self.call_id, uri=self.uri, args=args, failed=failed))

    def outcome(self) -> Res:
        """Return the result. If there is none, raise the reason."""
        if isinstance(self._outcome, JugglerError):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    def on_stored(self, error: JugglerError | None) -> None:
        """Not used: see `juggler.backend.operations.Operations.start`."""

    def on_result(self, args: bytes, failed: bool | None) -> None:
        self.settle_with(args, failed)

    def on_expired(self) -> None:
        """Not used: see `juggler.backend.operations.Operations.wait`."""

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Mark the call as awaited."""
        self.is_awaited = True
        try:
            yield
        finally:
            self.is_awaited = False

    def on_payload(self, payload: bytes, now: float) -> bool:
        """Process a result or a part. Return whether it was stored with a timeout key, as by callees in Go.

        Raises:
            InvalidMessage: malformed, or parts before it are missing.
        """
        result = decode_result(payload)
        if result.msg_uuid != self.call_id:
            raise InvalidMessage(f"$.msg_uuid: expected {self.call_id}, got {result.msg_uuid[:60]}")
        if not result.more:
            self.settle_with(result.args, result.failed)
        elif self.taken.on_part(result, now):
            self._unread += split_parts(result.args) if result.joined else [result.args]
        return not (result.more or result.keyless)

    # Parts

    def prolong(self, now: float) -> None:
        """Postpone the deadline: the reader asks for the next part."""
        self.deadline = max(self.deadline, now + self.timeout)

    def take(self) -> bytes | None:
        """Return the oldest unread part; ``None`` after the last one."""
        if not self._unread:
            return None
        self._read += 1
        return self._unread.popleft()

    def renewal(self, now: float) -> int | None:
        """Return the credit to grant: once half of the window was read, or after some time; otherwise ``None``."""
        if self.stream is None or self.is_settled or not self.stream.callee_id:
            return None
        until = self._read + self._window
        is_due = until - self.stream.until >= (self._window + 1) // 2
        return until if is_due or now - self._renewed_at >= RENEWAL else None

    def on_renewed(self, until: int, now: float) -> None:
        """Credit was granted."""
        assert self.stream is not None
        self._renewed_at = now
        self.stream.until = max(until, self.stream.until)
