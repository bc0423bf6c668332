"""``latency``: the latency of a server that has nothing else to do."""

from __future__ import annotations

from collections.abc import Iterator

from loadtest.bench import fan, rpc
from loadtest.bench.harness import benchmark
from loadtest.bench.harness.benchmark import Benchmark
from loadtest.bench.harness.measured_stack import MeasuredStack
from loadtest.bench.harness.progress import Progress
from loadtest.bench.harness.report import Row, row_of


def run(progress: Progress, *, seconds: float, payload: int) -> Iterator[Row]:
    """One call in flight, then one event in flight to one subscriber.

    This is what a user waits for when nothing is queued. µs are CPU time of one call or event, by process: more than
    under load, where one wake-up of a process handles many.
    """
    progress.step("latency: starting")
    with MeasuredStack() as stack:
        progress.step(f"latency: one call in flight, {seconds:g} s")
        sample = rpc.measure(stack, connections=1, seconds=seconds, args="x" * payload, generators=1)
        yield row_of("a call, to its result", "done", sample)
        progress.step(f"latency: one event in flight, {seconds:g} s")
        samples = fan.to_all(
            stack, subscribers=1, publishers=1, in_flight=1, seconds=seconds, payload=payload, generators=1
        )
        yield row_of("an event, to its subscriber", "done", samples["subscribe"])


BENCHMARK = Benchmark(
    "latency",
    "one call or event in flight: p50, p90, p99",
    [benchmark.seconds(3.0), benchmark.payload()],
    run,
)
