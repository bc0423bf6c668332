"""How a process reads the results of its calls: by popping from lists of its own, for as long as it lives."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from typing import TypeAlias

import gevent

from juggler.broker.redis.connector import Connector
from juggler.broker.redis.keys import Names
from juggler.broker.redis.link import Link
from juggler.broker.redis.persistent_connection import PersistentConnection
from juggler.broker.redis.popper import Popper
from juggler.broker.redis.replies import as_error
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerUnavailable
from juggler.process.logline import Line
from juggler.process.uuids import new_uuid

log = logging.getLogger("juggler.redis")

OnResults: TypeAlias = Callable[[str, list[bytes]], None]
"""Called with the ``conn_uuid`` of the list and a batch of payloads."""

BATCH = 256
"""Maximum number of results popped in one go."""

ERROR_PAUSE, UNSETTLED_PAUSE = 1.0, 0.1
"""Seconds before the next attempt when Redis refuses to pop, and while a cluster is being reconfigured."""


def pop_forever(link: Link, key: bytes, on_batch: Callable[[list[bytes]], None]) -> None:
    """Pop from one list whenever a link is up, until it is closed."""
    popper = Popper(link)
    popping = False

    def pop() -> None:
        nonlocal popping
        if link.connection.up and not popping:
            popping = True
            popper.pop((key,), BATCH, on_popped)

    def on_popped(batch: list[bytes] | Exception) -> None:
        nonlocal popping
        popping = False
        if isinstance(batch, list):
            # Pop again first, so that Redis works while the batch is processed.
            pop()
            if batch:
                on_batch(batch)
        elif not isinstance(batch, BrokerUnavailable):
            is_temporary = isinstance(as_error(batch), BrokerUnavailable)
            log.log(
                logging.WARNING if is_temporary else logging.ERROR, Line("redis: popping results failed", error=batch)
            )
            gevent.spawn_later(UNSETTLED_PAUSE if is_temporary else ERROR_PAUSE, pop)

    link.up_listeners.append(pop)


class ListReader(ABC):
    """Pops from one list, until it is closed."""

    @property
    @abstractmethod
    def connection(self) -> PersistentConnection:
        """The connection that pops."""

    @abstractmethod
    def close(self) -> None:
        """Stop popping. Idempotent."""


class LinkReader(ListReader):
    """Pops from a list of a single server."""

    def __init__(
        self,
        name: str,
        connector: Connector,
        watchdog: Watchdog,
        blocking_timeout: float,
        key: bytes,
        on_batch: Callable[[list[bytes]], None],
    ) -> None:
        self._link = Link(name, connector, watchdog, blocking_timeout=blocking_timeout)
        pop_forever(self._link, key, on_batch)
        self._link.start()

    @property
    def connection(self) -> PersistentConnection:
        return self._link.connection

    def close(self) -> None:
        self._link.close()


class ResultsReader(ABC):
    """Reads the results of all calls of this process.

    Attributes:
        conn_uuids: yields the ``conn_uuid`` for the next call: the name of the list for its result.
    """

    conn_uuids: Iterator[str]

    @abstractmethod
    def connections(self) -> list[PersistentConnection]:
        """Return the connections that pop."""

    def release(self, oldest: str | None, newest: str) -> None:  # noqa: B027  # one list is always in use
        """Stop to read lists that no call uses any more; called once a second.

        Args:
            oldest: identifier of the oldest call in flight. Identifiers are in the order of the calls.
            newest: identifier of the latest call.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop reading. Idempotent."""


class SingleListReader(ResultsReader):
    """Reads one list."""

    def __init__(
        self, connector: Connector, names: Names, watchdog: Watchdog, blocking_timeout: float, on_results: OnResults
    ) -> None:
        uuid = new_uuid()
        self.conn_uuids = repeat(uuid)
        on_batch = partial(on_results, uuid)
        self._reader = LinkReader("results", connector, watchdog, blocking_timeout, names.results(uuid), on_batch)

    def connections(self) -> list[PersistentConnection]:
        return [self._reader.connection]

    def close(self) -> None:
        self._reader.close()
