"""Resident memory of a process, on systems that show it in ``/proc``, such as Linux."""

from __future__ import annotations

import os

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(pid: int | None = None) -> int | None:
    """Return the resident memory of a process in bytes; ``None`` if it has exited or the system does not show it.

    Args:
        pid: process id. Default: this process.
    """
    try:
        with open(f"/proc/{pid or 'self'}/statm") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        return None


def memory() -> dict[str, float]:
    """Return the resident memory of this process as the values of a metric; none if the system does not show it."""
    found = resident()
    return {} if found is None else {"": found}
