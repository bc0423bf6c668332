"""Graceful shutdown of connections: let calls in flight finish, refuse new ones, spread the closes, end in time."""

from __future__ import annotations

import random
import time
from collections.abc import Collection

import gevent

from juggler.errors import CloseCode
from juggler.server.connection import Connection

GOODBYE = "the server is shutting down"

_HANDSHAKE = 2.0  # seconds of the grace for the answers to close frames
_PAUSE = 0.02  # seconds between two closes, if there are few
_POLL = 0.05  # seconds between two checks of busy connections


def drain(connections: Collection[Connection], grace: float, spread: float) -> None:
    """Close each connection with 1001 once it is idle, and all of them within ``grace``.

    A connection that is busy when its turn comes refuses new calls from then on, so that it becomes idle.

    Args:
        connections: a live view: those that are added meanwhile are closed, too.
        grace: seconds until all connections are closed, whatever their clients and calls do. The last 2 of them, or a
            quarter, are for the clients' answers to the close frame.
        spread: seconds over which closes are spread, at most a quarter of ``grace``. Calls have the rest of ``grace``.
    """
    end = time.monotonic() + grace
    spread = min(spread, grace / 4)
    patience = end - spread - min(_HANDSHAKE, grace / 4)
    closing: list[Connection] = []
    while waiting := [c for c in connections if c.websocket.close_code is None]:
        random.shuffle(waiting)
        closed = _close_spread(waiting, spread, patience)
        closing += closed
        if len(closed) < len(waiting):
            gevent.sleep(_POLL)
    for connection in closing:
        if not connection.wait_closed(max(0.0, end - time.monotonic())):
            connection.websocket.abort()


def _close_spread(connections: list[Connection], spread: float, patience: float) -> list[Connection]:
    """Close connections over ``spread`` seconds, busy ones only after the time ``patience``. Return the closed."""
    pause = min(spread / len(connections), _PAUSE)
    begin = time.monotonic()
    closed = []
    for connection in connections:
        now = time.monotonic()
        if now >= patience or not connection.busy:
            connection.close(CloseCode.GOING_AWAY, GOODBYE)
            closed.append(connection)
            gevent.sleep(max(0.0, begin + len(closed) * pause - now))
        else:
            connection.draining = True
    return closed
