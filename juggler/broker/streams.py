"""Calls of a process that asked for parts: which callee has taken each, and which parts have arrived.

PURE: time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable

from juggler.broker import PendingCall
from juggler.errors import InvalidMessage
from juggler.protocol.codec import StoredParts, StoredResult, count_parts, encode_args

HELD = 5.0
"""Seconds for which a call lives at least while its callee waits for credit, until this is confirmed again."""

GONE = encode_args({"error": {"message": "the callee process has gone", "type": "CalleeGone"}})
"""The result of a call whose callee has gone."""

TOO_LONG = encode_args({"error": {"message": "the stream exceeded its maximum time", "type": "StreamTooLong"}})
"""The result of a call that sends parts for too long."""

LOST = encode_args({"error": {"message": "parts of the result were lost", "type": "PartsLost"}})
"""The result of a call of which parts are missing."""


class Stream:
    """A call that asked for parts.

    Attributes:
        pending: the call.
        timeout: seconds from part to part after which the call expires.
        ends_at: time at which it must have completed.
        callee_id: callee that has taken the call; empty if none has yet.
        until: number of the last part for which there is credit.
    """

    __slots__ = ("_arrived", "_in_order", "callee_id", "ends_at", "pending", "timeout", "until")

    def __init__(self, pending: PendingCall, timeout: float, parts: StoredParts, ends_at: float) -> None:
        self.pending = pending
        self.timeout = timeout
        self.ends_at = ends_at
        self.until = parts.until
        self.callee_id = ""
        self._in_order = parts.mode == "all"
        self._arrived = 0

    def prolong(self, now: float) -> None:
        """Postpone the deadline: a part has arrived, or the callee waits for credit."""
        self.pending.deadline = now + (max(self.timeout, HELD) if self.is_held else self.timeout)

    @property
    def is_held(self) -> bool:
        """Whether the callee waits for credit, as far as this is known."""
        return bool(self.callee_id) and self._arrived >= self.until

    def is_new(self, seq: int, args: bytes, joined: bool) -> bool:
        """Return whether a part has not arrived before, and count it.

        Raises:
            InvalidMessage: earlier parts are missing, although all were asked for.
        """
        if seq <= self._arrived:
            return False
        if self._in_order and seq != self._arrived + 1:
            raise InvalidMessage(f"expected part {self._arrived + 1}, got {seq}")
        self._arrived = seq - 1 + (count_parts(args) if joined else 1)
        return True


class Streams:
    """The calls that asked for parts.

    Attributes:
        by_id: the calls by their identifiers; usually empty.
    """

    def __init__(self) -> None:
        self.by_id: dict[str, Stream] = {}

    def add(self, pending: PendingCall, timeout: float, parts: StoredParts, ends_at: float) -> None:
        """Enter a call that is in the ledger.

        Args:
            pending: the call.
            timeout: seconds from part to part after which the call expires.
            parts: what its caller asks for.
            ends_at: time at which it must have completed.
        """
        self.by_id[pending.call_id] = Stream(pending, timeout, parts, ends_at)

    def hold(self, now: float) -> list[Stream]:
        """Postpone the deadlines of the calls whose callees wait for credit, and return these calls."""
        held = [stream for stream in self.by_id.values() if stream.is_held]
        for stream in held:
            stream.prolong(now)
        return held

    def too_long(self, now: float) -> list[Stream]:
        """Return the calls that must have completed by now."""
        return [stream for stream in self.by_id.values() if stream.ends_at <= now]

    def remove(self, pending: PendingCall) -> None:
        """Remove a call that has completed. Idempotent."""
        self.by_id.pop(pending.call_id, None)

    def callee_of(self, pending: PendingCall) -> str:
        """Return the callee that has taken a call; empty if that is unknown."""
        stream = self.by_id.get(pending.call_id)
        return "" if stream is None else stream.callee_id

    def callees(self) -> set[str]:
        """Return the callees that have taken a call."""
        return {stream.callee_id for stream in self.by_id.values() if stream.callee_id}

    def taken_by(self, callee_ids: Iterable[str]) -> list[PendingCall]:
        """Return the calls that these callees have taken."""
        wanted = set(callee_ids)
        return [stream.pending for stream in self.by_id.values() if stream.callee_id in wanted]

    def on_part(self, result: StoredResult, now: float) -> bool:
        """Process a part: learn the callee and postpone the deadline of the call. Return whether to deliver the part.

        Raises:
            InvalidMessage: earlier parts are missing.
        """
        stream = self.by_id.get(result.msg_uuid)
        if stream is None:
            return False
        stream.callee_id = result.callee or stream.callee_id
        is_new = result.seq > 0 and stream.is_new(result.seq, result.args, result.joined)
        stream.prolong(now)
        return is_new

    def clear(self) -> None:
        """Remove all calls."""
        self.by_id.clear()
