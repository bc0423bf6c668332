"""A stack whose CPU time and memory are read by role, and the limit on open files that its connections need."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from juggler.process.metrics.rates import total
from loadtest.children import Children
from loadtest.errors import LoadTestError
from loadtest.procfs import cpu_seconds, family, resident
from loadtest.stack import START_TIMEOUT, Stack

CHECK_INTERVAL = 0.1
SPARE_FILES = 200
"""Open files that a process needs beside its connections."""

SERVER, REDIS, CALLEE, LOAD = "server", "Redis", "callee", "load"
"""Roles of processes, as tables name them."""


class Measured:
    """Processes whose CPU time and memory are read by role.

    Attributes:
        children: the processes that must not exit.
        port: port of the server, 0 without one.
        path: path of its websockets.
        protocol: what it speaks, as the generator names it.
        pids: process id by role; descendants of the process belong to the role.
    """

    children: Children
    port = 0
    path = "/ws"
    protocol = "juggler"
    pids: dict[str, int]

    def cpu(self, more: Mapping[str, Sequence[int]] | None = None) -> dict[str, float]:
        """Return the CPU seconds used so far by each role; ``more`` has the process ids of further roles."""
        roles = {role: family(pid) for role, pid in self.pids.items()}
        roles.update({role: list(pids) for role, pids in (more or {}).items()})
        return {role: _sum(cpu_seconds, pids) for role, pids in roles.items()}

    def memory(self) -> dict[str, float]:
        """Return the resident memory of each role in bytes."""
        return {role: _sum(resident, family(pid)) for role, pid in self.pids.items()}

    def wait(self, seconds: float) -> None:
        """Let it run.

        Raises:
            LoadTestError: a process exited.
        """
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, CHECK_INTERVAL))
            self.children.check()


class MeasuredStack(Measured, Stack):
    """Redis, a server and a callee."""

    def __init__(
        self,
        *,
        connections: int = 0,
        server: bool = True,
        workers: int = 1,
        callees: int = 1,
        delays: int = 0,
        app: str = "",
        target: str = "callee.demo:rpc",
    ) -> None:
        """Start everything.

        Args:
            connections: the server accepts this many connections; 0 for its own default.
            server: whether to start a server.
            workers: processes of the server.
            callees: processes of the callee, 0 for no callee.
            delays: number of functions ``test.delay.<n>`` of the callee.
            app: a server of your own, ``MODULE:OBJECT``, which finds Redis in ``REDIS_URL``.
            target: functions of the callee, ``MODULE:OBJECT``.

        Raises:
            LoadTestError: a process did not start, or the system does not allow that many open files.
        """
        # gunicorn's workers do not share connections evenly: each has to be able to accept all of them.
        allow_connections(connections)
        super().__init__()
        self.pids = {REDIS: self.redis.pid}
        try:
            if server:
                self._start_server(connections, workers, app)
            if callees:
                processes = ["--processes", str(callees)] if callees > 1 else []
                self.pids[CALLEE] = self.start_callee(*processes, target=target, delays=delays).pid
        except BaseException:
            self.stop()
            raise
        # In the order in which a call passes them.
        self.pids = {role: self.pids[role] for role in (SERVER, REDIS, CALLEE) if role in self.pids}

    def __enter__(self) -> MeasuredStack:  # noqa: PYI034 (typing.Self is of Python 3.11)
        return self

    def _start_server(self, connections: int, workers: int, app: str) -> None:
        options = ["--max-connections", str(connections + 100)] if connections else []
        options += ["--workers", str(workers)] if workers > 1 else []
        self.pids[SERVER] = self.start_server(*options, app=app).pid
        self.port = urlsplit(self.url).port or 0
        # The first worker serves before the others have started, and would get all connections.
        deadline = time.monotonic() + START_TIMEOUT
        while workers > 1 and total(self.metrics(), "juggler_workers") != workers:
            if time.monotonic() > deadline:
                raise LoadTestError(f"the server did not have {workers} workers within {START_TIMEOUT:g} s")
            self.wait(CHECK_INTERVAL)


def allow_connections(count: int) -> None:
    """Raise the limit on open files for this process and its future children.

    Raises:
        LoadTestError: the system does not allow that many.
    """
    needed = count + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise LoadTestError(
            f"{count:,} connections need {needed:,} open files in a process, and {hard:,} are allowed: "
            f"ask for {max(hard - SPARE_FILES, 0):,} connections at most, or raise the limit (ulimit -Hn)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _sum(measure: Callable[[int], float], pids: Sequence[int]) -> float:
    summed = 0.0
    for pid in pids:
        try:
            summed += measure(pid)
        except FileNotFoundError:
            # It has exited since it was listed, and its CPU time can no longer be read.
            continue
    return summed
