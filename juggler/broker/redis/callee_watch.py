"""Notices callee processes that have gone: their keys expire in Redis, see `control_reader.ControlReader`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from functools import partial

from juggler.broker.redis.commands import pack
from juggler.broker.redis.keys import Names
from juggler.broker.redis.lifetimes import Lifetimes
from juggler.broker.redis.link import gather
from juggler.broker.redis.replies import Reply
from juggler.broker.redis.topology import Topology


class CalleeWatch:
    """Looks up the keys of callee processes."""

    def __init__(self, names: Names, topology: Topology) -> None:
        self._names = names
        self._topology = topology
        self._lifetimes = Lifetimes()

    def look(self, callee_ids: Collection[str], on_gone: Callable[[list[str]], None]) -> None:
        """Look up callees, and call ``on_gone`` with those that have gone. To be repeated every second."""
        self._lifetimes.keep(callee_ids, time.monotonic())
        if callee_ids:
            keys = [self._names.alive(callee_id) for callee_id in callee_ids]
            commands = [(key, pack(b"PTTL", key)) for key in keys]
            gather(self._topology.link_for, commands, partial(self._on_replies, callee_ids, on_gone))

    def _on_replies(
        self, callee_ids: Collection[str], on_gone: Callable[[list[str]], None], replies: list[Reply]
    ) -> None:
        now = time.monotonic()
        looked = zip(callee_ids, replies, strict=True)
        gone = [callee_id for callee_id, pttl in looked if self._lifetimes.has_gone(callee_id, pttl, now)]
        if gone:
            on_gone(gone)
