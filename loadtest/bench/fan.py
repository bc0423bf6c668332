"""``fan``: events from a few publishers to many subscribers: deliveries a second, and their latency."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from loadtest.bench.harness import benchmark
from loadtest.bench.harness.benchmark import MAX_CONNECTIONS, Benchmark
from loadtest.bench.harness.load import Load, Sample, Spec, shares
from loadtest.bench.harness.measured_stack import Measured, MeasuredStack
from loadtest.bench.harness.progress import Progress
from loadtest.bench.harness.report import Row, plural, row_of


class Pipes:
    """A pipe for each publisher, on which subscriber processes report deliveries; a context manager."""

    def __init__(self, publishers: int) -> None:
        pairs = [os.pipe() for _ in range(publishers)]
        self.write_fds = [write for _, write in pairs]
        self.read_fds = [read for read, _ in pairs]

    def __enter__(self) -> Pipes:  # noqa: PYI034 (typing.Self is of Python 3.11)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for fd in self.all:
            os.close(fd)

    @property
    def all(self) -> list[int]:
        return [*self.write_fds, *self.read_fds]


def to_all(
    stack: Measured,
    *,
    subscribers: int,
    publishers: int,
    in_flight: int,
    seconds: float,
    payload: int,
    generators: int,
) -> dict[str, Sample]:
    """Measure one channel with all subscribers; the next event is published when all of them have received one."""
    parts = shares(subscribers, generators)
    with Pipes(publishers) as pipes:
        specs = [subscribing(pipes, channels=[[0]] * share, report_after=share) for share in parts] + [
            publishing(pipes, number, processes=len(parts), channels=1, in_flight=in_flight, payload=payload)
            for number in range(publishers)
        ]
        return _measure(stack, specs, pipes, seconds)


def to_one(
    stack: MeasuredStack, *, channels: int, connections: int, in_flight: int, seconds: float, generators: int
) -> dict[str, Sample]:
    """Measure channels with one subscriber each, spread over connections, and one publisher to all of them in turn."""
    lists = [list(range(number, channels, connections)) for number in range(min(connections, channels))]
    with Pipes(1) as pipes:
        parts = shares(len(lists), generators)
        specs, taken = [], 0
        for share in parts:
            specs.append(subscribing(pipes, channels=lists[taken : taken + share], report_after=1))
            taken += share
        specs.append(publishing(pipes, 0, processes=1, channels=channels, in_flight=in_flight, payload=0))
        return _measure(stack, specs, pipes, seconds)


def subscribing(pipes: Pipes, *, channels: Sequence[Sequence[int]], report_after: int) -> Spec:
    """Return the spec of a subscriber process: the channels of each connection, and the events between reports."""
    return {
        "role": "subscribe",
        "connections": len(channels),
        "channels": channels,
        "report_fds": pipes.write_fds,
        "report_after": report_after,
    }


def publishing(pipes: Pipes, number: int, *, processes: int, channels: int, in_flight: int, payload: int) -> Spec:
    """Return the spec of a publisher, which waits for a report from ``processes`` processes after each event."""
    return {
        "role": "publish",
        "connections": 1,
        "publisher": number,
        "channels": channels,
        "report_fd": pipes.read_fds[number],
        "processes": processes,
        "in_flight": in_flight,
        "payload_bytes": payload,
    }


def _measure(stack: Measured, specs: Sequence[Spec], pipes: Pipes, seconds: float) -> dict[str, Sample]:
    with Load(stack, specs, pass_fds=pipes.all) as load:
        return load.measure(seconds)


def run(
    progress: Progress,
    *,
    subscribers: int,
    publishers: int,
    in_flight: int,
    seconds: float,
    payload: int,
    generators: int,
    workers: int,
) -> Iterator[Row]:
    """Events to many subscribers of one channel, in a closed loop.

    A publisher publishes the next event when all subscribers have received one. Latency is the time from publishing to
    the arrival at each subscriber. µs are CPU time of one delivery, by process.
    """
    progress.step("fan: starting")
    with MeasuredStack(connections=subscribers + publishers, workers=workers, callees=0) as stack:
        label = f"{plural(subscribers, 'subscriber')}, {plural(publishers, 'publisher')}"
        progress.step(f"fan: {label}, {seconds:g} s")
        samples = to_all(
            stack,
            subscribers=subscribers,
            publishers=publishers,
            in_flight=in_flight,
            seconds=seconds,
            payload=payload,
            generators=generators,
        )
        row = row_of(label, "delivered", samples["subscribe"])
        row.values["published/s"] = samples["publish"].rate
        yield row


BENCHMARK = Benchmark(
    "fan",
    "events delivered a second to many subscribers, and their latency",
    [
        benchmark.number("--subscribers", 500, "Subscribers of the channel.", most=MAX_CONNECTIONS),
        benchmark.number("--publishers", 1, "Connections that publish, a process each.", most=16),
        benchmark.number("--in-flight", 1, "Events in flight of each publisher.", most=100),
        benchmark.seconds(5.0),
        benchmark.payload(),
        benchmark.generators(),
        benchmark.workers(),
    ],
    run,
)
