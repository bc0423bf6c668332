"""The commands as processes of their own, untouched by the environment of whoever runs the tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TIMEOUT = 30
ROOT = Path(__file__).parents[2]

_ENVIRONMENT = {
    key: value for key, value in os.environ.items() if key not in ("REDIS_URL", "PUBSUB_REDIS_URL", "JUGGLER_URL")
}


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


@contextmanager
def server_process(redis_url: str, *args: str) -> Iterator[str]:
    """A server on a free port, once it serves; yields its URL."""
    with running("server", "--bind", "127.0.0.1:0", "--redis", redis_url, *args) as process:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield re.search(r"ws://\S+", line).group()


@contextmanager
def callee_process(redis_url: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    """A callee with the demo's functions, once it serves."""
    command = [sys.executable, "-m", "callee.cli", "callee.demo:rpc", "--redis", redis_url, *args]
    with subprocess.Popen(
        command, cwd=ROOT, env=_ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield process
        finally:
            process.kill()
