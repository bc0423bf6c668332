"""Take chosen calls out of the middle of lists: look at the oldest ones, then remove the chosen ones by value."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

from juggler.broker import Choose, client_of
from juggler.broker.redis.commands import pack
from juggler.broker.redis.link import execute_each
from juggler.broker.redis.replies import as_error, is_forbidden, is_no_list
from juggler.broker.redis.topology import Topology
from juggler.errors import InvalidMessage
from juggler.process.logline import Line
from juggler.protocol import codec

log = logging.getLogger("juggler.redis")

FIRST_STEP = 64
"""Calls of each list that are looked at first. Each further step looks at twice as many, once these do not suffice."""

MOST_CALLS = 1024
"""Calls of each list that are looked at."""

MOST_BYTES = 1024 * 1024
"""Bytes of calls after which no further ones are looked at, and expected bytes of the first step."""

MOST_LISTS = 200
"""Lists that are looked at together, in turn."""


class ChosenCalls:
    """Removes chosen calls from lists. Another process may take a call first: then it is not returned here.

    Attributes:
        is_permitted: whether Redis permits the commands, as far as is known.
    """

    def __init__(self, lists: Sequence[bytes], topology: Topology) -> None:
        self.is_permitted = True
        self._lists = deque(lists)
        self._link_for = topology.link_for
        self._average_size = 256.0

    def pop(self, limit: int, choose: Choose) -> list[list[bytes]]:
        """Remove up to ``limit`` chosen calls and return them in batches of one list.

        Raises:
            BrokerError: Redis is unreachable or refuses.
        """
        lists = [self._lists[index] for index in range(min(MOST_LISTS, len(self._lists)))]
        self._lists.rotate(-len(lists) if len(lists) < len(self._lists) else -1)
        found: list[tuple[bytes, bytes]] = []
        step = max(1, min(FIRST_STEP, int(MOST_BYTES / self._average_size / len(lists))))
        start = size = 0
        while lists and start < MOST_CALLS and size < MOST_BYTES:
            lists, new = self._look(lists, start, step)
            size += sum(len(payload) for _, payload in new)
            found += new
            chosen = choose([_client_of(payload) for _, payload in found])[:limit]
            if chosen:
                return self._remove([found[index] for index in chosen])
            start += step
            step *= 2
        return []

    def _look(self, lists: Sequence[bytes], start: int, step: int) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
        """Return the lists that may have more, and the calls after the ``start`` oldest ones with their lists."""
        commands = [(key, pack(b"LRANGE", key, -start - step, -start - 1)) for key in lists]
        longer: list[bytes] = []
        found: list[tuple[bytes, bytes]] = []
        failure: Exception | None = None
        for key, reply in zip(lists, execute_each(self._link_for, commands), strict=True):
            if isinstance(reply, list):
                found += [(key, payload) for payload in reversed(reply)]
                if len(reply) == step:
                    longer.append(key)
            elif not is_no_list(reply):
                failure = reply
        if failure is not None and not found:
            self._fail(failure)
        if found:
            size = sum(len(payload) for _, payload in found) / len(found)
            self._average_size = max(size, 0.9 * self._average_size + 0.1 * size)
        return longer, found

    def _remove(self, calls: Sequence[tuple[bytes, bytes]]) -> list[list[bytes]]:
        # By value, from the old end: the calls may have moved.
        commands = [(key, pack(b"LREM", key, -1, payload)) for key, payload in calls]
        batches: dict[bytes, list[bytes]] = {}
        failure: Exception | None = None
        for (key, payload), reply in zip(calls, execute_each(self._link_for, commands), strict=True):
            if reply == 1:
                batches.setdefault(key, []).append(payload)
            elif isinstance(reply, Exception):
                failure = reply
        if failure is not None and not batches:
            self._fail(failure)
        return list(batches.values())

    def _fail(self, failure: Exception) -> None:
        if is_forbidden(failure):
            self.is_permitted = False
            log.warning(Line("redis: choosing among calls is not permitted", error=failure, see="docs/redis.md"))
        else:
            raise as_error(failure)


def _client_of(payload: bytes) -> str:
    try:
        call = codec.decode_call(payload)
    except InvalidMessage:
        return ""  # chosen like the calls of any other connection, and dropped once it is popped
    return client_of(call.conn_uuid, call.msg_uuid)
