"""One greenlet a process that keeps the time of all websockets, so that no websocket needs a timer of its own."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent

from juggler.server.websocket.stream import WebSocket

_BATCH = 256  # websockets between two turns of the loop


class Sweeper:
    """Calls `WebSocket.tick` periodically for the websockets added to it. Greenlets may share it.

    Its greenlet, ``websocket-sweeper``, runs while there are websockets. While the process is stopped or busy, its time
    stands still: a late sweep counts as at most two periods, so that peers are not taken for silent.

    Args:
        period: seconds between two sweeps, which is the precision of all timeouts.
        clock: returns the time in seconds.
    """

    def __init__(self, period: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        if not period > 0:
            raise ValueError(f"period: expected seconds over 0, got {period!r}")
        self._period = period
        self._clock = clock
        self._websockets: set[WebSocket] = set()
        self._greenlet: gevent.Greenlet | None = None
        self._now = 0.0

    def __len__(self) -> int:
        return len(self._websockets)

    def add(self, websocket: WebSocket) -> None:
        """Sweep a websocket until it is closed or discarded."""
        self._websockets.add(websocket)
        if self._greenlet is None or self._greenlet.dead:
            self._greenlet = gevent.Greenlet(self._run)
            self._greenlet.name = "websocket-sweeper"
            self._greenlet.start()

    def discard(self, websocket: WebSocket) -> None:
        """Stop sweeping a websocket. Idempotent."""
        self._websockets.discard(websocket)

    def close(self) -> None:
        """Discard all websockets and stop the greenlet. Idempotent."""
        self._websockets.clear()
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill(block=False)

    def _run(self) -> None:
        before = self._clock()
        while self._websockets:
            gevent.sleep(self._period)
            now = self._clock()
            self._now += min(now - before, 2 * self._period)
            before = now
            self.sweep(self._now)
        self._greenlet = None

    def sweep(self, now: float) -> None:
        """Call `WebSocket.tick` once for every websocket, letting other greenlets run in between.

        Args:
            now: seconds on the sweeper's clock.
        """
        for number, websocket in enumerate(list(self._websockets), 1):
            if websocket.closed:
                self._websockets.discard(websocket)
            else:
                websocket.tick(now)
            if number % _BATCH == 0:
                gevent.sleep(1e-9)
