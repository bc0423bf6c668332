"""A link that pops payloads from lists, in batches, waiting for the first one."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from gevent.event import AsyncResult

from juggler.broker.redis.commands import pack, packed_key, pop_first
from juggler.broker.redis.link import Connector, Link, Reply, as_error
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerUnavailable

log = logging.getLogger("juggler.redis")

OnBatch: TypeAlias = Callable[[list[bytes] | Exception], None]
"""Told the payloads that were popped, oldest first; none when there were none in time; or an error."""

BATCH_BYTES = 4 * 1024 * 1024
"""About how many bytes one batch may have, judged by the size of earlier payloads."""


MOST_PARTS = 512
"""Parts that the lists are divided into."""

MOST_HOT = 8
"""Lists that are looked at by themselves, because they had more than was taken the last time."""

AT_ONCE = 0.005
"""Seconds within which a blocking pop that found something has not waited."""


class PopLink(Link):
    """Pops from the right ends of lists: first in, first out. One pop at a time."""

    def __init__(self, name: str, connector: Connector, watchdog: Watchdog, blocking_timeout: float) -> None:
        """As `Link`; a pop answers with an empty batch after ``blocking_timeout`` seconds, which it keeps."""
        super().__init__(name, connector, watchdog, patience=blocking_timeout + 3.0)
        self.blocking_timeout = blocking_timeout
        self._average = 256.0

    def pop(self, keys: Sequence[bytes], limit: int, on_batch: OnBatch) -> None:
        """Pop up to ``limit`` payloads from the first of the lists that has any.

        Raises:
            BrokerUnavailable: there is no connection; ``on_batch`` is told nothing then.
        """
        if self.supports_redis7 is None:
            self.when_version_known(partial(self.pop, keys, limit, on_batch), on_batch)
            return
        limit = self.bounded(limit)
        if self.supports_redis7:
            packed = pack(b"BLMPOP", b"%.3f" % self.blocking_timeout, len(keys), *keys, b"RIGHT", b"COUNT", limit)
            self.send(packed, (lambda reply: self._on_popped(reply, on_batch),))
        else:
            packed = pack(b"BRPOP", *keys, b"%.3f" % self.blocking_timeout)
            self.send(packed, (lambda reply: self._on_first(reply, limit - 1, on_batch),))

    def bounded(self, limit: int) -> int:
        """Return how many payloads may be popped at a time, by the size of earlier ones."""
        return max(1, min(limit, int(BATCH_BYTES / self._average)))

    def note_sizes(self, batch: Sequence[bytes]) -> None:
        """Learn from payloads that were popped."""
        size = sum(map(len, batch)) / len(batch)
        self._average = max(size, 0.9 * self._average + 0.1 * size)

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
        self.note_sizes(batch)
        on_batch(batch)


class CallSource(ABC):
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


class BlockingSource(CallSource):
    """Pops from lists that one link can wait for at once."""

    def __init__(self, link: PopLink, lists: Sequence[bytes]) -> None:
        self._link = link
        self._lists = deque(lists)

    def pop(self, limit: int) -> list[list[bytes]]:
        # The server looks at the lists in the order given: turn it, so that a busy one does not starve the others.
        self._lists.rotate(-1)
        return self._wait(limit, self._lists)

    def _wait(self, limit: int, lists: Sequence[bytes]) -> list[list[bytes]]:
        popped: AsyncResult = AsyncResult()
        self._link.pop(lists, limit, popped.set)
        batch = popped.get()
        if isinstance(batch, Exception):
            raise as_error(batch)
        return [batch] if batch else []

    def close(self) -> None:
        self._link.close()


class PollingSource(BlockingSource):
    """The same for so many lists that to name them all for each call costs more than the call.

    A blocking pop ends with the first list that has something, and names all of them again for the next. So when there
    was something at once, the next pops look at all lists in one go: they take a little from each of many parts of the
    lists, and more from those that had more the last time. When nothing is found, it waits again.
    """

    def __init__(self, link: PopLink, lists: Sequence[bytes]) -> None:
        super().__init__(link, lists)
        packed = [packed_key(key) for key in lists]
        size = -(-len(packed) // MOST_PARTS)
        self._chunks = deque(
            (len(packed[start : start + size]), b"".join(packed[start : start + size]))
            for start in range(0, len(packed), size)
        )
        self._hot: list[bytes] = []
        self._busy = False
        self._may_look = True

    def pop(self, limit: int) -> list[list[bytes]]:
        if self._busy and self._may_look and limit > 1 and self._link.supports_redis7:
            batches = self._look(limit)
            if batches:
                return batches
        began = time.monotonic()
        batches = super().pop(limit)
        self._busy = bool(batches) and time.monotonic() - began < AT_ONCE
        return batches

    def _look(self, limit: int) -> list[list[bytes]]:
        """Pop up to ``limit`` payloads from many lists at once, without waiting for more."""
        self._chunks.rotate(-1)
        chunks = list(self._chunks)
        limit = self._link.bounded(limit)
        # Half of it from lists that had more than was taken, a little from each part of all lists.
        hot = self._hot[: limit // 2]
        counts = [limit // 2 // len(hot)] * len(hot) if hot else []
        commands = [pop_first(1, key, count) for key, count in zip(hot, counts, strict=True)]
        left = limit - sum(counts)
        parts = min(left, len(chunks))
        for part in range(parts):
            of_part = chunks[part * len(chunks) // parts : (part + 1) * len(chunks) // parts]
            keys = sum(size for size, _ in of_part)
            commands.append(pop_first(keys, b"".join(text for _, text in of_part), left // parts))
        counts += [left // parts] * parts
        replies: list[Any] = []
        last: AsyncResult = AsyncResult()
        self._link.send(b"".join(commands), (*[replies.append] * (len(commands) - 1), last.set))
        replies.append(last.get())
        popped = [(reply, count) for reply, count in zip(replies, counts, strict=True) if isinstance(reply, list)]
        if popped:
            # Redis does not have them any more, whatever became of other commands: the next pop hears of that.
            full = [reply[0] for reply, count in popped if len(reply[1]) >= count]
            self._hot = [packed_key(key) for key in full[:MOST_HOT]]
            batch = [payload for reply, _ in popped for payload in reply[1]]
            self._link.note_sizes(batch)
            return [batch]
        self._hot = []
        failure = next((reply for reply in replies if isinstance(reply, Exception)), None)
        if failure is not None:
            if not str(failure).startswith("NOPERM"):
                raise as_error(failure)
            self._may_look = False
            log.warning("many URIs are served faster with a right to more, see docs/redis.md: %s", failure)
        return []
