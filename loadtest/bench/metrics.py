"""CPU time of the server's counters for a call and for an event: ``python -m loadtest.bench.metrics [REPETITIONS]``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from juggler.process.metrics import Metrics
from loadtest.bench.harness.programs import emit


def handled(metrics: Metrics, number: int) -> None:
    """Count a handled message as the server does."""
    began = time.monotonic()
    if time.monotonic() - began > metrics.slow_after:
        metrics.slow[number] += 1


def round_trip(metrics: Metrics) -> None:
    """Count a CALL, its ACK and its RES: three messages."""
    metrics.read[1] += 1
    handled(metrics, 1)
    began = time.monotonic()
    metrics.written[8] += 1
    metrics.observe_call("test.echo", time.monotonic() - began)
    metrics.written[9] += 1


def event(metrics: Metrics) -> None:
    """Count a delivered event."""
    metrics.written[10] += 1


def nothing(metrics: Metrics) -> None:
    """Count nothing, to measure the loop."""


def microseconds(function: Callable[[Metrics], None], repetitions: int) -> float:
    """Return the CPU time of one call of a function in microseconds."""
    metrics = Metrics()
    began = time.process_time()
    for _ in range(repetitions):
        function(metrics)
    return (time.process_time() - began) / repetitions * 1e6


def main() -> None:
    """Measure and print."""
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 300_000
    loop = microseconds(nothing, repetitions)
    for title, function, messages in (("call, ACK, result", round_trip, 3), ("event", event, 1)):
        cost = microseconds(function, repetitions) - loop
        emit(title, {"counting µs": cost, "message µs": cost / messages})


if __name__ == "__main__":
    main()
