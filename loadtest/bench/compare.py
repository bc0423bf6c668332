"""Two revisions, measured in turn by the same benchmarks with the same Python: A B A B and so on.

A machine's speed drifts; what is measured next to each other drifts alike.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.table import Table

from loadtest.bench.benchmark import Benchmark
from loadtest.bench.children import Children
from loadtest.bench.errors import BenchError, one_line
from loadtest.bench.facts import facts, revision
from loadtest.bench.progress import Progress
from loadtest.bench.ratios import Ratio, ratio
from loadtest.bench.registry import named
from loadtest.bench.report import Result, Row, in_order, more_is_better, read, save, shown

ROOT = Path(__file__).parents[2]
HERE = "."
"""Names the code as it is here, committed or not."""
DEFAULT = ("rpc", "fan", "latency")
SILENCE = 120.0
LONGEST_STEP = 40
"""Times the seconds of a measurement that one may run without a word."""
GIT_TIMEOUT = 60.0

Key = tuple[str, str, str]
"""Benchmark, row, value."""


@dataclass
class Comparison:
    """What was found: for each side the results of all rounds."""

    names: tuple[str, str]
    revisions: tuple[str, str]
    machine: dict[str, Any]
    rounds: tuple[list[Result], list[Result]]

    def ratios(self) -> dict[Key, Ratio]:
        """Return B against A, of all values that both have."""
        a, b = (_series(results) for results in self.rounds)
        found = {key: ratio(values, b[key]) for key, values in a.items() if key in b}
        return {key: each for key, each in found.items() if each is not None}

    def tables(self) -> Iterator[Table]:
        """Yield a table for each benchmark."""
        ratios = self.ratios()
        for benchmark in {key[0]: None for key in ratios}:
            mine = {key[1:]: each for key, each in ratios.items() if key[0] == benchmark}
            yield self._table(benchmark, mine)

    def save(self, path: Path) -> None:
        """Write the ratios as JSON, as rows of a result each, with both medians."""
        results: dict[str, Result] = {}
        for (benchmark, label, name), each in self.ratios().items():
            values = {"A": each.a, "B": each.b, "ratio": each.middle, "lowest": each.lowest, "highest": each.highest}
            options = {"a": self.names[0], "b": self.names[1], "revisions": list(self.revisions)}
            title = f"compare {benchmark}"
            results.setdefault(title, Result(title, options)).rows.append(Row(f"{name}: {label}", values))
        save(path, self.machine, results.values())

    def _table(self, benchmark: str, ratios: dict[tuple[str, str], Ratio]) -> Table:
        a, b = (f"{name} ({rev})" for name, rev in zip(self.names, self.revisions, strict=True))
        made = Table(title=f"{benchmark}: A is {a}, B is {b}", box=box.SIMPLE_HEAD, title_justify="left")
        made.add_column("", overflow="fold")
        for name in ("", "A", "B", "B/A", "range", ""):
            made.add_column(name, justify="left" if not name else "right", no_wrap=True)
        last = None
        for (label, name), each in ratios.items():
            spread = f"{each.lowest:.2f} to {each.highest:.2f}"
            verdict = each.verdict(more_is_better(name))
            ours = label if label != last else ""
            made.add_row(ours, name, shown(each.a), shown(each.b), f"{each.middle:.3f}", spread, verdict)
            last = label
        return made


def compare(progress: Progress, a: str, b: str, names: Sequence[str], rounds: int, options: str) -> Comparison:
    """Measure both revisions in turn.

    Args:
        progress: told what runs.
        a: a revision, or a dot.
        b: another one, or the same, to see the noise.
        names: of benchmarks; empty: some of the whole.
        rounds: how often each has its turn.
        options: of the benchmarks, as on a command line.

    Raises:
        BenchError: a revision or benchmark is not known, or a benchmark failed.
    """
    chosen = named(names or DEFAULT)
    arguments = shlex.split(options)
    silence = max(_silence(benchmark, arguments) for benchmark in chosen)
    machine = facts()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="juggler-bench-")))
        # Benchmarks from here, everything else from the revision: the checkout's own would be found in its directory.
        overlay = directory / "overlay"
        overlay.mkdir()
        (overlay / "loadtest").symlink_to(ROOT / "loadtest")
        checkouts = [stack.enter_context(checkout(side, directory / name)) for side, name in ((a, "a"), (b, "b"))]
        found = Comparison((a, b), (revision(checkouts[0]), revision(checkouts[1])), machine, ([], []))
        for number in range(rounds):
            for benchmark in chosen:
                for side, name in enumerate("AB"):
                    progress.prefix = f"round {number + 1} of {rounds}, {name}: "
                    found.rounds[side].append(_run(progress, benchmark, arguments, overlay, checkouts[side], silence))
    return found


@contextmanager
def checkout(name: str, directory: Path) -> Iterator[Path]:
    """Check a revision out into a directory, and remove it again; a dot is here."""
    if name == HERE:
        yield ROOT
        return
    commit = git(
        "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", fault=f"no revision {name!r}"
    )
    git("worktree", "add", "--detach", "--quiet", str(directory), commit)
    try:
        yield directory
    finally:
        git("worktree", "remove", "--force", str(directory))


def git(*arguments: str, fault: str = "") -> str:
    """Run git in our repository, and return what it prints.

    Raises:
        BenchError: it failed.
    """
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=GIT_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"git {arguments[0]}: {error}") from error
    if done.returncode:
        raise BenchError(fault or f"git {arguments[0]}: {one_line(done.stderr)}")
    return done.stdout.strip()


def _silence(benchmark: Benchmark, arguments: list[str]) -> float:
    """See that a benchmark has the options, and return the seconds after which it is dead if it says nothing."""
    try:
        with benchmark.command(lambda **options: None).make_context(benchmark.name, list(arguments)) as context:
            return SILENCE + LONGEST_STEP * float(context.params.get("seconds", 0.0))
    except click.ClickException as error:
        raise BenchError(f"--options for {benchmark.name}: {error.format_message()}") from error


def _run(
    progress: Progress, benchmark: Benchmark, arguments: list[str], overlay: Path, path: Path, silence: float
) -> Result:
    """Run one turn in a process that finds juggler and callee in ``path``."""
    file = overlay / "result.json"
    with Children() as children:
        child = children.start(
            f"benchmark {benchmark.name}",
            ["-m", "loadtest.bench", "run", benchmark.name, *arguments, "--json", str(file)],
            environment={"PYTHONPATH": str(path), "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": ""},
            cwd=str(overlay),
            errors_to_stdout=True,
        )
        while (line := child.hear(silence)) is not None:
            if line.startswith(f"{benchmark.name}: "):
                progress.step(line.strip())
    machine, results = read(file)
    file.unlink()
    # A path that is set up wrongly would compare the code that is installed with itself.
    if machine["revision"] != revision(path):
        raise BenchError(f"{machine['revision']} was measured, and not {revision(path)}")
    return results[0]


def _series(results: Sequence[Result]) -> dict[Key, list[float]]:
    """Return the values of all rounds, by where they stand."""
    found: dict[Key, list[float]] = {}
    for result in results:
        for row in result.rows:
            for name in in_order(row.values):
                found.setdefault((result.benchmark, row.label, name), []).append(row.values[name])
    return found
