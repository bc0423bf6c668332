"""Clients on raw websockets that call, publish and subscribe all the time, with exact accounts (`loadtest.audit`)."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from urllib.parse import urlsplit

import gevent

from loadtest.audit.accounts import Accounts, Request
from loadtest.audit.client import AuditClient
from loadtest.disturbances import Disturbances
from tests.support import eventually

CHANNEL = "traffic"
PAUSE = 0.01
RETRY = 0.1
TIMEOUT = 4.0
RECOVERY = 20.0
MAX_LATENCY = 10.0
"""Tests share the machine with others."""


def readiness(url: str) -> int:
    """Return the status of the readiness probe of a server."""
    try:
        with urllib.request.urlopen(f"http://{urlsplit(url).netloc}/readyz", timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


class Traffic:
    """Clients that reconnect, from construction until `finish`. As a context manager, it fails on violations.

    Attributes:
        accounts: what they sent and received.
        requests: calls and publications, in the order of sending.
    """

    def __init__(
        self,
        url: str,
        *,
        clients: int = 4,
        uri: str = "test.echo",
        duration: float = 0.0,
        in_flight: int = 2,
        timeout: float = TIMEOUT,
    ) -> None:
        """Start.

        Args:
            url: URL of the server.
            clients: number of websockets; the first publishes.
            uri: function to call. It gets an array that is different for each call and returns it, or if it takes
                some time, that time in seconds.
            duration: time that the function takes.
            in_flight: calls in flight on each.
            timeout: timeout of the calls in seconds.
        """
        self.disturbances = Disturbances()
        self.accounts = Accounts(self.disturbances, MAX_LATENCY)
        self.requests: list[Request] = []
        self._url, self._uri, self._duration, self._in_flight = url, uri, duration, in_flight
        self._timeout = timeout
        self._numbers = count(1)
        self._stopping = self._leaving = False
        self._clients: dict[int, AuditClient] = {}
        self._greenlets = [gevent.spawn(self._serve, slot) for slot in range(clients)]

    def __enter__(self) -> Traffic:  # noqa: PYI034 (typing.Self is of Python 3.11)
        """Wait until results and events arrive."""
        try:
            self.flows()
        except BaseException:
            self.finish()
            raise
        return self

    def __exit__(self, kind: object, *exc_info: object) -> None:
        found = self.finish()
        assert kind or not found, found

    def flows(self, timeout: float = RECOVERY) -> None:
        """Wait until all clients are connected, calls succeed, and all receive an event that is published later."""
        eventually(lambda: len(self._clients) == len(self._greenlets), timeout, "all clients are connected")
        now, results = time.monotonic(), self.accounts.results
        eventually(lambda: self.accounts.results > results + 2 * len(self._greenlets), timeout, "results arrive")
        numbers = [client.number for client in self._clients.values()]
        eventually(
            lambda: all((self.accounts.heard(number, CHANNEL) or 0) > now + PAUSE for number in numbers),
            timeout,
            "all receive events",
        )

    @contextmanager
    def failure(self) -> Iterator[None]:
        """Excuse what is lost in a block, and until everything has recovered after it."""
        self.disturbances.begin(time.monotonic())
        yield
        self.flows()
        self.disturbances.end(time.monotonic())

    def finish(self) -> list[str]:
        """Wait for everything in flight, disconnect, and return the violations. Idempotent."""
        self._stopping = True
        deadline = time.monotonic() + MAX_LATENCY
        while not self._is_quiet() and time.monotonic() < deadline:
            gevent.sleep(PAUSE)
        self.accounts.judge(time.monotonic(), finally_=True)
        self._leaving = True
        gevent.joinall(self._greenlets, timeout=MAX_LATENCY)
        gevent.killall(self._greenlets)
        return self.accounts.violations.lines()

    def _is_quiet(self) -> bool:
        # Calls of which the result was lost in a failure are over at their timeout.
        since = time.monotonic() - self._timeout
        return self.accounts.unanswered(since) == 0 and self.accounts.arrived(CHANNEL)

    def _serve(self, slot: int) -> None:
        while not self._leaving:
            try:
                client = AuditClient(self._url, self.accounts)
            except OSError:
                gevent.sleep(RETRY)
                continue
            subscription = client.subscribe(CHANNEL)
            client.wait(subscription)
            if subscription.acknowledged:
                self._clients[slot] = client
                work = [gevent.spawn(self._call, client) for _ in range(self._in_flight)]
                if slot == 0:
                    work.append(gevent.spawn(self._publish, client))
                while not (self._leaving or client.code is not None):
                    gevent.sleep(PAUSE)
                gevent.joinall(work, timeout=MAX_LATENCY)
                gevent.killall(work)
                del self._clients[slot]
            client.close()
            gevent.sleep(0 if self._leaving else RETRY)

    def _publish(self, client: AuditClient) -> None:
        while client.code is None and not self._stopping:
            self._make(client.publish(CHANNEL, next(self._numbers)), client)

    def _call(self, client: AuditClient) -> None:
        while client.code is None and not self._stopping:
            args = self._duration or [client.number, next(self._numbers)]
            made = client.call(self._uri, args, self._timeout, expected=args, duration=self._duration)
            self._make(made, client)

    def _make(self, request: Request, client: AuditClient) -> None:
        self.requests.append(request)
        client.wait(request, result=True, timeout=self._timeout)
        gevent.sleep(PAUSE if request.acknowledged else RETRY)
