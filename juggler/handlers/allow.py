"""Allow certain URIs and channels only, the same for all connections."""

from __future__ import annotations

from collections.abc import Iterable

from juggler.errors import ConfigError
from juggler.handlers.authorize import Rule, authorize
from juggler.server.processing import Middleware


def allow(*, uris: Iterable[str] | None = None, channels: Iterable[str] | None = None) -> Middleware:
    """Return a middleware that refuses other URIs and channels with NACK 403. Events are filtered as by `authorize`.

    Args:
        uris: Redis globs of the URIs that may be called; None means all.
        channels: Redis globs of the channels for PUB and SUB; None means all.

    Raises:
        ConfigError: a string is passed instead of a list.
    """
    rules: list[Rule] = []
    default: list[str] = []
    for kinds, patterns in ((("call",), uris), (("pub", "sub"), channels)):
        if isinstance(patterns, str):
            raise ConfigError(f"allow: expected a list of patterns, got {patterns!r}")
        if patterns is None:
            default += kinds
        else:
            rules += [Rule(kind, pattern) for pattern in list(patterns) for kind in kinds]
    return authorize(rules, default)
