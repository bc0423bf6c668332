"""The command ``juggler`` as a process of its own, untouched by the environment of whoever runs the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TIMEOUT = 30

_ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in ("REDIS_URL", "JUGGLER_URL")}


@contextmanager
def running(*args: str, stdin: int = subprocess.DEVNULL, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``juggler`` with these arguments; it is killed at the end when it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "juggler.cli.main", *args],
        env={**_ENVIRONMENT, **environment},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def run(*args: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``juggler`` until it ends."""
    with running(*args, stdin=subprocess.PIPE, **environment) as process:
        output, errors = process.communicate(stdin, timeout=TIMEOUT)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)
