"""Who serves what: callees write it down for a while, again and again; servers and people read it.

For each URI there is a set of callees that exists as long as one of them lives, and what each of them says, in keys of
the same slot. One more set has all URIs, for lists. Everything expires by itself, by Redis's clock alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import gevent
import hiredis
import msgspec
from gevent.event import AsyncResult

from juggler.broker import Announcement, OnServed, ServedFunction, served_function
from juggler.broker.redis.commands import pack
from juggler.broker.redis.keys import Names
from juggler.broker.redis.link import UNSETTLED, Reply, as_error
from juggler.broker.redis.topology import Topology
from juggler.errors import BrokerUnavailable

log = logging.getLogger("juggler.redis")

DOUBT = 3.0
"""Seconds after a lost connection for which missing announcements mean nothing: callees may be slower to return."""

ANSWER_TIMEOUT = 5.0


class Announcements:
    """Writes and reads them. Never blocks, but for `functions`."""

    def __init__(self, names: Names, topology: Topology) -> None:
        self._names = names
        self._topology = topology
        self._refused = False
        self._losses = 0
        self._doubt_until = 0.0
        self._again: dict[str, dict[str, tuple[Announcement, float]]] = {}
        topology.on_up(self._on_up)

    def _on_up(self) -> None:
        losses = sum(link.losses for link in self._topology.links())
        if losses > self._losses:
            self._losses = losses
            self._doubt_until = time.monotonic() + DOUBT
        # Redis may have lost everything.
        for callee_id, announced in self._again.items():
            self._announce(callee_id, announced)

    # Callees

    def announce(self, callee_id: str, functions: Mapping[str, Announcement], lifetime: float) -> None:
        """See `juggler.broker.CalleeBroker.announce`."""
        announced = {uri: (announcement, lifetime) for uri, announcement in functions.items()}
        self._again.setdefault(callee_id, {}).update(announced)
        self._announce(callee_id, announced)

    def _announce(self, callee_id: str, announced: Mapping[str, tuple[Announcement, float]]) -> None:
        ttl = 0
        for uri, (announcement, lifetime) in announced.items():
            ttl = max(1, int(lifetime * 1000))
            callees, said = self._names.callees(uri), self._names.announcement(uri, callee_id)
            self._write(
                callees,
                pack(b"SET", said, msgspec.json.encode(announcement), b"PX", ttl),
                pack(b"SADD", callees, callee_id),
                *self._prolong(callees, ttl),
            )
        uris = self._names.uris
        self._write(uris, pack(b"SADD", uris, *announced), *self._prolong(uris, ttl))

    def _prolong(self, key: bytes, ttl: int) -> list[bytes]:
        """Let a key live for so long, if it would not live longer anyway: callees differ in it."""
        with suppress(BrokerUnavailable):
            if self._topology.link_for(key).supports_redis7:
                return [pack(b"PEXPIRE", key, ttl, b"NX"), pack(b"PEXPIRE", key, ttl, b"GT")]
        return [pack(b"PEXPIRE", key, ttl)]

    def withdraw(self, callee_id: str, uris: Sequence[str]) -> None:
        """See `juggler.broker.CalleeBroker.withdraw`."""
        self._again.pop(callee_id, None)
        for uri in uris:
            callees = self._names.callees(uri)
            self._write(
                callees,
                pack(b"DEL", self._names.announcement(uri, callee_id)),
                pack(b"SREM", callees, callee_id),
            )

    def _write(self, key: bytes, *commands: bytes) -> None:
        # The next time comes soon.
        with suppress(BrokerUnavailable):
            self._topology.link_for(key).send(b"".join(commands), (self._on_written,) * len(commands))

    def _on_written(self, reply: Reply) -> None:
        # Once: what a user may not do, he may not do the next time.
        if isinstance(reply, hiredis.ReplyError) and not self._refused and not str(reply).startswith(UNSETTLED):
            self._refused = True
            log.warning("callees cannot announce what they serve, see docs/redis.md: %s", reply)

    # Servers, and people

    def ask_served(self, uris: Sequence[str], on_served: OnServed) -> None:
        """See `juggler.broker.CallerBroker.ask_served`."""
        replies: dict[str, Reply] = {}

        def on_reply(uri: str, reply: Reply) -> None:
            replies[uri] = reply
            if len(replies) == len(uris):
                on_served(self._judge(replies))

        for uri in uris:
            key = self._names.callees(uri)
            try:
                self._topology.link_for(key).send(pack(b"EXISTS", key), (partial(on_reply, uri),))
            except BrokerUnavailable as error:
                on_reply(uri, error)

    def _judge(self, replies: Mapping[str, Reply]) -> dict[str, bool] | None:
        if not all(isinstance(reply, int) for reply in replies.values()):
            return None
        doubt = time.monotonic() < self._doubt_until
        return {uri: reply > 0 or doubt for uri, reply in replies.items()}

    def functions(self, limit: int) -> list[ServedFunction]:
        """See `juggler.broker.CallerBroker.functions`."""
        uris = sorted(
            uri.decode(errors="replace") for uri in self._ask(self._names.uris, b"SMEMBERS", self._names.uris)
        )
        callees = dict(
            zip(uris, self._ask_each([(key := self._names.callees(u), b"SMEMBERS", key) for u in uris]), strict=True)
        )
        gone = [uri for uri in uris if not callees[uri]]
        if gone:
            self._write(self._names.uris, pack(b"SREM", self._names.uris, *gone))
        served = [uri for uri in uris if callees[uri]][:limit]
        lengths = self._ask_each([(key := self._names.calls(uri), b"LLEN", key) for uri in served])
        found = []
        for uri, waiting in zip(served, lengths, strict=True):
            said = self._said(uri, callees[uri])
            if said:
                found.append(served_function(uri, said, waiting))
        return found

    def _said(self, uri: str, callee_ids: Sequence[bytes]) -> list[Announcement]:
        keys = [self._names.announcement(uri, callee_id.decode(errors="replace")) for callee_id in callee_ids]
        texts = self._ask(keys[0], b"MGET", *keys)
        dead = [callee_id for callee_id, text in zip(callee_ids, texts, strict=True) if text is None]
        if dead:
            callees = self._names.callees(uri)
            self._write(callees, pack(b"SREM", callees, *dead))
        said = []
        for text in texts:
            with suppress(msgspec.MsgspecError):
                if text is not None:
                    said.append(msgspec.json.decode(text, type=Announcement))
        return said

    def _ask(self, key: bytes, *command: bytes) -> Any:
        (reply,) = self._ask_each([(key, *command)])
        return reply

    def _ask_each(self, commands: Sequence[tuple[bytes, ...]]) -> list[Any]:
        """Send commands, each with a key that leads to its link before it, and return their replies."""
        replies: list[AsyncResult] = []
        for key, *command in commands:
            answer: AsyncResult = AsyncResult()
            self._topology.link_for(key).send(pack(*command), (answer.set,))
            replies.append(answer)
        known = []
        for answer in replies:
            try:
                reply = answer.get(timeout=ANSWER_TIMEOUT)
            except gevent.Timeout:
                raise BrokerUnavailable("redis has not told in time who serves what") from None
            if isinstance(reply, Exception):
                raise as_error(reply)
            known.append(reply)
        return known
