"""Watches the keys in Redis during a run: each has an expiry, and the sets of callees do not grow."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import gevent
import redis

from juggler.locust.violations import Violations
from loadtest.soak.snapshot import is_set, kinds

INTERVAL = 2.0
"""Seconds between two readings. A key may lack an expiry in one of them: the commands that set it may be in flight."""

FOREVER = -1
"""The reply to PTTL of a key without an expiry."""

PERMANENT: frozenset[str] = frozenset()
"""Keys that have no expiry by design: none, see docs/redis.md."""


class KeyWatch:
    """Reads all keys in a greenlet, from construction until `stop`.

    Attributes:
        violations: keys without an expiry in two readings, and sets that are too large.
        readings: number of readings.
    """

    def __init__(self, url: str, max_callees: Callable[[], int]) -> None:
        """Start.

        Args:
            url: URL of the Redis.
            max_callees: returns how many callees may be announced for a URI.
        """
        self.violations = Violations()
        self.readings = 0
        self._url = url
        self._max_callees = max_callees
        self._eternal: set[str] = set()
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Stop. Idempotent."""
        self._greenlet.kill()

    def _run(self) -> None:
        while True:
            self.read()
            gevent.sleep(INTERVAL)

    def read(self) -> None:
        """Read all keys once; not while Redis is down."""
        most = self._max_callees()
        with suppress(redis.ConnectionError, redis.TimeoutError), redis.Redis.from_url(self._url, protocol=2) as client:
            keys = [key.decode(errors="replace") for key in client.scan_iter("*juggler:*", count=1000)]
            sets = [key for key in keys if is_set(key) and "{" in key]
            with client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.pttl(key)
                for key in sets:
                    pipe.scard(key)
                replies = pipe.execute()
            self._check_expiries(dict(zip(keys, replies, strict=False)))
            self._check_sizes(dict(zip(sets, replies[len(keys) :], strict=True)), most)
            self.readings += 1

    def _check_expiries(self, ttls: dict[str, int]) -> None:
        eternal = {key for key, ttl in ttls.items() if ttl == FOREVER} - PERMANENT
        for kind, count in kinds(eternal & self._eternal).items():
            self.violations.add("a key without an expiry", f"{count} of {kind}")
        self._eternal = eternal

    def _check_sizes(self, sizes: dict[str, int], most: int) -> None:
        for key, size in sizes.items():
            if size > most:
                self.violations.add("a set of callees grows", f"{key} has {size} members, expected at most {most}")
