"""Results that Redis has not taken: it is unreachable, or refuses them for now. They are kept while they are wanted.

Only results that Redis does not have are kept. One that was sent and not confirmed may have arrived, and is not sent
twice.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from juggler.broker import Done, IncomingCall
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerError, BrokerUnavailable, NackCode
from juggler.protocol.results import error_result

LIMIT = 64 * 1024 * 1024
"""Maximum number of bytes of results that are kept. Further results are lost: an error takes their place."""

LOST = error_result("the result was lost: Redis did not take it in time", "ResultLost", NackCode.UNAVAILABLE)
"""What takes the place of a result that is lost."""

SendResult: TypeAlias = Callable[[IncomingCall, bytes, Done, bool | None], None]
"""The signature of `juggler.broker.CalleeBroker.result`."""

_Unsent: TypeAlias = tuple[IncomingCall, bytes, Done, bool | None, BrokerUnavailable]


class UnsentResults:
    """A queue of results."""

    def __init__(self, send: SendResult, watchdog: Watchdog) -> None:
        """Create an empty queue; ``send`` is called with its results, ``watchdog`` retries and drops expired ones."""
        self._send = send
        self._watchdog = watchdog
        self._queue: deque[_Unsent] = deque()
        self._size = 0

    def add(
        self, call: IncomingCall, args: bytes, on_done: Done, failed: bool | None, error: BrokerUnavailable
    ) -> None:
        """Keep a result, or if there is no room an error for its caller, who would wait for it until the timeout.

        ``on_done`` is called with ``error`` if there is no room, or once the result is expired.
        """
        if self._size + len(args) > LIMIT:
            on_done(error)
            args, on_done, failed = LOST, _ignore, True
        if not self._queue:
            self._watchdog.add(self._tick)
        self._size += len(args)
        self._queue.append((call, args, on_done, failed, error))

    def release(self) -> None:
        """Send all results: Redis is reachable again."""
        for call, args, on_done, failed, _ in self._take(lambda call: True):
            self._send(call, args, on_done, failed)

    def close(self) -> None:
        """Drop all results."""
        self._drop(lambda call: True)

    def _tick(self, _: float) -> None:
        now = time.monotonic()
        self._drop(lambda call: call.deadline <= now)
        self.release()

    def _drop(self, which: Callable[[IncomingCall], bool]) -> None:
        for _, _, on_done, _, error in self._take(which):
            on_done(error)

    def _take(self, which: Callable[[IncomingCall], bool]) -> list[_Unsent]:
        taken = [unsent for unsent in self._queue if which(unsent[0])]
        self._queue = deque(unsent for unsent in self._queue if not which(unsent[0]))
        self._size = sum(len(args) for _, args, *_ in self._queue)
        if not self._queue:
            self._watchdog.remove(self._tick)
        return taken


def _ignore(error: BrokerError | None) -> None:
    """The result is lost, whether its caller learns of it or not."""
