"""Service discovery: callees announce their functions periodically, servers and operators read the catalogue.

Each URI has a set of its callees, and for each callee a key with its announcement, all in one slot. One more set has
all URIs, for listings. Everything expires in Redis, by Redis's clock. A set expires after its last member, so members
that were left by killed callees are removed by the next callee.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import hiredis
import msgspec

from juggler.broker import Announcement, OnServed, Registered
from juggler.broker.redis.commands import pack
from juggler.broker.redis.keys import Names
from juggler.broker.redis.link import execute_each, gather
from juggler.broker.redis.replies import Reply, as_error, is_unsettled
from juggler.broker.redis.topology import Topology
from juggler.errors import BrokerUnavailable
from juggler.process.logline import Line
from juggler.process.uuids import new_uuid

log = logging.getLogger("juggler.redis")

DOUBT = 3.0
"""Seconds after a lost connection, and after Redis was emptied, for which a missing announcement means nothing: callees
may come back later."""

MARKER_TTL = 20
"""Seconds for which the marker of a server lives in Redis."""

NO_KEY = -2
"""The reply to ``PTTL`` if the key does not exist."""

REPLY_TIMEOUT = 5.0
"""Seconds to wait for replies to one step of `Announcements.registered`."""


class Announcements:
    """Writes and reads announcements. Only `registered` blocks."""

    def __init__(self, names: Names, topology: Topology) -> None:
        self._names = names
        self._topology = topology
        self._refused = False
        self._losses = 0
        self._doubt_until = 0.0
        # A key that exists as long as servers ask. When it is missing, Redis has been emptied.
        self._marker = names.proofs + new_uuid().encode()
        self._marked_at = -math.inf
        self._announced: dict[str, dict[str, tuple[Announcement, float]]] = {}
        self._prune_at: dict[str, float] = {}
        topology.on_up(self._on_up)

    def _on_up(self) -> None:
        losses = sum(connection.losses for connection in self._topology.connections())
        if losses != self._losses:  # fewer, if a node has left a cluster
            self._losses = losses
            self._doubt_until = time.monotonic() + DOUBT
        # Redis may have lost everything.
        for callee_id, announced in self._announced.items():
            self._announce(callee_id, announced)

    # For callees

    def announce(self, callee_id: str, functions: Mapping[str, Announcement], lifetime: float) -> None:
        """See `juggler.broker.CalleeBroker.announce`."""
        announced = {uri: (announcement, lifetime) for uri, announcement in functions.items()}
        known = self._announced.setdefault(callee_id, {})
        now = time.monotonic()
        for uri in announced.keys() - known.keys():
            # By then the announcements of a callee that this one has replaced have expired.
            self._prune_at[uri] = now + lifetime
        known.update(announced)
        self._announce(callee_id, announced)
        if self._prune_at:
            self._prune([uri for uri in announced if self._prune_at.get(uri, math.inf) <= now])

    def _announce(self, callee_id: str, announced: Mapping[str, tuple[Announcement, float]]) -> None:
        ttl_ms = 0
        for uri, (announcement, lifetime) in announced.items():
            ttl_ms = max(1, int(lifetime * 1000))
            callees, key = self._names.callees(uri), self._names.announcement(uri, callee_id)
            self._write(
                callees,
                pack(b"SET", key, msgspec.json.encode(announcement), b"PX", ttl_ms),
                pack(b"SADD", callees, callee_id),
                *self._prolong(callees, ttl_ms),
            )
        uris = self._names.uris
        self._write(uris, pack(b"SADD", uris, *announced), *self._prolong(uris, ttl_ms))

    def _prolong(self, key: bytes, ttl_ms: int) -> list[bytes]:
        """Return commands that set the expiry of a key unless it expires later: lifetimes of callees differ."""
        with suppress(BrokerUnavailable):
            if self._topology.link_for(key).supports_redis7:
                return [pack(b"PEXPIRE", key, ttl_ms, b"NX"), pack(b"PEXPIRE", key, ttl_ms, b"GT")]
        return [pack(b"PEXPIRE", key, ttl_ms)]

    def withdraw(self, callee_id: str, uris: Sequence[str]) -> None:
        """See `juggler.broker.CalleeBroker.withdraw`."""
        self._announced.pop(callee_id, None)
        for uri in uris:
            self._prune_at.pop(uri, None)
            callees = self._names.callees(uri)
            self._write(
                callees,
                pack(b"DEL", self._names.announcement(uri, callee_id)),
                pack(b"SREM", callees, callee_id),
            )
        self._remove_unserved(uris)

    # Removing what callees that were killed have left, once for each new callee

    def _prune(self, uris: Sequence[str]) -> None:
        for uri in uris:
            del self._prune_at[uri]
            callees = self._names.callees(uri)
            self._ask(callees, pack(b"SMEMBERS", callees), partial(self._on_callees, uri))
        if uris and not self._prune_at:
            self._ask(
                self._names.uris,
                pack(b"SMEMBERS", self._names.uris),
                lambda known: self._remove_unserved([uri.decode(errors="replace") for uri in known]),
            )

    def _on_callees(self, uri: str, callee_ids: Sequence[bytes]) -> None:
        if callee_ids:
            keys = self._announcement_keys(uri, callee_ids)
            self._ask(keys[0], pack(b"MGET", *keys), partial(self._remove_gone, uri, callee_ids))

    def _remove_gone(self, uri: str, callee_ids: Sequence[bytes], texts: Sequence[bytes | None]) -> None:
        """Remove callees whose announcement has expired from the set of a URI."""
        gone = [callee_id for callee_id, text in zip(callee_ids, texts, strict=True) if text is None]
        if gone:
            callees = self._names.callees(uri)
            self._write(callees, pack(b"SREM", callees, *gone))

    def _remove_unserved(self, uris: Sequence[str]) -> None:
        """Remove those of ``uris`` that have no callees from the set of all URIs."""

        def on_replies(replies: list[Reply]) -> None:
            self._on_written(replies)
            unserved = [uri for uri, pttl in zip(uris, replies, strict=True) if pttl == NO_KEY]
            if unserved:
                self._write(self._names.uris, pack(b"SREM", self._names.uris, *unserved))

        keys = map(self._names.callees, uris)
        gather(self._topology.link_for, [(key, pack(b"PTTL", key)) for key in keys], on_replies)

    def _announcement_keys(self, uri: str, callee_ids: Sequence[bytes]) -> list[bytes]:
        return [self._names.announcement(uri, callee_id.decode(errors="replace")) for callee_id in callee_ids]

    def _ask(self, key: bytes, command: bytes, on_list: Callable[[list[Any]], None]) -> None:
        """Send a command and call ``on_list`` with its reply, unless it fails."""

        def on_reply(reply: Reply) -> None:
            if isinstance(reply, list):
                on_list(reply)
            else:
                self._on_written([reply])

        with suppress(BrokerUnavailable):
            self._topology.link_for(key).send(command, (on_reply,))

    def _write(self, key: bytes, *commands: bytes) -> None:
        # What fails is written again soon.
        with suppress(BrokerUnavailable):
            self._topology.link_for(key).gather(commands, self._on_written)

    def _on_written(self, replies: list[Reply]) -> None:
        error = next(
            (each for each in replies if isinstance(each, hiredis.ReplyError) and not is_unsettled(each)), None
        )
        if error is not None and not self._refused:
            # Log once: a missing permission will be missing the next time as well.
            self._refused = True
            log.warning(Line("redis: announcing functions failed", error=error, see="docs/redis.md"))

    # For servers and operators

    def ask_served(self, uris: Sequence[str], on_served: OnServed) -> None:
        """See `juggler.broker.CallerBroker.ask_served`."""

        def on_replies(replies: list[Reply]) -> None:
            *found, marker = replies
            self._on_marked(marker)
            if not all(isinstance(reply, int) for reply in found):
                on_served(None)
                return
            doubt = time.monotonic() < self._doubt_until
            on_served({uri: reply > 0 or doubt for uri, reply in zip(uris, found, strict=True)})

        keys = map(self._names.callees, uris)
        commands = [(key, pack(b"EXISTS", key)) for key in keys]
        # The reply to SET with GET is nil if the key did not exist.
        mark = pack(b"SET", self._marker, b"", b"PX", MARKER_TTL * 1000, b"GET")
        gather(self._topology.link_for, [*commands, (self._marker, mark)], on_replies)

    def _on_marked(self, reply: Reply) -> None:
        if isinstance(reply, Exception):
            return
        now = time.monotonic()
        if reply is None and now - self._marked_at < MARKER_TTL / 2:
            self._doubt_until = now + DOUBT
        self._marked_at = now

    def close(self) -> None:
        """Delete the marker. Idempotent."""
        if self._marked_at > -math.inf:
            self._marked_at = -math.inf
            self._write(self._marker, pack(b"DEL", self._marker))

    def registered(self, limit: int) -> list[Registered]:
        """See `juggler.broker.CallerBroker.registered`."""
        (members,) = self._execute([(self._names.uris, pack(b"SMEMBERS", self._names.uris))])
        uris = sorted(uri.decode(errors="replace") for uri in members)
        callees = dict(zip(uris, self._execute_on(b"SMEMBERS", map(self._names.callees, uris)), strict=True))
        gone = [uri for uri in uris if not callees[uri]]
        if gone:
            self._write(self._names.uris, pack(b"SREM", self._names.uris, *gone))
        served = [uri for uri in uris if callees[uri]][:limit]
        lengths = self._execute_on(b"LLEN", map(self._names.calls, served))
        found = []
        for uri, waiting in zip(served, lengths, strict=True):
            announced = self._announcements(uri, callees[uri])
            if announced:
                found.append(Registered(uri, waiting, announced))
        return found

    def _announcements(self, uri: str, callee_ids: Sequence[bytes]) -> dict[str, Announcement]:
        """Return what each callee of a URI announces, and remove callees that have gone."""
        keys = self._announcement_keys(uri, callee_ids)
        (texts,) = self._execute([(keys[0], pack(b"MGET", *keys))])
        self._remove_gone(uri, callee_ids, texts)
        found = {}
        for callee_id, text in zip(callee_ids, texts, strict=True):
            with suppress(msgspec.MsgspecError, UnicodeDecodeError):
                if text is not None:
                    # msgspec does not validate the UTF-8 of the schema.
                    found[callee_id.decode(errors="replace")] = msgspec.json.decode(text.decode(), type=Announcement)
        return found

    def _execute_on(self, command: bytes, keys: Iterable[bytes]) -> list[Any]:
        return self._execute([(key, pack(command, key)) for key in keys])

    def _execute(self, commands: Sequence[tuple[bytes, bytes]]) -> list[Any]:
        replies = execute_each(self._topology.link_for, commands, REPLY_TIMEOUT)
        for reply in replies:
            if isinstance(reply, Exception):
                raise as_error(reply)
        return replies
