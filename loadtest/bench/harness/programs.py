"""Benchmarks of one layer, which are programs of their own: they patch their process, or serve in it.

Each also runs as ``python -m loadtest.bench.<name>`` and prints the same.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from loadtest.bench.harness import benchmark
from loadtest.bench.harness.benchmark import Benchmark
from loadtest.bench.harness.progress import Progress
from loadtest.bench.harness.report import Row, shown
from loadtest.children import Children
from loadtest.errors import LoadTestError

ROWS = "JUGGLER_BENCH_ROWS"
"""Environment variable with the path of the file for a program's rows; without it, they are only printed."""

SILENCE = 120.0
"""Seconds without output after which a program counts as hanging, beside those of its measurements."""
MEASUREMENTS_PER_LINE = 40


def emit(label: str, values: dict[str, float]) -> None:
    """Print a row of a program, and report it; values are those of a `Row`."""
    print(f"{label}: " + ", ".join(f"{name} {shown(value)}" for name, value in values.items()), flush=True)
    if path := os.environ.get(ROWS):
        with open(path, "a") as file:
            file.write(json.dumps({"label": label, "values": values}) + "\n")


def layer(name: str, summary: str, doc: str, options: Sequence[click.Option] = ()) -> Benchmark:
    """Return the benchmark that runs ``loadtest.bench.<name>`` with the values of the options as arguments."""

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
            # As Ctrl-C does, so that it stops its own children.
            stop_signal=signal.SIGINT,
        )
        while (line := child.hear(SILENCE + MEASUREMENTS_PER_LINE * seconds)) is not None:
            progress.step(f"{name}: {line.strip()}")
        if not file.exists():
            raise LoadTestError(f"the benchmark {name} reported no rows")
        yield from (Row.from_json(json.loads(line)) for line in file.read_text().splitlines())


LAYERS = [
    layer(
        "websocket",
        "frames, compared with stock gevent-websocket",
        "Time and memory of the websocket layer, compared with stock gevent-websocket.\n\nµs are CPU time of the "
        "server's side.",
        [benchmark.number("--divisor", 1, "Divides the number of rounds.", most=1000)],
    ),
    layer(
        "connection",
        "memory of a connection in a server without Redis",
        "Resident memory of an idle connection on a server with the memory broker: without requests, with a "
        "subscription, and with a handler of your own.",
        [benchmark.number("--connections", 2000, "Connections to measure.", most=50_000)],
    ),
    layer(
        "redis_link",
        "the broker without websockets, compared with redis-py's pool",
        "CPU time of the broker without websockets, compared with redis-py's connection pool.",
        [benchmark.seconds(2.0)],
    ),
    layer(
        "metrics",
        "CPU time of counting",
        "CPU time of the server's counters.",
        [benchmark.number("--repetitions", 300_000, "Repetitions of each measurement.")],
    ),
    layer(
        "callee",
        "a call at the callee, by kind of function",
        "CPU time of a call at the callee, by kind of function: medians of three rounds.",
        [benchmark.seconds(1.0), benchmark.in_flight(100)],
    ),
]
