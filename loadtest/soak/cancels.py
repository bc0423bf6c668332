"""Clients that call functions in all pools, and cancel most calls: with and without wait, or by disconnecting."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import gevent

from juggler.backend import Backend
from juggler.errors import JugglerError
from loadtest.audit.call_client import CallClient
from loadtest.audit.calls import CallAccounts
from loadtest.disturbances import Disturbances
from loadtest.procfs import is_running
from loadtest.soak.notes import Notes

URIS = {"soak.sleep": 0.5, "soak.poll.thread": 0.42, "soak.sleep.process": 0.08}
"""Functions, one for each pool, with their shares of the calls."""

CLIENTS = 4
RATE = 32.0
"""Calls a second of all clients: 10,000 cancels of calls in flight in 10 minutes."""

MAX_BEHIND = 1.0
"""Seconds of calls that are made up for when this process was too busy."""

CANCELLED = 0.8
LONGEST, LATEST = 3.0, 1.5
"""Seconds of the longest function, and until the latest cancel."""

ENDLESS, LONG = 0.1, 5.0
"""Share and duration of calls that are always cancelled: they cannot have ended by themselves."""

TIMEOUT = 6.0
LIFE = 8.0
"""Seconds after which a client disconnects with its calls in flight, on average."""

RETRY = 0.2
POLL = 0.05
JUDGE_INTERVAL = 2.0
STOP_TIMEOUT = 15.0


class Cancels:
    """Clients that call and cancel, from construction until `stop`.

    Attributes:
        accounts: their accounts.
    """

    def __init__(self, urls: Sequence[str], redis_url: str, notes: Path, disturbances: Disturbances) -> None:
        """Start.

        Args:
            urls: URLs of the servers, used in turn.
            redis_url: URL of their Redis, to ask them for their connections.
            notes: file of the functions' notes.
            disturbances: injected failures.
        """
        self.accounts = CallAccounts(disturbances)
        self._disturbances = disturbances
        self._redis_url = redis_url
        self._notes = Notes(notes)
        run = uuid.uuid4().hex[:8]
        self._names = (f"{run}.{number}" for number in count())
        self._stopping = False
        self._last: list[CallClient] = []
        self._clients = [gevent.spawn(self._run, urls[number % len(urls)]) for number in range(CLIENTS)]
        self._judging = gevent.spawn(self._judge)

    def stop(self) -> None:
        """Cancel everything in flight, wait for its end, judge it, and disconnect."""
        self._stopping = True
        gevent.joinall(self._clients, timeout=STOP_TIMEOUT)
        deadline = time.monotonic() + STOP_TIMEOUT
        while (self.accounts.in_flight() or self._running()) and time.monotonic() < deadline:
            self.accounts.expire(time.monotonic())
            gevent.sleep(POLL)
        self._judging.kill()
        self._check_counts()
        for client in self._last:
            client.close()
        self._read()
        self.accounts.judge(time.monotonic(), is_running, finally_=True)

    def line(self) -> str:
        """Format the counts."""
        ends = ", ".join(f"{count:,} {end}" for end, count in self.accounts.ends.most_common())
        return f"cancels: {self.accounts.cancels:,}; ends of calls: {ends or 'none'}"

    def _run(self, url: str) -> None:
        while not self._stopping:
            client = self._connect(url)
            if client is None:
                continue
            until = time.monotonic() + random.expovariate(1 / LIFE)
            calls = []
            due = time.monotonic()
            while client.code is None and not self._stopping and time.monotonic() < until:
                calls.append(gevent.spawn(self._call, client))
                due = max(due, time.monotonic() - MAX_BEHIND) + random.expovariate(RATE / CLIENTS)
                gevent.sleep(max(0.0, due - time.monotonic()))
            if self._stopping and client.code is None:
                gevent.joinall(calls)
                self._last.append(client)
            else:
                client.close()

    def _call(self, client: CallClient) -> None:
        uri = random.choices(list(URIS), list(URIS.values()))[0]
        is_long = random.random() < ENDLESS
        seconds = LONG if is_long else random.uniform(0, LONGEST)
        key, call = client.call(uri, f"{uri}.{next(self._names)}", seconds, TIMEOUT)
        wants = is_long or random.random() < CANCELLED
        until = time.monotonic() + (random.uniform(0, LATEST) if wants else TIMEOUT)
        while time.monotonic() < until and not self._stopping:
            if call.ended is not None:
                return
            gevent.sleep(min(POLL, max(0, until - time.monotonic())))
        if client.code is None and call.ended is None:
            client.cancel(key, call, wait=random.random() < 0.5)

    def _connect(self, url: str) -> CallClient | None:
        began = time.monotonic()
        try:
            return CallClient(url, self.accounts)
        except OSError as error:
            if not self._disturbances.overlap(began, time.monotonic()):
                self.accounts.violations.add("a client could not connect", str(error))
            gevent.sleep(RETRY)
            return None

    # Verdicts

    def _judge(self) -> None:
        while True:
            gevent.sleep(JUDGE_INTERVAL)
            self._read()
            self.accounts.judge(time.monotonic(), is_running)

    def _read(self) -> None:
        for note in self._notes.read():
            (self.accounts.started if note.what == "start" else self.accounts.stopped)(note.call, note.pid, note.at)

    def _running(self) -> bool:
        self._read()
        return self.accounts.running(is_running)

    def _check_counts(self) -> None:
        """Check that the servers count no call of a client that has none in flight."""
        with Backend(self._redis_url) as backend:
            for client in self._last:
                deadline = time.monotonic() + TIMEOUT
                while calls := self._counted(backend, client):
                    if time.monotonic() > deadline:
                        self.accounts.violations.add("calls are counted that have ended", f"{calls} of {client.id}")
                        break
                    gevent.sleep(POLL)

    def _counted(self, backend: Backend, client: CallClient) -> int:
        if client.code is not None:
            return 0
        try:
            return sum(each.calls for each in backend.connections(connection=client.id).listed)
        except JugglerError as error:
            self.accounts.violations.add("the servers do not list a connection", str(error))
            return 0
