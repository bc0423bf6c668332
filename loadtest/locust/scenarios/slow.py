"""Some listeners do not read for a while: the server has to close them, without affecting the others."""

from __future__ import annotations

import time
from typing import Any

import gevent
from locust import constant_throughput, tag, task

from juggler.locust.client import age, stamped
from juggler.locust.scenarios import Listener
from juggler.locust.user import JugglerUser
from juggler.protocol.codec import decode_response
from juggler.protocol.messages import Evnt, MessageType
from loadtest.raw_connection import RawConnection, request

SIZE = 100_000
PAUSE = 5.0
"""Seconds without reading: more events than the server and the system buffer for a client."""

LONGEST = 30.0
UP_TO_DATE = 0.5
TOO_SLOW, LOST = 4429, 1006


class SlowPublisher(JugglerUser):
    """Publishes large events, twice --event-rate a second."""

    fixed_count = 1

    def wait_time(self) -> Any:
        return constant_throughput(2 * self.environment.parsed_options.event_rate)(self)

    @tag("slow")
    @task
    def publish(self) -> None:
        self.client.publish(f"slow.{self.ledger.run}", stamped(text="x" * SIZE))


class QuickListener(Listener):
    """Receives the same events, and must receive all of them."""

    @property
    def channel(self) -> str:
        return f"slow.{self.ledger.run}"

    @tag("slow")
    @task
    def listen(self) -> None:
        _ = self.client


class SlowReader(JugglerUser):
    """Pauses, then reads. SLOW is the time until it is up to date, or closed by the server."""

    @tag("slow")
    @task
    def read_slowly(self) -> None:
        self.ledger.book.tally.uncounted += 1
        began = time.monotonic()
        end, error = "", None
        try:
            end = self._read_slowly(began)
        except OSError as failure:
            # A reset: the server did not wait any longer for its close frame to be read.
            end, error = str(LOST), None if time.monotonic() - began >= PAUSE else failure
        if end not in ("up to date", "stopped", str(TOO_SLOW), str(LOST)):
            error = ValueError(f"the server closed the connection with code {end}")
        self.report("SLOW", end, time.monotonic() - began, error=error)
        gevent.sleep(1)

    def _read_slowly(self, began: float) -> str:
        with RawConnection(self.host or "") as connection:
            connection.upgrade()
            connection.send(request(MessageType.SUB, channel=f"slow.{self.ledger.run}"))
            gevent.sleep(PAUSE)
            while connection.close_code is None and time.monotonic() < began + LONGEST:
                ages = [age(text) for text in _args(connection.receive())]
                if any(each is not None and each < UP_TO_DATE for each in ages):
                    return "up to date"
                if self.ledger.stopping:
                    return "stopped"
            return str(connection.close_code or "too late")

    def on_start(self) -> None:
        """Do not connect a client."""


def _args(texts: list[bytes]) -> list[bytes]:
    """Return the args of the events among messages."""
    messages = [decode_response(text.decode()) for text in texts]
    return [message.args for message in messages if isinstance(message, Evnt)]
