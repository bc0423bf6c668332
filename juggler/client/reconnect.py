"""Ends of a connection: which of them have a new beginning, and how long to wait for it. PURE."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import TYPE_CHECKING

from juggler.errors import CloseCode, ConnectionClosed, HandshakeRefused, JugglerError
from juggler.process.backoff import pauses

if TYPE_CHECKING:
    from websockets.frames import Close

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


def end_of(received: Close | None, sent: Close | None, cause: object = None) -> ConnectionClosed:
    """Return why a connection has ended.

    Args:
        received: the server's close frame, if there was one.
        sent: ours, likewise.
        cause: what was seen of a connection that was lost.
    """
    if received is not None:
        return ConnectionClosed(received.code, received.reason)
    if sent is not None and sent.code not in (CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.INTERNAL_ERROR):
        # What the server sent is against the protocol, or too large: it would be the next time.
        return ConnectionClosed(sent.code, f"the server broke the protocol: {sent.reason or sent.code}")
    reason = cause or (sent and sent.reason) or "the server is gone"
    return ConnectionClosed(CloseCode.ABNORMAL, f"the connection was lost: {reason}")


class Reconnect:
    """When to connect again, and until when. Times are in seconds, on the clock ``time.monotonic``."""

    def __init__(self, timeout: float | None) -> None:
        """Begin before the first connection; ``timeout`` is how long it is tried after one that was lost."""
        self._timeout = timeout
        self._pauses = self._new_pauses()
        self._connected_at = self._lost_at = 0.0
        self._is_first = True

    def on_connected(self, now: float) -> None:
        """There is a connection."""
        self._connected_at = now
        if self._is_first:
            self._is_first, self._lost_at = False, now

    def on_lost(self, now: float) -> None:
        """It is lost. One that has lived for a while makes a new beginning of pauses and patience."""
        if now - self._connected_at >= STABLE:
            self._pauses = self._new_pauses()
            self._lost_at = now

    def next_pause(self) -> float:
        """Return how long to wait before the next attempt."""
        return next(self._pauses)

    def is_over(self, now: float) -> bool:
        """Return whether it has been tried for long enough."""
        return self._timeout is not None and now - self._lost_at >= self._timeout

    def _new_pauses(self) -> Iterator[float]:
        return pauses(FIRST_PAUSE, LONGEST_PAUSE)


def after_attempt(error: Exception, lost: ConnectionClosed) -> ConnectionClosed:
    """Return why there is no connection, now that an attempt has failed as well."""
    if isinstance(error, ConnectionClosed):
        return error
    if isinstance(error, JugglerError):
        return ConnectionClosed(lost.code, str(error))
    return ConnectionClosed(CloseCode.ABNORMAL, f"{type(error).__name__}: {error}")
