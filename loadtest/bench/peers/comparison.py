"""``peers``: juggler and other systems under the same load, measured in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median

import click

from loadtest.bench import fan, rpc
from loadtest.bench.generator.wire import SUBPROTOCOLS
from loadtest.bench.harness import benchmark
from loadtest.bench.harness.benchmark import MAX_CONNECTIONS, Benchmark
from loadtest.bench.harness.load import Sample
from loadtest.bench.harness.measured_stack import LOAD, Measured, MeasuredStack
from loadtest.bench.harness.progress import Progress
from loadtest.bench.harness.ratios import ratio
from loadtest.bench.harness.report import COST, RATE, Row, shown
from loadtest.bench.peers.stacks import IN_FLIGHT, PEERS, URI, PeerStack

DONE = "done"
ALL = "all" + COST

Measure = Callable[[Measured], Sample]


def run(
    progress: Progress,
    *,
    only: Sequence[str],
    rounds: int,
    seconds: float,
    connections: int,
    subscribers: int,
    payload: int,
    generators: int,
    subprotocol: str,
) -> Iterator[Row]:
    """Ratio of juggler to other systems under the same load: calls with 1 and 10 in flight, and fan-out.

    juggler and the peer take turns. Rates and µs are medians of the rounds; "all" is the sum of the server-side
    processes. A ratio is juggler's value divided by the peer's: median, lowest and highest of the rounds. A peer
    that is not installed is reported with the command that installs it.
    """
    calls = {
        f"{in_flight} in flight": partial(
            rpc.measure,
            connections=connections,
            in_flight=in_flight,
            seconds=seconds,
            uris=[URI],
            args="x" * payload,
            generators=generators,
            subprotocol=subprotocol,
        )
        for in_flight in IN_FLIGHT
    }
    events = {
        "fan-out": partial(_fan, subscribers=subscribers, seconds=seconds, payload=payload, generators=generators)
    }
    needed = max(connections, subscribers + 1)
    chosen = [PEERS[name] for name in only]
    installed = [peer for peer in chosen if peer.is_installed()]
    if installed:
        progress.step("peers: starting")
        with MeasuredStack(connections=needed) as juggler:
            for peer in installed:
                with peer(needed) as stack:
                    for label, measure in {**calls, **(events if peer.fans_out else {})}.items():
                        yield from _pair(progress, label, juggler, stack, measure, rounds)
    for peer in chosen:
        if peer not in installed:
            yield Row(f"{peer.name} is not installed: {peer.install}", {})


def _fan(stack: Measured, *, subscribers: int, seconds: float, payload: int, generators: int) -> Sample:
    samples = fan.to_all(
        stack,
        subscribers=subscribers,
        publishers=1,
        in_flight=1,
        seconds=seconds,
        payload=payload,
        generators=generators,
    )
    return samples["subscribe"]


def _pair(
    progress: Progress, label: str, juggler: Measured, peer: PeerStack, measure: Measure, rounds: int
) -> Iterator[Row]:
    """Measure both in turn, and yield the row of each."""
    mine: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    for number in range(1, rounds + 1):
        for name, stack, series in ((peer.name, peer, theirs), ("juggler", juggler, mine)):
            values = _values(measure(stack))
            series.append(values)
            found = f"{shown(values[DONE + RATE])}/s, {shown(values[ALL])} µs"
            progress.step(f"peers: {label}, round {number} of {rounds}, {name}: {found}")
    yield Row(f"{label}: {peer.name}", _medians(theirs))
    yield Row(
        f"{label}: juggler beside {peer.name}",
        {**_medians(mine), **_ratios("", DONE + RATE, mine, theirs), **_ratios("CPU ", ALL, mine, theirs)},
    )


def _values(sample: Sample) -> dict[str, float]:
    costs = sample.cost_us()
    return {
        DONE + RATE: sample.rate,
        ALL: sum(cost for role, cost in costs.items() if role != LOAD),
        **{role + COST: cost for role, cost in costs.items()},
    }


def _medians(series: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: median(values[name] for values in series) for name in series[0]}


def _ratios(
    prefix: str, name: str, mine: Sequence[dict[str, float]], theirs: Sequence[dict[str, float]]
) -> dict[str, float]:
    """Return the ratios of a value; none if it was too small to be counted."""
    found = ratio([values[name] for values in theirs], [values[name] for values in mine])
    if found is None:
        return {}
    return {f"{prefix}ratio": found.middle, f"{prefix}lowest": found.lowest, f"{prefix}highest": found.highest}


BENCHMARK = Benchmark(
    "peers",
    "ratio of juggler to NATS, Socket.IO and a BRPOP worker, in turn",
    [
        click.Option(
            ["--only"],
            type=click.Choice(list(PEERS)),
            multiple=True,
            default=list(PEERS),
            show_default=True,
            help="Peer to compare with; repeatable.",
        ),
        benchmark.number("--rounds", 3, "Measurements of each side.", most=100),
        benchmark.seconds(1.0),
        benchmark.connections(100),
        benchmark.number("--subscribers", 500, "Subscribers of one channel.", most=MAX_CONNECTIONS),
        benchmark.payload(),
        benchmark.generators(),
        rpc.subprotocol(SUBPROTOCOLS[-1]),
    ],
    run,
)
