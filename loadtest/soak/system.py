"""The system that is soaked: Redis, two server processes under gunicorn, a callee alone and one of two processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import redis

from juggler.errors import ConfigError
from juggler.process.embedded import EmbeddedRedis
from juggler.process.metrics.rates import Samples, total
from loadtest.bench.process import resident
from loadtest.locust.stack import Part, Stack, StackError
from loadtest.soak.figures import GAUGES, Figures, compare, kinds

WORKERS = 2
SERVER = (
    *("--workers", str(WORKERS), "--ping-interval", "1", "--ping-timeout", "1"),
    *("--grace", "3", "--log-level", "error"),
)
TIMEOUT = 20.0
POLL = 0.1


class MortalRedis(EmbeddedRedis):
    """One that can be killed and started again on its port. It keeps nothing."""

    def restart(self) -> None:
        """Kill it, and start it again.

        Raises:
            ConfigError: it did not start.
        """
        self._end_processes()
        time.sleep(0.3)  # so that it is seen to be away
        self._launch()
        if not self._wait_until_ready():
            raise ConfigError(f"Redis did not start again: {self._log_tail()}")


class System:
    """All processes of a soak."""

    def __init__(self, stack: Stack) -> None:
        """Start them on a stack with a `MortalRedis`.

        Raises:
            StackError: one did not start.
        """
        self.stack = stack
        self.redis = stack.redis
        self.server = stack.start_server(*SERVER)
        self.callee = stack.start_callee()
        self.callees = stack.start_callee("--processes", "2")
        self.url = stack.url
        wait_for(self.is_well, "the system to be well")

    # What is done to it

    def restart_redis(self) -> None:
        """Kill Redis and start it again, empty."""
        assert isinstance(self.redis, MortalRedis)
        self.redis.restart()

    def kill_callee(self) -> None:
        """Kill the callee that is alone, and start another one."""
        self.callee.kill()
        self.stack.remove(self.callee)
        self.callee = self.stack.start_callee()

    def kill_callee_process(self) -> None:
        """Kill one of the processes of the other callee; its supervisor starts another one."""
        self._kill_child(self.callees)

    def kill_worker(self) -> None:
        """Kill the process of the server that has the most connections; gunicorn starts another one."""
        self._kill_child(self.server)

    def renew_callees(self) -> None:
        """Let both callees begin anew by SIGHUP, and wait until they have."""
        before, said = set(children(self.callees.pid)), self.callee.announced
        for part in (self.callee, self.callees):
            part.signal(signal.SIGHUP)
        wait_for(lambda: self.callee.announced > said, "the callee to begin anew")
        wait_for(lambda: not before & set(children(self.callees.pid)), "the callee's processes to be renewed")
        wait_for(self.is_complete, "all processes")

    def _kill_child(self, part: Part) -> None:
        victim = max(children(part.pid), key=open_files)
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: victim not in children(part.pid), f"process {victim} to end")
        wait_for(self.is_complete, "another process in its place")

    # How it is

    def processes(self) -> dict[str, list[int]]:
        """Return the processes of each role."""
        return {
            "redis": [self.redis.pid],
            "server master": [self.server.pid],
            "server worker": children(self.server.pid),
            "callee": [self.callee.pid],
            "callee supervisor": [self.callees.pid],
            "callee process": children(self.callees.pid),
        }

    def is_complete(self) -> bool:
        """Return whether there are as many processes as there should be."""
        self.stack.check()
        return len(children(self.server.pid)) == WORKERS and len(children(self.callees.pid)) == 2

    def is_well(self) -> bool:
        """Return whether all processes are there, and all links to Redis."""
        try:
            return self.is_complete() and _is_up(self.stack.metrics())
        except (OSError, ValueError):
            return False

    def figures(self) -> Figures:
        """Return what it is made of now.

        Raises:
            OSError: a process has just ended, or the server does not answer.
        """
        found = Figures(gauges=_gauges(self.stack.metrics()))
        for role, pids in self.processes().items():
            found.memory[role] = [resident(pid) for pid in pids]
            found.files[role] = [open_files(pid) for pid in pids]
        with redis.Redis.from_url(self.redis.url, protocol=2) as client:
            found.keys = kinds(key.decode() for key in client.scan_iter(count=1000))
        return found

    def at_rest(self, like: Figures | None = None) -> Figures:
        """Return the figures when nobody is connected and nothing is under way.

        Args:
            like: wait until they are as good as these, though not for ever.
        """
        deadline = time.monotonic() + TIMEOUT
        while True:
            with suppress(OSError):
                found = self.figures()
                if time.monotonic() > deadline:
                    return found
                if _rests(found) and (like is None or all(row.ok for row in compare(like, found))):
                    return found
            time.sleep(POLL * 5)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, as Linux tells; none when it has ended."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [child for child in map(int, file.read().split()) if not _is_dead(child)]
    except OSError:
        return []


def open_files(pid: int) -> int:
    """Return the number of open file descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def wait_for(condition: Callable[[], bool], what: str, timeout: float = TIMEOUT) -> None:
    """Wait until a condition is true.

    Raises:
        StackError: it was not in time.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise StackError(f"waited for {what} for more than {timeout:g} s")
        time.sleep(POLL)


def _is_dead(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _is_up(samples: Samples) -> bool:
    links = [value for (name, _), value in samples.items() if name == "juggler_redis_up"]
    return all(links) and total(samples, "juggler_workers") == WORKERS


def _gauges(samples: Samples) -> dict[str, float]:
    return {name: total(samples, name) for name in GAUGES}


def _rests(figures: Figures) -> bool:
    return figures.gauges["juggler_connections"] == 0 and figures.gauges["juggler_workers"] == WORKERS
