"""Store payloads in lists, and delete timeout keys that are no longer needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from msgspec import Struct

from juggler.broker.redis import commands
from juggler.broker.redis.commands import pack
from juggler.broker.redis.replies import OnReply, Reply, as_error, ignore, is_unknown_script
from juggler.broker.redis.topology import Topology
from juggler.errors import BrokerError, BrokerUnavailable, CapacityExceeded


def push_error(reply: Reply) -> BrokerError | None:
    """Return why a payload was not stored, from the reply to its push; ``None`` if it was."""
    if type(reply) is int:
        return CapacityExceeded() if reply == commands.OVER_CAPACITY else None
    return as_error(reply)


class _Push(Struct, gc=False):
    """A payload that was sent to a list, and what its replies mean."""

    store: Store
    timeout_key: bytes
    list_key: bytes
    payload: bytes
    subject: Any

    def on_length(self, length: Reply) -> None:
        """Remove the payload again if it exceeds the capacity, unless it has been popped in the meantime."""
        store = self.store
        if type(length) is not int or not 0 < store.capacity < length:
            on_reply = store.on_reply
            on_reply(self.subject, length)
            return
        try:
            packed = pack(b"LREM", self.list_key, 1, self.payload)
            store.link_for(self.list_key).send(packed, (partial(self._on_removed, length),))
        except BrokerUnavailable as error:
            self.store.on_reply(self.subject, error)

    def _on_removed(self, length: int, removed: Reply) -> None:
        if removed == 1:
            self.store.delete([self.timeout_key] if self.timeout_key else [])
            self.store.on_reply(self.subject, commands.OVER_CAPACITY)
        else:
            self.store.on_reply(self.subject, length if removed == 0 else removed)


class Store:
    """Pushes payloads into lists of at most ``capacity`` entries (0 = unlimited) that live for ``list_ttl`` seconds.

    Attributes:
        capacity: as given.
        link_for: returns the link of a key.
        on_reply: called once for each payload that was sent, with its subject and a reply for `push_error`.
    """

    def __init__(
        self, topology: Topology, capacity: int, list_ttl: float, on_reply: Callable[[Any, Reply], None]
    ) -> None:
        self.capacity = capacity
        self.link_for = topology.link_for
        self.on_reply = on_reply
        self._list_ttl_ms = int(list_ttl * 1000)
        # Lists whose expiry is not confirmed: the connection was lost, perhaps after the push and before the expiry.
        self._unconfirmed: set[bytes] = set()
        topology.on_up(self._confirm_expiry)

    def push(self, timeout_key: bytes, list_key: bytes, payload: bytes, timeout: float, subject: Any) -> None:
        """Store a payload.

        Args:
            timeout_key: key that exists while the payload is wanted; empty if none is needed.
            list_key: key of the list.
            payload: the payload.
            timeout: how long the payload is wanted, in seconds.
            subject: what `on_reply` is called with.

        Raises:
            BrokerUnavailable: there is no connection; `on_reply` is not called.
        """
        link = self.link_for(list_key)
        if link.supports_redis7 is None:
            again = partial(self.push, timeout_key, list_key, payload, timeout, subject)
            link.when_version_known(again, partial(self.on_reply, subject))
            return
        ttl_ms = int(timeout * 1000)
        if ttl_ms < 1:
            ttl_ms = 1
        list_ttl_ms = self._list_ttl_ms
        if ttl_ms > list_ttl_ms:
            list_ttl_ms = -(-ttl_ms // 1000) * 1000  # in whole seconds, so that few differ
        if link.supports_redis7:
            before = commands.set_timeout(timeout_key, ttl_ms) if timeout_key else b""
            push = _Push(self, timeout_key, list_key, payload, subject)
            link.push(list_key, push, list_ttl_ms, self._on_prolonged, before)
        else:
            self._push_by_script(timeout_key, list_key, payload, ttl_ms if timeout_key else 0, list_ttl_ms, subject)

    def _on_prolonged(self, list_key: bytes, reply: Reply) -> None:
        """Set the expiry of a list later if ``reply`` leaves open whether it has one."""
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
                self.link_for(list_key).send(packed, (partial(self._on_prolonged, list_key),))
            except BrokerUnavailable:
                self._unconfirmed.add(list_key)

    def _push_by_script(
        self,
        timeout_key: bytes,
        list_key: bytes,
        payload: bytes,
        ttl_ms: int,
        list_ttl_ms: int,
        subject: Any,
        known: bool = True,
    ) -> None:
        def on_length(reply: Reply) -> None:
            if known and is_unknown_script(reply):
                try:
                    self._push_by_script(timeout_key, list_key, payload, ttl_ms, list_ttl_ms, subject, known=False)
                except BrokerUnavailable as error:
                    self.on_reply(subject, error)
            else:
                self.on_reply(subject, reply)

        packed = commands.push_by_script(
            timeout_key, list_key, payload, ttl_ms, list_ttl_ms, self.capacity, known=known
        )
        self.link_for(list_key).send(packed, (on_length,))

    def delete(self, keys: Sequence[bytes], on_reply: OnReply = ignore) -> None:
        """Delete keys of one slot without waiting. If that fails, they expire."""
        if keys:
            with suppress(BrokerUnavailable):
                self.link_for(keys[0]).send(pack(b"DEL", *keys), (on_reply,))
