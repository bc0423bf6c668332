"""Listeners for locust's events: a ledger for each test, and the counts of all workers on the master.

A master that quits does not wait for its workers, and would lose what they count while they stop. It asks them to
finish first, and waits for their counts.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any, cast

import gevent
import locust
from locust.runners import MasterRunner, WorkerRunner
from locust.stats import CSV_STATS_INTERVAL_SEC

from juggler.locust.book import Book
from juggler.locust.ledger import Ledger
from juggler.locust.tally import Tally
from juggler.process.logline import Line

FINISH, FINISHED = "juggler_finish", "juggler_finished"
TIMEOUT = 120.0
"""Seconds that workers have to finish their users' last tasks and to receive what is in flight."""

STOP_TIMEOUT = 15.0
"""Default of --stop-timeout: seconds for a user's last task. A user that is killed leaves calls in flight."""

events = cast("Any", locust.events)
"""Untyped in locust."""

_log = logging.getLogger("juggler.locust")


class BrokenPromise(Exception):
    """The server or a callee has broken a promise; the text is one kind of violation, its count and examples."""

    def __repr__(self) -> str:
        return str(self)


def ledger_of(environment: Any) -> Ledger:
    """Return the ledger of the current or last test; an empty one before the first test."""
    if not hasattr(environment, "juggler"):
        environment.juggler = Ledger()
    ledger: Ledger = environment.juggler
    return ledger


def _add_options(parser: Any, **_: Any) -> None:
    group = parser.add_argument_group("juggler options", "See docs/load-testing.md.")
    help = "Fail when a result or an event takes longer than this number of seconds (default: unlimited)"
    group.add_argument("--max-latency", metavar="SECONDS", type=float, default=0.0, help=help)
    group.add_argument("--tally", metavar="FILE", default="", help="Write the counts of the test to this file as JSON")


def _set_up(environment: Any, runner: Any, **_: Any) -> None:
    environment.stop_timeout = environment.stop_timeout or STOP_TIMEOUT
    # The loop's time is that of the first import. --run-time would count from then.
    gevent.get_hub().loop.update_now()
    if isinstance(runner, WorkerRunner):
        runner.register_message(FINISH, _finish, concurrent=True)
    if isinstance(runner, MasterRunner):
        runner.register_message(FINISHED, _finished)


def _open_ledger(environment: Any, **_: Any) -> None:
    max_latency = getattr(environment.parsed_options, "max_latency", 0.0) or None
    environment.juggler = Ledger(Book(max_latency=max_latency, allow_unfinished=True))


def _note_stopping(environment: Any, **_: Any) -> None:
    ledger_of(environment).stopping = True


def _close_ledger(environment: Any, **_: Any) -> None:
    ledger = ledger_of(environment)
    if in_flight := ledger.book.unanswered():
        _log.info(Line("locust: draining requests", in_flight=in_flight, max_seconds=ledger.longest_wait()))
    ledger.finish()
    # As failed requests, violations are in the report, reach a master, and make locust exit with 1.
    for line in ledger.results:
        _report_check(environment, "messages", BrokenPromise(line))
    if not ledger.results and ledger.book.tally.connections:
        _report_check(environment, "messages")


def _print_counts(environment: Any, **_: Any) -> None:
    runner, options = environment.runner, environment.parsed_options
    if isinstance(runner, WorkerRunner):
        return
    is_master = isinstance(runner, MasterRunner)
    tally = _gather(environment) if is_master else ledger_of(environment).book.tally
    # locust prints its statistics as JSON on standard output.
    output = sys.stderr if getattr(options, "json", False) else sys.stdout
    if tally.connections or tally.uncounted:
        print("\n".join(["", *tally.lines()]), flush=True, file=output)
    for line in [] if is_master else ledger_of(environment).results:
        print(f"WRONG: {line}", flush=True, file=output)
    if file := getattr(options, "tally", ""):
        Path(file).write_text(json.dumps(tally.to_json()))
    if getattr(options, "csv_prefix", None):
        # locust writes its CSV files once a second, and not at the end: without CHECK.
        gevent.sleep(CSV_STATS_INTERVAL_SEC + 0.2)


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
        error = BrokenPromise(f"{len(silent)} workers have not sent their counts within {TIMEOUT:g} s")
        _report_check(environment, "workers", error)
    tally = Tally()
    for each in environment.juggler_tallies.values():
        tally.add(each)
    return tally


def _report_check(environment: Any, name: str, error: Exception | None = None) -> None:
    environment.events.request.fire(
        request_type="CHECK", name=name, response_time=None, response_length=0, exception=error
    )


events.init_command_line_parser.add_listener(_add_options)
events.init.add_listener(_set_up)
events.test_start.add_listener(_open_ledger)
events.test_stopping.add_listener(_note_stopping)
events.test_stop.add_listener(_close_ledger)
events.test_stop.add_listener(_print_counts)
