"""The state of a test in one process: its book, and the open clients. Independent of locust."""

from __future__ import annotations

import time
from collections.abc import Callable
from secrets import token_hex

import gevent

from juggler.locust.book import Book
from juggler.locust.client import RecordingClient

RESPONSE_TIMEOUT = 15.0
"""Seconds without progress for which `Ledger.finish` waits for responses; for calls, at least until their timeout."""

LONGEST_CALL = 65.0
"""Maximum number of seconds for which `Ledger.finish` waits for a call: more than a client's default timeout."""

EVENTS_TIMEOUT = 8.0
"""Seconds without progress for which `Ledger.finish` waits for events."""

JUDGE_INTERVAL = 2.0


class Ledger:
    """One test in one process.

    Attributes:
        book: book of all clients.
        run: eight random characters, to make names unique to this test and process, such as those of channels.
        stopping: whether the test is ending; clients then stay open until all events have arrived.
        results: violations, one a line, after `finish`.
        clients: open clients.
    """

    def __init__(self, book: Book | None = None) -> None:
        self.book = book or Book()
        self.run = token_hex(4)
        self.stopping = False
        self.results: list[str] = []
        self.clients: set[RecordingClient] = set()
        self._judge = gevent.spawn(self._judge_repeatedly)

    def leave(self, client: RecordingClient) -> None:
        """Close the client of a user that needs it no longer."""
        if not self.stopping:
            client.settle(RESPONSE_TIMEOUT)
            client.close()
            self.clients.discard(client)

    def longest_wait(self) -> float:
        """Return the maximum number of seconds for which `finish` waits for calls in flight without progress."""
        deadline = self.book.last_deadline()
        left = 0.0 if deadline is None else deadline - time.monotonic() + 1.0  # the client notices it a little later
        return max(RESPONSE_TIMEOUT, min(left, LONGEST_CALL))

    def finish(self) -> None:
        """Wait for everything in flight, judge it, and close all clients. Idempotent."""
        self._judge.kill()
        waits = ((self.book.unanswered, self.longest_wait()), (self.book.missing, EVENTS_TIMEOUT))
        gevent.joinall([gevent.spawn(_wait_for_none, *each) for each in waits])
        self.book.finish(time.monotonic())
        clients, self.clients = self.clients, set()
        gevent.joinall([gevent.spawn(client.close) for client in clients], timeout=RESPONSE_TIMEOUT)
        self.results = self.book.violations.lines()

    def _judge_repeatedly(self) -> None:
        while True:
            gevent.sleep(JUDGE_INTERVAL)
            self.book.judge(time.monotonic())


def _wait_for_none(count: Callable[[], int], timeout: float) -> None:
    """Wait until a count is 0, or has not decreased for ``timeout`` seconds."""
    left, since = count(), time.monotonic()
    while left and time.monotonic() - since < timeout:
        gevent.sleep(0.05)
        if (now := count()) < left:
            left, since = now, time.monotonic()
