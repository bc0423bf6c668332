"""``rpc``: how many calls a second go all the way, and what one costs whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from loadtest.bench import benchmark
from loadtest.bench.benchmark import Benchmark
from loadtest.bench.limits import allow_connections
from loadtest.bench.load import Load, Sample, Spec, shares
from loadtest.bench.progress import Progress
from loadtest.bench.report import Row, plural, row_of
from loadtest.bench.stack import Stack


def measure(
    stack: Stack,
    *,
    connections: int,
    in_flight: int = 1,
    seconds: float,
    uris: Sequence[str] = ("test.echo",),
    args: Any = "",
    generators: int,
) -> Sample:
    """Return what calls in a closed loop have shown: each that is answered is followed by the next."""
    specs: list[Spec] = [
        {"role": "call", "connections": share, "in_flight": in_flight, "args": args, "uris": mine}
        for share, mine in _divided(connections, generators, uris)
    ]
    with Load(stack, specs) as load:
        return load.measure(seconds)["call"]


def _divided(connections: int, generators: int, uris: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield the number of connections of each process, and the URIs that it calls: between them, all."""
    parts = shares(connections, generators)
    for number, share in enumerate(parts):
        yield share, uris[number :: len(parts)] or uris


def options_of(connections: int, workers: int = 1) -> list[str]:
    """Return options for a server that lets so many connections in, and see that it can have them."""
    # gunicorn's workers do not share them evenly: each has to be able to take all.
    allow_connections(connections)
    return ["--max-connections", str(connections + 100)]


def run(
    progress: Progress,
    *,
    connections: int,
    in_flight: int,
    seconds: float,
    uri: str,
    payload: int,
    generators: int,
    workers: int,
    callees: int,
) -> Iterator[Row]:
    """Full calls in a closed loop: client, server, Redis, callee, and back.

    Each connection has a number of calls in flight, and makes the next as soon as one is answered. Latency is from
    sending a call to having its result, under that load. µs are CPU time for one call, by process.
    """
    progress.step("rpc: starting")
    with Stack(workers=workers, callees=callees, server_options=options_of(connections, workers)) as stack:
        progress.step(f"rpc: {plural(connections, 'connection')}, {in_flight:,} in flight on each, {seconds:g} s")
        sample = measure(
            stack,
            connections=connections,
            in_flight=in_flight,
            seconds=seconds,
            uris=[uri],
            args="x" * payload,
            generators=generators,
        )
        yield row_of(f"{plural(connections, 'connection')}, {in_flight:,} in flight on each", "calls", sample)


BENCHMARK = Benchmark(
    "rpc",
    "full calls a second, their latency under load, CPU time of one",
    [
        benchmark.connections(100),
        benchmark.in_flight(),
        benchmark.seconds(5.0),
        click.Option(["--uri"], default="test.echo", show_default=True, help="What is called, with a string."),
        benchmark.payload(),
        benchmark.generators(),
        benchmark.workers(),
        benchmark.callees(),
    ],
    run,
)
