"""Which charts a result has: rates, costs, latencies, curves, comparisons."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loadtest.bench import svg
from loadtest.bench.errors import BenchError
from loadtest.bench.report import COST, RATE, Result, Row, in_order, read, write
from loadtest.bench.svg import Chart

SHARES = {"p50": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
MOST_CURVES = 6
"""More would look alike."""
KILOBYTES, MILLISECONDS = " KB", " ms"
CURVES = ((COST, "CPU time", "CPU µs each"), (MILLISECONDS, "latency", "ms"), (RATE, "rate", "a second"))


def plot_directory(directory: Path) -> list[Path]:
    """Draw all results of a directory, and return the files that have been written.

    Raises:
        BenchError: there is nothing to draw, or a file cannot be read or written.
    """
    written = []
    for source in sorted(directory.glob("*.json")):
        machine, results = read(source)
        for result in results:
            for name, text in charts(result, machine):
                path = directory / f"{source.stem}-{_slug(result.benchmark)}-{name}.svg"
                write(path, text)
                written.append(path)
    if not written:
        raise BenchError(f"no results in {directory}: make some with run NAME --json {directory / 'NAME.json'}")
    return written


def charts(result: Result, machine: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and the SVG text of each chart."""
    note = f"{machine['cpu']}, {machine['cores']} cores; revision {machine['revision']}, {machine['date'][:10]}"
    rows = result.rows
    if any("ratio" in row.values for row in rows):
        yield "ratios", _ratios(result, note)
        return
    for curve in dict.fromkeys(row.curve for row in rows if row.x is not None):
        for ending, title, unit in CURVES:
            chart = Chart(f"{result.benchmark}: {title} by the number of {curve}", note, unit)
            yield f"{_slug(title)}-by-{_slug(curve)}", _curve(rows, curve, chart, ending)
    flat = [row for row in rows if row.x is None]
    for name in in_order({name: None for row in flat for name in row.values if name.endswith(RATE)}):
        chart = Chart(f"{result.benchmark}: {name[: -len(RATE)]} a second", note, f"{name[: -len(RATE)]} a second")
        yield f"{_slug(name[: -len(RATE)])}-rate", svg.bars(chart, _parts(flat, [name]))
    for ending, title, unit in ((COST, "CPU time", "CPU µs each"), (KILOBYTES, "memory", "KB each")):
        names = in_order({name: None for row in flat for name in row.values if name.endswith(ending)})
        if names:
            chart = Chart(f"{result.benchmark}: {title} by process", note, unit)
            yield _slug(title), svg.bars(chart, _parts(flat, names))
    if any(row.latency for row in flat):
        yield "latency", _latency(result.benchmark, flat, note)


def _parts(rows: Sequence[Row], names: Sequence[str]) -> list[tuple[str, dict[str, float]]]:
    # A difference may be a little less than nothing. Who has no part in a row keeps his colour in the others.
    return [
        (row.label, {name.rpartition(" ")[0] or name: max(row.values.get(name, 0.0), 0.0) for name in names})
        for row in rows
        if any(name in row.values for name in names)
    ]


def _curve(rows: Sequence[Row], curve: str, chart: Chart, ending: str) -> str:
    mine = [row for row in rows if row.curve == curve and row.x is not None]
    names = in_order({name: None for row in mine for name in row.values if name.endswith(ending)})
    lines = {
        name[: -len(ending)]: [(row.x or 0.0, row.values[name]) for row in mine if name in row.values] for name in names
    }
    return svg.curves(chart, f"{curve}, logarithmic", lines)


def _latency(benchmark: str, rows: Sequence[Row], note: str) -> str:
    timed = [(row.label, row.latency) for row in rows if row.latency is not None][:MOST_CURVES]
    lines = {svg.short(label): [latency.quantile(share) * 1e3 for share in SHARES.values()] for label, latency in timed}
    return svg.quantiles(Chart(f"{benchmark}: latency", note, "ms, logarithmic"), list(SHARES), lines)


def _ratios(result: Result, note: str) -> str:
    rows = [(row.label, row.values["lowest"], row.values["ratio"], row.values["highest"]) for row in result.rows]
    a, b = result.options.get("a", "A"), result.options.get("b", "B")
    return svg.ranges(
        Chart(f"{result.benchmark}: {b} against {a}", note, "ratio B/A: median and range of all rounds"), rows
    )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
