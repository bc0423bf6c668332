"""What a benchmark is: a name, options, and a function that measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from loadtest.bench.load import default_processes
from loadtest.bench.report import Row

MOST_CONNECTIONS = 50_000
MOST_IN_FLIGHT = 200
"""Requests of a connection that await their ACK; a server refuses more than 256."""
MOST_SECONDS = 3600.0


@dataclass(frozen=True)
class Benchmark:
    """Attributes:
    name: on the command line.
    summary: a line about what it measures.
    options: of the command; ``run`` gets their values by name.
    run: measures, and yields rows as they are found.
    """

    name: str
    summary: str
    options: Sequence[click.Option]
    run: Callable[..., Iterable[Row]]

    def defaults(self) -> dict[str, Any]:
        """Return the options' values if nobody gives any."""
        command = self.command(lambda **options: None)
        with command.make_context(self.name, []) as context:
            return dict(context.params)

    def names(self) -> list[str]:
        """Return the options' names, in their order."""
        return [option.name for option in self.options if option.name]

    def command(self, callback: Callable[..., Any], more: Sequence[click.Option] = ()) -> click.Command:
        """Return a command that calls ``callback`` with the options' values."""
        return click.Command(
            self.name, params=[*self.options, *more], callback=callback, help=self.run.__doc__, short_help=self.summary
        )


def number(name: str, default: int, help: str, *, least: int = 1, most: int | None = None) -> click.Option:
    """Return an option that is a number."""
    return click.Option(
        [name], type=click.IntRange(least, most), default=default, show_default=True, metavar="NUMBER", help=help
    )


def numbers(name: str, default: Sequence[int], help: str, *, most: int) -> click.Option:
    """Return an option that may be given several times."""
    return click.Option(
        [name],
        type=click.IntRange(1, most),
        multiple=True,
        default=default,
        show_default=True,
        metavar="NUMBER",
        help=help,
    )


def seconds(default: float, what: str = "each measurement") -> click.Option:
    """Return the option for how long is measured."""
    return click.Option(
        ["--seconds"],
        type=click.FloatRange(0.05, MOST_SECONDS),
        default=default,
        show_default=True,
        metavar="SECONDS",
        help=f"Seconds of {what}; it warms up for a quarter more, a second at most.",
    )


def connections(default: int) -> click.Option:
    return number("--connections", default, "Connections, of all generators together.", most=MOST_CONNECTIONS)


def in_flight(default: int = 1) -> click.Option:
    return number("--in-flight", default, "Calls in flight on each connection.", most=MOST_IN_FLIGHT)


def payload(default: int = 5) -> click.Option:
    return number("--payload", default, "Bytes of the arguments.", least=0, most=900_000)


def generators() -> click.Option:
    return number("--generators", default_processes(), "Processes that make the load.", most=64)


def workers() -> click.Option:
    return number("--workers", 1, "Processes of the server.", most=64)


def callees() -> click.Option:
    return number("--callees", 1, "Processes of the callee.", most=64)
