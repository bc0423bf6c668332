"""What is measured: a Redis, a juggler server and a callee of their own, on free ports of loopback."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from urllib.parse import urlsplit
from urllib.request import urlopen

from juggler.errors import ConfigError
from juggler.process.embedded import EmbeddedRedis
from loadtest.bench.children import Child, Children
from loadtest.bench.errors import BenchError
from loadtest.bench.process import cpu_seconds, family, resident

START_TIMEOUT = 30.0
CHECK_INTERVAL = 0.1

SERVER, REDIS, CALLEE, LOAD = "server", "Redis", "callee", "load"
"""Roles of processes, as they stand in tables."""


class Stack:
    """Runs from construction (or ``with``) until `stop`.

    Args:
        server: whether there is a server; without one there is only Redis.
        workers: processes of the server.
        callees: processes of the callee, 0 for none.
        delays: how many ``test.delay.<n>`` the callee serves.
        app: a server of one's own, as ``MODULE:SERVER``; it finds Redis in ``REDIS_URL``.
        server_options: more options of ``juggler server``.

    Attributes:
        port: the server's.
        redis_port: Redis's.
        pids: the process of each role; those that descend from it count too.

    Raises:
        BenchError: a part of it did not start.
    """

    def __init__(
        self,
        *,
        server: bool = True,
        workers: int = 1,
        callees: int = 1,
        delays: int = 0,
        app: str = "",
        server_options: Sequence[str] = (),
    ) -> None:
        self.pids: dict[str, int] = {}
        self.port = 0
        with ExitStack() as stack:
            try:
                redis = stack.enter_context(EmbeddedRedis())
            except ConfigError as error:
                raise BenchError(str(error)) from None
            self.redis_port = redis.port
            self.children = stack.enter_context(Children())
            if server:
                self._serve(redis.url, workers, app, server_options)
            self.pids[REDIS] = redis.pid
            if callees:
                self._call(redis.url, callees, delays)
            self._stack = stack.pop_all()

    def __enter__(self) -> Stack:  # noqa: PYI034 (typing.Self is of Python 3.11)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it all. Idempotent."""
        self._stack.close()

    def cpu(self, more: Mapping[str, Sequence[int]] | None = None) -> dict[str, float]:
        """Return the CPU time of each role so far, in seconds; ``more`` names further roles' processes."""
        roles = {role: family(pid) for role, pid in self.pids.items()}
        roles.update({role: list(pids) for role, pids in (more or {}).items()})
        return {role: _sum(cpu_seconds, pids) for role, pids in roles.items()}

    def memory(self) -> dict[str, float]:
        """Return the resident memory of each role, in bytes."""
        return {role: _sum(resident, family(pid)) for role, pid in self.pids.items()}

    def wait(self, seconds: float) -> None:
        """Let it run.

        Raises:
            BenchError: a part of it has ended.
        """
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, CHECK_INTERVAL))
            self.children.check()

    def _serve(self, url: str, workers: int, app: str, options: Sequence[str]) -> None:
        command = ["-m", "juggler.cli.main", "server", *([app] if app else ["--redis", url]), "--bind", "127.0.0.1:0"]
        several = ["--workers", str(workers)] if workers > 1 else []
        child = self.children.start(SERVER, [*command, *several, *options], environment={"REDIS_URL": url})
        line = _first_line(child)
        found = [word for word in line.split() if "://" in word]
        if not found:
            raise BenchError(f"the server's first line has no address: {line}")
        self.port = urlsplit(found[0]).port or 0
        self.pids[SERVER] = child.pid
        if workers > 1:
            self._wait_for(workers)

    def _wait_for(self, workers: int) -> None:
        # The first one serves already, and would get all connections.
        metrics, deadline = f"http://127.0.0.1:{self.port}/metrics", time.monotonic() + START_TIMEOUT
        while f"\njuggler_workers {workers:.1f}\n" not in urlopen(metrics).read().decode():
            if time.monotonic() > deadline:
                raise BenchError(f"there were not {workers} workers within {START_TIMEOUT:g} s")
            self.wait(CHECK_INTERVAL)

    def _call(self, url: str, processes: int, delays: int) -> None:
        several = ["--processes", str(processes)] if processes > 1 else []
        child = self.children.start(
            CALLEE,
            ["-m", "callee.cli", "callee.demo:rpc", "--redis", url, *several],
            environment={"JUGGLER_DEMO_DELAYS": str(delays)},
        )
        _first_line(child)
        self.pids[CALLEE] = child.pid


def _first_line(child: Child) -> str:
    line = child.hear(START_TIMEOUT)
    if line is None:
        raise BenchError(f"the {child.name} ended without a word")
    return line


def _sum(measure: object, pids: Sequence[int]) -> float:
    total = 0.0
    for pid in pids:
        try:
            total += measure(pid)  # type: ignore[operator]
        except FileNotFoundError:
            # Ended since it was found: its CPU time is no longer told.
            continue
    return total
