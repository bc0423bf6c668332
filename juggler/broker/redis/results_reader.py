"""How this process reads its results: from a list of its own, popped without end."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from typing import TypeAlias

import gevent

from juggler.broker.redis.call_source import PopLink
from juggler.broker.redis.keys import Names
from juggler.broker.redis.link import BaseLink, Connector, as_error
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerUnavailable
from juggler.process.uuids import new_uuid

log = logging.getLogger("juggler.redis")

OnResults: TypeAlias = Callable[[str, list[bytes]], None]
"""Told the ``conn_uuid`` of the list, and a batch of payloads."""

BATCH = 256
"""The most results taken at a time."""

ERROR_PAUSE, UNSETTLED_PAUSE = 1.0, 0.1
"""Seconds until the next attempt when Redis refuses to pop, and when a cluster is being changed."""


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
        self._popping = False
        self._on_results = on_results

    def on_up(self) -> None:
        self._next()

    def _next(self) -> None:
        if self.up and not self._popping:
            self._popping = True
            self.pop(self._key, BATCH, self._on_batch)

    def _on_batch(self, batch: list[bytes] | Exception) -> None:
        self._popping = False
        if isinstance(batch, list):
            # First ask for more, so that Redis works while we do.
            self._next()
            if batch:
                self._on_results(batch)
        elif not isinstance(batch, BrokerUnavailable):
            passing = isinstance(as_error(batch), BrokerUnavailable)
            log.log(logging.WARNING if passing else logging.ERROR, "redis refuses to pop results: %s", batch)
            gevent.spawn_later(UNSETTLED_PAUSE if passing else ERROR_PAUSE, self._next)


class ResultsReader(ABC):
    """Reads the results of all calls of this process.

    Attributes:
        conn_uuids: yields the ``conn_uuid`` of the next call, that of a list which is read.
    """

    conn_uuids: Iterator[str]

    @abstractmethod
    def links(self) -> list[BaseLink]:
        """Return the links that pop."""

    @abstractmethod
    def close(self) -> None:
        """Read no more. Idempotent."""


class SingleListReader(ResultsReader):
    """One list for all results."""

    def __init__(
        self, connector: Connector, names: Names, watchdog: Watchdog, blocking_timeout: float, on_results: OnResults
    ) -> None:
        uuid = new_uuid()
        self.conn_uuids = repeat(uuid)
        self._link = ResultsLink(connector, watchdog, blocking_timeout, names.results(uuid), partial(on_results, uuid))
        self._link.start()

    def links(self) -> list[BaseLink]:
        return [self._link]

    def close(self) -> None:
        self._link.close()
