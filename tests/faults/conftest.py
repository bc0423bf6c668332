"""Processes under test: Redis, servers and callees, which tests kill, stop and disconnect."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.integration.commands import running, running_python
from tests.redis_servers import MortalRedis, mortal_redis

READY = 30.0


class Served(NamedTuple):
    """A running server."""

    url: str
    process: subprocess.Popen[str]


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    """Context managers that end with the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[MortalRedis]:
    """A running Redis. Beside keys that the test leaves, nothing survives."""
    with mortal_redis(tmp_path) as server:
        server.start()
        yield server


@pytest.fixture
def start_server(processes: ExitStack, mortal: MortalRedis) -> Callable[..., Served]:
    """Start ``juggler server`` with options: ``start_server(*options, redis=url)``."""

    def start(*options: str, redis: str = "", **environment: str) -> Served:
        url = redis or mortal.url
        process = processes.enter_context(
            running("server", *options, "--bind", "127.0.0.1:0", REDIS_URL=url, **environment)
        )
        line = process.stdout.readline()
        assert "ws://" in line or "http://" in line, line + process.stderr.read()
        shown = next(word for word in line.split() if "://" in word)
        return Served(shown if shown.startswith("ws") else shown.replace("http", "ws").rstrip("/") + "/ws", process)

    return start


@pytest.fixture
def start_callee(processes: ExitStack, mortal: MortalRedis) -> Callable[..., subprocess.Popen[str]]:
    """Start ``juggler-callee`` with options: ``start_callee(*options, target="callee.demo:rpc", redis=url)``."""

    def start(
        *options: str, target: str = "callee.demo:rpc", redis: str = "", **environment: str
    ) -> subprocess.Popen[str]:
        arguments = ("-m", "callee.cli", target, "--redis", redis or mortal.url, *options)
        process = processes.enter_context(running_python(*arguments, **environment))
        line = process.stdout.readline()
        assert line.startswith("serving"), line + process.stderr.read()
        return process

    return start


@pytest.fixture
def notes(tmp_path: Path) -> Callable[[], list[Any]]:
    """Return what the function ``note`` has written: time and argument of each run. ``notes.path`` is the file."""

    def read() -> list[Any]:
        return [json.loads(line) for line in path.read_text().splitlines()]

    path = tmp_path / "notes"
    path.touch()
    read.path = str(path)  # type: ignore[attr-defined]
    return read
