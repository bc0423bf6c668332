"""Draw benchmark results with matplotlib: rates, CPU time, memory, latencies, curves and ratios, as SVG files.

Output is deterministic: the same results give the same bytes with the same version of matplotlib.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from loadtest.bench.harness.report import COST, RATE, Result, Row, in_order, read, shown
from loadtest.errors import LoadTestError

SHARES = {"p50": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
MAX_CURVES = 6
"""Latency curves of one chart; more colours are hard to distinguish."""
MAX_LABEL = 38
"""Characters of a row's label."""
KILOBYTES, MILLISECONDS = " KB", " ms"
CURVES = ((COST, "CPU time", "CPU µs each"), (MILLISECONDS, "latency", "ms"), (RATE, "rate", "a second"))
WIDTH, HEIGHT, BAR_HEIGHT, FRAME_HEIGHT = 8.0, 4.4, 0.3, 1.7
"""Inches: of a chart, of a bar, and of what surrounds the bars."""
STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#c8ccd0",
    "axes.grid": True,
    "axes.prop_cycle": mpl.cycler(color=["#2f6fd0", "#d9682b", "#2f9e62", "#8a5fc7", "#c2407e", "#8c7a1f"]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": "#6a737d",
    "axes.titlelocation": "left",
    "axes.titlesize": "small",
    "figure.titlesize": "large",
    "grid.color": "#e3e6ea",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "juggler",
}


class Chart(NamedTuple):
    """Attributes:
    name: last part of the file name.
    title: heading.
    paint: draws the data.
    bars: number of bars, which decides the height; 0 for a chart of fixed height.
    """

    name: str
    title: str
    paint: Callable[[Axes], None]
    bars: int = 0


def plot_directory(directory: Path) -> list[Path]:
    """Draw the results of every JSON file of a directory, and return the paths of the SVG files.

    Raises:
        LoadTestError: there are no results, or a file cannot be read or written.
    """
    written = []
    for source in sorted(directory.glob("*.json")):
        machine, results = read(source)
        note = f"{machine['cpu']}, {machine['cores']} cores; revision {machine['revision']}, {machine['date'][:10]}"
        for result in results:
            for chart in charts(result):
                path = directory / f"{source.stem}-{_slug(result.benchmark)}-{chart.name}.svg"
                draw(chart, note, path)
                written.append(path)
    if not written:
        raise LoadTestError(f"no results in {directory}: create some with run NAME --json {directory / 'NAME.json'}")
    return written


def draw(chart: Chart, note: str, path: Path) -> None:
    """Write a chart as an SVG file; ``note`` names the machine and the date.

    Raises:
        LoadTestError: the file cannot be written.
    """
    with mpl.rc_context(STYLE):
        height = FRAME_HEIGHT + BAR_HEIGHT * chart.bars if chart.bars else HEIGHT
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.suptitle(chart.title, x=0.01, horizontalalignment="left")
        axes = figure.subplots()
        axes.set_title(note)
        chart.paint(axes)
        handles, names = axes.get_legend_handles_labels()
        if len(names) > 1:
            figure.legend(handles, names, loc="outside lower left", ncols=4)
        try:
            figure.savefig(path, format="svg", metadata={"Creator": None, "Date": None})
        except OSError as error:
            raise LoadTestError(f"cannot write {path}: {error.strerror}") from error


def charts(result: Result) -> Iterator[Chart]:
    """Yield the charts of a result."""
    title, rows = result.benchmark, result.rows
    if compared := [row for row in rows if "ratio" in row.values]:
        heading, of = f"{title}: rates", "juggler/peer"
        if "a" in result.options:
            heading, of = f"{title}: {result.options['b']} against {result.options['a']}", "B/A"
        yield Chart("ratios", heading, lambda axes: _ratios(axes, compared, of), len(compared))
        return
    for curve in dict.fromkeys(row.curve for row in rows if row.x is not None):
        mine = [row for row in rows if row.curve == curve and row.x is not None]
        for ending, what, unit in CURVES:
            yield Chart(
                f"{_slug(what)}-by-{_slug(curve)}",
                f"{title}: {what} by number of {curve}",
                lambda axes, mine=mine, ending=ending, unit=unit: _curves(axes, mine, ending, unit),
            )
    flat = [row for row in rows if row.x is None]
    for name in _names(flat, RATE):
        operation = name.removesuffix(RATE)
        yield _bars(f"{_slug(operation)}-rate", f"{title}: {operation} a second", flat, [name], f"{operation} a second")
    for ending, what, unit in ((COST, "CPU time", "CPU µs each"), (KILOBYTES, "memory", "KB each")):
        if names := _names(flat, ending):
            yield _bars(_slug(what), f"{title}: {what} by process", flat, names, unit)
    if any(row.latency for row in flat):
        yield Chart("latency", f"{title}: latency", lambda axes: _latency(axes, flat))


def _names(rows: Sequence[Row], ending: str) -> list[str]:
    return in_order({name: None for row in rows for name in row.values if name.endswith(ending)})


def _bars(name: str, title: str, rows: Sequence[Row], names: Sequence[str], unit: str) -> Chart:
    mine = [row for row in rows if any(name in row.values for name in names)]
    places = range(len(mine))

    def paint(axes: Axes) -> None:
        totals = [0.0] * len(mine)
        for name in names:
            # A difference between two measurements may be slightly below 0.
            values = [max(row.values.get(name, 0.0), 0.0) for row in mine]
            bars = axes.barh(places, values, left=totals, label=name.rpartition(" ")[0] or name, height=0.7)
            totals = [total + value for total, value in zip(totals, values, strict=True)]
        axes.bar_label(bars, [shown(total) for total in totals], padding=4)
        _label_rows(axes, mine)
        axes.set_xlabel(unit)

    return Chart(name, title, paint, len(mine))


def _curves(axes: Axes, rows: Sequence[Row], ending: str, unit: str) -> None:
    for name in _names(rows, ending):
        points = [(row.x, row.values[name]) for row in rows if name in row.values]
        axes.plot(*zip(*points, strict=True), marker="o", label=name.removesuffix(ending))
    axes.set_xscale("log")
    axes.set_xticks(places := sorted({row.x or 0.0 for row in rows}), [f"{place:,g}" for place in places])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_ylim(bottom=0)
    axes.set(xlabel=f"{rows[0].curve}, logarithmic", ylabel=unit)


def _latency(axes: Axes, rows: Sequence[Row]) -> None:
    for row in [row for row in rows if row.latency is not None][:MAX_CURVES]:
        values = [row.latency.quantile(share) * 1e3 for share in SHARES.values()]
        axes.plot(list(SHARES), values, marker="o", label=_short(row.label))
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set(xlabel="share of all", ylabel="ms, logarithmic")


def _ratios(axes: Axes, rows: Sequence[Row], of: str) -> None:
    axes.axvline(1.0, color="#6a737d")
    middles = [row.values["ratio"] for row in rows]
    spread = (
        [row.values["ratio"] - row.values["lowest"] for row in rows],
        [row.values["highest"] - row.values["ratio"] for row in rows],
    )
    axes.errorbar(middles, range(len(rows)), xerr=spread, fmt="o", capsize=3)
    _label_rows(axes, rows)
    axes.set_xlabel(f"ratio {of}: median and range of all rounds")


def _label_rows(axes: Axes, rows: Sequence[Row]) -> None:
    axes.set_yticks(range(len(rows)), [_short(row.label) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.1)


def _short(text: str) -> str:
    return text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 1] + "…"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
