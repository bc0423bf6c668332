"""Store payloads in lists, and delete timeout keys that are no longer needed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from juggler.broker.redis import commands
from juggler.broker.redis.commands import pack
from juggler.broker.redis.replies import OnReply, Reply, as_error, ignore, is_unknown_script
from juggler.broker.redis.topology import Topology
from juggler.errors import BrokerError, BrokerUnavailable, CapacityExceeded

CALLS_TTL = 3600.0
"""Seconds for which a list of calls lives at least after a push: it may contain calls of servers that set no expiry."""

RESULTS_TTL = 10.0
"""The same for a list of results. Its reader needs less to reconnect."""


def push_error(reply: Reply) -> BrokerError | None:
    """Return why a payload was not stored, from the reply to its push; ``None`` if it was."""
    if type(reply) is int:
        return CapacityExceeded() if reply == commands.OVER_CAPACITY else None
    return as_error(reply)


class Store:
    """Pushes payloads into lists of at most ``capacity`` entries (0 = unlimited) that live for ``list_ttl`` seconds."""

    def __init__(self, topology: Topology, capacity: int, list_ttl: float) -> None:
        self._link_for = topology.link_for
        self._capacity = capacity
        self._list_ttl_ms = int(list_ttl * 1000)
        # Lists whose expiry is not confirmed: the connection was lost, perhaps after the push and before the expiry.
        self._unconfirmed: set[bytes] = set()
        topology.on_up(self._confirm_expiry)

    def push(self, timeout_key: bytes, list_key: bytes, payload: bytes, timeout: float, on_reply: OnReply) -> None:
        """Store a payload.

        Args:
            timeout_key: key that exists while the payload is wanted.
            list_key: key of the list.
            payload: the payload.
            timeout: how long the payload is wanted, in seconds.
            on_reply: called once, with a reply for `push_error`.

        Raises:
            BrokerUnavailable: there is no connection; ``on_reply`` is not called.
        """
        link = self._link_for(list_key)
        if link.supports_redis7 is None:
            link.when_version_known(partial(self.push, timeout_key, list_key, payload, timeout, on_reply), on_reply)
            return
        ttl_ms = max(1, int(timeout * 1000))
        if link.supports_redis7:
            if self._capacity > 0:
                on_reply = partial(self._on_length, timeout_key, list_key, payload, on_reply)
            packed = commands.push(timeout_key, list_key, payload, ttl_ms, max(ttl_ms, self._list_ttl_ms))
            link.send(packed, (ignore, on_reply, partial(self._on_expiry, list_key), ignore))
        else:
            self._push_by_script(timeout_key, list_key, payload, ttl_ms, on_reply)

    def _on_expiry(self, list_key: bytes, reply: Reply) -> None:
        if isinstance(reply, BrokerUnavailable):
            self._unconfirmed.add(list_key)
        else:
            ignore(reply)

    def _confirm_expiry(self) -> None:
        """Set the expiry of lists that may lack one. A script for each push would cost Redis three times as much."""
        unconfirmed, self._unconfirmed = self._unconfirmed, set()
        for list_key in unconfirmed:
            try:
                packed = pack(b"PEXPIRE", list_key, self._list_ttl_ms, b"NX")
                self._link_for(list_key).send(packed, (partial(self._on_expiry, list_key),))
            except BrokerUnavailable:
                self._unconfirmed.add(list_key)

    def _on_length(self, timeout_key: bytes, list_key: bytes, payload: bytes, on_reply: OnReply, length: Reply) -> None:
        """Remove a payload again that exceeds the capacity, unless it has been popped in the meantime."""
        if type(length) is not int or length <= self._capacity:
            on_reply(length)
            return

        def on_removed(removed: Reply) -> None:
            if removed == 1:
                self.delete([timeout_key])
                on_reply(commands.OVER_CAPACITY)
            else:
                on_reply(length if removed == 0 else removed)

        try:
            self._link_for(list_key).send(pack(b"LREM", list_key, 1, payload), (on_removed,))
        except BrokerUnavailable as error:
            on_reply(error)

    def _push_by_script(
        self, timeout_key: bytes, list_key: bytes, payload: bytes, ttl_ms: int, on_reply: OnReply, known: bool = True
    ) -> None:
        def on_length(reply: Reply) -> None:
            if known and is_unknown_script(reply):
                try:
                    self._push_by_script(timeout_key, list_key, payload, ttl_ms, on_reply, known=False)
                except BrokerUnavailable as error:
                    on_reply(error)
            else:
                on_reply(reply)

        list_ttl_ms = max(ttl_ms, self._list_ttl_ms)
        packed = commands.push_by_script(
            timeout_key, list_key, payload, ttl_ms, list_ttl_ms, self._capacity, known=known
        )
        self._link_for(list_key).send(packed, (on_length,))

    def delete(self, keys: Sequence[bytes], on_reply: OnReply = ignore) -> None:
        """Delete keys of one slot without waiting. If that fails, they expire."""
        if keys:
            with suppress(BrokerUnavailable):
                self._link_for(keys[0]).send(pack(b"DEL", *keys), (on_reply,))
