"""All benchmarks, in the order in which they are listed and run."""

from __future__ import annotations

from collections.abc import Iterable

from loadtest.bench import connect, fan, ladder, latency, memory, rpc, scale
from loadtest.bench.benchmark import Benchmark
from loadtest.bench.errors import BenchError
from loadtest.bench.layers import LAYERS

WHOLE = [module.BENCHMARK for module in (rpc, fan, latency, ladder, memory, connect, scale)]
"""Those of the whole: client, server, Redis, callee."""

BENCHMARKS = {each.name: each for each in (*WHOLE, *LAYERS)}


def named(names: Iterable[str]) -> list[Benchmark]:
    """Return benchmarks by name.

    Raises:
        BenchError: there is no such benchmark.
    """
    found = []
    for name in names:
        if name not in BENCHMARKS:
            raise BenchError(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
        found.append(BENCHMARKS[name])
    return found
