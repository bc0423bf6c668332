"""Which of many queues may have calls. PURE."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class PendingQueues:
    """A set of queues that may have calls, in the order in which they were added."""

    def __init__(self, queues: Iterable[bytes]) -> None:
        """Create an empty set that accepts only ``queues``."""
        self._known = frozenset(queues)
        self._members: set[bytes] = set()
        self._order: deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._order)

    def add(self, keys: Iterable[bytes]) -> None:
        """Add queues. Unknown keys and those already in the set are ignored."""
        for key in keys:
            if key in self._known and key not in self._members:
                self._members.add(key)
                self._order.append(key)

    def take(self, limit: int) -> list[bytes]:
        """Remove and return up to ``limit`` queues, first added first."""
        keys = [self._order.popleft() for _ in range(min(limit, len(self._order)))]
        self._members.difference_update(keys)
        return keys

    def keys(self) -> set[bytes]:
        """Return a copy of the set."""
        return set(self._members)

    def clear(self) -> None:
        """Remove all queues."""
        self._order.clear()
        self._members.clear()
