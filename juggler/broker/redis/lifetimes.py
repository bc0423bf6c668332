"""`Lifetimes`: which processes have gone, judged by the keys that they keep alive. PURE: time is handed in."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

ALIVE_MS = 5_000
"""Milliseconds after which a callee process that is silent counts as gone."""

GRACE = 0.5
"""Seconds after the expiry of a key for which its process may still set it again: it was only slow."""

MAX_PAUSE = 3.0
"""Maximum seconds between two looks. After a longer pause, earlier ones mean nothing: perhaps all were stopped."""

NO_KEY = -2
"""The reply to ``PTTL`` if the key does not exist."""


class Lifetimes:
    """When the keys of processes expire, from looks at them.

    A missing key alone proves nothing: Redis may have been emptied, or be another master. A process has gone if its key
    is missing although it would have expired by now. When that is depends on the last look that found the key. After a
    look that failed, and before the first one, it is the lifetime of a key from now.
    """

    def __init__(self) -> None:
        self._alive_until: dict[str, float] = {}
        self._looked_at = 0.0

    def keep(self, ids: Collection[str], now: float) -> None:
        """Begin a look at these processes. All others are forgotten."""
        later = now + ALIVE_MS / 1000
        known = self._alive_until if now - self._looked_at <= MAX_PAUSE else {}
        self._looked_at = now
        self._alive_until = {each: known.get(each, later) for each in ids}

    def has_gone(self, process_id: str, pttl: Any, now: float) -> bool:
        """Process the reply to ``PTTL``, or the error in place of it. Return whether the process has gone."""
        until = self._alive_until.get(process_id)
        if until is None:
            return False  # its calls have completed
        if pttl != NO_KEY:
            seconds = (pttl if type(pttl) is int and pttl >= 0 else ALIVE_MS) / 1000
            self._alive_until[process_id] = now + seconds
            return False
        return now >= until + GRACE
