"""Well-behaved clients that never rest, and come back when they lose their connection."""

from __future__ import annotations

import random
import time
from contextlib import suppress

import gevent

from juggler.errors import JugglerError, Nacked
from loadtest.locust.client import Measure, RecordingClient
from loadtest.locust.ledger import Ledger
from loadtest.locust.mixing import Mixer, channels, expect

PAUSE = 0.03
RETRY = 0.2
CALL_TIMEOUT = 4.0


class Crew:
    """Several clients of one book."""

    def __init__(self, url: str, clients: int) -> None:
        """Begin at once."""
        self.ledger = Ledger()
        self._url = url
        self._channels = channels(f"soak.{self.ledger.run}", 4)
        self._sailors = [gevent.spawn(self._sail, number) for number in range(clients)]

    def stop(self) -> None:
        """Begin nothing more, wait for what is under way, judge it all, and disconnect."""
        self.ledger.stopping = True
        gevent.joinall(self._sailors, timeout=30)
        if late := [sailor for sailor in self._sailors if not sailor.dead]:
            self.ledger.book.faults.add("a client hangs", f"{len(late)} of them")
            gevent.killall(late)
        self.ledger.finish()

    def _sail(self, number: int) -> None:
        while not self.ledger.stopping:
            client = self._connect()
            if client is None:
                continue
            mixer = Mixer(self._channels, random.Random(number), timeout=CALL_TIMEOUT)
            while not self.ledger.stopping and client.closed is None:
                with suppress(JugglerError):  # the book has it
                    mixer.step(client)
                gevent.sleep(PAUSE)
            if client.closed is not None:
                self.ledger.clients.discard(client)

    def _connect(self) -> RecordingClient | None:
        began = time.monotonic()
        try:
            client = RecordingClient(self._url, self.ledger.book, self._on_measure, expect, timeout=15.0)
        except JugglerError as error:
            if not self.ledger.book.is_disturbed(began, time.monotonic()):
                self.ledger.book.faults.add("nobody could connect", str(error))
            gevent.sleep(RETRY)
            return None
        self.ledger.clients.add(client)
        return client

    def _on_measure(self, measure: Measure) -> None:
        now = time.monotonic()
        if isinstance(measure.error, Nacked) and not self.ledger.book.is_disturbed(now - (measure.seconds or 0), now):
            self.ledger.book.faults.add("a request was refused", f"{measure.kind} {measure.name}: {measure.error}")
