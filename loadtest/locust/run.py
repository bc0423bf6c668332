"""``make load``: run locust against a stack of its own for some seconds, and fail if counts disagree.

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
from juggler.locust.tally import Tally, server_disagreements
from juggler.process.metrics.rates import Samples
from loadtest.children import exit_on_sigterm
from loadtest.errors import LoadTestError, one_line
from loadtest.sabotage import KINDS, ONE_IN
from loadtest.stack import ROOT, Stack

DESCRIPTION = "Run locust against a Redis, a server and a callee of its own, and fail if counts disagree."
CLASSES = ("MixedUser", "FanoutListener", "FanoutPublisher", "BurstListener", "BurstPublisher", "RpcRate", "RpcClosed")
MAX_LATENCY = 5.0
"""Seconds in which results and events must arrive: much more than an idle machine needs."""

REPORTS = "loadtest/reports"
EXTRA_TIME = 90.0
"""Seconds that locust may take beside the run: to start, to receive what is in flight, and to write its report."""

SETTLE_TIMEOUT = 3.0
MESSAGES = "juggler_messages_total"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print a summary, and return the exit code: 0 passed, 1 failed, 2 could not run."""
    given = _parser().parse_args(arguments)
    exit_on_sigterm()
    if importlib.util.find_spec("locust") is None:
        return _complain("locust is missing: pip install 'juggler[load]', or make load")
    try:
        with Stack() as stack, tempfile.TemporaryDirectory(prefix="juggler-load-") as directory:
            print(f"redis   {stack.redis_url} (embedded)", flush=True)
            stack.start_server("--log-level", "warning", app=given.app)
            print(f"server  {stack.url}", flush=True)
            stack.start_callee("--log-level", "warning")
            print("callee  callee.demo:rpc", flush=True)
            if given.sabotage:
                stack.url = stack.sabotage(given.sabotage, stack.url, "--one-in", str(given.one_in))
                print(f"proxy   {stack.url}: {given.sabotage}, one in {given.one_in}", flush=True)
            return _run(stack, given, Path(directory) / "tally.json")
    except (LoadTestError, JugglerError, OSError) as error:
        return _complain(one_line(str(error)))
    except KeyboardInterrupt:
        return _complain("interrupted")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.locust.run", description=DESCRIPTION)
    parser.add_argument("classes", nargs="*", metavar="CLASS", help=f"user classes (default: {' '.join(CLASSES)})")
    parser.add_argument("--seconds", type=float, default=15.0, help="duration (default: 15)")
    parser.add_argument("--users", type=int, default=30, help="number of users (default: 30)")
    parser.add_argument("--processes", type=int, default=0, help="locust workers (default: none, one process)")
    parser.add_argument("--app", default="", metavar="MODULE:OBJECT", help="your own Server; Redis is in REDIS_URL")
    parser.add_argument("--sabotage", choices=KINDS, help="break the server's promises, which must be noticed")
    parser.add_argument("--one-in", type=int, default=ONE_IN, help=f"messages for one sabotage (default: {ONE_IN})")
    parser.add_argument("--report", default="", metavar="FILE", help=f"HTML report (default: in {REPORTS}/)")
    return parser


def _run(stack: Stack, given: argparse.Namespace, tally_file: Path) -> int:
    report = Path(given.report) if given.report else ROOT / REPORTS / time.strftime("load-%Y%m%d-%H%M%S.html")
    report.parent.mkdir(parents=True, exist_ok=True)
    code = _locust(stack, given, report, tally_file)
    wrong = [] if code == 0 else [f"locust exited with {code}: see the failures above"]
    stack.children.check()
    if tally_file.exists():
        tally = Tally.from_json(json.loads(tally_file.read_text()))
        wrong += tally.disagreements()
        if tally.overdue:
            wrong.append(f"{tally.overdue} calls had no result in time")
        if not tally.uncounted:
            wrong += _server_disagreements(stack, tally)
        if not tally.connections:
            wrong.append("no client connected")
    else:
        wrong.append("locust wrote no counts")
    shown = report.relative_to(ROOT) if report.is_relative_to(ROOT) else report
    print(f"\nreport  {shown}")
    for line in wrong:
        print(f"WRONG   {line}")
    print("FAILED" if wrong else "ok      all counts agree")
    return 1 if wrong else 0


def _locust(stack: Stack, given: argparse.Namespace, report: Path, tally_file: Path) -> int:
    command = ["-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary"]
    command += ["--host", stack.url, "--users", str(given.users), "--spawn-rate", str(given.users)]
    command += ["--run-time", f"{max(1, round(given.seconds))}s", "--html", str(report.resolve())]
    command += ["--tally", str(tally_file), "--max-latency", str(MAX_LATENCY)]
    if given.processes:
        command += ["--processes", str(given.processes), "--master-bind-host", "127.0.0.1"]
    locust = stack.children.start("locust", [*command, *(given.classes or CLASSES)], cwd=str(ROOT), output="inherited")
    code = locust.wait(given.seconds + EXTRA_TIME)
    stack.children.kill(locust)  # also its workers, if any are left
    return code


def _server_disagreements(stack: Stack, tally: Tally) -> list[str]:
    """Compare the counts with the server's, once it has noticed that all connections are closed."""
    deadline = time.monotonic() + SETTLE_TIMEOUT
    while True:
        found = server_disagreements(tally, _messages(stack.metrics()))
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def _messages(samples: Samples) -> dict[tuple[str, str], float]:
    counted = {}
    for (name, labels), value in samples.items():
        if name == MESSAGES:
            by_name = dict(labels)
            counted[by_name["direction"], by_name["type"]] = value
    return counted


def _complain(line: str) -> int:
    print(f"load: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
