"""Open files: each connection needs one, and a process may often open only 1,024."""

from __future__ import annotations

import resource

RESERVE = 100
"""Descriptors kept free of websockets: for Redis, logs, listening sockets and other HTTP requests."""
_LARGEST = 1 << 20


def raise_descriptor_limit(wanted: int | None) -> int:
    """Raise the soft limit of open files as far as the hard limit permits, and return it.

    Args:
        wanted: descriptors needed. None: as many as permitted, up to 1,048,576.
    """
    soft, hard = (
        _LARGEST if limit == resource.RLIM_INFINITY else limit for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    target = min(hard, _LARGEST if wanted is None else wanted)
    if soft >= target:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    except (OSError, ValueError):  # the system permits less than the hard limit
        return soft
    return target
