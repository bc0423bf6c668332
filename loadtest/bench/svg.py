"""Charts as SVG text: bars, curves, ranges. PURE: no files.

Colours are the viewer's: each chart brings a light and a dark set, and the medium chooses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 760
LEFT, RIGHT, TOP, BOTTOM = 250, 70, 88, 52
ROW = 26
PLOT_HEIGHT = 280
TICKS = 5
LEGEND_LINE = 16
CHARACTER = 7.5
"""Pixels of a character, as far as legends need to know."""

STYLE = """
svg{--paper:#fff;--ink:#1b1f24;--faint:#6a737d;--grid:#e3e6ea;
--c0:#2f6fd0;--c1:#d9682b;--c2:#2f9e62;--c3:#8a5fc7;--c4:#c2407e;--c5:#8c7a1f}
@media (prefers-color-scheme:dark){svg{--paper:#14171b;--ink:#e8eaed;--faint:#9aa3ad;--grid:#30363d;
--c0:#6aa5f8;--c1:#f2945c;--c2:#5fcf93;--c3:#b795f0;--c4:#f07fb2;--c5:#d6c25a}}
text{font:12px system-ui,sans-serif;fill:var(--ink)}
.title{font-size:15px;font-weight:600}.faint{fill:var(--faint)}
.grid{stroke:var(--grid)}.paper{fill:var(--paper)}
"""
COLOURS = 6


@dataclass(frozen=True)
class Chart:
    """What all charts say.

    Attributes:
        title: what it shows.
        note: on which machine and when.
        unit: of the axis of values.
    """

    title: str
    note: str
    unit: str


def bars(chart: Chart, rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """Return bars, one for each row, made of named parts beside each other."""
    names = _names(parts for _, parts in rows)
    ticks = nice_ticks(0.0, max((sum(parts.values()) for _, parts in rows), default=0.0))
    height = TOP + ROW * len(rows) + BOTTOM
    body = _columns(ticks, height, chart.unit)
    for number, (label, parts) in enumerate(rows):
        y = TOP + ROW * number
        body.append(_text(LEFT - 8, y + 17, short(label), anchor="end"))
        start = 0.0
        for index, name in enumerate(names):
            value = parts.get(name, 0.0)
            x, end = (_across(at, 0.0, ticks[-1]) for at in (start, start + value))
            hint = f"<title>{escape(label)}, {escape(name)}: {value:,.4g}</title>"
            place = f'x="{x:.1f}" y="{y + 4}" width="{end - x:.1f}" height="{ROW - 8}"'
            body.append(f'<rect {place} fill="{_colour(index)}">{hint}</rect>')
            start += value
        body.append(_text(_across(start, 0.0, ticks[-1]) + 6, y + 17, f"{start:,.4g}"))
    return _document(chart, height, body, names if len(names) > 1 else [])


def curves(chart: Chart, x_unit: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Return curves over an x axis that is logarithmic; values begin at 0."""
    points = [point for line in lines.values() for point in line]
    ticks = nice_ticks(0.0, max(y for _, y in points))
    places = sorted({x for x, _ in points})
    low, high = math.log(places[0]), math.log(places[-1])
    return _lines(
        chart,
        x_unit,
        lines,
        ticks,
        lambda y: y / ticks[-1],
        lambda x: (math.log(x) - low) / ((high - low) or 1.0),
        [(x, f"{x:,g}") for x in places],
    )


def quantiles(chart: Chart, names: Sequence[str], lines: Mapping[str, Sequence[float]]) -> str:
    """Return curves over named places, such as p50 and p99; values on a logarithmic axis."""
    values = [value for line in lines.values() for value in line if value > 0]
    low, high = (math.log10(value) for value in (min(values), max(values)))
    first, last = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
    ticks = [step * 10.0**power for power in range(first, last) for step in (1, 2, 5)] + [10.0**last]
    pairs = {label: [(float(at), value) for at, value in enumerate(line)] for label, line in lines.items()}
    return _lines(
        chart,
        "share of all",
        pairs,
        ticks,
        lambda y: (math.log10(max(y, 10.0**first)) - first) / (last - first),
        lambda x: x / max(len(names) - 1, 1),
        [(float(at), name) for at, name in enumerate(names)],
    )


def ranges(chart: Chart, rows: Sequence[tuple[str, float, float, float]]) -> str:
    """Return for each row (label, lowest, middle, highest) a line with a dot; a line marks 1."""
    low = min([low for _, low, _, _ in rows] + [1.0])
    ticks = nice_ticks(low, max([high for *_, high in rows] + [1.0]))
    height = TOP + ROW * len(rows) + BOTTOM
    body = _columns(ticks, height, chart.unit)
    one = _across(1.0, ticks[0], ticks[-1])
    body.append(f'<line x1="{one:.1f}" x2="{one:.1f}" y1="{TOP}" y2="{height - BOTTOM}" stroke="var(--faint)"/>')
    for number, (label, lowest, middle, highest) in enumerate(rows):
        y = TOP + ROW * number + ROW / 2
        a, b, c = (_across(value, ticks[0], ticks[-1]) for value in (lowest, middle, highest))
        body.append(_text(LEFT - 8, y + 4, short(label), anchor="end"))
        body.append(f'<line x1="{a:.1f}" x2="{c:.1f}" y1="{y}" y2="{y}" stroke="{_colour(0)}" stroke-width="3"/>')
        hint = f"<title>{escape(label)}: {middle:.3f}, {lowest:.3f} to {highest:.3f}</title>"
        body.append(f'<circle cx="{b:.1f}" cy="{y}" r="5" fill="{_colour(0)}">{hint}</circle>')
        body.append(_text(c + 8, y + 4, f"{middle:.2f}"))
    return _document(chart, height, body)


def nice_ticks(low: float, high: float) -> list[float]:
    """Return round numbers, evenly spaced, from at most ``low`` to at least ``high``."""
    span = (high - low) or abs(high) or 1.0
    rough = span / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in (1.0, 2.0, 5.0, 10.0) if each * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def short(text: str, most: int = 38) -> str:
    """Return a label that has room beside a chart."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _lines(
    chart: Chart,
    x_unit: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    ticks: Sequence[float],
    up: Callable[[float], float],
    across: Callable[[float], float],
    places: Sequence[tuple[float, str]],
) -> str:
    height = TOP + PLOT_HEIGHT + BOTTOM
    left, right = 80, WIDTH - RIGHT

    def at(x: float, y: float) -> tuple[float, float]:
        return left + across(x) * (right - left), TOP + PLOT_HEIGHT * (1 - up(y))

    body = [_text(left, TOP - 8, chart.unit, kind="faint")]
    for tick in ticks:
        _, y = at(places[0][0], tick)
        body.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(_text(left - 8, y + 4, f"{tick:,g}", anchor="end", kind="faint"))
    for place, name in places:
        x, _ = at(place, ticks[-1])
        body.append(_text(x, TOP + PLOT_HEIGHT + 18, name, anchor="middle", kind="faint"))
    body.append(_text((left + right) / 2, TOP + PLOT_HEIGHT + 38, x_unit, anchor="middle", kind="faint"))
    for index, (label, line) in enumerate(lines.items()):
        points = [at(x, y) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        body.append(f'<polyline points="{path}" fill="none" stroke="{_colour(index)}" stroke-width="2"/>')
        for (x, y), (_, value) in zip(points, line, strict=True):
            hint = f"<title>{escape(label)}: {value:,.4g}</title>"
            body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{_colour(index)}">{hint}</circle>')
    return _document(chart, height, body, list(lines))


def _columns(ticks: Sequence[float], height: int, unit: str) -> list[str]:
    found = []
    for tick in ticks:
        x = _across(tick, ticks[0], ticks[-1])
        found.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        found.append(_text(x, height - BOTTOM + 18, f"{tick:,g}", anchor="middle", kind="faint"))
    found.append(_text((LEFT + WIDTH - RIGHT) / 2, height - BOTTOM + 38, unit, anchor="middle", kind="faint"))
    return found


def _legend(names: Sequence[str]) -> tuple[list[str], int]:
    """Return what explains the colours, and the height of its lines after the first."""
    x, y, found = 16.0, 0, []
    for index, name in enumerate(names):
        needed = 30 + CHARACTER * len(name)
        if x > 16.0 and x + needed > WIDTH:
            x, y = 16.0, y + LEGEND_LINE
        found.append(f'<rect x="{x:.0f}" y="{y + 50}" width="10" height="10" fill="{_colour(index)}"/>')
        found.append(_text(x + 15, y + 59, name))
        x += needed
    return found, y


def _document(chart: Chart, height: int, body: Iterable[str], names: Sequence[str] = ()) -> str:
    head = [_text(16, 24, chart.title, kind="title"), _text(16, 40, chart.note, kind="faint")]
    legend, lower = _legend(names)
    height += lower
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(chart.title)}"><style>{STYLE}</style>'
        f'<rect class="paper" width="{WIDTH}" height="{height}"/>{"".join(head)}{"".join(legend)}'
        f'<g transform="translate(0 {lower})">{"".join(body)}</g></svg>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", kind: str = "") -> str:
    which = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{which}>{escape(text)}</text>'


def _across(value: float, low: float, high: float) -> float:
    return LEFT + (value - low) / ((high - low) or 1.0) * (WIDTH - LEFT - RIGHT)


def _colour(index: int) -> str:
    return f"var(--c{index % COLOURS})"


def _names(parts: Iterable[Mapping[str, float]]) -> list[str]:
    return list({name: None for each in parts for name in each})
