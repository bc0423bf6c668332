"""Remove expired calls from lists that no callee pops from.

A list outlives its calls. One to which calls are still pushed, and which no callee pops from, would keep all of them.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from juggler.broker.redis.commands import pack
from juggler.broker.redis.keys import Names
from juggler.broker.redis.replies import OnReplies, Reply, ignore
from juggler.broker.redis.topology import Topology
from juggler.errors import BrokerUnavailable, InvalidMessage
from juggler.protocol import codec

STEP = 16
"""Number of calls checked in one go, oldest first."""


class Sweep:
    """Removes expired calls from the old end of lists, up to the first call that is still wanted. Never blocks."""

    def __init__(self, names: Names, topology: Topology) -> None:
        self._names = names
        self._topology = topology

    def sweep(self, uri: str) -> None:
        """Start with the list of a URI. What cannot be done now is left to the next sweep."""
        key = self._names.calls(uri)
        self._gather(key, [pack(b"LRANGE", key, -STEP, -1)], partial(self._on_oldest, uri, key))

    def _on_oldest(self, uri: str, key: bytes, replies: list[Reply]) -> None:
        (oldest,) = replies
        if not isinstance(oldest, list) or not oldest:
            ignore(oldest)
            return
        payloads = oldest[::-1]
        commands = [pack(b"EXISTS", self._timeout_key(uri, payload)) for payload in payloads]
        self._gather(key, commands, partial(self._remove, uri, key, payloads))

    def _timeout_key(self, uri: str, payload: bytes) -> bytes:
        try:
            _, msg_uuid, _, _ = codec.decode_call(payload)
        except InvalidMessage:
            msg_uuid = ""  # no such key exists
        return self._names.call_timeout(uri, msg_uuid)

    def _remove(self, uri: str, key: bytes, payloads: list[bytes], known: list[Reply]) -> None:
        wanted = next((number for number, exists in enumerate(known) if exists != 0), len(payloads))
        if wanted:
            # By value, from the old end: a callee may have popped some in the meantime.
            commands = [pack(b"LREM", key, -1, payload) for payload in payloads[:wanted]]
            self._gather(key, commands, _ignore_all)
        if wanted == STEP:
            self.sweep(uri)

    def _gather(self, key: bytes, commands: list[bytes], on_replies: OnReplies) -> None:
        with suppress(BrokerUnavailable):
            self._topology.link_for(key).gather(commands, on_replies)


def _ignore_all(replies: list[Reply]) -> None:
    for reply in replies:
        ignore(reply)
