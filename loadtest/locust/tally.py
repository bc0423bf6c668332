"""The sums of a load test, and the sentences that have to be true of them. PURE: no I/O, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

REQUESTS = ("CALL", "PUB", "SUB", "UNSB")


@dataclass
class Tally:
    """What was counted. By type of request: ``sent``, ``acked``, ``nacked``, ``lost``.

    Attributes:
        sent: requests.
        acked: ACKs for them.
        nacked: NACKs for them.
        lost: requests of connections that were lost before there was an ACK or NACK.
        answered: results, one for a call.
        expired: calls whose time was over before there was a result.
        overdue: those of the expired that had to be answered in time, as nothing was being disturbed.
        replaced: results that were too large, and told so by a NACK.
        lost_calls: acknowledged calls of connections that were lost before there was a result.
        late: results that came after the call had expired here; they count in nothing else.
        events: events received.
        due: events that had to be received, and were.
        uncertain: events that might be received or not, as somebody subscribed or unsubscribed at the time.
        excused: events that were missed while something was being disturbed.
        foreign: events of publications that are not in this book.
        connections: made.
        lost_connections: that ended without our doing.
        uncounted: connections of clients that keep no books.
    """

    sent: Counter[str] = field(default_factory=Counter)
    acked: Counter[str] = field(default_factory=Counter)
    nacked: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    expired: int = 0
    overdue: int = 0
    replaced: int = 0
    lost_calls: int = 0
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
        """Return the sentences that are not true of these sums; none when all counts agree."""
        found = []
        for type in REQUESTS:
            answers = self.acked[type] + self.nacked[type] + self.lost[type]
            if self.sent[type] != answers:
                found.append(f"{type}: {self.sent[type]} sent, but {answers} acknowledged, refused or lost")
        ends = self.answered + self.expired + self.replaced + self.lost_calls
        if self.acked["CALL"] != ends:
            found.append(f"CALL: {self.acked['CALL']} acknowledged, but {ends} answered, expired or lost")
        received = self.events - self.foreign
        most = self.due + self.uncertain
        if not self.due <= received <= most:
            found.append(f"EVNT: {received} received, but {self.due} to {most} expected")
        return found

    def add(self, other: Tally) -> None:
        """Add the sums of another book."""
        for name, value in vars(other).items():
            own = getattr(self, name)
            setattr(self, name, own + value)

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON can carry."""
        # Not asdict, which breaks counters.
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Tally:
        """Return the tally of `to_json`."""
        return cls(**{name: Counter(part) if isinstance(part, dict) else part for name, part in value.items()})

    def lines(self) -> list[str]:
        """Return a table for people."""
        rows = [f"{'':6}{'sent':>10}{'ACK':>10}{'NACK':>10}{'lost':>10}"]
        for type in REQUESTS:
            counts = (self.sent[type], self.acked[type], self.nacked[type], self.lost[type])
            rows.append(f"{type:6}" + "".join(f"{count:>10,}" for count in counts))
        rows.append(
            f"calls: {self.answered:,} answered, {self.expired:,} expired ({self.overdue:,} of them overdue), "
            f"{self.replaced:,} too large, {self.lost_calls:,} lost, {self.late:,} late"
        )
        rows.append(
            f"events: {self.events:,} received, {self.due:,} due, {self.uncertain:,} uncertain, "
            f"{self.excused:,} excused, {self.foreign:,} foreign"
        )
        rows.append(f"connections: {self.connections:,} made, {self.lost_connections:,} lost")
        return rows


def server_disagreements(tally: Tally, counted: Mapping[tuple[str, str], float]) -> list[str]:
    """Return where a server has counted something else than its clients, and they were its only ones.

    Args:
        tally: of all clients.
        counted: the server's messages by direction and type, ``("in", "CALL")`` for example.
    """
    ours = {("in", type): tally.sent[type] for type in REQUESTS}
    ours["out", "ACK"] = sum(tally.acked.values())
    ours["out", "NACK"] = sum(tally.nacked.values()) + tally.replaced
    ours["out", "RES"] = tally.answered + tally.late
    ours["out", "EVNT"] = tally.events
    return [
        f"{type}: the server has counted {counted.get((way, type), 0):.0f}, its clients {count}"
        for (way, type), count in ours.items()
        if counted.get((way, type), 0) != count
    ]


class Faults:
    """What was wrong: each kind with its number, and its first examples."""

    EXAMPLES = 3

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, kind: str, example: str = "") -> None:
        self.counts[kind] += 1
        examples = self._examples.setdefault(kind, [])
        if example and len(examples) < self.EXAMPLES:
            examples.append(example)

    def add_all(self, kinds: Iterable[str]) -> None:
        for kind in kinds:
            self.add(kind)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def lines(self) -> list[str]:
        """Return one line for each kind."""
        return [f"{count} x {kind}{self._shown(kind)}" for kind, count in sorted(self.counts.items())]

    def _shown(self, kind: str) -> str:
        examples = self._examples[kind]
        return f" ({'; '.join(examples)})" if examples else ""
