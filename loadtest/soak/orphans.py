"""Long calls and streams whose callee is killed: their clients must learn of it within seconds."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import gevent

from loadtest.audit.call_client import CallClient
from loadtest.audit.calls import KNOWN, LEARNT, STOP, CallAccounts
from loadtest.disturbances import Disturbances
from loadtest.procfs import is_running
from loadtest.soak.notes import Notes

EACH = 6
"""Calls and streams at each server: some for each callee process."""

SECONDS, TIMEOUT = 12.0, 13.0
"""Duration and timeout of a call: longer than its client needs to learn of the death, else short."""

POLL = 0.05


class Orphans:
    """Calls for one failure, from construction until `finish`.

    Attributes:
        accounts: their accounts.
        learnt: number of calls whose clients learnt in time that their callee was killed.
    """

    def __init__(self, urls: Sequence[str], notes: Path, disturbances: Disturbances) -> None:
        """Start the calls, and return once the servers know which callee runs each.

        Raises:
            OSError: a server cannot be reached.
        """
        self.accounts = CallAccounts(disturbances)
        self.learnt = 0
        self._notes = Notes(notes)
        self._clients = [CallClient(url, self.accounts) for url in urls]
        self._calls = []
        run, numbers = uuid.uuid4().hex[:8], count()
        for client in self._clients:
            for _ in range(EACH):
                for uri in ("soak.wait", "soak.tick"):
                    made = client.call(uri, f"{uri}.{run}.{next(numbers)}", SECONDS, TIMEOUT, parts=uri == "soak.tick")
                    self._calls.append((client, *made))
        gevent.sleep(KNOWN + 0.5)

    def finish(self, killed: int, died: float) -> None:
        """Wait until the clients of a killed process have learnt of it, judge it, and cancel the other calls."""
        self._read()
        while self.accounts.orphans(killed, died) and time.monotonic() < died + LEARNT:
            gevent.sleep(POLL)
        self.learnt = self.accounts.judge_death(killed, died)
        for client, key, call in self._calls:
            if client.code is None and call.ended is None:
                client.cancel(key, call, wait=False)
        deadline = time.monotonic() + STOP
        while self.accounts.in_flight() and time.monotonic() < deadline:
            gevent.sleep(POLL)
        self._read()
        self.accounts.judge(time.monotonic(), is_running, finally_=True)
        for client in self._clients:
            client.close()

    def _read(self) -> None:
        for note in self._notes.read():
            (self.accounts.started if note.what == "start" else self.accounts.stopped)(note.call, note.pid, note.at)
