"""When a client renews its token: in time before it expires, and again after a failure.

PURE: time, jitter and pauses are handed in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeAlias

from juggler.errors import ConfigError

Token: TypeAlias = str | Callable[[], str | None]
"""An access token, or a function that returns one, called for each connection and before the token expires."""

AsyncToken: TypeAlias = Token | Callable[[], Awaitable[str | None]]
"""The same for asyncio; the function may be asynchronous."""

MARGIN = 5.0
"""Seconds before the expiry at which a token is renewed at the latest, if it is valid for more than twice that long."""

LEAST = 0.2
"""Seconds between two renewals at least, if tokens are hardly valid."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0
"""Seconds before a failed renewal is retried, and the limit to which the pauses double."""


class Renewal:
    """The schedule of one connection after the other. Times are seconds of a monotonic clock.

    Attributes:
        due: when to renew the token; ``None`` if it does not expire, or there is no connection.
    """

    def __init__(
        self, new_pauses: Callable[[float, float], Iterator[float]], random: Callable[[float, float], float]
    ) -> None:
        """Start without a connection.

        Args:
            new_pauses: returns jittered pauses from a first to a longest one, such as `juggler.process.backoff.pauses`.
            random: returns a random number between two others.
        """
        self.due: float | None = None
        self._new_pauses = new_pauses
        self._random = random
        self._pauses = new_pauses(FIRST_PAUSE, LONGEST_PAUSE)

    def on_ttl(self, ttl: float | None, now: float) -> None:
        """The identity expires in ``ttl`` seconds; ``None``: never. Renew it after at most 80 % of that time."""
        if ttl is None:
            self.due = None
            return
        latest = max(LEAST, ttl / 2, min(0.8 * ttl, ttl - MARGIN))
        self.due = now + latest * self._random(0.9, 1.0)
        self._pauses = self._new_pauses(max(LEAST, min(FIRST_PAUSE, ttl / 10)), LONGEST_PAUSE)

    def on_failure(self, now: float) -> None:
        """The token could not be renewed: retry later."""
        if self.due is not None:
            self.due = now + next(self._pauses)

    def stop(self) -> None:
        """The connection is lost."""
        self.due = None


def bearer(token: Any) -> dict[str, str]:
    """Return the header for a token; none without one.

    Raises:
        ConfigError: it cannot be sent in a header. The error does not repeat it.
    """
    return {} if token is None or token == "" else {"Authorization": f"Bearer {checked(token)}"}


def checked(token: Any) -> str:
    """Return a token.

    Raises:
        ConfigError: it cannot be sent in a header. The error does not repeat it.
    """
    if not isinstance(token, str):
        raise ConfigError(f"token: expected a string, got {type(token).__name__}")
    if not token or not (token.isascii() and token.isprintable()) or " " in token:
        raise ConfigError("token: expected printable ASCII characters without spaces")
    return token
