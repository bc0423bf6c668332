"""Check requests: each has exactly one ACK or NACK, each acknowledged call one result, or expires, or is cancelled.

Under juggler.1, a result or a part implies the ACK of its call. PURE: no clock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from juggler.client.state import Exp
from juggler.locust.tally import Tally
from juggler.locust.violations import Violations
from juggler.protocol.codec import decode_args
from juggler.protocol.messages import Ack, Call, Cncl, Nack, Part, Request, Res

LATE = 2.0
"""Seconds after a call's expiry at the client in which its result may arrive: the server's timeout began later."""

PATIENCE = 30.0
"""Seconds after which a request without ACK or NACK, or a call without result or expiry, is a violation."""

TOO_LARGE = 413
NOT_IN_FLIGHT = 404
GONE, CANCELLED = "CalleeGone", "Cancelled"
SECOND_RESPONSE = "a second response to a request, or one to an unknown request"


class Fate(Enum):
    """The expected outcome of a call whose result is not known beforehand."""

    ANY = "any"
    """Any result."""
    EXPIRES = "expires"
    """No result within the timeout."""
    EITHER = "either"
    """Any result, or none within the timeout."""


Expect: TypeAlias = "Callable[[Call], Any | Fate]"
"""Returns the result that a call must have, or a `Fate`."""


def anything(call: Call) -> Fate:
    """Expect any result."""
    return Fate.ANY


@dataclass
class Entry:
    """A request in flight.

    Attributes:
        connection: number of its connection.
        message: the request.
        sent_at: time of sending.
        expected: result that a call must have, or its `Fate`.
        about: URI of the call that a CNCL cancels.
        acked: whether it has an ACK.
        implied: whether a result, a part or the ACK of a CNCL implied the ACK.
        heard_at: time of the last part, or of sending: the timeout of a call counts from then.
        parts: number of the last part.
        size: size of the parts in bytes.
        cancelled: whether the client has cancelled the call.
        ended_at: time of the result, of the expiry or of the ACK of the cancel; None before.
        expired: whether the call expired.
        errors: errors that are no failures; for the client.
    """

    connection: int
    message: Request
    sent_at: float
    expected: Any = Fate.ANY
    about: str = ""
    acked: bool = False
    implied: bool = False
    heard_at: float = 0.0
    parts: int = 0
    size: int = 0
    cancelled: bool = False
    ended_at: float | None = None
    expired: bool = False
    errors: tuple[Any, ...] = ()

    @property
    def type(self) -> str:
        return self.message.type.name

    @property
    def name(self) -> str:
        return self.about or getattr(self.message, "uri", "") or getattr(self.message, "channel", "")

    @property
    def shown(self) -> str:
        return f"{self.type} {self.name} {self.message.uuid}"

    @property
    def deadline(self) -> float:
        """Time at which a call expires at the client; of other requests, that of sending."""
        return self.heard_at + (self.message.timeout if isinstance(self.message, Call) else 0.0)


class RequestChecks:
    """The requests of all connections of a process."""

    def __init__(
        self,
        tally: Tally,
        violations: Violations,
        excused: Callable[[float, float], bool],
        max_latency: float | None = None,
        allow_unfinished: bool = False,
    ) -> None:
        self._tally = tally
        self._violations = violations
        self._excused = excused
        self._max_latency = max_latency
        self._allow_unfinished = allow_unfinished
        self._entries: dict[str, Entry] = {}
        self._of_connection: dict[int, set[str]] = defaultdict(set)
        self._welcomed: set[int] = set()
        self._over: dict[str, Entry] = {}  # expired or cancelled, and acknowledged: late responses may arrive

    def welcomed(self, connection: int) -> None:
        """Expect juggler.1 from a connection: a result implies the ACK of its call."""
        self._welcomed.add(connection)

    def pending(self, connection: int | None = None) -> int:
        """Return the number of requests in flight, of one connection or of all."""
        return len(self._entries if connection is None else self._of_connection.get(connection, ()))

    def last_deadline(self) -> float | None:
        """Return when the last call in flight expires; ``None`` without one."""
        return max((each.deadline for each in self._entries.values() if isinstance(each.message, Call)), default=None)

    def sent(self, connection: int, message: Request, now: float, expected: Any) -> Entry:
        self._tally.sent[message.type.name] += 1
        entry = self._entries[message.uuid] = Entry(connection, message, now, expected, heard_at=now)
        self._of_connection[connection].add(message.uuid)
        if isinstance(message, Cncl):
            call = self._entries.get(message.for_)
            if call is not None:
                entry.about, call.cancelled = call.name, True
        return entry

    def is_own(self, connection: int, response: Ack | Nack | Res | Part) -> bool:
        """Return whether the request of a response, if it is known, was made on the connection that received it."""
        entry = self._entries.get(response.for_) or self._over.get(response.for_)
        if entry is None or entry.connection == connection:
            return True
        self._violations.add(f"{response.type.name} at another client than its request's", entry.shown)
        return False

    def acked(self, ack: Ack, now: float) -> Entry | None:
        entry = self._entries.get(ack.for_)
        if entry is None or entry.acked:
            self._violations.add(SECOND_RESPONSE, f"ACK for {ack.for_}")
            return None
        if ack.for_type != entry.message.type:
            self._violations.add("an ACK that names another type than its request", entry.shown)
        self._tally.acked[entry.type] += 1
        entry.acked = True
        if entry.expired:
            self._over[ack.for_] = self._drop(entry)
        elif not isinstance(entry.message, Call) or entry.ended_at is not None:
            self._drop(entry)
        if isinstance(entry.message, Cncl):
            self._end_cancelled(entry.message, now)
        return entry

    def nacked(self, nack: Nack, now: float) -> Entry | None:
        entry = self._entries.get(nack.for_)
        if entry is None:
            self._violations.add(SECOND_RESPONSE, f"NACK for {nack.for_}")
            return None
        self._drop(entry)
        if not entry.acked:
            self._tally.nacked[entry.type] += 1
            if entry.expired:
                self._tally.expired -= 1  # it was never acknowledged
        elif nack.code == TOO_LARGE and isinstance(entry.message, Call):
            self._tally.replaced += 1
        else:
            self._violations.add("an ACK and a NACK for one request", entry.shown)
        if isinstance(entry.message, Cncl):
            self._end_cancelled(entry.message, now)
        return entry

    def part(self, part: Part, now: float) -> Entry | None:
        """Check a part of a result, and return the entry of its call."""
        self._tally.parts += 1
        entry = self._entries.get(part.for_)
        if entry is None or entry.ended_at is not None:
            over = entry or self._over.get(part.for_)
            if over is None or over.cancelled or now - (over.ended_at or 0) > LATE:
                self._violations.add(
                    "a part after the end of its call", over.shown if over else f"PART for {part.for_}"
                )
            return None
        self._imply_ack(entry)
        asked = entry.message.parts if isinstance(entry.message, Call) else None
        if asked is None:
            self._violations.add("a part of a call that has asked for none", entry.shown)
        elif part.seq <= entry.parts:
            self._violations.add("a part was received twice or out of order", f"{entry.shown}: {part.seq}")
        elif part.seq > entry.parts + 1 and asked.mode == "all":
            self._violations.add("a part was missed", f"{entry.shown}: {part.seq} after {entry.parts}")
        entry.parts = part.seq + (len(decode_args(part.args)) - 1 if part.joined else 0)
        entry.size += len(part.args)
        entry.heard_at = now
        return entry

    def answered(self, res: Res, now: float) -> Entry | None:
        entry = self._entries.get(res.for_)
        if entry is None:
            self._take_late(res, now)
            return None
        self._imply_ack(entry)
        if entry.expired:
            if entry.acked:
                self._drop(entry)
            self._tally.late += 1
            return None
        if not entry.acked:
            self._violations.add("a result before its ACK", entry.shown)
        if entry.ended_at is not None:
            self._violations.add("a second result", entry.shown)
            return None
        self._tally.answered += 1
        self._check_value(entry, res, now)
        self._check_latency(entry, now)
        entry.ended_at = now
        if entry.acked:
            self._drop(entry)
        return entry

    def expired(self, exp: Exp, now: float) -> Entry | None:
        entry = self._entries.get(exp.for_)
        if entry is None:
            return None  # locust killed its user between the start of the call and the write
        self._tally.expired += 1
        entry.ended_at, entry.expired = now, True
        if entry.expected not in (Fate.EXPIRES, Fate.EITHER) and not self._excused(entry.sent_at, now):
            self._tally.overdue += 1
        if entry.acked:
            self._over[exp.for_] = self._drop(entry)
        return entry

    def lost(self, connection: int) -> list[Entry]:
        """Drop the requests in flight on a lost connection, and return them."""
        self._welcomed.discard(connection)
        entries = [self._entries[uuid] for uuid in self._of_connection.get(connection, ())]
        for entry in entries:
            self._drop(entry)
            if not entry.acked:
                self._tally.lost[entry.type] += 1
                self._tally.expired -= entry.expired
            elif entry.ended_at is None:
                self._tally.lost_calls += 1
        self._of_connection.pop(connection, None)
        return entries

    def abandon(self, connection: int, now: float) -> int:
        """Drop the calls on a connection that may be unfinished. Return how many requests are in flight beside them."""
        for entry in [self._entries[uuid] for uuid in self._of_connection.get(connection, ())]:
            self._abandon(entry, now)
        return self.pending(connection)

    def judge(self, now: float, finally_: bool = False) -> None:
        """Report requests in flight for too long; with ``finally_``, all but calls that may be unfinished."""
        for entry in list(self._entries.values()):
            if (now - entry.deadline > PATIENCE or finally_) and not self._abandon(entry, now):
                self._drop(entry)
                what = "a call without result or expiry" if entry.acked else "a request without ACK or NACK"
                self._violations.add(what, entry.shown)
        for uuid, entry in list(self._over.items()):
            if finally_ or now - (entry.ended_at or 0) > PATIENCE:
                del self._over[uuid]

    def _drop(self, entry: Entry) -> Entry:
        del self._entries[entry.message.uuid]
        self._of_connection[entry.connection].discard(entry.message.uuid)
        return entry

    def _abandon(self, entry: Entry, now: float) -> bool:
        """Drop a call in flight if it may be unfinished. Return whether it was dropped."""
        is_in_flight = isinstance(entry.message, Call) and entry.acked and entry.ended_at is None
        if not self._allow_unfinished or not is_in_flight or now > entry.deadline:
            return False
        self._drop(entry)
        self._tally.unfinished += 1
        return True

    def _imply_ack(self, entry: Entry) -> None:
        if not entry.acked and entry.connection in self._welcomed:
            entry.acked = entry.implied = True
            self._tally.acked[entry.type] += 1
            self._tally.implied += 1

    def _end_cancelled(self, cancel: Cncl, now: float) -> None:
        """End a call whose CNCL the server has answered, unless the client waits for the result."""
        entry = self._entries.get(cancel.for_)
        if entry is None or cancel.wait or entry.ended_at is not None:
            return
        self._imply_ack(entry)
        if entry.acked:
            self._tally.cancelled += 1
            entry.ended_at = now
            self._over[cancel.for_] = self._drop(entry)

    def _take_late(self, res: Res, now: float) -> None:
        entry = self._over.get(res.for_)
        if entry is None or entry.cancelled or now - (entry.ended_at or 0) > LATE:
            self._violations.add("a second result, or one of an unknown call", f"RES for {res.for_}")
        else:
            del self._over[res.for_]
            self._tally.late += 1

    def _check_value(self, entry: Entry, res: Res, now: float) -> None:
        if isinstance(entry.expected, Fate):
            return
        value = decode_args(res.args)
        if res.failed and value["error"].get("type") == GONE and self._excused(entry.sent_at, now):
            return  # its callee was killed
        if value != entry.expected:
            self._violations.add("a wrong result", f"{entry.shown}: expected {entry.expected!r:.60}, got {value!r:.60}")

    def _check_latency(self, entry: Entry, now: float) -> None:
        is_stream = isinstance(entry.message, Call) and entry.message.parts is not None
        if not self._max_latency or is_stream:  # a reader may slow a stream down
            return
        if now - entry.sent_at > self._max_latency and not self._excused(entry.sent_at, now):
            self._violations.add("a late result", f"{entry.shown}: after {now - entry.sent_at:.1f} s")
