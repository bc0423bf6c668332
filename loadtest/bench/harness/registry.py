"""All benchmarks, in the order in which they are listed and run."""

from __future__ import annotations

from collections.abc import Iterable

from loadtest.bench import connect, fan, ladder, latency, memory, rpc, scale, streams
from loadtest.bench.harness.benchmark import Benchmark
from loadtest.bench.harness.programs import LAYERS
from loadtest.bench.peers import comparison
from loadtest.errors import LoadTestError

WHOLE = [module.BENCHMARK for module in (rpc, fan, latency, streams, ladder, memory, connect, scale, comparison)]
"""Benchmarks of the whole system: client, server, Redis, callee."""

BENCHMARKS = {each.name: each for each in (*WHOLE, *LAYERS)}


def named(names: Iterable[str]) -> list[Benchmark]:
    """Return benchmarks by name.

    Raises:
        LoadTestError: there is no such benchmark.
    """
    found = []
    for name in names:
        if name not in BENCHMARKS:
            raise LoadTestError(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
        found.append(BENCHMARKS[name])
    return found
