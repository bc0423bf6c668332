"""One greenlet of a broker for everything that is done once a second."""

from __future__ import annotations

import logging
from collections.abc import Callable

import gevent

from juggler.process.logline import Line

log = logging.getLogger("juggler.redis")

INTERVAL = 1.0
"""Seconds between two rounds."""


class Watchdog:
    """Calls each of its functions once a second with the seconds since the last round. They must not block."""

    def __init__(self) -> None:
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
