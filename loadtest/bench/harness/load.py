"""Load from several generator processes, and the samples that it yields: operations, rate, latency, CPU time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.bench.generator.histogram import Histogram
from loadtest.bench.harness.measured_stack import LOAD, Measured
from loadtest.children import Child, Children
from loadtest.errors import LoadTestError
from loadtest.procfs import cpu_seconds

READY_TIMEOUT = 60.0
READY_RATE = 200
"""Connections or subscriptions a second that the slowest machine is expected to open."""
REPORT_TIMEOUT = 15.0
FLOW_TIMEOUT = 30.0
FLOW_INTERVAL = 0.02
MAX_PROCESSES = 4

Spec = dict[str, Any]
"""What a generator process does: ``role``, and the members that its role reads."""


def default_processes() -> int:
    """Return the default number of generator processes: half of the CPUs, from 2 to `MAX_PROCESSES`."""
    return max(2, min(MAX_PROCESSES, (os.cpu_count() or 1) // 2))


def shares(total: int, processes: int) -> list[int]:
    """Divide ``total`` evenly among at most ``processes`` processes, leaving out those without a share."""
    each, more = divmod(total, processes)
    return [share for share in (each + (number < more) for number in range(processes)) if share]


@dataclass(frozen=True)
class Sample:
    """The result of a measurement.

    Attributes:
        count: operations.
        rate: operations a second.
        latency: durations of the operations, where they were timed.
        cpu: CPU seconds by role, of all operations together.
    """

    count: int
    rate: float
    latency: Histogram
    cpu: dict[str, float]

    def cost_us(self) -> dict[str, float]:
        """Return the CPU time of one operation in microseconds, by role."""
        return {role: seconds / max(self.count, 1) * 1e6 for role, seconds in self.cpu.items()}


class Load:
    """Generator processes that are connected and wait for `measure`; a context manager that stops them."""

    def __init__(
        self,
        stack: Measured,
        specs: Sequence[Spec],
        *,
        pass_fds: Sequence[int] = (),
        roles: dict[str, str] | None = None,
    ) -> None:
        """Start the generators, and wait until they are connected.

        Args:
            stack: what they connect to.
            specs: one for each process; ``port``, ``path`` and ``protocol`` are added.
            pass_fds: file descriptors that they inherit.
            roles: the name in tables by ``role`` of the spec. Default: "load".

        Raises:
            LoadTestError: a generator could not connect.
        """
        self._stack = stack
        self._specs = specs
        self._children = Children()
        self._pids: dict[str, list[int]] = {}
        try:
            self._generators = [self._start(spec, pass_fds, roles or {}) for spec in specs]
            timeout = READY_TIMEOUT + sum(map(_size, specs)) / READY_RATE
            for generator in self._generators:
                if generator.hear(timeout) != "ready":
                    raise LoadTestError("a generator exited before it was ready")
        except BaseException:
            self._children.stop()
            raise

    def __enter__(self) -> Load:  # noqa: PYI034 (typing.Self is of Python 3.11)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._children.stop()

    def measure(self, seconds: float) -> dict[str, Sample]:
        """Warm up, measure, stop the generators, and return the samples by ``role`` of the spec.

        Raises:
            LoadTestError: a process exited, or nothing was done.
        """
        self._tell("go")
        self._stack.wait(min(1.0, seconds / 4))
        self._wait_until_it_flows()
        self._tell("mark")
        before = self._stack.cpu(self._pids)
        self._stack.wait(seconds)
        self._children.check()
        self._tell("stop")
        after = self._stack.cpu(self._pids)
        cpu = {role: after[role] - then for role, then in before.items()}
        reports = [self._report(generator) for generator in self._generators]
        self._children.stop()
        return self._samples(reports, cpu)

    def cpu_seconds(self) -> float:
        """Return the CPU seconds used by all generators so far."""
        return sum(cpu_seconds(pid) for pids in self._pids.values() for pid in pids)

    def _start(self, spec: Spec, pass_fds: Sequence[int], roles: dict[str, str]) -> Child:
        child = self._children.start("generator", ["-m", "loadtest.bench.generator"], pass_fds=pass_fds)
        stack = self._stack
        child.tell(json.dumps({"port": stack.port, "path": stack.path, "protocol": stack.protocol, **spec}))
        self._pids.setdefault(roles.get(spec["role"], LOAD), []).append(child.pid)
        return child

    def _tell(self, line: str) -> None:
        for generator in self._generators:
            generator.tell(line)

    def _wait_until_it_flows(self) -> None:
        # The first responses to thousands of connections arrive late, and all at once.
        deadline = time.monotonic() + FLOW_TIMEOUT
        for generator in self._generators:
            while True:
                generator.tell("flows?")
                if generator.hear(REPORT_TIMEOUT) == "yes":
                    break
                if time.monotonic() > deadline:
                    raise LoadTestError(
                        f"some connections had no response within {FLOW_TIMEOUT:g} s: is the URI registered?"
                    )
                self._stack.wait(FLOW_INTERVAL)

    def _report(self, generator: Child) -> dict[str, Any]:
        line = generator.hear(REPORT_TIMEOUT)
        if line is None:
            raise LoadTestError("a generator exited without a report")
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
            raise LoadTestError("no operation completed while measuring: measure for longer (--seconds)")
        return samples


def _size(spec: Spec) -> int:
    subscriptions = sum(map(len, spec["channels"])) if spec["role"] == "subscribe" else 0
    return int(spec["connections"]) + subscriptions
