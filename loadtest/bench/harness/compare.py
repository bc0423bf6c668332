"""Compare two revisions, measured in turn by the same benchmarks with the same Python: A B A B and so on.

The speed of a machine drifts; the ratio of two measurements next to each other in time does not.
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

from loadtest.bench.harness.benchmark import Benchmark
from loadtest.bench.harness.machine import describe_machine, revision
from loadtest.bench.harness.progress import Progress
from loadtest.bench.harness.ratios import Ratio, ratio
from loadtest.bench.harness.registry import named
from loadtest.bench.harness.report import Result, Row, in_order, more_is_better, read, save, shown
from loadtest.children import Children
from loadtest.errors import LoadTestError, one_line
from loadtest.stack import ROOT

HERE = "."
"""Stands for the working tree, committed or not."""
DEFAULT = ("rpc", "fan", "latency")
SILENCE = 120.0
"""Seconds without output after which a benchmark counts as hanging, beside those of its measurements."""
MEASUREMENTS_PER_LINE = 40
GIT_TIMEOUT = 60.0
Key = tuple[str, str, str]
"""Benchmark, row, value."""


@dataclass
class Comparison:
    """The results of all rounds.

    Attributes:
        names: the revisions as they were asked for.
        revisions: their abbreviated commits.
        machine: description of the machine.
        rounds: results of each side.
    """

    names: tuple[str, str]
    revisions: tuple[str, str]
    machine: dict[str, Any]
    rounds: tuple[list[Result], list[Result]]

    def ratios(self) -> dict[Key, Ratio]:
        """Return the ratios of all values that both sides have."""
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
        """Write the ratios and both medians as JSON, one row for each value."""
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
            made.add_row(
                label if label != last else "",
                name,
                shown(each.a),
                shown(each.b),
                f"{each.middle:.3f}",
                spread,
                verdict,
            )
            last = label
        return made


def compare(progress: Progress, a: str, b: str, names: Sequence[str], rounds: int, options: str) -> Comparison:
    """Measure both revisions in turn.

    Args:
        progress: receives the steps.
        a: a revision, or a dot for the working tree.
        b: the other revision; the same one shows the noise.
        names: names of benchmarks. Default: `DEFAULT`.
        rounds: measurements of each revision.
        options: options of the benchmarks, as on a command line.

    Raises:
        LoadTestError: a revision or benchmark does not exist, or a benchmark failed.
    """
    chosen = named(names or DEFAULT)
    arguments = shlex.split(options)
    silence = max(_silence(benchmark, arguments) for benchmark in chosen)
    machine = describe_machine()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="juggler-bench-")))
        # The working directory provides loadtest, so that both revisions are measured by the same benchmarks.
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
    """Check out a revision as a temporary worktree; a dot is the working tree itself."""
    if name == HERE:
        yield ROOT
        return
    commit = git(
        "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", failure=f"no revision {name!r}"
    )
    git("worktree", "add", "--detach", "--quiet", str(directory), commit)
    try:
        yield directory
    finally:
        git("worktree", "remove", "--force", str(directory))


def git(*arguments: str, failure: str = "") -> str:
    """Run git in this repository, and return its output.

    Raises:
        LoadTestError: git failed; ``failure`` replaces its own message.
    """
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=GIT_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LoadTestError(f"git {arguments[0]}: {error}") from error
    if done.returncode:
        raise LoadTestError(failure or f"git {arguments[0]}: {one_line(done.stderr)}")
    return done.stdout.strip()


def _silence(benchmark: Benchmark, arguments: list[str]) -> float:
    """Validate the options for a benchmark, and return the seconds without output after which it counts as hanging."""
    try:
        with benchmark.command(lambda **options: None).make_context(benchmark.name, list(arguments)) as context:
            return SILENCE + MEASUREMENTS_PER_LINE * float(context.params.get("seconds", 0.0))
    except click.ClickException as error:
        raise LoadTestError(f"--options for {benchmark.name}: {error.format_message()}") from error


def _run(
    progress: Progress, benchmark: Benchmark, arguments: list[str], overlay: Path, path: Path, silence: float
) -> Result:
    """Run a benchmark once, in a process that imports juggler and callee from ``path``."""
    file = overlay / "result.json"
    with Children() as children:
        child = children.start(
            f"benchmark {benchmark.name}",
            ["-m", "loadtest.bench", "run", benchmark.name, *arguments, "--json", str(file)],
            environment={"PYTHONPATH": str(path), "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": ""},
            cwd=str(overlay),
            output="merged",
        )
        while (line := child.hear(silence)) is not None:
            if line.startswith(f"{benchmark.name}: "):
                progress.step(line.strip())
    machine, results = read(file)
    file.unlink()
    # With a wrong path, the installed code would be compared with itself.
    if machine["revision"] != revision(path):
        raise LoadTestError(f"measured revision {machine['revision']}, expected {revision(path)}")
    return results[0]


def _series(results: Sequence[Result]) -> dict[Key, list[float]]:
    """Return the values of all rounds by benchmark, row and name."""
    found: dict[Key, list[float]] = {}
    for result in results:
        for row in result.rows:
            for name in in_order(row.values):
                found.setdefault((result.benchmark, row.label, name), []).append(row.values[name])
    return found
