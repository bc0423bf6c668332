"""The command: ``python -m loadtest.bench``. Errors are one line and exit code 2."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from loadtest.bench.benchmark import Benchmark
from loadtest.bench.errors import BenchError, one_line
from loadtest.bench.facts import facts, summary
from loadtest.bench.progress import Progress
from loadtest.bench.registry import BENCHMARKS
from loadtest.bench.report import Result, save, show, table

USAGE, INTERRUPTED = 2, 130
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=SETTINGS)
def main() -> None:
    """Measure juggler, from Redis up to the browser's frame.

    Each benchmark starts a Redis, a server and a callee of its own, and ends them.
    """
    # So that what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def command() -> None:
    """Run the command, and end the process."""
    try:
        main(prog_name="python -m loadtest.bench", standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"bench: {one_line(error.format_message())}", err=True)
        sys.exit(USAGE)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)


@main.command("list")
def list_() -> None:
    """Print the benchmarks."""
    width = max(map(len, BENCHMARKS))
    for name, each in BENCHMARKS.items():
        click.echo(f"{name:<{width}}  {each.summary}")


@main.group(subcommand_metavar="NAME [OPTIONS]")
def run() -> None:
    """Run a benchmark. run NAME --help tells its options."""


def json_option() -> click.Option:
    return click.Option(
        ["--json", "json_file"],
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write what was found to this file too, with facts about the machine.",
    )


def _command(each: Benchmark) -> click.Command:
    def callback(json_file: Path | None, **options: Any) -> None:
        _run_all([(each, options)], json_file)

    return each.command(callback, [json_option()])


for _each in BENCHMARKS.values():
    run.add_command(_command(_each))


@main.command("all", params=[json_option()])
@click.option(
    "--seconds",
    type=click.FloatRange(0.05, 3600),
    metavar="SECONDS",
    help="Seconds of each measurement; default: its own.",
)
@click.option("--without", multiple=True, metavar="NAME", type=click.Choice(list(BENCHMARKS)), help="Leave one out.")
def all_(json_file: Path | None, seconds: float | None, without: tuple[str, ...]) -> None:
    """Run all benchmarks, one after the other."""
    chosen = []
    for name, each in BENCHMARKS.items():
        options = each.defaults()
        if seconds is not None and "seconds" in options:
            options["seconds"] = seconds
        if name not in without:
            chosen.append((each, options))
    _run_all(chosen, json_file)


@main.command()
@click.argument("a")
@click.argument("b")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--rounds", type=click.IntRange(1, 100), default=6, show_default=True, help="How often each has its turn."
)
@click.option(
    "--options",
    default="",
    metavar="TEXT",
    help="Options of the benchmarks, as in --options '--connections 500 --seconds 2'.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write what was found to this file too.",
)
def compare(a: str, b: str, names: tuple[str, ...], rounds: int, options: str, json_file: Path | None) -> None:
    """Compare revisions A and B, in turn: A B A B and so on; default: rpc, fan and latency.

    Each is checked out beside this one; a dot stands for the code as it is here. Both are measured by the benchmarks
    that are here.
    """
    from loadtest.bench.compare import compare as compare_revisions

    progress = Progress()
    with progress.running():
        found = compare_revisions(progress, a, b, names, rounds, options)
    for each in found.tables():
        show(each)
    if json_file:
        found.save(json_file)


@main.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def plot(directory: Path) -> None:
    """Draw charts of the results (JSON files) in a directory, as SVG files beside them."""
    try:
        from loadtest.bench.charts import plot_directory
    except ImportError as error:
        raise BenchError(f"charts need matplotlib: pip install 'juggler[load]' ({error})") from error

    for path in plot_directory(directory):
        click.echo(path)


def _run_all(chosen: Iterable[tuple[Benchmark, dict[str, Any]]], json_file: Path | None) -> None:
    """Run benchmarks, print each one's table when it is done, and write the file after each: one may yet fail."""
    machine = facts()
    click.echo(summary(machine))
    results = []
    for each, options in chosen:
        progress = Progress()
        with progress.running():
            rows = list(each.run(progress, **options))
        result = Result(each.name, {name: options[name] for name in each.names()}, rows)
        show(table(result))
        results.append(result)
        if json_file:
            save(json_file, machine, results)
