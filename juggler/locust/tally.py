"""The counts of a load test, and the equations that they must satisfy. PURE: no I/O, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

REQUESTS = ("CALL", "PUB", "SUB", "UNSB", "CNCL", "AUTH")


@dataclass
class Tally:
    """Counts; those of requests by type.

    Attributes:
        sent: requests.
        acked: their ACKs, implied ones included.
        implied: calls whose result, first part or cancel implied the ACK, under juggler.1.
        nacked: their NACKs.
        lost: requests without ACK or NACK when their connection was lost.
        answered: results.
        expired: calls that expired without a result.
        overdue: expired calls that should have had a result.
        replaced: results that were too large, and replaced by a NACK.
        lost_calls: acknowledged calls without a result when their connection was lost.
        cancelled: acknowledged calls that the client cancelled without waiting for the result.
        unfinished: acknowledged calls in flight, within their timeout, when the test ended or the client closed.
        parts: messages with parts of results.
        late: results that arrived after the call had expired at the client; counted nowhere else.
        events: received events.
        due: received events that had to be received.
        uncertain: events that may have been received or not, because of a SUB or UNSB at that time.
        excused: events that were missed during an injected failure.
        foreign: events whose publication is not in this book; counted neither as due nor as uncertain.
        connections: opened connections.
        lost_connections: connections not closed by the client.
        uncounted: connections of clients without a book.
    """

    sent: Counter[str] = field(default_factory=Counter)
    acked: Counter[str] = field(default_factory=Counter)
    nacked: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    implied: int = 0
    answered: int = 0
    expired: int = 0
    overdue: int = 0
    replaced: int = 0
    lost_calls: int = 0
    cancelled: int = 0
    unfinished: int = 0
    parts: int = 0
    late: int = 0
    events: int = 0
    due: int = 0
    uncertain: int = 0
    excused: int = 0
    foreign: int = 0
    connections: int = 0
    lost_connections: int = 0
    uncounted: int = 0

    def disagreements(self) -> list[str]:
        """Return the violated equations, one a line."""
        found = []
        for type in REQUESTS:
            answers = self.acked[type] + self.nacked[type] + self.lost[type]
            if self.sent[type] != answers:
                found.append(f"{type}: {self.sent[type]} sent, but {answers} acknowledged, refused or lost")
        ends = self.answered + self.expired + self.replaced + self.lost_calls + self.cancelled + self.unfinished
        if self.acked["CALL"] != ends:
            found.append(f"CALL: {self.acked['CALL']} acknowledged, but {ends} answered, expired, cancelled or lost")
        received = self.events - self.foreign
        most = self.due + self.uncertain
        if not self.due <= received <= most:
            found.append(f"EVNT: {received} received, but {self.due} to {most} expected")
        return found

    def add(self, other: Tally) -> None:
        """Add the counts of another process."""
        for name, value in vars(other).items():
            own = getattr(self, name)
            setattr(self, name, own + value)

    def to_json(self) -> dict[str, Any]:
        """Return a value for JSON."""
        # Not dataclasses.asdict, which breaks counters.
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Tally:
        """Return the tally of a value that `to_json` returned."""
        found: dict[str, Any] = {
            name: Counter(part) if isinstance(part, dict) else part for name, part in value.items()
        }
        return cls(**found)

    def lines(self) -> list[str]:
        """Format the counts as a table."""
        rows = [f"{'':6}{'sent':>10}{'ACK':>10}{'NACK':>10}{'lost':>10}"]
        for type in [each for each in REQUESTS if self.sent[each]]:
            counts = (self.sent[type], self.acked[type], self.nacked[type], self.lost[type])
            rows.append(f"{type:6}" + "".join(f"{count:>10,}" for count in counts))
        calls = {
            "cancelled": self.cancelled,
            "too large": self.replaced,
            "lost": self.lost_calls,
            "unfinished": self.unfinished,
            "late": self.late,
            "without an ACK of their own": self.implied,
        }
        rows.append(f"calls: {self.answered:,} answered, {self.expired:,} expired ({self.overdue:,} of them overdue)")
        rows[-1] += _shown(calls)
        if self.parts:
            rows.append(f"parts: {self.parts:,} messages")
        events = {"uncertain": self.uncertain, "excused": self.excused, "foreign": self.foreign}
        rows.append(f"events: {self.events:,} received, {self.due:,} due{_shown(events)}")
        rows.append(f"connections: {self.connections:,} opened, {self.lost_connections:,} lost")
        return rows


def _shown(counts: Mapping[str, int]) -> str:
    """Format the counts that are not zero."""
    return "".join(f", {count:,} {name}" for name, count in counts.items() if count)


def server_disagreements(tally: Tally, counted: Mapping[tuple[str, str], float]) -> list[str]:
    """Return where the server's counts differ from those of its clients, one a line.

    Args:
        tally: counts of all clients of the server.
        counted: the server's counts of messages by direction and type, for example ``("in", "CALL")``.
    """
    expected = {("in", type): tally.sent[type] for type in REQUESTS}
    expected["out", "ACK"] = sum(tally.acked.values()) - tally.implied
    expected["out", "NACK"] = sum(tally.nacked.values()) + tally.replaced
    expected["out", "RES"] = tally.answered + tally.late
    expected["out", "EVNT"] = tally.events
    expected["out", "PART"] = tally.parts
    return [
        f"{type}: the server counted {counted.get((way, type), 0):.0f}, its clients {count}"
        for (way, type), count in expected.items()
        if counted.get((way, type), 0) != count
    ]
