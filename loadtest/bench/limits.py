"""How many files, and so connections, a process may have open: raised as far as it is allowed."""

from __future__ import annotations

import resource

from loadtest.bench.errors import BenchError

SPARE = 200
"""What a process opens beside its connections: files, Redis, its own."""


def allow_connections(count: int) -> None:
    """Raise the limit for this process, and for those that it starts from now on.

    Raises:
        BenchError: so many connections are not allowed.
    """
    needed = count + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BenchError(too_many(count, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def too_many(count: int, hard: int) -> str:
    """Return what to do when ``hard`` open files are too few for ``count`` connections."""
    return (
        f"{count:,} connections need {count + SPARE:,} open files in a process, and {hard:,} are allowed: "
        f"ask for {max(hard - SPARE, 0):,} connections at most, or raise the limit (ulimit -Hn)"
    )
