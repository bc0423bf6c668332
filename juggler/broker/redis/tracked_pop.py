"""Pops from the lists that have something, as Redis tells, of very many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gevent.event import AsyncResult

from juggler.broker.redis.link import as_error
from juggler.broker.redis.pop import ManyListsPopper, PopLink
from juggler.broker.redis.tracking import Tracking


class TrackedListsPopper(ManyListsPopper):
    """For so many lists that to name them all costs more than to hear of each that anybody changes.

    All callees of the same lists hear of each call, and one gets it: for fewer lists that would be the greater cost.
    While Redis does not tell, it does as the class that it is made from.
    """

    def __init__(self, link: PopLink, lists: Sequence[bytes], tracking: Tracking) -> None:
        super().__init__(link, lists)
        self._tracking = tracking

    def pop(self, limit: int) -> list[list[bytes]]:
        if not self._tracking.on:
            return super().pop(limit)
        self._tracking.refresh()
        if not self._tracking.wait(self._link.blocking_timeout):
            return []
        return self._pop_marked(self._link.bounded(limit))

    def _pop_marked(self, limit: int) -> list[list[bytes]]:
        marked = self._tracking.marked
        lists = marked.take(limit)
        share = limit // len(lists)
        replies: list[Any] = []
        last: AsyncResult = AsyncResult()
        on_replies = (*[replies.append] * (len(lists) - 1), last.set)
        self._link.send(b"".join([_rpop(key, share) for key in lists]), on_replies)
        replies.append(last.get())
        batch: list[bytes] = []
        failure: Exception | None = None
        for key, reply in zip(lists, replies, strict=True):
            if isinstance(reply, list):
                batch += reply
                if len(reply) == share:
                    marked.mark((key,))
            elif reply is not None:
                failure = reply
        if failure is not None:
            # What was popped Redis does not have any more, whatever became of the rest.
            if str(failure).startswith("NOPERM"):
                self._tracking.refuse(failure)
            elif not batch:
                raise as_error(failure)
        if not batch:
            return []
        self._link.note_sizes(batch)
        return [batch]

    def close(self) -> None:
        self._tracking.close()
        super().close()


def _rpop(key: bytes, count: int) -> bytes:
    return b"*3\r\n$4\r\nRPOP\r\n$%d\r\n%b\r\n$%d\r\n%d\r\n" % (len(key), key, len(str(count)), count)
