"""Results of benchmarks: rows, printed as a table and saved as JSON.

The name of a value ends with its unit, which decides how it is drawn and whether more of it is better.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadtest.bench.generator.histogram import Histogram
from loadtest.bench.harness.load import Sample
from loadtest.bench.harness.measured_stack import CALLEE, LOAD, REDIS, SERVER
from loadtest.errors import LoadTestError

FORMAT = 1
QUANTILES = {"p50 ms": 0.5, "p90 ms": 0.9, "p99 ms": 0.99}
RATE = "/s"
COST = " µs"


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        label: what was measured.
        values: values by name with unit: ``calls/s``, ``p50 ms``, ``server µs``, ``server KB``.
        x: position on the curve; None for a row that is not on a curve.
        curve: name of the curve.
        latency: durations, where they were measured.
    """

    label: str
    values: dict[str, float]
    x: float | None = None
    curve: str = ""
    latency: Histogram | None = None

    def to_json(self) -> dict[str, Any]:
        made: dict[str, Any] = {"label": self.label, "values": {name: rounded(v) for name, v in self.values.items()}}
        if self.x is not None:
            made.update(x=self.x, curve=self.curve)
        if self.latency is not None:
            made["latency"] = self.latency.to_json()
        return made

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Row:
        latency = Histogram.from_json(data["latency"]) if "latency" in data else None
        return cls(data["label"], data["values"], data.get("x"), data.get("curve", ""), latency)


@dataclass(frozen=True)
class Result:
    """The rows of a benchmark, and its options."""

    benchmark: str
    options: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        rows = [row.to_json() for row in self.rows]
        return {"benchmark": self.benchmark, "options": self.options, "rows": rows}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Result:
        return cls(data["benchmark"], data["options"], [Row.from_json(row) for row in data["rows"]])


def row_of(label: str, unit: str, sample: Sample, *, x: float | None = None, curve: str = "") -> Row:
    """Return the row of a sample: ``unit`` a second, quantiles of the latency, and CPU time of one in µs."""
    values = {unit + RATE: sample.rate}
    latency = sample.latency if sample.latency.count else None
    if latency is not None:
        values.update({name: latency.quantile(share) * 1e3 for name, share in QUANTILES.items()})
        values["max ms"] = latency.longest_ns / 1e6
    values.update({role + COST: cost for role, cost in sample.cost_us().items()})
    return Row(label, values, x, curve, latency)


def in_order(names: Iterable[str]) -> list[str]:
    """Sort names of values: CPU times last, in the order in which a call passes the processes."""
    roles = {role + COST: number for number, role in enumerate((SERVER, REDIS, CALLEE, LOAD), 1)}
    return sorted(names, key=lambda name: roles.get(name, 0))


def more_is_better(name: str) -> bool:
    """Return whether a value is a rate rather than a cost."""
    return name.endswith(RATE)


def rounded(value: float) -> float:
    """Round a value to the five significant digits that are saved."""
    return float(f"{value:.5g}")


def shown(value: float) -> str:
    """Format a value with three significant digits, or as an integer if it has more."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def plural(count: int, noun: str) -> str:
    """Format a number with its noun."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def table(result: Result) -> Table:
    """Return a result as a table."""
    options = ", ".join(f"{name.replace('_', '-')} {_plain(value)}" for name, value in result.options.items())
    title = f"{result.benchmark} ({options})" if options else result.benchmark
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    made.add_column("", overflow="fold", min_width=18)
    names = in_order({name: None for row in result.rows for name in row.values})
    for name in names:
        made.add_column("\n".join(name.rsplit(" ", 1)), justify="right", no_wrap=True)
    for row in result.rows:
        made.add_row(Text(row.label), *(shown(row.values[name]) if name in row.values else "" for name in names))
    return made


def show(made: Table) -> None:
    """Print a table, in its full width if the output is not a terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    console.print(made)


def save(path: Path, machine: Mapping[str, Any], results: Iterable[Result]) -> None:
    """Write results, and the description of the machine, as JSON.

    Raises:
        LoadTestError: the file cannot be written.
    """
    document = {"format": FORMAT, "machine": machine, "results": [result.to_json() for result in results]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
    except OSError as error:
        raise LoadTestError(f"cannot write {path}: {error.strerror}") from error


def read(path: Path) -> tuple[dict[str, Any], list[Result]]:
    """Read the description of the machine and the results from a file that `save` wrote.

    Raises:
        LoadTestError: the file is of another kind.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
        if document.get("format") != FORMAT:
            raise ValueError(f"format {document.get('format')!r}, expected {FORMAT}")
        return document["machine"], [Result.from_json(result) for result in document["results"]]
    except OSError as error:
        raise LoadTestError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise LoadTestError(f"{path} is not a file of benchmark results: {error}") from error


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
