"""``rpc``: complete calls a second, and the CPU time of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from loadtest.bench.generator.wire import SUBPROTOCOLS
from loadtest.bench.harness import benchmark
from loadtest.bench.harness.benchmark import Benchmark
from loadtest.bench.harness.load import Load, Sample, Spec, shares
from loadtest.bench.harness.measured_stack import Measured, MeasuredStack
from loadtest.bench.harness.progress import Progress
from loadtest.bench.harness.report import Row, plural, row_of


def measure(
    stack: Measured,
    *,
    connections: int,
    in_flight: int = 1,
    seconds: float,
    uris: Sequence[str] = ("test.echo",),
    args: Any = "",
    generators: int,
    subprotocol: str = SUBPROTOCOLS[0],
) -> Sample:
    """Measure calls in a closed loop: the next call follows the result of the last one."""
    specs: list[Spec] = [
        {
            "role": "call",
            "connections": share,
            "in_flight": in_flight,
            "args": args,
            "uris": mine,
            "subprotocol": subprotocol,
        }
        for share, mine in _divided(connections, generators, uris)
    ]
    with Load(stack, specs) as load:
        return load.measure(seconds)["call"]


def _divided(connections: int, generators: int, uris: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield the number of connections of each process, and its share of the URIs."""
    parts = shares(connections, generators)
    for number, share in enumerate(parts):
        yield share, uris[number :: len(parts)] or uris


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
    subprotocol: str,
) -> Iterator[Row]:
    """Complete calls in a closed loop: client, server, Redis, callee, and back.

    Each connection has a number of calls in flight, and sends the next one when it receives a result. Latency is the
    time from sending a call to its result, under that load. µs are CPU time of one call, by process.
    """
    progress.step("rpc: starting")
    with MeasuredStack(connections=connections, workers=workers, callees=callees) as stack:
        label = f"{plural(connections, 'connection')}, {in_flight:,} in flight on each"
        progress.step(f"rpc: {label}, {seconds:g} s")
        sample = measure(
            stack,
            connections=connections,
            in_flight=in_flight,
            seconds=seconds,
            uris=[uri],
            args="x" * payload,
            generators=generators,
            subprotocol=subprotocol,
        )
        yield row_of(label, "calls", sample)


def subprotocol(default: str) -> click.Option:
    return click.Option(
        ["--subprotocol"],
        type=click.Choice(SUBPROTOCOLS),
        default=default,
        show_default=True,
        help="Subprotocol; revisions before juggler.1 speak juggler.0.",
    )


BENCHMARK = Benchmark(
    "rpc",
    "complete calls a second, their latency under load, CPU time of one",
    [
        benchmark.connections(100),
        benchmark.in_flight(),
        benchmark.seconds(5.0),
        click.Option(["--uri"], default="test.echo", show_default=True, help="URI to call, with a string."),
        benchmark.payload(),
        benchmark.generators(),
        benchmark.workers(),
        benchmark.callees(),
        subprotocol(SUBPROTOCOLS[0]),
    ],
    run,
)
