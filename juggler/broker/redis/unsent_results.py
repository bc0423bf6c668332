"""Results that could not be handed to Redis because it is away: they wait for it as long as they are wanted.

Only what was never sent waits here. What was sent and not confirmed may have arrived, and is not sent twice.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from juggler.broker import Done, IncomingCall
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerUnavailable

LIMIT = 64 * 1024 * 1024
"""Bytes of results that may wait; beyond it, they are lost."""


class HeldResult(NamedTuple):
    """What `juggler.broker.CalleeBroker.result` was given."""

    call: IncomingCall
    args: bytes
    on_done: Done
    failed: bool | None


class UnsentResults:
    """A queue of results, in their order."""

    def __init__(self, send: Callable[[HeldResult], None], watchdog: Watchdog) -> None:
        """Hold results for ``send``; meanwhile ``watchdog`` sees that none waits for longer than it is wanted."""
        self._send = send
        self._watchdog = watchdog
        self._queue: deque[tuple[HeldResult, BrokerUnavailable]] = deque()
        self._size = 0

    def add(self, held: HeldResult, error: BrokerUnavailable) -> None:
        """Hold a result; when there is no room, or in the end no time, its ``on_done`` is told ``error``."""
        if self._size + len(held.args) > LIMIT:
            held.on_done(error)
            return
        if not self._queue:
            self._watchdog.add(self.drop_late)
        self._size += len(held.args)
        self._queue.append((held, error))

    def release(self) -> None:
        """Send all: Redis is back."""
        for held, _ in self._take(lambda call: True):
            self._send(held)

    def drop_late(self, _: float) -> None:
        """Give up those that are wanted no more."""
        now = time.monotonic()
        self._fail(lambda call: call.deadline <= now)

    def close(self) -> None:
        """Give up all."""
        self._fail(lambda call: True)

    def _fail(self, which: Callable[[IncomingCall], bool]) -> None:
        for held, error in self._take(which):
            held.on_done(error)

    def _take(self, which: Callable[[IncomingCall], bool]) -> list[tuple[HeldResult, BrokerUnavailable]]:
        taken = [entry for entry in self._queue if which(entry[0].call)]
        self._queue = deque(entry for entry in self._queue if not which(entry[0].call))
        self._size = sum(len(held.args) for held, _ in self._queue)
        if not self._queue:
            self._watchdog.remove(self.drop_late)
        return taken
