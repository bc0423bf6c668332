"""A link that pops payloads from lists, in batches, waiting for the first one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from gevent.event import AsyncResult

from juggler.broker.redis.link import Connector, Link, Reply, as_error
from juggler.broker.redis.resp import pack
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerUnavailable

OnBatch: TypeAlias = Callable[[list[bytes] | Exception], None]
"""Told the payloads that were popped, oldest first; none when there were none in time; or an error."""

BATCH_BYTES = 4 * 1024 * 1024
"""About how many bytes one batch may have, judged by the size of earlier payloads."""


class PopLink(Link):
    """Pops from the right ends of lists: first in, first out. One pop at a time."""

    def __init__(self, name: str, connector: Connector, watchdog: Watchdog, blocking_timeout: float) -> None:
        """As `Link`; a pop answers with an empty batch after ``blocking_timeout`` seconds."""
        super().__init__(name, connector, watchdog, patience=blocking_timeout + 3.0)
        self._blocking_timeout = b"%.3f" % blocking_timeout
        self._average = 256.0

    def pop(self, keys: Sequence[bytes], limit: int, on_batch: OnBatch) -> None:
        """Pop up to ``limit`` payloads from the first of the lists that has any.

        Raises:
            BrokerUnavailable: there is no connection; ``on_batch`` is told nothing then.
        """
        if self.modern is None:
            self.once_known(partial(self.pop, keys, limit, on_batch), on_batch)
            return
        limit = max(1, min(limit, int(BATCH_BYTES / self._average)))
        if self.modern:
            packed = pack(b"BLMPOP", self._blocking_timeout, len(keys), *keys, b"RIGHT", b"COUNT", limit)
            self.send(packed, (lambda reply: self._on_popped(reply, on_batch),))
        else:
            packed = pack(b"BRPOP", *keys, self._blocking_timeout)
            self.send(packed, (lambda reply: self._on_first(reply, limit - 1, on_batch),))

    def _on_popped(self, reply: Reply, on_batch: OnBatch) -> None:
        if isinstance(reply, list):
            self._deliver(reply[1], on_batch)
        else:
            on_batch([] if reply is None else reply)

    def _on_first(self, reply: Reply, more: int, on_batch: OnBatch) -> None:
        if not isinstance(reply, list):
            on_batch([] if reply is None else reply)
            return
        key, first = reply
        if more == 0:
            self._deliver([first], on_batch)
            return

        def on_rest(rest: Any) -> None:
            self._deliver([first, *rest] if isinstance(rest, list) else [first], on_batch)

        try:
            self.send(pack(b"RPOP", key, more), (on_rest,))
        except BrokerUnavailable:
            self._deliver([first], on_batch)

    def _deliver(self, batch: list[bytes], on_batch: OnBatch) -> None:
        size = sum(map(len, batch)) / len(batch)
        self._average = max(size, 0.9 * self._average + 0.1 * size)
        on_batch(batch)


class Popper(ABC):
    """Pops from a fixed set of lists, for one greenlet at a time."""

    @abstractmethod
    def pop(self, limit: int) -> list[list[bytes]]:
        """Wait for payloads and return up to ``limit``: a batch for each list, oldest first; none after a while.

        Raises:
            BrokerError: nothing can be popped now.
        """

    @abstractmethod
    def close(self) -> None:
        """End at once; what a pop under way may already have taken from Redis is lost. Idempotent."""


class ListPopper(Popper):
    """Pops from lists that one link can wait for at once."""

    def __init__(self, link: PopLink, lists: Sequence[bytes]) -> None:
        self._link = link
        self._lists = deque(lists)

    def pop(self, limit: int) -> list[list[bytes]]:
        # The server looks at the lists in the order given: turn it, so that a busy one does not starve the others.
        self._lists.rotate(-1)
        popped: AsyncResult = AsyncResult()
        self._link.pop(self._lists, limit, popped.set)
        batch = popped.get()
        if isinstance(batch, Exception):
            raise as_error(batch)
        return [batch] if batch else []

    def close(self) -> None:
        self._link.close()
