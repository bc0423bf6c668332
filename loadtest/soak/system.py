"""The system under test: Redis, a server with two workers, two with a single process, and callees.

Those are a callee with one process, one with two, and one for the stream of the slow reader, which is never killed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import redis

from juggler.process.metrics.rates import Samples, total
from loadtest.children import Child
from loadtest.errors import LoadTestError
from loadtest.procfs import children, open_files, resident
from loadtest.soak.snapshot import GAUGES, Snapshot, compare, is_set, kinds
from loadtest.stack import ROOT, Stack

WORKERS = 2
PROCESSES = WORKERS + 2
SINGLE = ("--ping-interval", "1", "--ping-timeout", "3", "--grace", "3", "--log-level", "error")
SERVER = ("--workers", str(WORKERS), *SINGLE)
CALLEE = ("--log-level", "warning", "--pool-processes", "1")
POOLS = 2
"""Pools with a process, in each callee process."""

FUNCTIONS = "loadtest.soak.desk:rpc"
FLOWS = "loadtest.soak.desk:flows"
TIMEOUT = 20.0
FAN_OUT_TIMEOUT = 180.0
POLL = 0.1
REDIS_PAUSE = 0.3
"""Seconds without Redis, so that its absence is noticed."""

CALLEES = 3
FORGET = 30.0
"""Seconds after which a callee that was killed must have left the sets of the catalogue: its announcement expires after
5 s, and the callee that replaces it removes it 5 s after its own start."""


class System:
    """All processes of the soak.

    Attributes:
        urls: URLs of the servers for all clients; the first has several workers.
        client_urls: the same, or those of the proxies in front of them.
        notes: file of the functions' notes.
        killed: process of the callee that was killed last, and the time.
    """

    def __init__(self, stack: Stack, notes: Path) -> None:
        """Start them; the functions note their runs in the file ``notes``.

        Raises:
            LoadTestError: one did not start.
        """
        self.stack = stack
        self.notes = notes
        self.killed = (0, 0.0)
        self.redis = stack.redis
        self._metrics: list[str] = []
        urls = []
        servers = []
        for options in (SERVER, SINGLE, SINGLE):
            servers.append(stack.start_server(*options))
            self._metrics.append(stack.metrics_url)
            urls.append(stack.url)
        self.server, self.single, self.crowded = servers
        *self.urls, self._crowded_url = urls
        self.client_urls = self.urls
        self.callee = self._start_callee()
        self.callees = self._start_callee("--processes", "2")
        self.flows = self._start_callee(target=FLOWS)
        # Callees that were killed or replaced, which may be left in the catalogue for a while.
        self._replaced: list[float] = []
        wait_for(self.is_healthy, "all processes, and their connections to Redis")

    def sabotage(self, kind: str, one_in: int) -> None:
        """Put a proxy in front of each server, which harms messages; see `loadtest.sabotage`."""
        self.client_urls = [self.stack.sabotage(kind, url, "--one-in", str(one_in)) for url in self.urls]

    def fan_out(self, subscribers: int) -> list[str]:
        """Publish a burst to many subscribers of a server of their own, and return the violations, one a line.

        Raises:
            LoadTestError: it did not finish in time.
        """
        command = ["-m", "loadtest.audit.fan_out", self._crowded_url, "--subscribers", str(subscribers)]
        child = self.stack.children.start("subscribers", command, cwd=str(ROOT))
        lines = [child.hear(FAN_OUT_TIMEOUT) or ""]
        with suppress(LoadTestError):  # its lines already show why it failed
            while line := child.hear(TIMEOUT):
                lines.append(line)
        self.stack.children.kill(child)
        return lines[1:]

    # Failures and renewals

    def restart_redis(self) -> None:
        """Kill Redis, and start an empty one on its port."""
        self.redis.restart(REDIS_PAUSE)

    def kill_callee(self) -> None:
        """Kill the callee with one process, and start another one."""
        self.killed = self.callee.pid, time.monotonic()
        self.stack.children.kill(self.callee)
        self._replace(1)
        self.callee = self._start_callee()

    def kill_callee_process(self) -> None:
        """Kill a process of the callee with two; its supervisor starts another one."""
        self._replace(1)
        began = time.monotonic()
        self.killed = self._kill_child(self.callees), began

    def kill_worker(self) -> None:
        """Kill the worker with the most connections; gunicorn starts another one."""
        self._kill_child(self.server)

    def renew_callees(self) -> None:
        """Reload both callees by SIGHUP, and wait until they have."""
        before = set(children(self.callees.pid))
        self._replace(CALLEES)
        for callee in (self.callee, self.callees):
            callee.signal(signal.SIGHUP)
        self.stack.wait_serving(self.callee)
        wait_for(lambda: not before & set(children(self.callees.pid)), "new processes of the callee")
        wait_for(self.is_complete, "all processes")

    def _kill_child(self, parent: Child) -> int:
        victim = max(children(parent.pid), key=open_files)
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: victim not in children(parent.pid), f"the exit of process {victim}")
        wait_for(self.is_complete, "its replacement")
        return victim

    def _start_callee(self, *options: str, target: str = FUNCTIONS) -> Child:
        return self.stack.start_callee(*CALLEE, *options, target=target, SOAK_NOTES=str(self.notes))

    # State

    def _replace(self, count: int) -> None:
        self._replaced += [time.monotonic()] * count

    def max_callees(self) -> int:
        """Return the number of callees that each set of the catalogue may have now."""
        now = time.monotonic()
        return CALLEES + sum(now - each < FORGET for each in self._replaced)

    def processes(self) -> dict[str, list[int]]:
        """Return the process ids by role."""
        return {
            "redis": [self.redis.pid],
            "single server": [self.single.pid],
            "crowded server": [self.crowded.pid],
            "server master": [self.server.pid],
            "server worker": children(self.server.pid),
            "callee": [self.callee.pid],
            "callee supervisor": [self.callees.pid],
            "callee process": children(self.callees.pid),
            "callee of streams": [self.flows.pid],
        }

    def is_complete(self) -> bool:
        """Return whether no process is missing."""
        self.stack.children.check()
        return len(children(self.server.pid)) == WORKERS and len(children(self.callees.pid)) == 2

    def has_pools(self) -> bool:
        """Return whether all pools of the callees have started, which they do when they are first called."""
        return all(len(children(pid)) == POOLS for pid in (self.callee.pid, *children(self.callees.pid)))

    def is_healthy(self) -> bool:
        """Return whether no process is missing, and all are connected to Redis."""
        try:
            return (
                self.is_complete()
                and all(map(_is_up, self._samples()))
                and self._gauges()["juggler_workers"] == PROCESSES
            )
        except (OSError, ValueError):
            return False

    def snapshot(self) -> Snapshot:
        """Return the current resources.

        Raises:
            OSError: a process has just exited, or the server does not answer.
        """
        found = Snapshot(gauges=self._gauges())
        for role, pids in self.processes().items():
            found.memory[role] = [resident(pid) for pid in pids]
            found.files[role] = [open_files(pid) for pid in pids]
        with redis.Redis.from_url(self.redis.url, protocol=2) as client:
            keys = [key.decode() for key in client.scan_iter(count=1000)]
            found.keys = kinds(keys)
            found.members = {key: client.scard(key) for key in keys if is_set(key)}
        return found

    def _samples(self) -> list[Samples]:
        return [self.stack.metrics(url) for url in self._metrics]

    def _gauges(self) -> dict[str, float]:
        samples = self._samples()
        return {name: sum(total(each, name) for each in samples) for name in GAUGES}

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
    return all(value for (name, _), value in samples.items() if name == "juggler_redis_up")


def _is_idle(snapshot: Snapshot) -> bool:
    return snapshot.gauges["juggler_connections"] == 0 and snapshot.gauges["juggler_workers"] == PROCESSES
