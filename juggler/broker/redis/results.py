"""A link that pops the results of this process without end."""

from __future__ import annotations

import logging
from collections.abc import Callable

import gevent

from juggler.broker.redis.link import Connector
from juggler.broker.redis.pop import PopLink
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerUnavailable

log = logging.getLogger("juggler.redis")

BATCH = 256
"""The most results taken at a time."""

ERROR_PAUSE = 1.0
"""Seconds until the next attempt when Redis refuses to pop."""


class ResultsLink(PopLink):
    """Pops from one list as long as it lives, again whenever the connection is new."""

    def __init__(
        self,
        connector: Connector,
        watchdog: Watchdog,
        blocking_timeout: float,
        key: bytes,
        on_results: Callable[[list[bytes]], None],
    ) -> None:
        """As `PopLink`; ``on_results`` is given each batch."""
        super().__init__("results", connector, watchdog, blocking_timeout)
        self._key = (key,)
        self._on_results = on_results

    def on_up(self) -> None:
        self._next()

    def _next(self) -> None:
        if self.up:
            self.pop(self._key, BATCH, self._on_batch)

    def _on_batch(self, batch: list[bytes] | Exception) -> None:
        if isinstance(batch, list):
            # First ask for more, so that Redis works while we do.
            self._next()
            if batch:
                self._on_results(batch)
        elif not isinstance(batch, BrokerUnavailable):
            log.error("redis refuses to pop results: %s", batch)
            gevent.spawn_later(ERROR_PAUSE, self._next)
