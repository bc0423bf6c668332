"""The measurements of single layers, which are programs of their own: they patch their process, or serve in it.

Each runs as ``python -m loadtest.bench.<name>`` too, and prints the same.
"""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from loadtest.bench import benchmark
from loadtest.bench.benchmark import Benchmark
from loadtest.bench.children import Children
from loadtest.bench.emitting import ROWS
from loadtest.bench.errors import BenchError
from loadtest.bench.progress import Progress
from loadtest.bench.report import Row

SILENCE = 120.0
ROUNDS = 40
"""Seconds without a line after which one is taken for dead, and measurements between two lines."""


def layer(name: str, summary: str, doc: str, options: Sequence[click.Option] = ()) -> Benchmark:
    """Return what runs ``loadtest.bench.<name>``, with the options' values as arguments in their order."""

    def run(progress: Progress, **values: Any) -> Iterator[Row]:
        progress.step(f"{name}: {summary}")
        yield from _rows(progress, name, [str(value) for value in values.values()], values.get("seconds", 0.0))

    run.__doc__ = doc
    return Benchmark(name, summary, options, run)


def _rows(progress: Progress, name: str, arguments: Sequence[str], seconds: float) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="juggler-bench-") as directory, Children() as children:
        file = Path(directory, "rows.jsonl")
        child = children.start(
            f"benchmark {name}",
            ["-m", f"loadtest.bench.{name}", *arguments],
            environment={ROWS: str(file), "PYTHONUNBUFFERED": "1"},
            # As Ctrl-C does, so that it ends what it has started.
            stop_signal=signal.SIGINT,
        )
        while (line := child.hear(SILENCE + ROUNDS * seconds)) is not None:
            progress.step(f"{name}: {line.strip()}")
        if not file.exists():
            raise BenchError(f"the benchmark {name} has found nothing")
        yield from (Row.from_json(json.loads(line)) for line in file.read_text().splitlines())


LAYERS = [
    layer(
        "websocket",
        "frames, beside stock gevent-websocket",
        "Time and memory of the websocket layer, beside stock gevent-websocket.\n\nµs are of the server's side alone.",
        [benchmark.number("--divisor", 1, "Makes it so many times shorter.", most=1000)],
    ),
    layer(
        "connection",
        "memory of a connection in the server alone",
        "Resident memory of an idle connection, with the memory broker: one that came, one that subscribed, one with a "
        "handler of the user's.",
        [benchmark.number("--connections", 2000, "Connections that are counted.", most=50_000)],
    ),
    layer(
        "redis_link",
        "the way through Redis, beside redis-py's pool",
        "The broker without websockets, beside redis-py used as it is meant to be.",
        [benchmark.seconds(2.0)],
    ),
    layer(
        "metrics",
        "what counting costs",
        "CPU time of the calls that count.",
        [benchmark.number("--repetitions", 300_000, "How often it counts.")],
    ),
    layer(
        "callee",
        "a call at the callee, by kind of function",
        "CPU time of a call at the callee, by kind of function. The medians of three rounds.",
        [benchmark.seconds(1.0), benchmark.in_flight(100)],
    ),
]
