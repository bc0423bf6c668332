"""Shares of a pool's workers: how many calls of one connection may run while other connections call, too. PURE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from juggler.broker import IncomingCall

MEMORY = 60.0
"""Seconds after its last call for which a connection counts as calling."""

NOTE_PERIOD = 1.0
"""Seconds for which callers are not compared again, once several have called."""


class Shares:
    """Which connections call, and which of their queued calls may run next.

    Attributes:
        limit: maximum running calls of a connection while others call.
        held_back: whether `chosen` has left a call since this was last cleared.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held_back = False
        self._latest: str | None = None
        self._latest_at = self._others_at = float("-inf")

    def note(self, calls: Sequence[IncomingCall], now: float) -> None:
        """Note who calls."""
        if now - self._others_at < NOTE_PERIOD:
            if calls:
                self._latest_at = now
            return
        for call in calls:
            if call.client != self._latest:
                self._latest, self._others_at = call.client, self._latest_at
            self._latest_at = now

    def are_in_use(self, now: float) -> bool:
        """Return whether a connection has called recently."""
        return now - self._latest_at < MEMORY

    def are_shared(self, now: float) -> bool:
        """Return whether more than one connection has called recently."""
        return now - self._others_at < MEMORY

    def left(self, running: Collection[IncomingCall]) -> int:
        """Return how many calls may begin whichever connection they are of."""
        return self.limit - max(Counter([call.client for call in running]).values(), default=0)

    def chosen(self, clients: Sequence[str], running: Iterable[IncomingCall]) -> list[int]:
        """Choose among queued calls by their connections, see `juggler.broker.Choose`.

        Those of the connections with the fewest running calls come first.
        """
        counts = Counter([call.client for call in running])
        ranked = []
        for index, client in enumerate(clients):
            count = counts[client]
            counts[client] = count + 1
            if count < self.limit:
                ranked.append((count, index))
            else:
                self.held_back = True
        ranked.sort()
        return [index for _, index in ranked]
