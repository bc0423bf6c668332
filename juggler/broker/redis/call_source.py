"""Sources of calls: what a callee pops from, one list or many."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence

from gevent.event import AsyncResult

from juggler.broker.redis.commands import packed_key, pop_first
from juggler.broker.redis.popper import Popper
from juggler.broker.redis.replies import as_error, is_forbidden
from juggler.process.logline import Line

log = logging.getLogger("juggler.redis")

MOST_PARTS = 512
"""Parts that the lists are divided into; each is polled with one command."""

MOST_BUSY = 8
"""Lists that are polled separately because they had more than was popped the last time."""

AT_ONCE = 0.005
"""Seconds within which a blocking pop that returned calls has not blocked."""


class CallSource(ABC):
    """Pops calls from a fixed set of lists, for one greenlet at any time."""

    @abstractmethod
    def pop(self, limit: int) -> list[list[bytes]]:
        """Wait for calls and return up to ``limit`` in batches, oldest first, or none after the blocking timeout.

        Raises:
            BrokerError: Redis is unreachable or refuses.
        """

    @abstractmethod
    def close(self) -> None:
        """Close at once. Calls that a concurrent pop has taken from Redis are lost. Idempotent."""


class BlockingSource(CallSource):
    """Names all lists in each blocking pop.

    Attributes:
        popper: pops from the lists.
    """

    def __init__(self, popper: Popper, lists: Sequence[bytes]) -> None:
        self.popper = popper
        self._lists = deque(lists)

    def pop(self, limit: int) -> list[list[bytes]]:
        # Redis looks at the lists in the given order: rotate them, so that a busy one does not starve the others.
        self._lists.rotate(-1)
        popped: AsyncResult = AsyncResult()
        self.popper.pop(self._lists, limit, popped.set)
        batch = popped.get()
        if isinstance(batch, Exception):
            raise as_error(batch)
        return [batch] if batch else []

    def close(self) -> None:
        self.popper.link.close()


class PollingSource(BlockingSource):
    """Polls while calls arrive. Once there are many lists, naming all of them for each call costs more than the call.

    A blocking pop returns the calls of one list only. If it has not blocked, the next pops poll all lists without
    blocking: they pop a few calls from each of many parts of the lists, and more from the busy ones. Once nothing is
    found, pops block again.
    """

    def __init__(self, popper: Popper, lists: Sequence[bytes]) -> None:
        super().__init__(popper, lists)
        packed = [packed_key(key) for key in lists]
        size = -(-len(packed) // MOST_PARTS)
        self._chunks = deque(
            (len(packed[start : start + size]), b"".join(packed[start : start + size]))
            for start in range(0, len(packed), size)
        )
        self._busy: list[bytes] = []
        self._arriving = False
        self._may_poll = True

    def pop(self, limit: int) -> list[list[bytes]]:
        if self._arriving and self._may_poll and limit > 1 and self.popper.link.supports_redis7:
            batch = self._poll(self.popper.bounded(limit))
            if batch:
                return [batch]
        began = time.monotonic()
        batches = super().pop(limit)
        self._arriving = bool(batches) and time.monotonic() - began < AT_ONCE
        return batches

    def _poll(self, limit: int) -> list[bytes]:
        """Pop up to ``limit`` calls from many lists without blocking."""
        commands, counts = self._polls(limit)
        replies = self.popper.link.execute_all(commands)
        popped = [(reply, count) for reply, count in zip(replies, counts, strict=True) if isinstance(reply, list)]
        if popped:
            # Redis no longer has them, so they are returned even if other commands failed: the next pop fails as well.
            full = [reply[0] for reply, count in popped if len(reply[1]) >= count]
            self._busy = [packed_key(key) for key in full[:MOST_BUSY]]
            batch = [payload for reply, _ in popped for payload in reply[1]]
            self.popper.note_sizes(batch)
            return batch
        self._busy = []
        failure = next((reply for reply in replies if isinstance(reply, Exception)), None)
        if is_forbidden(failure):
            self._may_poll = False
            log.warning(Line("redis: polling many URIs is not permitted", error=failure, see="docs/redis.md"))
        elif failure is not None:
            raise as_error(failure)
        return []

    def _polls(self, limit: int) -> tuple[list[bytes], list[int]]:
        """Return commands that pop ``limit`` calls, and the limit of each: half of them from busy lists."""
        self._chunks.rotate(-1)
        chunks = list(self._chunks)
        busy = self._busy[: limit // 2]
        counts = [limit // 2 // len(busy)] * len(busy) if busy else []
        commands = [pop_first(1, key, count) for key, count in zip(busy, counts, strict=True)]
        left = limit - sum(counts)
        parts = min(left, len(chunks))
        for part in range(parts):
            sizes, texts = zip(*chunks[part * len(chunks) // parts : (part + 1) * len(chunks) // parts], strict=True)
            commands.append(pop_first(sum(sizes), b"".join(texts), left // parts))
        return commands, counts + [left // parts] * parts
