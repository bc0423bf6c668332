"""The machine and the versions that results belong to."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import juggler
from juggler.errors import ConfigError
from juggler.process.embedded import find_server

LIBRARIES = ("gevent", "greenlet", "gunicorn", "hiredis", "msgspec", "redis", "ujson", "websockets")
TIMEOUT = 10.0
UNKNOWN = "unknown"


def describe_machine() -> dict[str, Any]:
    """Return the description of the machine, its load average and the versions."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "system": f"{platform.system()} {platform.release()}",
        "load_average": round(os.getloadavg()[0], 2),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "revision": revision(Path(juggler.__file__).parents[1]),
        "juggler": juggler.__version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "redis_server": redis_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def cpu_model() -> str:
    """Return the name of the CPU."""
    with suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.machine() or UNKNOWN


def revision(directory: Path) -> str:
    """Return the abbreviated commit of a checkout, with ``-dirty`` if it has changes."""
    return _output("git", "-C", str(directory), "describe", "--always", "--dirty", "--abbrev=12")


def redis_version() -> str:
    """Return the version that the Redis-compatible server prints."""
    try:
        return _output(find_server(), "--version")
    except ConfigError:
        return UNKNOWN


def summary(machine: dict[str, Any]) -> str:
    """Return the most important members of a description in one line."""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_average']:g} before, {machine['python']}, "
        f"gevent {machine['libraries']['gevent']}, revision {machine['revision']}, {machine['date']}"
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return UNKNOWN


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return UNKNOWN
    return done.stdout.strip() or UNKNOWN
