"""The definition of a benchmark, and the options that several of them share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from loadtest.bench.harness.load import default_processes
from loadtest.bench.harness.report import Row

MAX_CONNECTIONS = 50_000
MAX_IN_FLIGHT = 200
"""Requests of a connection without ACK; a server refuses more than 256."""
MAX_SECONDS = 3600.0


@dataclass(frozen=True)
class Benchmark:
    """Attributes:
    name: name on the command line.
    summary: one line for lists.
    options: options of its command, passed to ``run`` by name.
    run: measures, and yields rows; its docstring is the command's help.
    """

    name: str
    summary: str
    options: Sequence[click.Option]
    run: Callable[..., Iterable[Row]]

    def defaults(self) -> dict[str, Any]:
        """Return the default values of the options."""
        command = self.command(lambda **options: None)
        with command.make_context(self.name, []) as context:
            return dict(context.params)

    def names(self) -> list[str]:
        """Return the names of the options in their order."""
        return [option.name for option in self.options if option.name]

    def command(self, callback: Callable[..., Any], more: Sequence[click.Option] = ()) -> click.Command:
        """Return a command that calls ``callback`` with the values of the options."""
        return click.Command(
            self.name, params=[*self.options, *more], callback=callback, help=self.run.__doc__, short_help=self.summary
        )


def number(name: str, default: int, help: str, *, least: int = 1, most: int | None = None) -> click.Option:
    """Return an option for an integer."""
    return click.Option(
        [name], type=click.IntRange(least, most), default=default, show_default=True, metavar="NUMBER", help=help
    )


def numbers(name: str, default: Sequence[int], help: str, *, most: int) -> click.Option:
    """Return an option for an integer that can be repeated."""
    return click.Option(
        [name],
        type=click.IntRange(1, most),
        multiple=True,
        default=default,
        show_default=True,
        metavar="NUMBER",
        help=help,
    )


def seconds(default: float) -> click.Option:
    return click.Option(
        ["--seconds"],
        type=click.FloatRange(0.05, MAX_SECONDS),
        default=default,
        show_default=True,
        metavar="SECONDS",
        help="Duration of each measurement, after a warm-up of a quarter of it, one second at most.",
    )


def connections(default: int) -> click.Option:
    return number("--connections", default, "Connections of all generators together.", most=MAX_CONNECTIONS)


def in_flight(default: int = 1) -> click.Option:
    return number("--in-flight", default, "Calls in flight on each connection.", most=MAX_IN_FLIGHT)


def payload(default: int = 5) -> click.Option:
    return number("--payload", default, "Size of the arguments in bytes.", least=0, most=900_000)


def generators() -> click.Option:
    return number("--generators", default_processes(), "Load generator processes.", most=64)


def workers() -> click.Option:
    return number("--workers", 1, "Server processes.", most=64)


def callees() -> click.Option:
    return number("--callees", 1, "Callee processes.", most=64)
