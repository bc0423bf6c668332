"""Remove expired and abandoned calls from lists that no callee pops from.

A list outlives its calls. One to which calls are still pushed, and which no callee pops from, would keep all of them.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from juggler.broker.redis.commands import pack
from juggler.broker.redis.keys import Names
from juggler.broker.redis.replies import OnReplies, Reply, ignore, ignore_all
from juggler.broker.redis.topology import Topology
from juggler.errors import BrokerUnavailable, InvalidMessage
from juggler.protocol import codec

STEP = 16
"""Number of calls checked in one go, oldest first."""

WANTED = 1024
"""Calls still wanted that are passed in one round of a list; the next round continues there."""


class Sweep:
    """Removes unwanted calls from lists, oldest first. Never blocks. What fails is left to the next sweep."""

    def __init__(self, names: Names, topology: Topology, wanted: int = WANTED) -> None:
        """Create a sweep that passes up to ``wanted`` calls still wanted in one round of a list."""
        self._names = names
        self._topology = topology
        self._wanted = wanted
        # The URIs of the next round. The number is that of the oldest calls, still wanted, that were passed before.
        self._due: dict[str, int] = {}

    def add(self, uri: str) -> None:
        """Sweep the list of a URI in the next round."""
        self._due.setdefault(uri, 0)

    def run(self) -> None:
        """Do one round: start to sweep all lists that are due."""
        due, self._due = self._due, {}
        for uri, passed in due.items():
            self._check(uri, 0, passed, self._wanted)

    def _check(self, uri: str, start: int, resume: int, left: int) -> None:
        """Check `STEP` calls.

        Args:
            uri: URI of the list.
            start: number of older calls, which are still wanted.
            resume: continue there once a call is still wanted.
            left: calls still wanted that may be passed in this round.
        """
        key = self._names.calls(uri)
        command = pack(b"LRANGE", key, -start - STEP, -start - 1)
        self._gather(key, [command], partial(self._on_calls, uri, start, resume, left))

    def _on_calls(self, uri: str, start: int, resume: int, left: int, replies: list[Reply]) -> None:
        (calls,) = replies
        if not isinstance(calls, list) or not calls:
            ignore(calls)
            return
        payloads = calls[::-1]
        commands = [pack(b"EXISTS", self._timeout_key(uri, payload)) for payload in payloads]
        self._gather(self._names.calls(uri), commands, partial(self._remove, uri, start, resume, left, payloads))

    def _timeout_key(self, uri: str, payload: bytes) -> bytes:
        try:
            msg_uuid = codec.decode_call(payload).msg_uuid
        except InvalidMessage:
            msg_uuid = ""  # no such key exists
        return self._names.call_timeout(uri, msg_uuid)

    def _remove(self, uri: str, start: int, resume: int, left: int, payloads: list[bytes], known: list[Reply]) -> None:
        key = self._names.calls(uri)
        unwanted = [payload for payload, exists in zip(payloads, known, strict=True) if exists == 0]
        if unwanted:
            # By value, from the old end: a callee may have popped some in the meantime.
            self._gather(key, [pack(b"LREM", key, -1, payload) for payload in unwanted], ignore_all)
        if len(payloads) < STEP:
            return  # the end of the list
        wanted = STEP - len(unwanted)
        if wanted > left:
            self._due[uri] = start + wanted
        elif wanted:
            self._check(uri, max(start + wanted, resume), resume, left - wanted)
        else:
            self._check(uri, start, resume, left)

    def _gather(self, key: bytes, commands: list[bytes], on_replies: OnReplies) -> None:
        with suppress(BrokerUnavailable):
            self._topology.link_for(key).gather(commands, on_replies)
