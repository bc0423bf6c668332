"""Counters of a worker."""

from __future__ import annotations

from collections.abc import Iterable

from juggler.broker import BrokerStats
from juggler.process.metrics import Histogram, Snapshot
from juggler.process.process_memory import memory


class Counts:
    """Counts of calls. Each request becomes a success, a failure or an expiry.

    Attributes:
        requests: calls taken from the broker.
        successes: calls answered with a result.
        failures: calls answered with an error.
        expiries: calls that were abandoned by their callers before they were run or completed.
    """

    __slots__ = ("expiries", "failures", "requests", "successes")

    def __init__(self) -> None:
        self.requests = 0
        self.successes = 0
        self.failures = 0
        self.expiries = 0

    @property
    def running(self) -> int:
        """Calls in flight."""
        return self.requests - self.successes - self.failures - self.expiries

    def __repr__(self) -> str:
        return ", ".join(f"{getattr(self, name)} {name}" for name in ("requests", "successes", "failures", "expiries"))


class UriStats(Counts):
    """Counts of one URI.

    Attributes:
        durations: run time of the function, in seconds.
        waits: time that calls spent in the queue, in seconds.
    """

    __slots__ = ("durations", "waits")

    def __init__(self) -> None:
        super().__init__()
        self.durations = Histogram()
        self.waits = Histogram()


class Stats:
    """Counts of a worker.

    Attributes:
        by_uri: counts of each registered function.
    """

    __slots__ = ("by_uri",)

    def __init__(self, uris: Iterable[str]) -> None:
        self.by_uri = {uri: UriStats() for uri in uris}

    def total(self) -> Counts:
        """Return the current sums over all URIs."""
        total = Counts()
        for counts in self.by_uri.values():
            for name in Counts.__slots__:
                setattr(total, name, getattr(total, name) + getattr(counts, name))
        return total

    def snapshot(self, broker: BrokerStats) -> Snapshot:
        """Return all counts, including those of the broker, without URIs that were never called."""
        called = {uri: counts for uri, counts in self.by_uri.items() if counts.requests}
        return Snapshot(
            counters={
                "juggler_callee_requests": {uri: counts.requests for uri, counts in called.items()},
                "juggler_callee_successes": {uri: counts.successes for uri, counts in called.items()},
                "juggler_callee_failures": {uri: counts.failures for uri, counts in called.items()},
                "juggler_callee_expiries": {uri: counts.expiries for uri, counts in called.items()},
                "juggler_callee_calls_expired": {"": broker.expired_calls},
                "juggler_callee_calls_invalid": {"": broker.invalid_calls},
                "juggler_callee_calls_unchecked": {"": broker.unchecked_calls},
                "juggler_callee_results_late": {"": broker.late_results},
            },
            gauges={
                "juggler_callee_running": {uri: counts.running for uri, counts in called.items()},
                "juggler_callee_processes": {"": 1},
                "juggler_callee_resident_memory_bytes": memory(),
            },
            calls={uri: counts.durations for uri, counts in called.items()},
            waits={uri: counts.waits for uri, counts in called.items()},
        )
