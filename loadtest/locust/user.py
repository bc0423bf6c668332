"""A locust user with a juggler client. What the client sends and receives is in locust's statistics, and checked.

locust has to be imported before juggler's client, as it patches everything, and only then blocking code waits for its
own user alone. The command ``locust`` does so; a program of your own imports this module, or locust, first.
"""

from __future__ import annotations

# The order matters, see above; it is that of the alphabet here only as long as juggler counts as first-party.
import locust
from gevent import monkey

if not monkey.is_module_patched("socket"):
    raise ImportError("locust has not patched: unset LOCUST_SKIP_MONKEY_PATCH, and import locust before juggler")

import time
from typing import Any

import gevent
from locust.exception import RescheduleTask

from juggler.errors import JugglerError
from loadtest.locust import distributed, lifecycle  # noqa: F401  # for their listeners
from loadtest.locust.answers import Expect, anything
from loadtest.locust.client import Measure, RecordingClient
from loadtest.locust.ledger import Ledger

STOP_TIMEOUT = 15.0
"""Seconds for a user's last task, unless --stop-timeout says otherwise: one that is killed cannot end its calls."""

RETRY = 1.0
"""Seconds before a user that cannot connect tries again."""


class JugglerUser(locust.User):
    """A user of a juggler server; ``--host`` is its URL, such as ``ws://127.0.0.1:9000/ws``.

    Statistics have, by URI or channel: CALL (to the result), ACK (of calls), EXPIRED, PUB, SUB and UNSB (to the ACK),
    EVNT (from the publication, where its args have ``sent_at``), CONNECT, and at the end CHECK. An error that the
    client raises in a task is in the statistics already: it ends the task, and is told no second time.

    Attributes:
        client_options: for `juggler.client.Client`.
        expect: says what a call has to be answered with, which is then checked; a static method.
    """

    abstract = True
    client_options: dict[str, Any] = {}  # noqa: RUF012  # locust's users are made so
    expect: Expect = staticmethod(anything)

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.tasks = [_quiet(task) for task in type(self).tasks]
        self._client: RecordingClient | None = None

    @property
    def ledger(self) -> Ledger:
        """The book of this process, and what else a test has."""
        return lifecycle.of(self.environment)

    @property
    def client(self) -> RecordingClient:
        """The client. It connects when it is first used, and anew when the connection was lost."""
        if self._client is None or self._client.closed is not None:
            if self._client is not None:
                self.ledger.clients.discard(self._client)
            self._client = self._connect()
        return self._client

    def on_start(self) -> None:
        """Connect."""
        _ = self.client

    def on_stop(self) -> None:
        """Disconnect, when all calls have ended."""
        self.disconnect()

    def disconnect(self) -> None:
        """Wait for calls to end, and close the client; the next use makes another one."""
        if self._client is not None:
            client, self._client = self._client, None
            self.ledger.leave(client)

    def report(
        self, kind: str, name: str, seconds: float | None = None, size: int = 0, error: Exception | None = None
    ) -> None:
        """Tell locust of a request.

        Args:
            kind: its type.
            name: what it was about.
            seconds: how long it took; None where that is not known.
            size: bytes of the answer.
            error: why it failed; None when it did not.
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


def _quiet(task: Any) -> Any:
    """Return a task whose client errors end it, and no more."""
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
def _give_time(environment: Any, **_: Any) -> None:
    environment.stop_timeout = environment.stop_timeout or STOP_TIMEOUT
