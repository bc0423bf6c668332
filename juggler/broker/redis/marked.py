"""Which of many lists may have something. PURE."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class Marked:
    """The lists that may have something, each once, in the order in which they were marked."""

    def __init__(self, lists: Iterable[bytes]) -> None:
        self._lists = frozenset(lists)
        self._marked: set[bytes] = set()
        self._order: deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._order)

    def mark(self, keys: Iterable[bytes]) -> None:
        """Add those that are our lists, and are not there yet."""
        for key in keys:
            if key in self._lists and key not in self._marked:
                self._marked.add(key)
                self._order.append(key)

    def take(self, most: int) -> list[bytes]:
        """Remove the first ones, so many at most, and return them."""
        keys = [self._order.popleft() for _ in range(min(most, len(self._order)))]
        self._marked.difference_update(keys)
        return keys

    def keys(self) -> set[bytes]:
        """Return those that are marked now."""
        return set(self._marked)

    def clear(self) -> None:
        """Remove all."""
        self._order.clear()
        self._marked.clear()
