"""``connect``: how many connections a second can be made, and what one costs."""

from __future__ import annotations

from collections.abc import Iterator

from loadtest.bench import benchmark
from loadtest.bench.benchmark import Benchmark
from loadtest.bench.load import Load, shares
from loadtest.bench.progress import Progress
from loadtest.bench.report import Row, row_of
from loadtest.bench.rpc import options_of
from loadtest.bench.stack import Stack

KINDS: dict[str, list[str]] = {"connect, close": [], "connect, subscribe, close": ["bench"]}


def run(progress: Progress, *, at_a_time: int, seconds: float, generators: int, workers: int) -> Iterator[Row]:
    """Connections that are made and closed again, then the same with a subscription, several at a time.

    Latency is from connecting to the answer of the handshake, or to the ACK of the subscription. µs are CPU time for
    one that is made and closed, by process.
    """
    progress.step("connect: starting")
    with Stack(workers=workers, callees=0, server_options=options_of(at_a_time, workers)) as stack:
        for label, channels in KINDS.items():
            progress.step(f"connect: {label}, {at_a_time:,} at a time, {seconds:g} s")
            specs = [
                {"role": "connect", "connections": share, "channels": channels}
                for share in shares(at_a_time, generators)
            ]
            with Load(stack, specs) as load:
                yield row_of(label, "connections", load.measure(seconds)["connect"])


BENCHMARK = Benchmark(
    "connect",
    "connections made a second, CPU time of one",
    [
        benchmark.number("--at-a-time", 16, "Connections that are being made.", most=1000),
        # Each leaves a port behind for a minute.
        benchmark.seconds(3.0),
        benchmark.generators(),
        benchmark.workers(),
    ],
    run,
)
