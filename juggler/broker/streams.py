"""Calls of a process that callees have reported: which callee has taken each, and which parts have arrived.

PURE: time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable

from juggler.broker import PendingCall
from juggler.errors import InvalidMessage
from juggler.protocol.codec import StoredParts, StoredResult, count_parts
from juggler.protocol.results import error_result

HELD = 5.0
"""Seconds for which a call lives at least while its callee waits for credit, until this is confirmed again."""

GONE = error_result("the callee process has gone", "CalleeGone")
"""The result of a call whose callee has gone."""

CANCELLED = error_result("the call was cancelled", "Cancelled", 499)
"""The result of a call that was cancelled before a callee took it."""

TOO_LONG = error_result("the stream exceeded its maximum time", "StreamTooLong")
"""The result of a call that sends parts for too long."""

LOST = error_result("parts of the result were lost", "PartsLost")
"""The result of a call of which parts are missing."""


class Taken:
    """A call that a callee has taken, or is going to take.

    Attributes:
        pending: the call.
        callee_id: callee that has taken the call; empty if none has yet.
    """

    __slots__ = ("callee_id", "pending")

    def __init__(self, pending: PendingCall, callee_id: str) -> None:
        self.pending = pending
        self.callee_id = callee_id

    def on_part(self, result: StoredResult, now: float) -> bool:
        """Process a part; see `Streams.on_part`."""
        self.callee_id = result.callee or self.callee_id
        return False


class Stream(Taken):
    """A call that asked for parts.

    Attributes:
        timeout: seconds from part to part after which the call expires.
        ends_at: time at which it must have completed.
        until: number of the last part for which there is credit.
    """

    __slots__ = ("_arrived", "_in_order", "ends_at", "timeout", "until")

    def __init__(self, pending: PendingCall, timeout: float, parts: StoredParts, ends_at: float) -> None:
        super().__init__(pending, "")
        self.timeout = timeout
        self.ends_at = ends_at
        self.until = parts.until
        self._in_order = parts.mode == "all"
        self._arrived = 0

    def grant(self, until: int) -> int:
        """Grant credit for parts up to a number. Return that of the last part with credit: none is withdrawn."""
        self.until = max(until, self.until)
        return self.until

    def prolong(self, now: float) -> None:
        """Postpone the deadline: a part has arrived, or the callee waits for credit."""
        self.pending.deadline = now + (max(self.timeout, HELD) if self.is_held else self.timeout)

    @property
    def is_held(self) -> bool:
        """Whether the callee waits for credit, as far as this is known."""
        return bool(self.callee_id) and self._arrived >= self.until

    def on_part(self, result: StoredResult, now: float) -> bool:
        super().on_part(result, now)
        is_new = result.seq > 0 and self._is_new(result.seq, result.args, result.joined)
        self.prolong(now)
        return is_new

    def _is_new(self, seq: int, args: bytes, joined: bool) -> bool:
        """Return whether a part has not arrived before, and count it. Raises as `on_part`."""
        if seq <= self._arrived:
            return False
        if self._in_order and seq != self._arrived + 1:
            raise InvalidMessage(f"expected part {self._arrived + 1}, got {seq}")
        self._arrived = seq - 1 + (count_parts(args) if joined else 1)
        return True


class Streams:
    """The calls that asked for parts, and others whose callees are known, because they run for long.

    Attributes:
        by_id: the calls by their identifiers; usually empty.
    """

    def __init__(self) -> None:
        self.by_id: dict[str, Taken] = {}

    def add(self, pending: PendingCall, timeout: float, parts: StoredParts, ends_at: float) -> None:
        """Enter a call that is in the ledger and asked for parts.

        Args:
            pending: the call.
            timeout: seconds from part to part after which the call expires.
            parts: what its caller asks for.
            ends_at: time at which it must have completed.
        """
        self.by_id[pending.call_id] = Stream(pending, timeout, parts, ends_at)

    def hold(self, now: float) -> list[Stream]:
        """Postpone the deadlines of the calls whose callees wait for credit, and return these calls."""
        held = [stream for stream in self._streams() if stream.is_held]
        for stream in held:
            stream.prolong(now)
        return held

    def too_long(self, now: float) -> list[Stream]:
        """Return the calls that must have completed by now."""
        return [stream for stream in self._streams() if stream.ends_at <= now]

    def _streams(self) -> list[Stream]:
        return [call for call in self.by_id.values() if isinstance(call, Stream)]

    def stream_of(self, pending: PendingCall) -> Stream | None:
        """Return what is known of a call that asked for parts; ``None`` for others."""
        call = self.by_id.get(pending.call_id)
        return call if isinstance(call, Stream) else None

    def remove(self, pending: PendingCall) -> None:
        """Remove a call that has completed. Idempotent."""
        self.by_id.pop(pending.call_id, None)

    def callee_of(self, pending: PendingCall) -> str:
        """Return the callee that has taken a call; empty if that is unknown."""
        call = self.by_id.get(pending.call_id)
        return "" if call is None else call.callee_id

    def callees(self) -> set[str]:
        """Return the callees that have taken a call."""
        return {call.callee_id for call in self.by_id.values() if call.callee_id}

    def taken_by(self, callee_ids: Iterable[str]) -> list[PendingCall]:
        """Return the calls that these callees have taken."""
        wanted = set(callee_ids)
        return [call.pending for call in self.by_id.values() if call.callee_id in wanted]

    def on_part(self, pending: PendingCall, result: StoredResult, now: float) -> bool:
        """Process a part: learn the callee and postpone the deadline of the call. Return whether to deliver the part.

        The deadline of a call that has not asked for parts stays.

        Raises:
            InvalidMessage: earlier parts are missing.
        """
        call = self.by_id.get(pending.call_id)
        if call is not None:
            return call.on_part(result, now)
        if result.callee:
            self.by_id[pending.call_id] = Taken(pending, result.callee)
        return False

    def clear(self) -> None:
        """Remove all calls."""
        self.by_id.clear()
