"""Ends of a connection: which of them have a new beginning, and how long to wait for it. PURE."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from juggler.backoff import pauses
from juggler.errors import CloseCode, ConnectionClosed, HandshakeRefused

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 15.0
"""Seconds before attempts to connect again: they double from the first to the longest, each jittered by half."""


class State(Enum):
    """What ``on_state`` is told of a client."""

    CONNECTED = "connected"
    """For the first time, or again: subscriptions are being made anew."""
    DISCONNECTED = "disconnected"
    """The connection is lost; another one is being made."""
    CLOSED = "closed"
    """It is over."""


# The server has nothing against us: it, or something on the way, went away, or could not bear us at that time.
_AGAIN = frozenset(
    {
        CloseCode.GOING_AWAY,
        CloseCode.NO_STATUS,
        CloseCode.ABNORMAL,
        CloseCode.INTERNAL_ERROR,
        1012,  # service restart
        1013,  # try again later
        1014,  # bad gateway
        CloseCode.PEER_SILENT,
        CloseCode.PEER_TOO_SLOW,
    }
)


STABLE = 5.0
"""Seconds that a connection has to live for pauses to begin anew after it: a server may accept, and close at once."""

RENEWAL_PAUSE = 1.0
"""Seconds before a subscription is asked for again that could not be made anew for the time being."""


def may_come_back(error: Exception) -> bool:
    """Return whether it makes sense to connect again after this end of a connection, or of an attempt to make one."""
    if isinstance(error, ConnectionClosed):
        return error.code in _AGAIN
    if isinstance(error, HandshakeRefused):
        # 429 and what is the server's fault; the rest is ours, and would be again.
        status = int(error.status.partition(" ")[0] or 0)
        return status in (408, 429) or status >= 500
    return False


def reconnect_pauses() -> Iterator[float]:
    """Yield seconds to wait before each attempt."""
    return pauses(FIRST_PAUSE, LONGEST_PAUSE)
