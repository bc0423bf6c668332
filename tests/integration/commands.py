"""Run the commands as processes, without the user's own variables."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

TIMEOUT = 100
ROOT = Path(__file__).parents[2]

_OF_THE_USER = ("REDIS_URL", "PUBSUB_REDIS_URL", "JUGGLER_URL", "JUGGLER_TOKEN")


def environment(**more: str) -> dict[str, str]:
    """That of the tests, without what is the user's own, and with more."""
    return {key: value for key, value in os.environ.items() if key not in _OF_THE_USER} | more


@contextmanager
def running_python(
    *args: str, stdin: int = subprocess.DEVNULL, prefix: tuple[str, ...] = (), **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """Run Python with these arguments, after a prefix; it is killed at the end when it still runs."""
    process = subprocess.Popen(
        [*prefix, sys.executable, *args],
        env=environment(**variables),
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


def run_python(*args: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python until it exits."""
    with running_python(*args, stdin=subprocess.PIPE, **variables) as process:
        output, errors = process.communicate(stdin, timeout=TIMEOUT)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


running = partial(running_python, "-m", "juggler.cli.main")
"""Run ``juggler`` with these arguments; it is killed at the end when it still runs."""

run = partial(run_python, "-m", "juggler.cli.main")
"""Run ``juggler`` until it exits."""

running_callee = partial(running_python, "-m", "callee.cli", "callee.demo:rpc")
"""Run ``juggler-callee`` for the demo's functions; it is killed at the end when it still runs."""


@contextmanager
def demo_process(*args: str, **variables: str) -> Iterator[str]:
    """``juggler demo`` on a free port, once it serves; yields its URL. It must exit gracefully."""
    with running("demo", *args, "--bind", "127.0.0.1:0", **variables) as process:
        lines = []
        while not (lines and "Ctrl-C" in lines[-1]):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            lines.append(line)
        yield re.search(r"ws://\S+/ws", "".join(lines)).group()
        process.terminate()
        assert process.wait(20) == 0


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
    with running_callee("--redis", redis_url, *args) as process:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield process
