"""What a server counts: plain numbers on the hot path, put into words only when somebody asks, as a `Snapshot`.

Rule: to count is to add to an attribute or to a list's item. No locks: the greenlets of one thread share it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

from msgspec import Struct, field

from juggler.errors import CloseCode
from juggler.protocol.messages import MessageType

SLOW = 0.1
"""Seconds from which on the processing of a message counts as slow."""

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histogram of call latencies, in seconds."""

MAX_URIS = 100
OTHER = "(other)"
"""The URI under which all are counted that come after the first `MAX_URIS`."""

TYPES = tuple(MessageType[name] for name in ("CALL", "PUB", "SUB", "UNSB", "NACK", "ACK", "RES", "EVNT"))
_SIZE = max(TYPES) + 1
_CLOSE_CODES = frozenset(CloseCode)

Values = dict[str, dict[str, float]]


class Histogram(Struct):
    """Latencies: how many fell into each of `BUCKETS`, with one more for what is over the last, and their sum."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total_seconds: float = 0.0


class Snapshot(Struct):
    """Figures at one moment, of one process or of several.

    Attributes:
        counters: by name, then by label's value, empty where there is no label.
        gauges: the same; those of several processes are added up.
        highest: gauges of which the highest counts.
        lowest: gauges of which the lowest counts.
        calls: latencies by URI.
        waits: how long calls waited for a callee, by URI.
    """

    counters: Values = {}
    gauges: Values = {}
    highest: Values = {}
    lowest: Values = {}
    calls: dict[str, Histogram] = {}
    waits: dict[str, Histogram] = {}


class Metrics:
    """The counters of one server.

    Attributes:
        read: messages that came in, indexed by their type.
        written: messages that went out, indexed by their type.
        slow: messages whose processing took over `SLOW`, indexed by their type.
        invalid: what came in and was no message, or one of a type that is not allowed.
        nacks: NACKs that went out, by code.
        closes: connections that have ended, by close code; 0 for those that are not `CloseCode`'s, of which a client
            may send thousands.
        refused: handshakes that were refused, by status.
        lag: the largest lateness of the event loop in the last ten seconds, in seconds.
    """

    def __init__(self) -> None:
        self.read = [0] * _SIZE
        self.written = [0] * _SIZE
        self.slow = [0] * _SIZE
        self.invalid = 0
        self.nacks: Counter[int] = Counter()
        self.closes: Counter[int] = Counter()
        self.refused: Counter[int] = Counter()
        self.connections = 0
        self.outboxes = 0
        self.panics = 0
        self.write_limit_exceeded = 0
        self.expired = 0
        self.lag = 0.0
        self.calls: dict[str, Histogram] = {}

    def observe_call(self, uri: str, seconds: float) -> None:
        """Count a result that came so many seconds after its CALL."""
        histogram = self.calls.get(uri)
        if histogram is None:
            histogram = self.calls.setdefault(uri if len(self.calls) < MAX_URIS else OTHER, Histogram())
        histogram.counts[bisect_left(BUCKETS, seconds)] += 1
        histogram.total_seconds += seconds

    def count_close(self, code: int) -> None:
        """Count a connection that has ended."""
        self.closes[code if code in _CLOSE_CODES else 0] += 1

    def counters(self) -> Values:
        """Return what was counted, by metric and label."""
        messages = {f"in,{t.name}": float(self.read[t]) for t in TYPES if t.is_request}
        messages |= {f"out,{t.name}": float(self.written[t]) for t in TYPES if t.is_response}
        return {
            "juggler_messages": messages,
            "juggler_invalid_messages": {"": self.invalid},
            "juggler_slow_messages": {t.name: self.slow[t] for t in TYPES},
            "juggler_nacks": _by_number(self.nacks),
            "juggler_closes": _by_number(self.closes),
            "juggler_refused": _by_number(self.refused),
            "juggler_connections_opened": {"": self.connections},
            "juggler_connection_greenlets": {"": self.connections + self.outboxes},
            "juggler_handler_errors": {"": self.panics},
            "juggler_write_limit_exceeded": {"": self.write_limit_exceeded},
            "juggler_calls_expired": {"": self.expired},
        }


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return the figures of several processes as one."""
    merged = Snapshot()
    for snapshot in snapshots:
        for into, values in ((merged.counters, snapshot.counters), (merged.gauges, snapshot.gauges)):
            for name, labels in values.items():
                sums = into.setdefault(name, {})
                for label, value in labels.items():
                    sums[label] = sums.get(label, 0) + value
        for into, values, choose in (
            (merged.highest, snapshot.highest, max),
            (merged.lowest, snapshot.lowest, min),
        ):
            for name, labels in values.items():
                chosen = into.setdefault(name, {})
                for label, value in labels.items():
                    chosen[label] = choose(chosen.get(label, value), value)
        for of, histograms in ((merged.calls, snapshot.calls), (merged.waits, snapshot.waits)):
            for uri, histogram in histograms.items():
                _add(of.setdefault(uri, Histogram()), histogram)
    return merged


def _add(into: Histogram, other: Histogram) -> None:
    into.counts = [a + b for a, b in zip(into.counts, other.counts, strict=True)]
    into.total_seconds += other.total_seconds


def _by_number(counter: Counter[int]) -> dict[str, float]:
    return {str(int(number)) if number else "other": count for number, count in counter.items()}
