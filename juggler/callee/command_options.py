"""What the command ``juggler-callee`` was told, for the processes that do it. PURE."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from juggler.errors import ConfigError
from juggler.protocol.glob import matches


class Options(Struct, frozen=True):
    """Options of the command; see its help.

    Attributes:
        name: the callee, as ``MODULE:OBJECT``.
        redis_url: of Redis; ``None`` where nobody has named one, and it is not worth waiting for.
        only: patterns of the URIs to be served; none means all.
        without: patterns of those that are not.
        listen: where health and figures are told, as host and port.
    """

    name: str
    processes: int
    concurrency: int
    threads: int
    pool_processes: int | None
    redis_url: str | None
    pubsub_url: str | None
    key_prefix: str
    fail_fast: bool
    only: tuple[str, ...]
    without: tuple[str, ...]
    grace: float
    time_limit: float | None
    mask_errors: bool
    reload: bool
    listen: tuple[str, int] | None
    health_file: str | None
    log_level: str
    log_format: str


def chosen(uris: Iterable[str], only: Sequence[str], without: Sequence[str]) -> list[str]:
    """Return the URIs to be served.

    Args:
        uris: all that there are.
        only: patterns, in the manner of Redis, of which one has to match; none means that all are chosen.
        without: patterns of which none may match.

    Raises:
        ConfigError: a pattern matches nothing, or nothing is left.
    """
    known = list(uris)
    for pattern in (*only, *without):
        if not any(matches(pattern, uri) for uri in known):
            raise ConfigError(f"{pattern!r}: no such URI; there are {', '.join(known[:10])}")
    left = [
        uri
        for uri in known
        if (not only or any(matches(pattern, uri) for pattern in only))
        and not any(matches(pattern, uri) for pattern in without)
    ]
    if not left:
        raise ConfigError("no URI is left to be served")
    return left


def shortened(names: Sequence[str], most: int = 10) -> str:
    """Return the names in one line, as many as are readable."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
