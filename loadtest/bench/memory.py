"""``memory``: what one more connection or subscriber adds to the memory of server and Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator

from loadtest.bench.harness import benchmark
from loadtest.bench.harness.benchmark import MAX_CONNECTIONS, Benchmark
from loadtest.bench.harness.load import Load, Spec, shares
from loadtest.bench.harness.measured_stack import MeasuredStack
from loadtest.bench.harness.progress import Progress
from loadtest.bench.harness.report import COST, Row

WARM_UP = 100
"""Connections opened before the first reading, so that one-time allocations do not count."""
SETTLE_TIMEOUT = 3.0
SETTLE_INTERVAL = 0.1
SETTLED_BYTES = 1 << 16

STATES = {"idle connection": 0, "idle subscriber": 1}


def run(progress: Progress, *, connections: int, generators: int, workers: int) -> Iterator[Row]:
    """Resident memory of server and Redis for idle connections, and for subscribers of a channel each.

    KB are the memory added by these connections, divided by their number. µs are CPU time to open one, by process.
    """
    for label, channels in STATES.items():
        progress.step(f"memory: {connections:,} x {label}")
        with MeasuredStack(connections=connections + WARM_UP, workers=workers, callees=0) as stack:
            yield _measure(stack, label, channels, connections, generators)


def _measure(stack: MeasuredStack, label: str, channels: int, connections: int, generators: int) -> Row:
    with Load(stack, [_spec(0, WARM_UP, channels)]):
        memory, cpu = settled(stack), stack.cpu()
        began, taken, specs = time.monotonic(), WARM_UP, []
        for share in shares(connections, generators):
            specs.append(_spec(taken, share, channels))
            taken += share
        with Load(stack, specs) as load:
            elapsed = time.monotonic() - began
            used, load_cpu = stack.cpu(), load.cpu_seconds()
            grown = settled(stack)
    values = {f"{role} KB": (grown[role] - before) / connections / 1024 for role, before in memory.items()}
    values["opened/s"] = connections / elapsed
    values.update({role + COST: (used[role] - before) / connections * 1e6 for role, before in cpu.items()})
    values["load" + COST] = load_cpu / connections * 1e6
    return Row(label, values)


def _spec(first: int, connections: int, channels: int) -> Spec:
    lists = [[number] * channels for number in range(first, first + connections)]
    return {"role": "subscribe", "connections": connections, "channels": lists, "report_fds": [], "report_after": 0}


def settled(stack: MeasuredStack) -> dict[str, float]:
    """Return the memory by role once it no longer changes, or after `SETTLE_TIMEOUT`."""
    deadline = time.monotonic() + SETTLE_TIMEOUT
    last = stack.memory()
    while time.monotonic() < deadline:
        stack.wait(SETTLE_INTERVAL)
        now = stack.memory()
        if all(abs(now[role] - last[role]) < SETTLED_BYTES for role in now):
            return now
        last = now
    return last


BENCHMARK = Benchmark(
    "memory",
    "resident memory per idle connection and per idle subscriber",
    [
        benchmark.number("--connections", 2000, "Connections to measure.", most=MAX_CONNECTIONS),
        benchmark.generators(),
        benchmark.workers(),
    ],
    run,
)
