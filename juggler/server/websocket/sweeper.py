"""One greenlet a process looks after all websockets: pings the idle, closes the silent and those that do not read.

No websocket has a timer, and none looks at the clock when a message comes: it raises a flag, which is read here.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent

from juggler.errors import CloseCode
from juggler.server.websocket.frames import PING_FRAME
from juggler.server.websocket.stream import WebSocket

_BATCH = 256  # websockets looked at between two looks at the sockets of all


class Sweeper:
    """Holds the times of `WebSocketOptions`, but for `close_timeout`, for the websockets added to it.

    Greenlets may share it. Its greenlet, ``websocket-sweeper``, lives while there are websockets to look after.

    Args:
        period: seconds between two sweeps; times are kept with this precision.
        clock: returns the time in seconds.
    """

    def __init__(self, period: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        if not period > 0:
            raise ValueError(f"period: expected seconds over 0, got {period!r}")
        self._period = period
        self._clock = clock
        self._websockets: set[WebSocket] = set()
        self._greenlet: gevent.Greenlet | None = None

    def __len__(self) -> int:
        return len(self._websockets)

    def add(self, websocket: WebSocket) -> None:
        """Look after a websocket until it has ended, or is discarded."""
        self._websockets.add(websocket)
        if self._greenlet is None or self._greenlet.dead:
            self._greenlet = gevent.Greenlet(self._run)
            self._greenlet.name = "websocket-sweeper"
            self._greenlet.start()

    def discard(self, websocket: WebSocket) -> None:
        """Look after it no more. Idempotent."""
        self._websockets.discard(websocket)

    def close(self) -> None:
        """Look after none any more. Idempotent."""
        self._websockets.clear()
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill(block=False)

    def _run(self) -> None:
        while self._websockets:
            gevent.sleep(self._period)
            self.sweep(self._clock())
        self._greenlet = None

    def sweep(self, now: float) -> None:
        """Look at every websocket once. Lets others run in between.

        Args:
            now: the time in seconds, on the sweeper's clock.
        """
        for number, websocket in enumerate(list(self._websockets), 1):
            if websocket.closed:
                self._websockets.discard(websocket)
            else:
                _check_writing(websocket, now)
                if websocket.close_code is None:
                    _check_reading(websocket, now)
                    _check_hearing(websocket, now)
            if number % _BATCH == 0:
                gevent.sleep(1e-9)


def _check_writing(websocket: WebSocket, now: float) -> None:
    timeout = websocket.options.write_timeout
    if timeout is None or not websocket.queued_bytes:
        websocket._stalled_at = None
    elif websocket._stalled_at is None or websocket._progress:
        websocket._progress = False
        websocket._stalled_at = now
    elif now - websocket._stalled_at >= timeout:
        websocket._stalled_at = now
        if websocket.close_code is None:
            websocket.fall_behind(f"the peer did not read for {timeout:g} s")
        else:
            websocket.abort()


def _check_reading(websocket: WebSocket, now: float) -> None:
    timeout = websocket.options.read_timeout
    if timeout is None:
        return
    if websocket._messaged:
        websocket._messaged = False
        websocket._messaged_at = now
    elif now - websocket._messaged_at >= timeout:
        websocket.close(CloseCode.PEER_SILENT, f"no message within {timeout:g} s")


def _check_hearing(websocket: WebSocket, now: float) -> None:
    options = websocket.options
    if websocket._heard:
        websocket._heard = False
        websocket._heard_at = now
        websocket._pinged_at = None
    elif websocket._pinged_at is not None:
        if options.ping_timeout is not None and now - websocket._pinged_at >= options.ping_timeout:
            websocket.close(CloseCode.PEER_SILENT, f"no answer to a ping within {options.ping_timeout:g} s")
    elif options.ping_interval is not None and now - websocket._heard_at >= options.ping_interval:
        websocket._pinged_at = now
        websocket.send_frame(PING_FRAME)
