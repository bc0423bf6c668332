"""Pop payloads from lists in batches: one blocking command at any time on a link of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from juggler.broker.redis.commands import pack
from juggler.broker.redis.link import Link
from juggler.broker.redis.replies import Reply
from juggler.errors import BrokerUnavailable

OnBatch: TypeAlias = Callable[[list[bytes] | Exception], None]
"""Called with the popped payloads, oldest first, an empty list after the blocking timeout, or an error."""

BATCH_BYTES = 4 * 1024 * 1024
"""Approximate limit of a batch in bytes, by the sizes of earlier payloads."""


class Popper:
    """Pops from the right ends of lists: first in, first out.

    Attributes:
        link: the link that pops. Its blocking timeout is that of each pop, in seconds.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self._average_size = 256.0

    def pop(self, keys: Sequence[bytes], limit: int, on_batch: OnBatch) -> None:
        """Pop up to ``limit`` payloads from the first list that has any.

        Raises:
            BrokerUnavailable: there is no connection; ``on_batch`` is not called.
        """
        link = self.link
        if link.supports_redis7 is None:
            link.when_version_known(partial(self.pop, keys, limit, on_batch), on_batch)
            return
        limit = self.bounded(limit)
        timeout = b"%.3f" % link.blocking_timeout
        if link.supports_redis7:
            packed = pack(b"BLMPOP", timeout, len(keys), *keys, b"RIGHT", b"COUNT", limit)
            link.send(packed, (lambda reply: self._on_popped(reply, on_batch),))
        else:
            packed = pack(b"BRPOP", *keys, timeout)
            link.send(packed, (lambda reply: self._on_first(reply, limit - 1, on_batch),))

    def bounded(self, limit: int) -> int:
        """Return ``limit``, lowered so that a batch has about `BATCH_BYTES` at most."""
        return max(1, min(limit, int(BATCH_BYTES / self._average_size)))

    def note_sizes(self, batch: Sequence[bytes]) -> None:
        """Update the average size from a batch, not empty."""
        size = sum(map(len, batch)) / len(batch)
        self._average_size = max(size, 0.9 * self._average_size + 0.1 * size)

    def _on_popped(self, reply: Reply, on_batch: OnBatch) -> None:
        if isinstance(reply, list):
            self._deliver(reply[1], on_batch)
        else:
            on_batch([] if reply is None else reply)

    def _on_first(self, reply: Reply, more: int, on_batch: OnBatch) -> None:
        if not isinstance(reply, list):
            on_batch([] if reply is None else reply)
            return
        key, first = reply
        if more == 0:
            self._deliver([first], on_batch)
            return

        def on_rest(rest: Reply) -> None:
            self._deliver([first, *rest] if isinstance(rest, list) else [first], on_batch)

        try:
            self.link.send(pack(b"RPOP", key, more), (on_rest,))
        except BrokerUnavailable:
            self._deliver([first], on_batch)

    def _deliver(self, batch: list[bytes], on_batch: OnBatch) -> None:
        self.note_sizes(batch)
        on_batch(batch)
