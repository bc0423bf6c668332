"""The command ``python -m loadtest.bench``. An error is one line on standard error, with exit code 2."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from loadtest.bench.harness.benchmark import Benchmark
from loadtest.bench.harness.machine import describe_machine, summary
from loadtest.bench.harness.progress import Progress
from loadtest.bench.harness.registry import BENCHMARKS
from loadtest.bench.harness.report import Result, save, show, table
from loadtest.errors import LoadTestError, one_line

USAGE, INTERRUPTED = 2, 130
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=SETTINGS)
def main() -> None:
    """Measure the speed, CPU time and memory of juggler.

    Each benchmark starts a Redis, a server and a callee of its own, and stops them.
    """
    # An exception, so that child processes are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def command() -> None:
    """Run the command, and exit."""
    try:
        main(prog_name="python -m loadtest.bench", standalone_mode=False)
    except (click.ClickException, LoadTestError) as error:
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        click.echo(f"bench: {one_line(text)}", err=True)
        sys.exit(USAGE)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)


@main.command("list")
def list_() -> None:
    """List the benchmarks."""
    width = max(map(len, BENCHMARKS))
    for name, each in BENCHMARKS.items():
        click.echo(f"{name:<{width}}  {each.summary}")


@main.group(subcommand_metavar="NAME [OPTIONS]")
def run() -> None:
    """Run a benchmark. See run NAME --help for its options."""


def json_option() -> click.Option:
    return click.Option(
        ["--json", "json_file"],
        type=click.Path(dir_okay=False, path_type=Path),
        help="Also write the results to this file, with a description of the machine.",
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
    help="Duration of each measurement. Default: that of each benchmark.",
)
@click.option(
    "--without", multiple=True, metavar="NAME", type=click.Choice(list(BENCHMARKS)), help="Benchmark to leave out."
)
def all_(json_file: Path | None, seconds: float | None, without: tuple[str, ...]) -> None:
    """Run all benchmarks in sequence."""
    chosen = []
    for name, each in BENCHMARKS.items():
        options = each.defaults()
        if seconds is not None and "seconds" in options:
            options["seconds"] = seconds
        if name not in without:
            chosen.append((each, options))
    _run_all(chosen, json_file)


@main.command(params=[json_option()])
@click.argument("a")
@click.argument("b")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--rounds", type=click.IntRange(1, 100), default=6, show_default=True, help="Measurements of each revision."
)
@click.option(
    "--options",
    default="",
    metavar="TEXT",
    help="Options of the benchmarks, for example '--connections 500 --seconds 2'.",
)
def compare(a: str, b: str, names: tuple[str, ...], rounds: int, options: str, json_file: Path | None) -> None:
    """Compare revisions A and B, measured in turn. Default: rpc, fan and latency.

    Each revision is checked out into a temporary worktree; a dot stands for the working tree. The benchmarks of the
    working tree measure both.
    """
    from loadtest.bench.harness.compare import compare as compare_revisions

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
        from loadtest.bench.harness.charts import plot_directory
    except ImportError as error:
        raise LoadTestError(f"charts need matplotlib: pip install 'juggler[bench]' ({error})") from error

    for path in plot_directory(directory):
        click.echo(path)


def _run_all(chosen: Iterable[tuple[Benchmark, dict[str, Any]]], json_file: Path | None) -> None:
    """Run benchmarks; print the table and write the file after each, as a later one may fail."""
    machine = describe_machine()
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


if __name__ == "__main__":
    command()
