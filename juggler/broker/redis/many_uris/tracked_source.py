"""Pops from the lists that have something, as Redis tells, of very many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gevent.event import AsyncResult

from juggler.broker.redis.call_source import PollingSource, PopLink
from juggler.broker.redis.commands import pack
from juggler.broker.redis.link import Reply, as_error
from juggler.broker.redis.many_uris.pending_queues import PendingQueues
from juggler.broker.redis.many_uris.tracking import Tracking, is_forbidden, is_no_list
from juggler.errors import BrokerUnavailable

SIFTED = 1000
"""PendingQueues lists that are asked for their lengths at a time, when some were found empty."""


class TrackedSource(PollingSource):
    """For so many lists that to name them all costs more than to hear of each that anybody changes.

    All callees of the same lists hear of each call, and one gets it: for fewer lists that would be the greater cost.
    While Redis does not tell, it does as the class that it is made from.
    """

    def __init__(self, link: PopLink, lists: Sequence[bytes], pending: PendingQueues, tracking: Tracking) -> None:
        super().__init__(link, lists)
        self._pending = pending
        self._tracking = tracking

    def pop(self, limit: int) -> list[list[bytes]]:
        tracking = self._tracking
        tracking.refresh()
        if not tracking.on:
            batches = super().pop(limit)
            if tracking.on:
                # It began meanwhile. What was left in a list then is not told, as we have changed it.
                tracking.survey()  # type: ignore[unreachable]
            return batches
        if not tracking.wait(self._link.blocking_timeout):
            return []
        limit = self._link.bounded(limit)
        while self._pending:
            batch = self._pop_marked(limit)
            if batch:
                self._link.note_sizes(batch)
                return [batch]
            # Others were faster. Of thousands that they have emptied, not each may cost a round trip.
            self._sift()
        return []

    def _pop_marked(self, limit: int) -> list[bytes]:
        """Pop up to ``limit`` payloads from the first of the pending lists."""
        lists = self._pending.take(limit)
        share = limit // len(lists)
        batch: list[bytes] = []
        failure: Exception | None = None
        for key, reply in zip(lists, self._ask(lists, lambda key: pack(b"RPOP", key, share)), strict=True):
            if isinstance(reply, list):
                batch += reply
                if len(reply) == share:
                    self._pending.add((key,))
            elif is_no_list(reply):
                self._tracking.set_aside(key, reply)
            elif reply is not None:
                failure = reply
                self._pending.add((key,))
        if is_forbidden(failure):
            self._tracking.refuse(failure)
        elif failure is not None and not batch:
            raise as_error(failure)
        # What was popped Redis does not have any more, whatever became of the rest: the next pop hears of that.
        return batch

    def _sift(self) -> None:
        """Leave only those of the first pending lists pending that have something."""
        lists = self._pending.take(SIFTED)
        if not lists:
            return
        lengths = self._ask(lists, lambda key: pack(b"LLEN", key))
        failure = next((length for length in lengths if isinstance(length, BrokerUnavailable)), None)
        if failure is not None:
            raise failure
        self._pending.add(key for key, length in zip(lists, lengths, strict=True) if length != 0)

    def _ask(self, lists: Sequence[bytes], command: Callable[[bytes], bytes]) -> list[Reply]:
        """Send a command for each of some lists that are not pending any more, and return the replies."""
        replies: list[Any] = []
        last: AsyncResult = AsyncResult()
        try:
            self._link.send(b"".join(map(command, lists)), (*[replies.append] * (len(lists) - 1), last.set))
        except BrokerUnavailable:
            self._pending.add(lists)
            raise
        replies.append(last.get())
        return replies

    def close(self) -> None:
        self._tracking.close()
        super().close()
