"""One greenlet a broker that does what has to be done every second."""

from __future__ import annotations

import logging
from collections.abc import Callable

import gevent

log = logging.getLogger("juggler.redis")

INTERVAL = 1.0
"""Seconds between two ticks."""


class Watchdog:
    """Calls each of its functions once a second with the seconds since the last time. They must not block."""

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
        """Do not call ``function`` any more."""
        if function in self._functions:
            self._functions.remove(function)

    def close(self) -> None:
        """End. Idempotent."""
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
                    log.exception("a periodic task failed")
