"""``latency``: what one waits for a server that has nothing else to do."""

from __future__ import annotations

from collections.abc import Iterator

from loadtest.bench import benchmark, fan, rpc
from loadtest.bench.benchmark import Benchmark
from loadtest.bench.progress import Progress
from loadtest.bench.report import Row, row_of
from loadtest.bench.stack import Stack


def run(progress: Progress, *, seconds: float, payload: int) -> Iterator[Row]:
    """One call at a time, then one event at a time to one subscriber.

    This is what a user waits for, without a queue. µs are CPU time for one call or event, by process: more than under
    load, where processes wake up once for much.
    """
    progress.step("latency: starting")
    with Stack() as stack:
        progress.step(f"latency: one call at a time, {seconds:g} s")
        sample = rpc.measure(stack, connections=1, seconds=seconds, args="x" * payload, generators=1)
        yield row_of("a call, to its result", "done", sample)
        progress.step(f"latency: one event at a time, {seconds:g} s")
        samples = fan.to_all(
            stack, subscribers=1, publishers=1, in_flight=1, seconds=seconds, payload=payload, generators=1
        )
        yield row_of("an event, to its subscriber", "done", samples["subscribe"])


BENCHMARK = Benchmark(
    "latency",
    "one call or event at a time: p50, p90, p99",
    [benchmark.seconds(3.0), benchmark.payload()],
    run,
)
