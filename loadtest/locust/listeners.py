"""Listeners for locust's events: a ledger for each test, and the counts of all workers on the master.

A master that quits does not wait for its workers, and would lose what they count while they stop. It asks them to
finish first, and waits for their counts.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import gevent
from locust import events
from locust.runners import MasterRunner, WorkerRunner

from loadtest.locust.book import Book
from loadtest.locust.ledger import Ledger
from loadtest.locust.tally import Tally

FINISH, FINISHED = "juggler_finish", "juggler_finished"
TIMEOUT = 60.0
"""Seconds that workers have to finish their users' last tasks and to receive what is in flight."""


class CountsDisagree(Exception):
    """The counts are impossible; the text is one violation and its count."""


def ledger_of(environment: Any) -> Ledger:
    """Return the ledger of the current or last test; an empty one before the first test."""
    if not hasattr(environment, "juggler"):
        environment.juggler = Ledger()
    ledger: Ledger = environment.juggler
    return ledger


@events.init_command_line_parser.add_listener
def _add_options(parser: Any, **_: Any) -> None:
    parser.add_argument("--tally", metavar="FILE", default="", help="Write the counts of the test to this file as JSON")
    help = "Fail when a result or an event takes longer than this number of seconds (default: unlimited)"
    parser.add_argument("--max-latency", metavar="SECONDS", type=float, default=0.0, help=help)


@events.init.add_listener
def _register_messages(environment: Any, runner: Any, **_: Any) -> None:
    if isinstance(runner, WorkerRunner):
        runner.register_message(FINISH, _finish, concurrent=True)
    if isinstance(runner, MasterRunner):
        runner.register_message(FINISHED, _finished)


@events.test_start.add_listener
def _open_ledger(environment: Any, **_: Any) -> None:
    environment.juggler = Ledger(Book(max_latency=getattr(environment.parsed_options, "max_latency", 0.0) or None))


@events.test_stopping.add_listener
def _note_stopping(environment: Any, **_: Any) -> None:
    ledger_of(environment).stopping = True


@events.test_stop.add_listener
def _close_ledger(environment: Any, **_: Any) -> None:
    ledger = ledger_of(environment)
    ledger.finish()
    # As failed requests, violations are in the report, reach a master, and make locust exit with 1.
    for line in ledger.results:
        _report_check(environment, "counts", CountsDisagree(line))
    if not ledger.results and ledger.book.tally.connections:
        _report_check(environment, "counts")


@events.test_stop.add_listener
def _print_counts(environment: Any, **_: Any) -> None:
    runner = environment.runner
    if isinstance(runner, WorkerRunner):
        return
    is_master = isinstance(runner, MasterRunner)
    tally = _gather(environment) if is_master else ledger_of(environment).book.tally
    print("\n".join(["", *tally.lines()]), flush=True)
    for line in [] if is_master else ledger_of(environment).results:
        print(f"WRONG: {line}", flush=True)
    if file := getattr(environment.parsed_options, "tally", ""):
        Path(file).write_text(json.dumps(tally.to_json()))


def _finish(environment: Any, msg: Any, **_: Any) -> None:
    """On a worker: end the test, and send the counts. Older versions of locust pass ``msg`` by position."""
    runner = environment.runner
    runner.stop()
    # The last statistics: the master does not wait for the next periodic report.
    statistics: dict[str, Any] = {}
    environment.events.report_to_master.fire(client_id=runner.client_id, data=statistics)
    runner.send_message("stats", statistics)
    runner.send_message(FINISHED, ledger_of(environment).book.tally.to_json())


def _finished(environment: Any, msg: Any, **_: Any) -> None:
    environment.juggler_tallies[msg.node_id] = Tally.from_json(msg.data)


def _gather(environment: Any) -> Tally:
    """On the master: return the sum of all workers' counts."""
    runner = environment.runner
    environment.juggler_tallies = {}
    expected = {client.id for client in runner.clients.all}
    runner.send_message(FINISH)
    deadline = time.monotonic() + TIMEOUT
    while expected - environment.juggler_tallies.keys() and time.monotonic() < deadline:
        gevent.sleep(0.05)
    if silent := expected - environment.juggler_tallies.keys():
        error = CountsDisagree(f"{len(silent)} workers have not sent their counts within {TIMEOUT:g} s")
        _report_check(environment, "workers", error)
    tally = Tally()
    for each in environment.juggler_tallies.values():
        tally.add(each)
    return tally


def _report_check(environment: Any, name: str, error: Exception | None = None) -> None:
    environment.events.request.fire(
        request_type="CHECK", name=name, response_time=None, response_length=0, exception=error
    )
