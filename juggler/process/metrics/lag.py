"""How late the event loop is: one greenlet that sleeps, and looks how much longer than asked for it has slept."""

from __future__ import annotations

import time
from collections import deque

import gevent

from juggler.process.metrics import Metrics

PERIOD = 0.5
_KEPT = int(10 / PERIOD)


class LagMeter:
    """Keeps `Metrics.lag`, from `start` until `close`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._greenlet: gevent.Greenlet | None = None

    def start(self) -> None:
        """Begin to measure. Idempotent."""
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)
            self._greenlet.name = "juggler-loop-lag"

    def close(self) -> None:
        """Measure no more. Idempotent."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill(block=False)

    def _run(self) -> None:
        latest: deque[float] = deque(maxlen=_KEPT)
        while True:
            due = time.monotonic() + PERIOD
            gevent.sleep(PERIOD)
            latest.append(max(0.0, time.monotonic() - due))
            self._metrics.lag = max(latest)
