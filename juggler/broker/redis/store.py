"""Stores payloads in lists, and deletes the timeout keys that nobody needs any more."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import hiredis

from juggler.broker import Done
from juggler.broker.redis import commands
from juggler.broker.redis.commands import pack
from juggler.broker.redis.link import Reply, as_error, ignore
from juggler.broker.redis.topology import Topology
from juggler.errors import BrokerUnavailable, CapacityExceeded

_NO_SCRIPT = "NOSCRIPT"


class Store:
    """Pushes payloads into lists that hold at most ``capacity`` entries (0: as many as come)."""

    def __init__(self, topology: Topology, capacity: int) -> None:
        self._link_for = topology.link_for
        self._capacity = capacity

    def push(self, timeout_key: bytes, list_key: bytes, payload: bytes, timeout: float, on_done: Done) -> None:
        """Store ``payload`` for ``timeout`` seconds; ``on_done`` is told when Redis has it, or why it has not.

        Raises:
            BrokerUnavailable: there is no connection; ``on_done`` is told nothing then.
        """
        link = self._link_for(list_key)
        if link.supports_redis7 is None:
            again = partial(self.push, timeout_key, list_key, payload, timeout, on_done)
            link.when_version_known(again, on_done)
            return
        ttl_ms = max(1, int(timeout * 1000))
        if self._capacity == 0 and link.supports_redis7:

            def on_length(reply: Reply) -> None:
                on_done(None if type(reply) is int else as_error(reply))

            packed = commands.push(timeout_key, list_key, payload, ttl_ms)
            link.send(packed, (ignore, on_length, ignore, ignore))
        else:
            self._push_by_script(timeout_key, list_key, payload, ttl_ms, on_done)

    def _push_by_script(
        self, timeout_key: bytes, list_key: bytes, payload: bytes, ttl_ms: int, on_done: Done, known: bool = True
    ) -> None:
        def on_length(reply: Reply) -> None:
            if known and isinstance(reply, hiredis.ReplyError) and str(reply).startswith(_NO_SCRIPT):
                try:
                    self._push_by_script(timeout_key, list_key, payload, ttl_ms, on_done, known=False)
                except BrokerUnavailable as error:
                    on_done(error)
            elif reply == commands.OVER_CAPACITY:
                on_done(CapacityExceeded())
            else:
                on_done(None if type(reply) is int else as_error(reply))

        packed = commands.push_by_script(timeout_key, list_key, payload, ttl_ms, self._capacity, known=known)
        self._link_for(list_key).send(packed, (on_length,))

    def delete(self, keys: Sequence[bytes]) -> None:
        """Delete keys of one slot without waiting. When that fails, they end by themselves."""
        if keys:
            with suppress(BrokerUnavailable):
                self._link_for(keys[0]).send(pack(b"DEL", *keys), (ignore,))
