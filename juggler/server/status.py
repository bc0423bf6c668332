"""The status of a server for other processes, with rates of the last few seconds."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping

from juggler.process.metrics import Metrics
from juggler.protocol.server_status import ServerStatus, hottest
from juggler.server.connection import Connection

WINDOW = 5
"""Number of the last statuses over which rates are averaged. One is made every second."""

SHORTEST = 0.5
"""Seconds between two samples, at least."""


class StatusMeter:
    """Makes statuses from what a server counts anyway."""

    def __init__(
        self,
        connections: Collection[Connection],
        metrics: Metrics,
        calls_in_flight: Callable[[], int],
        take_event_counts: Callable[[], Mapping[str, float]],
        is_draining: Callable[[], bool],
    ) -> None:
        self._connections = connections
        self._metrics = metrics
        self._calls_in_flight = calls_in_flight
        self._take_event_counts = take_event_counts
        self._is_draining = is_draining
        self._started: float | None = None
        self._since = time.monotonic()
        self._totals: Counter[str] = Counter()
        # The time of each sample, and what has happened since the one before it.
        self._samples: deque[tuple[float, Mapping[str, float], Mapping[str, float]]] = deque(maxlen=WINDOW)

    def __call__(self, server_id: str) -> ServerStatus:
        """Return the status of the server with this identifier."""
        if self._started is None:
            # Not in the constructor: the process may be forked from the one that has made the server.
            self._started = time.time()
        self._sample()
        calls = _sums(of_calls for _, of_calls, _ in self._samples)
        events = _sums(of_events for _, _, of_events in self._samples)
        seconds = max(SHORTEST, time.monotonic() - self._since)
        return ServerStatus(
            server=server_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=round(self._started, 3),
            draining=self._is_draining(),
            connections=len(self._connections),
            calls=self._calls_in_flight(),
            call_rate=round(sum(calls.values()) / seconds, 2),
            event_rate=round(sum(events.values()) / seconds, 2),
            lag=round(self._metrics.lag, 4),
            uris=hottest(calls, seconds),
            channels=hottest(events, seconds),
        )

    def _sample(self) -> None:
        now = time.monotonic()
        if self._samples and now - self._samples[-1][0] < SHORTEST:
            return
        totals = Counter({uri: sum(histogram.counts) for uri, histogram in self._metrics.calls.items()})
        calls = {uri: total - self._totals[uri] for uri, total in totals.items() if total > self._totals[uri]}
        self._totals = totals
        if len(self._samples) == WINDOW:
            self._since = self._samples[0][0]
        self._samples.append((now, calls, self._take_event_counts()))


def _sums(samples: Iterable[Mapping[str, float]]) -> dict[str, float]:
    sums: defaultdict[str, float] = defaultdict(float)
    for sample in samples:
        for name, count in sample.items():
            sums[name] += count
    return sums
