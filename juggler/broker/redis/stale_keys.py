"""Find lists and sets without an expiry, which would never be deleted.

A process that is killed, or its host, may be cut off between a push and the command that sets the expiry. Programs of
the Go package set none at all. A reader that lives empties its list, which deletes the key; that of one that was killed
would stay for ever. A key may be anywhere in Redis, so each process scans the keys step by step.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial

from juggler.broker.redis.commands import pack
from juggler.broker.redis.keys import Names
from juggler.broker.redis.link import Link
from juggler.broker.redis.replies import OnReply, Reply, ignore, is_forbidden
from juggler.broker.redis.sweep import STEP as FEW
from juggler.broker.redis.sweep import Sweep
from juggler.broker.redis.topology import Topology
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerUnavailable
from juggler.process.logline import Line

log = logging.getLogger("juggler.redis")

PERIOD = 5.0
"""Seconds between two steps."""

STEP = 1000
"""Keys that a step looks at, approximately. It takes Redis about 0.3 ms."""

LIFETIME_MS = 3_600_000
"""Expiry of a key that has none. A process that still uses it has an hour to reconnect."""


class StaleKeys:
    """Scans one server after the other, once there is a connection. Never blocks. Scans that fail start over.

    Calls that Go servers have queued must not expire with their list. So a list of calls gets no expiry; its expired
    calls are removed, which deletes it in the end.
    """

    def __init__(self, names: Names, topology: Topology, watchdog: Watchdog) -> None:
        self._names = names
        self._topology = topology
        self._watchdog = watchdog
        self._sweep = Sweep(names, topology, FEW)
        self._is_started = False
        self._since = PERIOD
        # The server that is being scanned, and how far.
        self._link: Link | None = None
        self._cursor = b"0"
        self._scans = 0
        topology.on_up(self._start)

    def _start(self) -> None:
        if not self._is_started:
            self._is_started = True
            self._watchdog.add(self._run)

    def _run(self, elapsed: float) -> None:
        self._sweep.run()
        self._since += elapsed
        if self._since >= PERIOD:
            self._since = 0.0
            self._scan()

    def _scan(self) -> None:
        try:
            links = self._topology.links()
            link = self._link
            if link is None or link not in links:
                self._scans += 1
                self._link = link = links[self._scans % len(links)]
                self._cursor = b"0"
                self._check(self._names.uris)
            command = pack(b"SCAN", self._cursor, b"MATCH", self._names.collections, b"COUNT", STEP)
            link.send(command, (self._on_scanned,))
        except BrokerUnavailable:
            self._link = None

    def _on_scanned(self, reply: Reply) -> None:
        if isinstance(reply, list):
            self._cursor, keys = reply
            if self._cursor == b"0":
                self._link = None
            for key in keys:
                self._check(key)
        else:
            self._link = None
            self._on_error(reply)

    def _on_error(self, reply: Reply) -> None:
        if not is_forbidden(reply):
            ignore(reply)
        elif self._is_started:
            self._is_started = False
            self._watchdog.remove(self._run)
            log.warning(Line("redis: scanning for old keys is not permitted", error=reply, see="docs/redis.md"))

    def _check(self, key: bytes) -> None:
        self._send(key, pack(b"PTTL", key), partial(self._on_ttl, key))

    def _on_ttl(self, key: bytes, ttl: Reply) -> None:
        if ttl != -1:
            if not isinstance(ttl, int):
                self._on_error(ttl)
        elif (uri := self._names.uri_of_calls(key)) is not None:
            self._sweep.add(uri)
        else:
            self._send(key, pack(b"PEXPIRE", key, LIFETIME_MS), ignore)

    def _send(self, key: bytes, packed: bytes, on_reply: OnReply) -> None:
        with suppress(BrokerUnavailable):
            self._topology.link_for(key).send(packed, (on_reply,))
