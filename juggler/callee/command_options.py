"""Options of the command ``juggler-callee``. PURE."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from juggler.callee.wear import WearLimits
from juggler.errors import ConfigError
from juggler.protocol.glob import matches

CONTROL_VARIABLE = "JUGGLER_CALLEE_CONTROL"
"""Environment variable with the descriptor of the socket. Set in supervised processes only."""


class Options(Struct, frozen=True):
    """Options of the command; its help describes them.

    Attributes:
        name: the callee, as ``MODULE:OBJECT``.
        redis_url: URL of Redis; ``None`` if none was given: then the command does not wait for the default one.
        only: patterns of the URIs to serve; empty means all.
        without: patterns of the URIs to leave out.
        wear: limits after which a process is replaced.
        listen: host and port for health checks and metrics.
    """

    name: str
    processes: int
    concurrency: int
    threads: int
    pool_processes: int | None
    share: float
    redis_url: str | None
    pubsub_url: str | None
    key_prefix: str
    result_capacity: int
    blocking_timeout: float
    fail_fast: bool
    only: tuple[str, ...]
    without: tuple[str, ...]
    grace: float
    time_limit: float | None
    mask_errors: bool
    wear: WearLimits
    reload: bool
    listen: tuple[str, int] | None
    health_file: str | None
    log_level: str
    log_format: str


def chosen(uris: Iterable[str], only: Sequence[str], without: Sequence[str]) -> list[str]:
    """Return the URIs to serve.

    Args:
        uris: all registered URIs.
        only: patterns as those of Redis; a URI has to match one of them. Empty means all.
        without: patterns; a URI must match none of them.

    Raises:
        ConfigError: a pattern matches no URI, or no URI is left.
    """
    known = list(uris)
    for pattern in (*only, *without):
        if not any(matches(pattern, uri) for uri in known):
            raise ConfigError(f"{pattern!r}: no URI matches; registered are {shortened(known)}")
    left = [
        uri
        for uri in known
        if (not only or any(matches(pattern, uri) for pattern in only))
        and not any(matches(pattern, uri) for pattern in without)
    ]
    if not left:
        raise ConfigError("no URI is left to serve: --only and --without exclude all of them")
    return left


def shortened(names: Sequence[str], most: int = 10) -> str:
    """Join names to one line, at most ``most`` of them."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
