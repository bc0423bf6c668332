"""Names that were used, the newest of them."""

from __future__ import annotations

from collections.abc import Iterable
from threading import Lock

MOST = 1000


class Recent:
    """A set of at most so many names: the one that was used longest ago goes first. Threads may share it."""

    def __init__(self, names: Iterable[str] = (), most: int = MOST) -> None:
        self._names = dict.fromkeys(names)
        self._most = most
        self._lock = Lock()

    def add(self, name: str) -> None:
        with self._lock:
            self._names.pop(name, None)
            self._names[name] = None
            if len(self._names) > self._most:
                del self._names[next(iter(self._names))]

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def all(self) -> list[str]:
        with self._lock:
            return list(self._names)
