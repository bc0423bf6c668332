"""Watches the connections of a broker: one greenlet for all that is done once a second, and a count of losses."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

import gevent

from juggler.process.logline import Line

log = logging.getLogger("juggler.redis")

INTERVAL = 1.0
"""Seconds between two rounds."""

MAX_NAMES = 1000
"""Names by which losses are counted. Those of further names are counted together."""

OTHER = "(other)"


class Watchdog:
    """Calls each of its functions once a second with the seconds since the last round. They must not block.

    Attributes:
        losses: connections lost since the start, by name; also of connections that have been replaced or left.
    """

    def __init__(self) -> None:
        self.losses: Counter[str] = Counter()
        self._functions: list[Callable[[float], None]] = []
        self._greenlet: gevent.Greenlet | None = None

    def add(self, function: Callable[[float], None]) -> None:
        """Call ``function`` from now on."""
        self._functions.append(function)
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)
            self._greenlet.name = "juggler-redis-watchdog"

    def remove(self, function: Callable[[float], None]) -> None:
        """Stop calling ``function``. Idempotent."""
        if function in self._functions:
            self._functions.remove(function)

    def count_loss(self, name: str) -> None:
        """Count a lost connection."""
        self.losses[name if name in self.losses or len(self.losses) < MAX_NAMES else OTHER] += 1

    def close(self) -> None:
        """Stop. Idempotent."""
        self._functions.clear()
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None

    def _run(self) -> None:
        while True:
            gevent.sleep(INTERVAL)
            for function in tuple(self._functions):
                try:
                    function(INTERVAL)
                except Exception:
                    log.exception(Line("redis: periodic task failed"))
