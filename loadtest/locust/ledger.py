"""What a locust process keeps for a test: the book, and the open clients. It begins and ends with the test."""

from __future__ import annotations

import time
from typing import Any

import gevent
from locust import events

from juggler.message import new_uuid
from loadtest.locust.checks import Book
from loadtest.locust.client import RecordingClient

END_TIMEOUT = 10.0
"""Seconds after the end for which answers and events are waited for."""

JUDGE_EVERY = 2.0


class Ledger:
    """One test in one locust process.

    Attributes:
        book: of all clients.
        run: makes names of this test and process unique, such as those of channels.
        stopping: whether the test ends. Clients then stay open until all events have come.
        results: faults, one a line, once the test has ended.
    """

    def __init__(self) -> None:
        self.book = Book()
        self.run = new_uuid()[:8]
        self.stopping = False
        self.results: list[str] = []
        self.clients: set[RecordingClient] = set()
        self._judge = gevent.spawn(self._judging)

    def leave(self, client: RecordingClient) -> None:
        """A user has no more use for its client."""
        if not self.stopping:
            client.settle(END_TIMEOUT)
            client.close()
            self.clients.discard(client)

    def finish(self) -> None:
        """Wait for what has to come, judge all, and close all clients. Idempotent."""
        self._judge.kill()
        deadline = time.monotonic() + END_TIMEOUT
        while self.book.waits_for() and time.monotonic() < deadline:
            gevent.sleep(0.05)
        self.book.finish(time.monotonic())
        clients, self.clients = self.clients, set()
        gevent.joinall([gevent.spawn(client.close) for client in clients], timeout=END_TIMEOUT)
        self.results = self.book.faults.lines()

    def _judging(self) -> None:
        while True:
            gevent.sleep(JUDGE_EVERY)
            self.book.judge(time.monotonic())


class CountsDisagree(Exception):
    """What was counted cannot be. The text says what, and how often."""


def of(environment: Any) -> Ledger:
    """Return the ledger of the test that runs, or of the one that has ended; an empty one before the first."""
    if not hasattr(environment, "juggler"):
        environment.juggler = Ledger()
    ledger: Ledger = environment.juggler
    return ledger


@events.test_start.add_listener
def _begin(environment: Any, **_: Any) -> None:
    environment.juggler = Ledger()


@events.test_stopping.add_listener
def _stopping(environment: Any, **_: Any) -> None:
    of(environment).stopping = True


@events.test_stop.add_listener
def _end(environment: Any, **_: Any) -> None:
    ledger = of(environment)
    ledger.finish()
    # As failed requests they are in the report, reach a master, and make locust's exit code 1.
    for line in ledger.results:
        environment.events.request.fire(
            request_type="CHECK", name="counts", response_time=None, response_length=0, exception=CountsDisagree(line)
        )
    if not ledger.results and ledger.book.tally.connections:
        environment.events.request.fire(request_type="CHECK", name="counts", response_time=None, response_length=0)
