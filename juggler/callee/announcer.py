"""Keeps the functions of a worker in the catalogue while it serves them."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable, Mapping
from itertools import islice

import gevent

from juggler.broker import CalleeBroker
from juggler.callee.counts import Stats
from juggler.callee.thunk import Thunk
from juggler.process.logline import Line

log = logging.getLogger("juggler.callee")

PERIOD = 1.0
"""Seconds between two announcements of a function. Longer for workers with more than 1000 functions."""

LIFETIMES = 5
"""Lifetime of an announcement, in periods."""

MAX_SCHEMAS = 2**20
"""Maximum size of the JSON Schemas that a process announces, in bytes. Those of further functions are left out."""

CHUNK = 100
_RATE_WEIGHT = 0.5


class Announcer:
    """Announces functions in a greenlet, from `start` until `close`."""

    def __init__(self, callee_id: str, broker: CalleeBroker, thunks: Mapping[str, Thunk], stats: Stats) -> None:
        self._callee_id = callee_id
        self._broker = broker
        self._thunks = thunks
        self._stats = stats
        self._period = max(PERIOD, PERIOD * len(thunks) / 1000)
        self._seen = dict.fromkeys(thunks, 0)
        self._rates = dict.fromkeys(thunks, 0.0)
        self._process = ""
        self._described: set[str] = set()
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def start(self) -> None:
        """Announce all functions and start the greenlet."""
        self._process = f"{socket.gethostname()}:{os.getpid()}"
        self._describe()
        self._announce(self._thunks)
        self._greenlet = gevent.spawn(self._run)
        self._greenlet.name = "callee-announce"

    def close(self, withdraw: bool = True) -> None:
        """Stop announcing. With ``withdraw``, remove the functions from the catalogue. Idempotent."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill()
            if withdraw:
                self._broker.withdraw(self._callee_id, tuple(self._thunks))

    def _describe(self) -> None:
        """Choose the functions whose schemas are announced: those registered first."""
        left = MAX_SCHEMAS
        for uri, thunk in self._thunks.items():
            left -= len(thunk.schema)
            if left < 0:
                log.warning(Line("callee: schemas left out", limit=MAX_SCHEMAS, announced=len(self._described)))
                break
            self._described.add(uri)

    def _run(self) -> None:
        chunks = max(1, -(-len(self._thunks) // CHUNK))
        while True:
            uris = iter(self._thunks)
            for _ in range(chunks):
                gevent.sleep(self._period / chunks)
                self._announce(islice(uris, CHUNK))

    def _announce(self, uris: Iterable[str]) -> None:
        functions = {
            uri: self._thunks[uri].announcement(self._rate(uri), self._process, uri in self._described) for uri in uris
        }
        self._broker.announce(self._callee_id, functions, LIFETIMES * self._period)

    def _rate(self, uri: str) -> float:
        requests = self._stats.by_uri[uri].requests
        now = (requests - self._seen[uri]) / self._period
        self._seen[uri] = requests
        rate = self._rates[uri] = _RATE_WEIGHT * now + (1 - _RATE_WEIGHT) * self._rates[uri]
        return round(rate, 2)
