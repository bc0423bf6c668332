"""``fan``: one event to many subscribers; how many are delivered a second, and how long they take."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from loadtest.bench import benchmark
from loadtest.bench.benchmark import MOST_CONNECTIONS, Benchmark
from loadtest.bench.load import Load, Sample, Spec, shares
from loadtest.bench.progress import Progress
from loadtest.bench.report import Row, plural, row_of
from loadtest.bench.rpc import options_of
from loadtest.bench.stack import Stack


class Pipes:
    """A pipe for each publisher, on which the processes of subscribers tell it what is delivered; with ``with``."""

    def __init__(self, publishers: int) -> None:
        pairs = [os.pipe() for _ in range(publishers)]
        self.told_fds = [write for _, write in pairs]
        self.hearing_fds = [read for read, _ in pairs]

    def __enter__(self) -> Pipes:  # noqa: PYI034 (typing.Self is of Python 3.11)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for fd in self.all:
            os.close(fd)

    @property
    def all(self) -> list[int]:
        return [*self.told_fds, *self.hearing_fds]


def to_all(
    stack: Stack, *, subscribers: int, publishers: int, in_flight: int, seconds: float, payload: int, generators: int
) -> dict[str, Sample]:
    """Measure one channel that all are subscribed to; an event follows when one is at all of them."""
    parts = shares(subscribers, generators)
    with Pipes(publishers) as pipes:
        specs = [subscribing(pipes, channels=[[0]] * share, told_after=share) for share in parts] + [
            publishing(pipes, number, processes=len(parts), channels=1, in_flight=in_flight, payload=payload)
            for number in range(publishers)
        ]
        return _measure(stack, specs, pipes, seconds)


def to_one(
    stack: Stack, *, channels: int, connections: int, in_flight: int, seconds: float, generators: int
) -> dict[str, Sample]:
    """Measure channels with one subscriber each, spread over connections, and one publisher that takes them in turn."""
    lists = [list(range(number, channels, connections)) for number in range(min(connections, channels))]
    with Pipes(1) as pipes:
        parts = shares(len(lists), generators)
        specs, taken = [], 0
        for share in parts:
            specs.append(subscribing(pipes, channels=lists[taken : taken + share], told_after=1))
            taken += share
        specs.append(publishing(pipes, 0, processes=1, channels=channels, in_flight=in_flight, payload=0))
        return _measure(stack, specs, pipes, seconds)


def subscribing(pipes: Pipes, *, channels: Sequence[Sequence[int]], told_after: int) -> Spec:
    """Return the spec of a process of subscribers: the channels of each, and after how many events it tells."""
    return {
        "role": "subscribe",
        "connections": len(channels),
        "channels": channels,
        "told_fds": pipes.told_fds,
        "told_after": told_after,
    }


def publishing(pipes: Pipes, number: int, *, processes: int, channels: int, in_flight: int, payload: int) -> Spec:
    """Return the spec of a publisher, which waits to be told by so many processes."""
    return {
        "role": "publish",
        "connections": 1,
        "publisher": number,
        "channels": channels,
        "told_fd": pipes.hearing_fds[number],
        "processes": processes,
        "in_flight": in_flight,
        "payload_bytes": payload,
    }


def _measure(stack: Stack, specs: Sequence[Spec], pipes: Pipes, seconds: float) -> dict[str, Sample]:
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

    A publisher publishes the next event when one is at all subscribers. Latency is from publishing to a subscriber
    having the event, of all of them. µs are CPU time for one event at one subscriber, by process.
    """
    progress.step("fan: starting")
    options = options_of(subscribers + publishers, workers)
    with Stack(workers=workers, callees=0, server_options=options) as stack:
        progress.step(f"fan: {plural(subscribers, 'subscriber')}, {plural(publishers, 'publisher')}, {seconds:g} s")
        samples = to_all(
            stack,
            subscribers=subscribers,
            publishers=publishers,
            in_flight=in_flight,
            seconds=seconds,
            payload=payload,
            generators=generators,
        )
        row = row_of(
            f"{plural(subscribers, 'subscriber')}, {plural(publishers, 'publisher')}", "delivered", samples["subscribe"]
        )
        row.values["published/s"] = samples["publish"].rate
        yield row


BENCHMARK = Benchmark(
    "fan",
    "events delivered a second to many subscribers, and how long they take",
    [
        benchmark.number("--subscribers", 500, "Subscribers of the channel.", most=MOST_CONNECTIONS),
        benchmark.number("--publishers", 1, "Connections that publish, a process each.", most=16),
        benchmark.number("--in-flight", 1, "Events of each publisher that are under way.", most=100),
        benchmark.seconds(5.0),
        benchmark.payload(),
        benchmark.generators(),
        benchmark.workers(),
    ],
    run,
)
