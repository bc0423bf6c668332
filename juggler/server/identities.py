"""The identity of a client, and when it expires: what connect hooks return. PURE."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

_OF_A_TOKEN = frozenset({"exp", "iat", "nbf", "jti"})
"""Claims that differ between the tokens of one client (RFC 7519 §4.1)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """An identity that expires. A connect hook returns it in place of the bare value.

    Args:
        value: the identity, which becomes `Connection.identity`. A false value refuses the client, as without this
            class.
        expires_at: when it expires, in seconds since 1970 or as a ``datetime`` with a time zone. ``None``: never.

    Raises:
        ValueError: ``expires_at`` is neither, or a ``datetime`` without a time zone.
    """

    value: Any
    expires_at: float | datetime | None = None

    def __post_init__(self) -> None:
        at = self.expires_at
        if isinstance(at, datetime) and at.tzinfo is not None:
            object.__setattr__(self, "expires_at", at.timestamp())
        elif at is not None and (isinstance(at, bool) or not isinstance(at, (int, float)) or math.isnan(at)):
            raise ValueError(f"expires_at: expected seconds since 1970, or a datetime with a time zone, got {at!r}")

    def __bool__(self) -> bool:
        return bool(self.value)

    def seconds_left(self, now: float) -> float:
        """Return the seconds until it expires, infinite if it does not; ``now`` is in seconds since 1970."""
        return math.inf if self.expires_at is None else float(self.expires_at) - now  # type: ignore[arg-type]


NO_IDENTITY = Identity(None)
"""The identity of a client without a connect hook."""


def who(identity: Any) -> Any:
    """Return the part of an identity that is the same in all tokens of one client.

    The claims of a JWT that has a subject are those of its issuer and subject. Of other mappings, all members but those
    that differ between tokens count; of other values, the value itself.
    """
    if not isinstance(identity, Mapping):
        return identity
    if identity.get("sub"):
        return (identity.get("iss"), identity["sub"])
    return {name: value for name, value in identity.items() if name not in _OF_A_TOKEN}
