"""``make load``: a short headless run of locust against a stack of its own; fails when counts disagree.

``python -m loadtest.locust.run [--seconds 15] [CLASS ...]``
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from juggler.errors import JugglerError
from juggler.process.metrics.rates import Samples
from loadtest.locust.stack import ROOT, Stack, StackError, end_at_sigterm
from loadtest.locust.tally import Tally, server_disagreements

CLASSES = ("MixedUser", "FanoutListener", "FanoutPublisher", "RpcRate", "RpcClosed")
REPORTS = "loadtest/reports"
MORE_TIME = 90.0
"""Seconds that locust may take beyond the run: to start, to wait for the last answers, to write its report."""

SETTLE = 3.0
MESSAGES = "juggler_messages_total"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print a summary, and return the exit code: 0, 1 when something was wrong, 2 when it could not run."""
    given = _parser().parse_args(arguments)
    end_at_sigterm()
    if importlib.util.find_spec("locust") is None:
        return _complain("locust is missing: pip install 'juggler[load]', or make load")
    try:
        with Stack() as stack, tempfile.TemporaryDirectory(prefix="juggler-load-") as directory:
            print(f"redis   {stack.redis.url} (embedded)", flush=True)
            stack.start_server("--log-level", "warning", app=given.app)
            print(f"server  {stack.url}", flush=True)
            stack.start_callee()
            print("callee  callee.demo:rpc", flush=True)
            return _run(stack, given, Path(directory) / "tally.json")
    except (StackError, JugglerError, OSError) as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        return _complain("stopped")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.locust.run", description=__doc__)
    parser.add_argument("classes", nargs="*", metavar="CLASS", help=f"users; default: {' '.join(CLASSES)}")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long (default 15)")
    parser.add_argument("--users", type=int, default=30, help="how many (default 30)")
    parser.add_argument("--processes", type=int, default=0, help="locust workers (default: none, one process)")
    parser.add_argument("--app", metavar="MODULE:OBJECT", help="a juggler Server of your own; Redis is in REDIS_URL")
    parser.add_argument("--report", default="", metavar="FILE", help=f"HTML report (default: in {REPORTS}/)")
    return parser


def _run(stack: Stack, given: argparse.Namespace, tally_file: Path) -> int:
    report = Path(given.report) if given.report else ROOT / REPORTS / time.strftime("load-%Y%m%d-%H%M%S.html")
    report.parent.mkdir(parents=True, exist_ok=True)
    code = _locust(stack, given, report, tally_file)
    wrong = [] if code == 0 else [f"locust ended with {code}: see what failed above"]
    stack.check()
    if tally_file.exists():
        tally = Tally.from_json(json.loads(tally_file.read_text()))
        wrong += tally.disagreements()
        if not tally.uncounted:
            wrong += _beside_server(stack, tally)
        if not tally.connections:
            wrong.append("nobody has connected")
    else:
        wrong.append("locust has left no counts")
    shown = report.relative_to(ROOT) if report.is_relative_to(ROOT) else report
    print(f"\nreport  {shown}")
    for line in wrong:
        print(f"WRONG   {line}")
    print("FAILED" if wrong else "ok      all counts agree")
    return 1 if wrong else 0


def _locust(stack: Stack, given: argparse.Namespace, report: Path, tally_file: Path) -> int:
    command = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary"]
    command += ["--host", stack.url, "--users", str(given.users), "--spawn-rate", str(given.users)]
    command += ["--run-time", f"{max(1, round(given.seconds))}s", "--html", str(report.resolve())]
    command += ["--tally", str(tally_file)]
    if given.processes:
        command += ["--processes", str(given.processes), "--master-bind-host", "127.0.0.1"]
    return stack.run([*command, *(given.classes or CLASSES)], given.seconds + MORE_TIME)


def _beside_server(stack: Stack, tally: Tally) -> list[str]:
    """Compare with what the server has counted, once it has seen all connections end."""
    deadline = time.monotonic() + SETTLE
    while True:
        found = server_disagreements(tally, _messages(stack.metrics()))
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def _messages(samples: Samples) -> dict[tuple[str, str], float]:
    counted = {}
    for (name, labels), value in samples.items():
        if name == MESSAGES:
            has = dict(labels)
            counted[has["direction"], has["type"]] = value
    return counted


def _complain(line: str) -> int:
    print(f"load: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
