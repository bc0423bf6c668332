"""Give an expiry to lists of results that have none.

Callees of the Go package set none. A server that lives empties its list, which deletes the key. The list of one that
was killed would stay for ever, as would what callees push to it afterwards. A list may be anywhere in Redis, so each
process scans the keys step by step.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from juggler.broker.redis.commands import pack
from juggler.broker.redis.keys import Names
from juggler.broker.redis.link import Link
from juggler.broker.redis.replies import OnReply, Reply, ignore, is_forbidden
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
"""Expiry of a list that has none. A server that still reads it has an hour to reconnect."""


class StaleResults:
    """Scans one server after the other, once there is a connection. Never blocks. Scans that fail start over."""

    def __init__(self, names: Names, topology: Topology, watchdog: Watchdog) -> None:
        self._pattern = names.all_results
        self._topology = topology
        self._watchdog = watchdog
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
            command = pack(b"SCAN", self._cursor, b"MATCH", self._pattern, b"COUNT", STEP)
            link.send(command, (self._on_scanned,))
        except BrokerUnavailable:
            self._link = None

    def _on_scanned(self, reply: Reply) -> None:
        if isinstance(reply, list):
            self._cursor, keys = reply
            if self._cursor == b"0":
                self._link = None
            for key in keys:
                self._expire(key)
            return
        self._link = None
        if is_forbidden(reply):
            self._watchdog.remove(self._run)
            log.warning(Line("redis: scanning for old results is not permitted", error=reply, see="docs/redis.md"))
        else:
            ignore(reply)

    def _expire(self, key: bytes) -> None:
        def on_ttl(ttl: Reply) -> None:
            if ttl == -1:
                self._send(key, pack(b"PEXPIRE", key, LIFETIME_MS), ignore)

        if self._topology.link_for(key).supports_redis7:
            self._send(key, pack(b"PEXPIRE", key, LIFETIME_MS, b"NX"), ignore)
        else:
            self._send(key, pack(b"PTTL", key), on_ttl)

    def _send(self, key: bytes, packed: bytes, on_reply: OnReply) -> None:
        with suppress(BrokerUnavailable):
            self._topology.link_for(key).send(packed, (on_reply,))
