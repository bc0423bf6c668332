"""Tables of text from callees and clients: columns on a terminal, tab-separated lines for other programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from juggler.process.logline import printable

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table for a terminal. Text is shown as it is, without markup, and folded rather than cut."""
    from rich.table import Column, Table
    from rich.text import Text

    made = Table(*(Column(header, overflow="fold") for header in headers))
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))
    return made


def live_display() -> Live | None:
    """Return a display that is redrawn in place, or None if the output is no terminal."""
    if not sys.stdout.isatty():
        return None
    from rich.console import Console
    from rich.live import Live

    return Live(console=Console(), auto_refresh=False)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table if the output is a terminal, and lines otherwise."""
    if not sys.stdout.isatty():
        print_lines(headers, rows)
        return
    from rich.console import Console

    Console().print(table(headers, rows))


def print_lines(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print the headers and each row on a line of its own, with tabs between the cells."""
    for row in (headers, *rows):
        click.echo("\t".join(map(printable, row)))


def age(seconds: float) -> str:
    """Return a duration for people: ``12s``, ``5m``, ``3h``, ``9d``."""
    seconds = max(0.0, seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds / size)}{unit}"
    return f"{int(seconds)}s"
