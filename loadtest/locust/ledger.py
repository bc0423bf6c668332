"""What a process keeps for a test: the book, and the open clients. Knows no locust."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent

from juggler.process.uuids import new_uuid
from loadtest.locust.checks import Book
from loadtest.locust.client import RecordingClient

END_TIMEOUT = 15.0
"""Seconds after the end for which answers are waited for."""

EVENTS_TIMEOUT = 3.0
"""Seconds for which events are waited for when no more of them come."""

JUDGE_EVERY = 2.0


class Ledger:
    """One test in one process.

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
        _wait_for_none(self.book.unanswered, END_TIMEOUT)
        _wait_for_none(self.book.missing, EVENTS_TIMEOUT)
        self.book.finish(time.monotonic())
        clients, self.clients = self.clients, set()
        gevent.joinall([gevent.spawn(client.close) for client in clients], timeout=END_TIMEOUT)
        self.results = self.book.faults.lines()

    def _judging(self) -> None:
        while True:
            gevent.sleep(JUDGE_EVERY)
            self.book.judge(time.monotonic())


def _wait_for_none(count: Callable[[], int], timeout: float) -> None:
    """Wait until there are none, or no fewer than so many seconds ago."""
    left, since = count(), time.monotonic()
    while left and time.monotonic() - since < timeout:
        gevent.sleep(0.05)
        if (now := count()) < left:
            left, since = now, time.monotonic()
