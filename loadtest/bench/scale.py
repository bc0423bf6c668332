"""``scale``: how the cost of a call or event grows with connections, URIs and channels, and the gain of workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from loadtest.bench import fan, rpc
from loadtest.bench.harness import benchmark
from loadtest.bench.harness.benchmark import MAX_CONNECTIONS, Benchmark
from loadtest.bench.harness.measured_stack import MeasuredStack
from loadtest.bench.harness.progress import Progress
from loadtest.bench.harness.report import Row, plural, row_of

CONNECTIONS = (100, 300, 1000, 3000, 5000)
NAMES = (1, 10, 100, 1000, 10_000)
WORKERS = (1, 2)
HUNDRED = 100
"""Connections, or events in flight, where these are not varied."""


def run(
    progress: Progress,
    *,
    connections: Sequence[int],
    uris: Sequence[int],
    channels: Sequence[int],
    workers: Sequence[int],
    only: Sequence[str],
    seconds: float,
    generators: int,
) -> Iterator[Row]:
    """Cost of a call by number of connections and of URIs, cost of an event by number of channels, gain of workers.

    Each connection has one call in flight. URIs are called and channels published to in turn, over 100 connections;
    each channel has one subscriber. Workers are compared on a server whose handler takes 300 µs of CPU time for each
    call. A number replaces the default numbers of its kind: --connections 100 --connections 5000.
    """
    if "connections" in only:
        yield from _connections(progress, sorted(connections), seconds, generators)
    if "uris" in only:
        for count in sorted(uris):
            yield _uris(progress, count, seconds, generators)
    if "channels" in only:
        yield from _channels(progress, sorted(channels), seconds, generators)
    if "workers" in only:
        for count in sorted(workers):
            yield _workers(progress, count, seconds, generators)


def _connections(progress: Progress, counts: Sequence[int], seconds: float, generators: int) -> Iterator[Row]:
    with MeasuredStack(connections=max(counts)) as stack:
        for count in counts:
            progress.step(f"scale: {plural(count, 'connection')}, {seconds:g} s")
            sample = rpc.measure(stack, connections=count, seconds=seconds, args="x" * 5, generators=generators)
            yield row_of(plural(count, "connection"), "done", sample, x=count, curve="connections")


def _uris(progress: Progress, count: int, seconds: float, generators: int) -> Row:
    progress.step(f"scale: {plural(count, 'URI')}, {seconds:g} s")
    with MeasuredStack(delays=count) as stack:
        uris = [f"test.delay.{number}" for number in range(count)]
        sample = rpc.measure(stack, connections=HUNDRED, seconds=seconds, uris=uris, args="0", generators=generators)
        return row_of(plural(count, "URI"), "done", sample, x=count, curve="URIs")


def _channels(progress: Progress, counts: Sequence[int], seconds: float, generators: int) -> Iterator[Row]:
    with MeasuredStack(callees=0) as stack:
        for count in counts:
            progress.step(f"scale: {plural(count, 'channel')}, {seconds:g} s")
            samples = fan.to_one(
                stack,
                channels=count,
                connections=HUNDRED,
                in_flight=HUNDRED,
                seconds=seconds,
                generators=generators,
            )
            yield row_of(plural(count, "channel"), "done", samples["subscribe"], x=count, curve="channels")


def _workers(progress: Progress, count: int, seconds: float, generators: int) -> Row:
    progress.step(f"scale: {plural(count, 'worker')}, {seconds:g} s")
    with MeasuredStack(workers=count, app="loadtest.bench.busy_server:server") as stack:
        sample = rpc.measure(stack, connections=HUNDRED, seconds=seconds, generators=generators)
        return row_of(f"{plural(count, 'worker')}, busy", "done", sample, x=count, curve="workers")


KINDS = ("connections", "uris", "channels", "workers")

BENCHMARK = Benchmark(
    "scale",
    "cost of a call by connections and URIs, of an event by channels; gain of workers",
    [
        benchmark.numbers("--connections", CONNECTIONS, "Numbers of connections.", most=MAX_CONNECTIONS),
        benchmark.numbers("--uris", NAMES, "Numbers of URIs.", most=100_000),
        benchmark.numbers("--channels", NAMES, "Numbers of channels.", most=100_000),
        benchmark.numbers("--workers", WORKERS, "Numbers of server processes.", most=64),
        click.Option(
            ["--only"], type=click.Choice(KINDS), multiple=True, default=KINDS, help="Kind to vary. Default: all."
        ),
        benchmark.seconds(2.0),
        benchmark.generators(),
    ],
    run,
)
