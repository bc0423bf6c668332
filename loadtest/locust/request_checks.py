"""Check requests: each has exactly one ACK or NACK, each acknowledged call one result or expires.

Under juggler.1, a result implies the ACK of its call. PURE: no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from juggler.client.state import Exp
from juggler.protocol.codec import decode_args
from juggler.protocol.messages import Ack, Call, Nack, Request, Res
from loadtest.locust.tally import Tally
from loadtest.violations import Violations

LATE = 2.0
"""Seconds after a call's expiry at the client in which its result may arrive: the server's timeout began later."""

PATIENCE = 30.0
"""Seconds after which a request without ACK or NACK, or a call without result or expiry, is a violation."""

TOO_LARGE = 413
GONE = "CalleeGone"
SECOND_RESPONSE = "a second response to a request, or one to an unknown request"


class Fate(Enum):
    """The expected outcome of a call whose result is not known beforehand."""

    ANY = "any"
    """Any result."""
    EXPIRES = "expires"
    """No result within the timeout."""


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
        acked: whether it has an ACK.
        ended_at: time of the result or of the expiry; None before.
        expired: whether the call expired.
    """

    connection: int
    message: Request
    sent_at: float
    expected: Any = Fate.ANY
    acked: bool = False
    ended_at: float | None = None
    expired: bool = False

    @property
    def type(self) -> str:
        return self.message.type.name

    @property
    def name(self) -> str:
        return self.message.uri if isinstance(self.message, Call) else self.message.channel

    @property
    def shown(self) -> str:
        return f"{self.type} {self.name} {self.message.uuid}"


class RequestChecks:
    """The requests of all connections of a process."""

    def __init__(
        self,
        tally: Tally,
        violations: Violations,
        excused: Callable[[float, float], bool],
        max_latency: float | None = None,
    ) -> None:
        self._tally = tally
        self._violations = violations
        self._excused = excused
        self._max_latency = max_latency
        self._entries: dict[str, Entry] = {}
        self._welcomed: set[int] = set()
        self._over: dict[str, Entry] = {}  # expired and acknowledged: a late result may arrive

    def welcomed(self, connection: int) -> None:
        """Expect juggler.1 from a connection: a result implies the ACK of its call."""
        self._welcomed.add(connection)

    def pending(self, connection: int | None = None) -> int:
        """Return the number of requests in flight, of one connection or of all."""
        return sum(1 for entry in self._entries.values() if connection in (None, entry.connection))

    def sent(self, connection: int, message: Request, now: float, expected: Any) -> None:
        self._tally.sent[message.type.name] += 1
        self._entries[message.uuid] = Entry(connection, message, now, expected)

    def is_own(self, connection: int, response: Ack | Nack | Res) -> bool:
        """Return whether the request of a response, if it is known, was made on the connection that received it."""
        entry = self._entries.get(response.for_) or self._over.get(response.for_)
        if entry is None or entry.connection == connection:
            return True
        self._violations.add(f"{response.type.name} at another client than its request's", entry.shown)
        return False

    def acked(self, ack: Ack) -> Entry | None:
        entry = self._entries.get(ack.for_)
        if entry is None or entry.acked:
            self._violations.add(SECOND_RESPONSE, f"ACK for {ack.for_}")
            return None
        if ack.for_type != entry.message.type:
            self._violations.add("an ACK that names another type than its request", entry.shown)
        self._tally.acked[entry.type] += 1
        entry.acked = True
        if entry.expired:
            self._over[ack.for_] = self._entries.pop(ack.for_)
        elif not isinstance(entry.message, Call) or entry.ended_at is not None:
            del self._entries[ack.for_]
        return entry

    def nacked(self, nack: Nack) -> Entry | None:
        entry = self._entries.pop(nack.for_, None)
        if entry is None:
            self._violations.add(SECOND_RESPONSE, f"NACK for {nack.for_}")
            return None
        if not entry.acked:
            self._tally.nacked[entry.type] += 1
            if entry.expired:
                self._tally.expired -= 1  # it was never acknowledged
        elif nack.code == TOO_LARGE and isinstance(entry.message, Call):
            self._tally.replaced += 1
        else:
            self._violations.add("an ACK and a NACK for one request", entry.shown)
        return entry

    def answered(self, res: Res, now: float) -> Entry | None:
        entry = self._entries.get(res.for_)
        if entry is None:
            self._take_late(res, now)
            return None
        if not entry.acked and entry.connection in self._welcomed:
            entry.acked = True
            self._tally.acked[entry.type] += 1
            self._tally.implied += 1
            if entry.expired:
                del self._entries[res.for_]
        if entry.expired:
            self._tally.late += 1
            return None
        if not entry.acked:
            self._violations.add("a result before its ACK", entry.shown)
        if entry.ended_at is not None:
            self._violations.add("a second result", entry.shown)
            return None
        self._tally.answered += 1
        self._check_value(entry, res, now)
        if self._max_latency and now - entry.sent_at > self._max_latency and not self._excused(entry.sent_at, now):
            self._violations.add("a late result", f"{entry.shown}: after {now - entry.sent_at:.1f} s")
        entry.ended_at = now
        if entry.acked:
            del self._entries[res.for_]
        return entry

    def expired(self, exp: Exp, now: float) -> Entry | None:
        entry = self._entries.get(exp.for_)
        if entry is None:
            return None  # locust killed its user between the start of the call and the write
        self._tally.expired += 1
        entry.ended_at, entry.expired = now, True
        if entry.expected is not Fate.EXPIRES and not self._excused(entry.sent_at, now):
            self._tally.overdue += 1
        if entry.acked:
            self._over[exp.for_] = self._entries.pop(exp.for_)
        return entry

    def lost(self, connection: int) -> None:
        """Drop the requests in flight on a lost connection."""
        self._welcomed.discard(connection)
        for uuid in [uuid for uuid, entry in self._entries.items() if entry.connection == connection]:
            entry = self._entries.pop(uuid)
            if not entry.acked:
                self._tally.lost[entry.type] += 1
                self._tally.expired -= entry.expired
            elif entry.ended_at is None:
                self._tally.lost_calls += 1

    def judge(self, now: float, finally_: bool = False) -> None:
        """Report requests in flight for too long; with ``finally_``, all of them."""
        for uuid, entry in list(self._entries.items()):
            since = now - entry.sent_at
            if isinstance(entry.message, Call):
                since -= entry.message.timeout
            if since > PATIENCE or finally_:
                del self._entries[uuid]
                what = "a call without result or expiry" if entry.acked else "a request without ACK or NACK"
                self._violations.add(what, entry.shown)
        for uuid, entry in list(self._over.items()):
            if finally_ or now - (entry.ended_at or 0) > PATIENCE:
                del self._over[uuid]

    def _take_late(self, res: Res, now: float) -> None:
        entry = self._over.get(res.for_)
        if entry is None or now - (entry.ended_at or 0) > LATE:
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
