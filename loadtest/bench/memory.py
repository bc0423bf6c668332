"""``memory``: what one more connection, or subscriber, takes of a server's and Redis's memory."""

from __future__ import annotations

import time
from collections.abc import Iterator

from loadtest.bench import benchmark
from loadtest.bench.benchmark import MOST_CONNECTIONS, Benchmark
from loadtest.bench.load import Load, Spec, shares
from loadtest.bench.progress import Progress
from loadtest.bench.report import COST, Row
from loadtest.bench.rpc import options_of
from loadtest.bench.stack import Stack

WARM_UP = 100
"""Connections that come before: what is only needed once is not a connection's."""
SETTLE_TIMEOUT = 3.0
SETTLE_INTERVAL = 0.1
SETTLED_BYTES = 1 << 16

STATES = {"idle connection": 0, "idle subscriber": 1}


def run(progress: Progress, *, connections: int, generators: int, workers: int) -> Iterator[Row]:
    """Resident memory of server and Redis for connections that do nothing, and for subscribers of a channel each.

    It is what has been added by that many more connections, divided by their number. µs are CPU time to make one, by
    process.
    """
    for label, channels in STATES.items():
        progress.step(f"memory: {connections:,} times an {label}")
        options = options_of(connections + WARM_UP, workers)
        with Stack(workers=workers, callees=0, server_options=options) as stack:
            yield _measure(stack, label, channels, connections, generators)


def _measure(stack: Stack, label: str, channels: int, connections: int, generators: int) -> Row:
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
    values["made/s"] = connections / elapsed
    values.update({role + COST: (used[role] - before) / connections * 1e6 for role, before in cpu.items()})
    values["load" + COST] = load_cpu / connections * 1e6
    return Row(label, values)


def _spec(first: int, connections: int, channels: int) -> Spec:
    lists = [[number] * channels for number in range(first, first + connections)]
    return {"role": "subscribe", "connections": connections, "channels": lists, "told_fds": [], "told_after": 0}


def settled(stack: Stack) -> dict[str, float]:
    """Return the memory when it no longer changes, or after some seconds."""
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
        benchmark.number("--connections", 2000, "Connections that are counted.", most=MOST_CONNECTIONS),
        benchmark.generators(),
        benchmark.workers(),
    ],
    run,
)
