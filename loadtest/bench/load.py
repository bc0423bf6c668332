"""Load from several generator processes, and what it has shown: how many, how fast, at whose cost."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.bench.children import Child, Children
from loadtest.bench.errors import BenchError
from loadtest.bench.histogram import Histogram
from loadtest.bench.process import cpu_seconds
from loadtest.bench.stack import LOAD, Stack

READY_TIMEOUT = 60.0
READY_RATE = 200
"""Connections or subscriptions a second with which a machine is not too slow."""
REPORT_TIMEOUT = 15.0
FLOW_TIMEOUT = 30.0
FLOW_INTERVAL = 0.02
MOST_PROCESSES = 4
PATH = "/ws"

Spec = dict[str, Any]


def default_processes() -> int:
    """Return how many generator processes there are if nobody says: several, but not more than there are CPUs for."""
    return max(2, min(MOST_PROCESSES, (os.cpu_count() or 1) // 2))


def shares(total: int, processes: int) -> list[int]:
    """Divide ``total`` among at most so many processes, as evenly as can be; none gets nothing."""
    each, more = divmod(total, processes)
    return [share for share in (each + (number < more) for number in range(processes)) if share]


@dataclass(frozen=True)
class Sample:
    """What was measured.

    Attributes:
        count: operations.
        rate: operations a second.
        latency: of each operation, where it is timed.
        cpu: seconds of CPU time by role, of all that was done meanwhile.
    """

    count: int
    rate: float
    latency: Histogram
    cpu: dict[str, float]

    def cost_us(self) -> dict[str, float]:
        """Return the CPU time an operation, in microseconds, by role."""
        return {role: seconds / max(self.count, 1) * 1e6 for role, seconds in self.cpu.items()}


class Load:
    """Generator processes, from construction (or ``with``) until `stop`: they connect, and wait to be told to begin.

    Args:
        stack: what they connect to.
        specs: what each is to do; ``port`` and ``path`` are added.
        pass_fds: file descriptors that they inherit.
        roles: the roles, in tables, of those that are not just load, by ``role`` of their spec.
    """

    def __init__(
        self, stack: Stack, specs: Sequence[Spec], *, pass_fds: Sequence[int] = (), roles: dict[str, str] | None = None
    ) -> None:
        self._stack = stack
        self._specs = specs
        self._children = Children()
        self._pids: dict[str, list[int]] = {}
        try:
            self._generators = [self._start(spec, pass_fds, roles or {}) for spec in specs]
            timeout = READY_TIMEOUT + sum(map(_size, specs)) / READY_RATE
            for generator in self._generators:
                if generator.hear(timeout) != "ready":
                    raise BenchError("a generator ended before it was ready")
        except BaseException:
            self._children.stop()
            raise

    def __enter__(self) -> Load:  # noqa: PYI034 (typing.Self is of Python 3.11)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the generators. Idempotent."""
        self._children.stop()

    def measure(self, seconds: float) -> dict[str, Sample]:
        """Let them warm up, measure for so many seconds, end them, and return the samples by ``role``.

        Raises:
            BenchError: a process ended, or nothing was done.
        """
        self._tell("go")
        self._stack.wait(min(1.0, seconds / 4))
        self._wait_until_it_flows()
        self._tell("mark")
        before = self._stack.cpu(self._pids)
        self._wait(seconds)
        self._tell("stop")
        after = self._stack.cpu(self._pids)
        cpu = {role: after[role] - then for role, then in before.items()}
        reports = [self._report(generator) for generator in self._generators]
        self.stop()
        return self._samples(reports, cpu)

    def cpu_seconds(self) -> float:
        """Return the CPU time of all generators so far."""
        return sum(cpu_seconds(pid) for pids in self._pids.values() for pid in pids)

    def _start(self, spec: Spec, pass_fds: Sequence[int], roles: dict[str, str]) -> Child:
        child = self._children.start("generator", ["-m", "loadtest.bench.generator"], pass_fds=pass_fds)
        child.tell(json.dumps({"port": self._stack.port, "path": PATH, **spec}))
        self._pids.setdefault(roles.get(spec["role"], LOAD), []).append(child.pid)
        return child

    def _tell(self, line: str) -> None:
        for generator in self._generators:
            generator.tell(line)

    def _wait_until_it_flows(self) -> None:
        # The first answers of thousands of connections come all at once, and late.
        deadline = time.monotonic() + FLOW_TIMEOUT
        for generator in self._generators:
            while True:
                generator.tell("flows?")
                if generator.hear(REPORT_TIMEOUT) == "yes":
                    break
                if time.monotonic() > deadline:
                    raise BenchError(f"not every connection had its answer within {FLOW_TIMEOUT:g} s: is it served?")
                self._stack.wait(FLOW_INTERVAL)

    def _wait(self, seconds: float) -> None:
        self._stack.wait(seconds)
        self._children.check()

    def _report(self, generator: Child) -> dict[str, Any]:
        line = generator.hear(REPORT_TIMEOUT)
        if line is None:
            raise BenchError("a generator ended without a report")
        report: dict[str, Any] = json.loads(line)
        return report

    def _samples(self, reports: list[dict[str, Any]], cpu: dict[str, float]) -> dict[str, Sample]:
        samples: dict[str, Sample] = {}
        for role in {spec["role"]: None for spec in self._specs}:
            latency = Histogram()
            mine = [report for spec, report in zip(self._specs, reports, strict=True) if spec["role"] == role]
            for report in mine:
                latency.add(Histogram.from_json(report["latency"]))
            count = sum(report["count"] for report in mine)
            samples[role] = Sample(count, sum(report["count"] / report["seconds"] for report in mine), latency, cpu)
        if not any(sample.count for sample in samples.values()):
            raise BenchError("nothing was done in the time that was measured: measure for longer (--seconds)")
        return samples


def _size(spec: Spec) -> int:
    subscriptions = sum(map(len, spec["channels"])) if spec["role"] == "subscribe" else 0
    return int(spec["connections"]) + subscriptions
