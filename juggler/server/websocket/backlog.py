"""`Backlog`: bounds the bytes that one process has queued for all clients that do not read."""

from __future__ import annotations

from typing import Protocol
from weakref import WeakKeyDictionary

from juggler.errors import CloseCode

COUNTED_FROM = 16 * 1024
"""Queues of at most this size in bytes are not counted, so sending to clients that read costs nothing."""

_TARGET = 0.9
"""Part of the limit that is left after connections are closed, so that the next one is not closed at once."""


class Queue(Protocol):
    """What a backlog needs of a websocket."""

    close_code: int | None

    @property
    def queued_bytes(self) -> int:
        """Bytes waiting to be sent."""

    def fall_behind(self, reason: str) -> None:
        """Close with 4429 and drop what is queued."""

    def abort(self) -> None:
        """Close the socket now."""


class Backlog:
    """The queues of websockets, with one limit for all of them. Texts that websockets share are not counted.

    When the limit is exceeded, the connections with the largest queues are closed with 4429
    (`CloseCode.PEER_TOO_SLOW`). Those that were closed for this reason before and still hold memory are aborted first.
    """

    __slots__ = ("_limit", "_queued", "_total")

    def __init__(self, limit: int | None) -> None:
        """Create a backlog.

        Args:
            limit: maximum number of bytes; ``None`` = unlimited.
        """
        self._limit = limit
        # What was queued since the last look: what has been sent meanwhile is subtracted only when it matters.
        self._queued: WeakKeyDictionary[Queue, int] = WeakKeyDictionary()
        self._total = 0

    def add(self, websocket: Queue, size: int) -> None:
        """Count bytes that were queued. Close connections if that exceeds the limit, possibly this one."""
        if self._limit is not None:
            self._queued[websocket] = self._queued.get(websocket, 0) + size
            self._total += size
            if self._total > self._limit:
                self._update()
                if self._total > self._limit:
                    self._reduce(self._limit * _TARGET)

    def _update(self) -> None:
        """Subtract what has been sent."""
        sizes = ((websocket, min(size, websocket.queued_bytes)) for websocket, size in self._queued.items())
        self._queued = WeakKeyDictionary({websocket: size for websocket, size in sizes if size})
        self._total = sum(self._queued.values())

    def _reduce(self, target: float) -> None:
        # Closed connections count as none here: what is left of their queues is sent or dropped in seconds.
        total = self._total
        for websocket, size in sorted(self._queued.items(), key=_order):
            if total <= target:
                break
            total -= size
            if websocket.close_code == CloseCode.PEER_TOO_SLOW:
                websocket.abort()
            else:
                websocket.fall_behind("too much is queued for all clients, and most for this one")
        self._update()


def _order(item: tuple[Queue, int]) -> tuple[bool, int]:
    websocket, size = item
    return websocket.close_code != CloseCode.PEER_TOO_SLOW, -size
