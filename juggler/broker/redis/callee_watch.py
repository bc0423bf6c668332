"""Notices callee processes that have gone: their keys expire in Redis, see `control_reader.ControlReader`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from functools import partial

from juggler.broker.redis.commands import pack
from juggler.broker.redis.control_reader import ALIVE_MS
from juggler.broker.redis.keys import Names
from juggler.broker.redis.link import gather
from juggler.broker.redis.replies import Reply
from juggler.broker.redis.topology import Topology

GRACE = 0.5
"""Seconds after the expiry of a key for which its callee may still set it again: it was only slow."""

NO_KEY = -2
"""The reply to ``PTTL`` if the key does not exist."""


class CalleeWatch:
    """Looks up the keys of callee processes.

    A missing key alone proves nothing: Redis may have been emptied, or be another master. A callee has gone if its key
    is missing although it would have expired by now. When that is depends on the last look that found the key. After a
    look that failed, and before the first one, it is the lifetime of a key from now.
    """

    def __init__(self, names: Names, topology: Topology) -> None:
        self._names = names
        self._topology = topology
        self._alive_until: dict[str, float] = {}

    def look(self, callee_ids: Collection[str], on_gone: Callable[[list[str]], None]) -> None:
        """Look up callees, and call ``on_gone`` with those that have gone. To be repeated every second."""
        later = time.monotonic() + ALIVE_MS / 1000
        known = self._alive_until
        self._alive_until = {callee_id: known.get(callee_id, later) for callee_id in callee_ids}
        if callee_ids:
            keys = [self._names.alive(callee_id) for callee_id in callee_ids]
            commands = [(key, pack(b"PTTL", key)) for key in keys]
            gather(self._topology.link_for, commands, partial(self._on_replies, callee_ids, on_gone))

    def _on_replies(
        self, callee_ids: Collection[str], on_gone: Callable[[list[str]], None], replies: list[Reply]
    ) -> None:
        now = time.monotonic()
        gone = []
        for callee_id, pttl in zip(callee_ids, replies, strict=True):
            until = self._alive_until.get(callee_id)
            if until is None:
                continue  # its calls have completed
            if pttl != NO_KEY:
                seconds = (pttl if type(pttl) is int and pttl >= 0 else ALIVE_MS) / 1000
                self._alive_until[callee_id] = now + seconds
            elif now >= until + GRACE:
                gone.append(callee_id)
        if gone:
            on_gone(gone)
