"""Sums of all workers on the master, at the end of a test.

A master that quits does not wait for its workers: what they count while they stop would be lost. So it asks them to
finish first, and waits for their sums.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import gevent
from locust import events
from locust.runners import MasterRunner, WorkerRunner

from loadtest.locust import lifecycle
from loadtest.locust.tally import Tally

FINISH, FINISHED = "juggler_finish", "juggler_finished"
TIMEOUT = 60.0
"""Seconds that workers have to finish: their users' last tasks, and what is on its way."""


@events.init_command_line_parser.add_listener
def _options(parser: Any, **_: Any) -> None:
    parser.add_argument("--tally", metavar="FILE", default="", help="Write the counts of the test there, as JSON")


@events.init.add_listener
def _listen(environment: Any, runner: Any, **_: Any) -> None:
    if isinstance(runner, WorkerRunner):
        runner.register_message(FINISH, _finish, concurrent=True)
    if isinstance(runner, MasterRunner):
        runner.register_message(FINISHED, _finished)


def _finish(environment: Any, msg: Any, **_: Any) -> None:
    """A worker is asked to end the test. Earlier locusts hand ``msg`` over by its place."""
    runner = environment.runner
    runner.stop()
    # The last statistics: the master does not wait for the next periodic report.
    statistics: dict[str, Any] = {}
    environment.events.report_to_master.fire(client_id=runner.client_id, data=statistics)
    runner.send_message("stats", statistics)
    runner.send_message(FINISHED, lifecycle.of(environment).book.tally.to_json())


def _finished(environment: Any, msg: Any, **_: Any) -> None:
    environment.juggler_tallies[msg.node_id] = Tally.from_json(msg.data)


def _gather(environment: Any) -> Tally:
    """Return the sums of all workers."""
    runner = environment.runner
    environment.juggler_tallies = {}
    waited_for = {client.id for client in runner.clients.all}
    runner.send_message(FINISH)
    deadline = time.monotonic() + TIMEOUT
    while waited_for - environment.juggler_tallies.keys() and time.monotonic() < deadline:
        gevent.sleep(0.05)
    if silent := waited_for - environment.juggler_tallies.keys():
        fault = lifecycle.CountsDisagree(f"{len(silent)} workers have not told their counts within {TIMEOUT:g} s")
        environment.events.request.fire(
            request_type="CHECK", name="workers", response_time=None, response_length=0, exception=fault
        )
    tally = Tally()
    for each in environment.juggler_tallies.values():
        tally.add(each)
    return tally


@events.test_stop.add_listener
def _tell(environment: Any, **_: Any) -> None:
    runner = environment.runner
    if isinstance(runner, WorkerRunner):
        return
    tally = _gather(environment) if isinstance(runner, MasterRunner) else lifecycle.of(environment).book.tally
    print("\n".join(["", *tally.lines()]), flush=True)
    for line in [] if isinstance(runner, MasterRunner) else lifecycle.of(environment).results:
        print(f"WRONG: {line}", flush=True)
    if file := getattr(environment.parsed_options, "tally", ""):
        Path(file).write_text(json.dumps(tally.to_json()))
