"""The system under test: Redis, a server with two workers, a callee, and a callee with two processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import redis

from juggler.process.metrics.rates import Samples, total
from loadtest.children import Child
from loadtest.errors import LoadTestError
from loadtest.procfs import children, open_files, resident
from loadtest.soak.snapshot import GAUGES, Snapshot, compare, kinds
from loadtest.stack import Stack

WORKERS = 2
SERVER = (
    *("--workers", str(WORKERS), "--ping-interval", "1", "--ping-timeout", "1"),
    *("--grace", "3", "--log-level", "error"),
)
CALLEE = ("--log-level", "warning")
TIMEOUT = 20.0
POLL = 0.1
REDIS_PAUSE = 0.3
"""Seconds without Redis, so that its absence is noticed."""


class System:
    """All processes of the soak."""

    def __init__(self, stack: Stack) -> None:
        """Start them.

        Raises:
            LoadTestError: one did not start.
        """
        self.stack = stack
        self.redis = stack.redis
        self.server = stack.start_server(*SERVER)
        self.callee = stack.start_callee(*CALLEE)
        self.callees = stack.start_callee(*CALLEE, "--processes", "2")
        self.url = stack.url
        wait_for(self.is_healthy, "all processes, and their connections to Redis")

    # Failures and renewals

    def restart_redis(self) -> None:
        """Kill Redis, and start an empty one on its port."""
        self.redis.restart(REDIS_PAUSE)

    def kill_callee(self) -> None:
        """Kill the callee with one process, and start another one."""
        self.stack.children.kill(self.callee)
        self.callee = self.stack.start_callee(*CALLEE)

    def kill_callee_process(self) -> None:
        """Kill a process of the callee with two; its supervisor starts another one."""
        self._kill_child(self.callees)

    def kill_worker(self) -> None:
        """Kill the worker with the most connections; gunicorn starts another one."""
        self._kill_child(self.server)

    def renew_callees(self) -> None:
        """Reload both callees by SIGHUP, and wait until they have."""
        before = set(children(self.callees.pid))
        for callee in (self.callee, self.callees):
            callee.signal(signal.SIGHUP)
        self.stack.wait_serving(self.callee)
        wait_for(lambda: not before & set(children(self.callees.pid)), "new processes of the callee")
        wait_for(self.is_complete, "all processes")

    def _kill_child(self, parent: Child) -> None:
        victim = max(children(parent.pid), key=open_files)
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: victim not in children(parent.pid), f"the exit of process {victim}")
        wait_for(self.is_complete, "its replacement")

    # State

    def processes(self) -> dict[str, list[int]]:
        """Return the process ids by role."""
        return {
            "redis": [self.redis.pid],
            "server master": [self.server.pid],
            "server worker": children(self.server.pid),
            "callee": [self.callee.pid],
            "callee supervisor": [self.callees.pid],
            "callee process": children(self.callees.pid),
        }

    def is_complete(self) -> bool:
        """Return whether no process is missing."""
        self.stack.children.check()
        return len(children(self.server.pid)) == WORKERS and len(children(self.callees.pid)) == 2

    def is_healthy(self) -> bool:
        """Return whether no process is missing, and all are connected to Redis."""
        try:
            return self.is_complete() and _is_up(self.stack.metrics())
        except (OSError, ValueError):
            return False

    def snapshot(self) -> Snapshot:
        """Return the current resources.

        Raises:
            OSError: a process has just exited, or the server does not answer.
        """
        found = Snapshot(gauges=_gauges(self.stack.metrics()))
        for role, pids in self.processes().items():
            found.memory[role] = [resident(pid) for pid in pids]
            found.files[role] = [open_files(pid) for pid in pids]
        with redis.Redis.from_url(self.redis.url, protocol=2) as client:
            found.keys = kinds(key.decode() for key in client.scan_iter(count=1000))
        return found

    def idle_snapshot(self, like: Snapshot | None = None) -> Snapshot:
        """Wait until no client is connected, and return the resources.

        Args:
            like: also wait until the resources are within its limits, up to `TIMEOUT`.
        """
        deadline = time.monotonic() + TIMEOUT
        while True:
            with suppress(OSError):
                found = self.snapshot()
                if time.monotonic() > deadline:
                    return found
                if _is_idle(found) and (like is None or all(row.ok for row in compare(like, found))):
                    return found
            time.sleep(POLL * 5)


def wait_for(condition: Callable[[], bool], what: str, timeout: float = TIMEOUT) -> None:
    """Wait until a condition is true.

    Raises:
        LoadTestError: it was not within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise LoadTestError(f"waited longer than {timeout:g} s for {what}")
        time.sleep(POLL)


def _is_up(samples: Samples) -> bool:
    links = [value for (name, _), value in samples.items() if name == "juggler_redis_up"]
    return all(links) and total(samples, "juggler_workers") == WORKERS


def _gauges(samples: Samples) -> dict[str, float]:
    return {name: total(samples, name) for name in GAUGES}


def _is_idle(snapshot: Snapshot) -> bool:
    return snapshot.gauges["juggler_connections"] == 0 and snapshot.gauges["juggler_workers"] == WORKERS
