"""``connect``: connections that can be opened a second, and the CPU time of one."""

from __future__ import annotations

from collections.abc import Iterator

from loadtest.bench.harness import benchmark
from loadtest.bench.harness.benchmark import Benchmark
from loadtest.bench.harness.load import Load, shares
from loadtest.bench.harness.measured_stack import MeasuredStack
from loadtest.bench.harness.progress import Progress
from loadtest.bench.harness.report import Row, row_of

KINDS: dict[str, list[str]] = {"connect, close": [], "connect, subscribe, close": ["bench"]}


def run(progress: Progress, *, at_a_time: int, seconds: float, generators: int, workers: int) -> Iterator[Row]:
    """Open and close connections, without and with a subscription, several concurrently.

    Latency is the time from connecting to the handshake's response, or to the ACK of the subscription. µs are CPU time
    to open and close one connection, by process.
    """
    progress.step("connect: starting")
    with MeasuredStack(connections=at_a_time, workers=workers, callees=0) as stack:
        for label, channels in KINDS.items():
            progress.step(f"connect: {label}, {at_a_time:,} concurrently, {seconds:g} s")
            specs = [
                {"role": "connect", "connections": share, "channels": channels}
                for share in shares(at_a_time, generators)
            ]
            with Load(stack, specs) as load:
                yield row_of(label, "connections", load.measure(seconds)["connect"])


BENCHMARK = Benchmark(
    "connect",
    "connections opened a second, CPU time of one",
    [
        benchmark.number("--at-a-time", 16, "Connections opened concurrently.", most=1000),
        # Each connection occupies a local port for a minute.
        benchmark.seconds(3.0),
        benchmark.generators(),
        benchmark.workers(),
    ],
    run,
)
