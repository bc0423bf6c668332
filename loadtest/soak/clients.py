"""Well-behaved clients, which reconnect after a lost connection."""

from __future__ import annotations

import random
import time
from contextlib import suppress

import gevent

from juggler.errors import JugglerError, Nacked
from juggler.locust.book import Book
from juggler.locust.client import Measure, RecordingClient
from juggler.locust.ledger import Ledger
from loadtest.audit.accounts import MAX_LATENCY
from loadtest.disturbances import Disturbances
from loadtest.locust.mixer import Mixer, channels, expect

PAUSE = 0.03
RETRY = 0.2
CALL_TIMEOUT = 4.0
STOP_TIMEOUT = 30.0


class MixedClients:
    """Clients with a common book, which perform random steps from construction until `stop`.

    Attributes:
        ledger: their book, and the open clients.
    """

    def __init__(self, url: str, count: int, disturbances: Disturbances) -> None:
        self.ledger = Ledger(Book(disturbances.overlap, MAX_LATENCY))
        self._disturbances = disturbances
        self._url = url
        self._channels = channels(f"soak.{self.ledger.run}", 4)
        self._greenlets = [gevent.spawn(self._run, number) for number in range(count)]

    def stop(self) -> None:
        """Wait for everything in flight, judge it, and disconnect."""
        self.ledger.stopping = True
        gevent.joinall(self._greenlets, timeout=STOP_TIMEOUT)
        if late := [greenlet for greenlet in self._greenlets if not greenlet.dead]:
            self.ledger.book.violations.add("a client hangs", f"{len(late)} of them")
            gevent.killall(late)
        self.ledger.finish()

    def _run(self, number: int) -> None:
        while not self.ledger.stopping:
            client = self._connect()
            if client is None:
                continue
            mixer = Mixer(self._channels, random.Random(number), timeout=CALL_TIMEOUT)
            while not self.ledger.stopping and client.closed is None:
                with suppress(JugglerError):  # it is in the book
                    mixer.step(client)
                gevent.sleep(PAUSE)
            if client.closed is not None:
                self.ledger.clients.discard(client)

    def _connect(self) -> RecordingClient | None:
        began = time.monotonic()
        try:
            client = RecordingClient(self._url, self.ledger.book, self._on_measure, expect, timeout=15.0)
        except JugglerError as error:
            if not self._disturbances.overlap(began, time.monotonic()):
                self.ledger.book.violations.add("a client could not connect", str(error))
            gevent.sleep(RETRY)
            return None
        self.ledger.clients.add(client)
        return client

    def _on_measure(self, measure: Measure) -> None:
        now = time.monotonic()
        if isinstance(measure.error, Nacked) and not self._disturbances.overlap(now - (measure.seconds or 0), now):
            self.ledger.book.violations.add("a request was refused", f"{measure.kind} {measure.name}: {measure.error}")
