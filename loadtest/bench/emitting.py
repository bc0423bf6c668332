"""How a measurement that is a program of its own hands its rows to ``python -m loadtest.bench run``."""

from __future__ import annotations

import json
import os

ROWS = "JUGGLER_BENCH_ROWS"
"""The variable that names the file to which rows go; without it they are only printed."""


def emit(label: str, values: dict[str, float]) -> None:
    """Hand a row over; names of values are those of `loadtest.bench.report.Row`."""
    if path := os.environ.get(ROWS):
        with open(path, "a") as file:
            file.write(json.dumps({"label": label, "values": values}) + "\n")
