"""Readings of Linux's /proc: CPU time, memory, open files and descendants of a process."""

from __future__ import annotations

import os
from contextlib import suppress


def resident(pid: int) -> int:
    """Return a process's resident memory in bytes."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, user and system, in seconds."""
    fields = _fields(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_files(pid: int) -> int:
    """Return the number of a process's open file descriptors."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def is_running(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return _fields(pid)[0] not in "ZX"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """Return the running child processes of a process's main thread; none if the process has exited."""
    with suppress(OSError), open(f"/proc/{pid}/task/{pid}/children") as file:
        return [child for child in map(int, file.read().split()) if is_running(child)]
    return []


def family(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [pid]
    for each in found:
        with suppress(OSError):
            for task in os.listdir(f"/proc/{each}/task"):
                with open(f"/proc/{each}/task/{task}/children") as file:
                    found += [int(child) for child in file.read().split()]
    return found


def _fields(pid: int) -> list[str]:
    """Return the fields of a process's stat file from the state on (proc(5), field 3)."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()
