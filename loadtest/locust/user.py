"""A locust user with a juggler client, whose messages are checked and appear in locust's statistics.

locust monkey-patches on import, and has to be imported before juggler's client; otherwise a user blocks all others. The
command ``locust`` does so. A program of your own has to import this module, or locust, first.
"""

from __future__ import annotations

# The order matters, see above; import sorters keep it as long as juggler is a first-party package.
import locust
from gevent import monkey

if not monkey.is_module_patched("socket"):
    raise ImportError("locust has not patched: unset LOCUST_SKIP_MONKEY_PATCH, and import locust before juggler")

import time
from typing import Any

import gevent
from locust.exception import RescheduleTask

from juggler.errors import JugglerError
from loadtest.locust.client import Measure, RecordingClient
from loadtest.locust.ledger import Ledger
from loadtest.locust.listeners import ledger_of
from loadtest.locust.request_checks import Expect, anything

STOP_TIMEOUT = 15.0
"""Default of --stop-timeout: seconds for a user's last task. A user that is killed leaves calls in flight."""

RETRY = 1.0
"""Seconds between attempts to connect."""


class JugglerUser(locust.User):
    """A user of a juggler server; ``--host`` is its URL, for example ``ws://127.0.0.1:9000/ws``.

    Types in the statistics, by URI or channel: CALL (to the result), ACK (of calls), EXPIRED, PUB, SUB and UNSB (to the
    ACK), EVNT (from the publication, if its args have ``sent_at``), CONNECT, and CHECK at the end. An error of the
    client aborts the task, and is reported once.

    Attributes:
        client_options: options of `juggler.client.Client`.
        expect: returns the result that a call must have; a static method.
    """

    abstract = True
    client_options: dict[str, Any] = {}  # noqa: RUF012  # locust's users are made so
    expect: Expect = staticmethod(anything)

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.tasks = [_without_client_errors(task) for task in type(self).tasks]
        self._client: RecordingClient | None = None

    @property
    def ledger(self) -> Ledger:
        """The state of the test in this process."""
        return ledger_of(self.environment)

    @property
    def client(self) -> RecordingClient:
        """The client, which connects on first use, and again after a lost connection."""
        if self._client is None or self._client.closed is not None:
            if self._client is not None:
                self.ledger.clients.discard(self._client)
            self._client = self._connect()
        return self._client

    def on_start(self) -> None:
        """Connect."""
        _ = self.client

    def on_stop(self) -> None:
        """Disconnect after the last call has completed."""
        self.disconnect()

    def disconnect(self) -> None:
        """Wait for calls in flight, and close the client; the next use creates another one."""
        if self._client is not None:
            client, self._client = self._client, None
            self.ledger.leave(client)

    def report(
        self, kind: str, name: str, seconds: float | None = None, size: int = 0, error: Exception | None = None
    ) -> None:
        """Add a request to locust's statistics.

        Args:
            kind: type of the request.
            name: URI or channel.
            seconds: duration; None if unknown.
            size: size of the response in bytes.
            error: why it failed; None if it did not.
        """
        self.environment.events.request.fire(
            request_type=kind,
            name=name.replace(f"{self.ledger.run}.", "").replace(f".{self.ledger.run}", ""),
            response_time=None if seconds is None else seconds * 1000,
            response_length=size,
            exception=error,
            context=self.context(),
        )

    def _connect(self) -> RecordingClient:
        while True:
            began = time.monotonic()
            try:
                client = RecordingClient(
                    self.host or "", self.ledger.book, self._on_measure, self.expect, **self.client_options
                )
            except JugglerError as error:
                self.report("CONNECT", "", time.monotonic() - began, error=error)
                gevent.sleep(RETRY)
                continue
            self.report("CONNECT", "", time.monotonic() - began)
            self.ledger.clients.add(client)
            return client

    def _on_measure(self, measure: Measure) -> None:
        self.report(*measure)


def _without_client_errors(task: Any) -> Any:
    """Return a task that ends on an error of the client, without raising it to locust."""
    if isinstance(task, type):
        return task

    def run(user: Any) -> None:
        try:
            task(user)
        except JugglerError:
            raise RescheduleTask from None

    run.__name__ = task.__name__
    return run


@locust.events.init.add_listener
def _set_stop_timeout(environment: Any, **_: Any) -> None:
    environment.stop_timeout = environment.stop_timeout or STOP_TIMEOUT
