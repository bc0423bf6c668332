"""When a client reconnects: after which errors, after which pauses, and for how long.

PURE: time and jittered pauses are handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from juggler.errors import CloseCode, ConnectionClosed, HandshakeRefused, JugglerError

if TYPE_CHECKING:
    from websockets.frames import Close

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 15.0
"""Seconds before the first attempt to reconnect, and the limit to which the pauses double."""

MOVED_PAUSE = 1.0
"""Seconds, with jitter, that a client waits at least if the application has sent it elsewhere, with many others."""

STABLE = 5.0
"""Seconds that a connection must last for pauses to start over: some servers accept and close at once."""

# Temporary: the server or a proxy went away, was overloaded, or dropped a slow client.
_TEMPORARY = frozenset(
    {
        CloseCode.GOING_AWAY,
        CloseCode.NO_STATUS,
        CloseCode.ABNORMAL,
        CloseCode.INTERNAL_ERROR,
        1012,  # service restart
        1013,  # try again later
        1014,  # bad gateway
        CloseCode.PEER_SILENT,
        CloseCode.TOKEN_EXPIRED,
        CloseCode.MOVED,
        CloseCode.PEER_TOO_SLOW,
    }
)


def is_temporary(error: BaseException) -> bool:
    """Return whether a connection may succeed after this error of the previous one, or of an attempt to connect."""
    if isinstance(error, ConnectionClosed):
        return error.code in _TEMPORARY
    if isinstance(error, HandshakeRefused):
        status = int(error.status.partition(" ")[0] or 0)
        return status in (408, 429) or status >= 500
    # Other exceptions come from the user's functions for headers and tokens, which may succeed next time.
    return not isinstance(error, JugglerError)


def end_of(received: Close | None, sent: Close | None, cause: object = None) -> ConnectionClosed:
    """Return why a connection has closed.

    Args:
        received: close frame of the server, if any.
        sent: close frame of the client, if any.
        cause: error of the socket or the protocol, if any.
    """
    if received is not None:
        return ConnectionClosed(received.code, received.reason)
    if sent is not None and sent.code not in (CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.INTERNAL_ERROR):
        return ConnectionClosed(sent.code, f"the server broke the protocol: {sent.reason or sent.code}")
    reason = cause or (sent and sent.reason) or "the server is gone"
    return ConnectionClosed(CloseCode.ABNORMAL, f"the connection was lost: {reason}")


class Reconnect:
    """The policy of one client. Times are seconds of a monotonic clock.

    Attributes:
        failure: why there is no connection: the most recent error.
    """

    def __init__(
        self, is_enabled: bool, timeout: float | None, new_pauses: Callable[[float, float], Iterator[float]]
    ) -> None:
        """Start before the first connection.

        Args:
            is_enabled: whether to reconnect at all.
            timeout: seconds for which to try after a stable connection was lost, or after the first attempt.
                ``None``: unlimited.
            new_pauses: returns jittered pauses from a first to a longest one, such as `juggler.process.backoff.pauses`.
        """
        self.failure = ConnectionClosed(CloseCode.ABNORMAL, "the client is not connected yet")
        self._is_enabled = is_enabled
        self._timeout = timeout
        self._new_pauses = new_pauses
        self._pauses = new_pauses(FIRST_PAUSE, LONGEST_PAUSE)
        self._connected_at: float | None = None
        self._lost_at: float | None = None

    @property
    def is_first(self) -> bool:
        """Whether there has been no connection yet."""
        return self._connected_at is None

    def on_connected(self, now: float) -> None:
        """Start measuring how long a connection lasts."""
        if self._connected_at is None:
            self._lost_at = now
        self._connected_at = now

    def on_lost(self, now: float) -> None:
        """Start over with the first pause and the full timeout, if the connection that was lost was a stable one."""
        if self._connected_at is not None and now - self._connected_at >= STABLE:
            self._pauses = self._new_pauses(FIRST_PAUSE, LONGEST_PAUSE)
            self._lost_at = now

    def pause_after(self, error: BaseException) -> float | None:
        """Return the seconds to wait before the next attempt to connect, or ``None`` if there must be none.

        Args:
            error: of the connection that was lost, or of the last attempt.
        """
        if isinstance(error, ConnectionClosed):
            self.failure = error
        elif isinstance(error, JugglerError):
            self.failure = ConnectionClosed(self.failure.code, str(error))
        else:
            self.failure = ConnectionClosed(CloseCode.ABNORMAL, f"{type(error).__name__}: {error}")
        if not self._is_enabled or not is_temporary(error):
            return None
        pause = next(self._pauses)
        if isinstance(error, ConnectionClosed) and error.code == CloseCode.MOVED:
            return max(pause, next(self._new_pauses(MOVED_PAUSE, LONGEST_PAUSE)))
        return pause

    def is_over(self, now: float) -> bool:
        """Return whether it is too late for another attempt."""
        if self._lost_at is None:
            self._lost_at = now
        return self._timeout is not None and now - self._lost_at >= self._timeout
