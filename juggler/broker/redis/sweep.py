"""Takes calls out of lists that nobody wants any more, and that no callee has come for.

A list ends with its last call; but one to which calls go on being pushed, and which nobody serves, would keep them all.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

from juggler.broker.redis.commands import pack
from juggler.broker.redis.keys import Names
from juggler.broker.redis.link import OnReply, Reply, ignore
from juggler.broker.redis.topology import Topology
from juggler.errors import BrokerUnavailable, InvalidMessage
from juggler.protocol import codec

STEP = 16
"""Calls looked at in one go, the oldest ones."""


class Sweep:
    """Removes dead calls from the old end of lists, up to the first one that is still wanted. Never blocks."""

    def __init__(self, names: Names, topology: Topology) -> None:
        self._names = names
        self._topology = topology

    def sweep(self, uri: str) -> None:
        """Begin with the list of a URI. What cannot be done now is left to the next time."""
        key = self._names.calls(uri)
        self._send(key, pack(b"LRANGE", key, -STEP, -1), partial(self._on_oldest, uri, key))

    def _on_oldest(self, uri: str, key: bytes, reply: Reply) -> None:
        if not isinstance(reply, list) or not reply:
            ignore(reply)
            return
        payloads = reply[::-1]
        known: list[Any] = []

        def on_last(reply: Reply) -> None:
            known.append(reply)
            self._remove(uri, key, payloads, known)

        packed = b"".join(pack(b"EXISTS", self._timeout_key(uri, payload)) for payload in payloads)
        self._send(key, packed, *([known.append] * (len(payloads) - 1)), on_last)

    def _timeout_key(self, uri: str, payload: bytes) -> bytes:
        try:
            return self._names.call_timeout(uri, codec.decode_call(payload).msg_uuid)
        except InvalidMessage:
            # No call at all: no such key exists.
            return self._names.call_timeout(uri, "")

    def _remove(self, uri: str, key: bytes, payloads: list[bytes], known: list[Any]) -> None:
        wanted = next((number for number, exists in enumerate(known) if exists != 0), len(payloads))
        if wanted:
            # By value, from the old end: a callee may have taken some meanwhile.
            packed = b"".join(pack(b"LREM", key, -1, payload) for payload in payloads[:wanted])
            self._send(key, packed, *([ignore] * wanted))
        if wanted == STEP:
            self.sweep(uri)

    def _send(self, key: bytes, packed: bytes, *on_replies: OnReply) -> None:
        with suppress(BrokerUnavailable):
            self._topology.link_for(key).send(packed, on_replies)
