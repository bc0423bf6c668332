"""The source of calls in very many queues: pops only from the pending ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from juggler.broker.redis.call_source import PollingSource
from juggler.broker.redis.commands import pack
from juggler.broker.redis.many_uris.pending_queues import PendingQueues
from juggler.broker.redis.many_uris.tracking import Tracking
from juggler.broker.redis.popper import Popper
from juggler.broker.redis.replies import Reply, as_error, is_forbidden, is_no_list
from juggler.errors import BrokerUnavailable

SIFT_BATCH = 1000
"""Pending queues whose lengths are checked in one go, once some were found empty."""


class TrackedSource(PollingSource):
    """Pops from pending queues while tracking is on, and otherwise as a `PollingSource`.

    Every callee of the same queues receives the report of each call, and one of them pops it. For fewer queues that
    would cost more than to name them all.

    Attributes:
        pending: queues that may have calls.
        tracking: keeps ``pending`` up to date.
    """

    def __init__(self, popper: Popper, queues: Sequence[bytes], pending: PendingQueues, tracking: Tracking) -> None:
        super().__init__(popper, queues)
        self.pending = pending
        self.tracking = tracking

    def pop(self, limit: int) -> list[list[bytes]]:
        tracking = self.tracking
        tracking.refresh()
        if not tracking.is_on:
            batches = super().pop(limit)
            if tracking.is_on:
                # It has started meanwhile. Calls left by this pop are not reported, since Redis skips own changes.
                tracking.survey()  # type: ignore[unreachable]
            return batches
        if not tracking.wait(self.popper.link.blocking_timeout):
            return []
        limit = self.popper.bounded(limit)
        while self.pending:
            batch = self._pop_pending(limit)
            if batch:
                self.popper.note_sizes(batch)
                return [batch]
            # Other callees were faster. They may have emptied thousands of queues: do not try one after the other.
            self._sift()
        return []

    def _pop_pending(self, limit: int) -> list[bytes]:
        """Pop up to ``limit`` calls from the first pending queues."""
        queues = self.pending.take(limit)
        share = limit // len(queues)
        batch: list[bytes] = []
        failure: Exception | None = None
        for key, reply in zip(queues, self._execute(queues, lambda key: pack(b"RPOP", key, share)), strict=True):
            if isinstance(reply, list):
                batch += reply
                if len(reply) == share:
                    self.pending.add((key,))
            elif is_no_list(reply):
                self.tracking.set_aside(key, reply)
            elif reply is not None:
                failure = reply
                self.pending.add((key,))
        if is_forbidden(failure):
            self.tracking.stop(failure)
        elif failure is not None and not batch:
            raise as_error(failure)
        # Redis no longer has what was popped, so it is returned even if other commands failed: the next pop fails too.
        return batch

    def _sift(self) -> None:
        """Remove the empty ones of the first pending queues."""
        queues = self.pending.take(SIFT_BATCH)
        if not queues:
            return
        lengths = self._execute(queues, lambda key: pack(b"LLEN", key))
        failure = next((length for length in lengths if isinstance(length, BrokerUnavailable)), None)
        if failure is not None:
            raise failure
        self.pending.add(key for key, length in zip(queues, lengths, strict=True) if length != 0)

    def _execute(self, queues: Sequence[bytes], command: Callable[[bytes], bytes]) -> list[Reply]:
        """Send a command for each of some queues that were taken, and return the replies."""
        try:
            return self.popper.link.execute_all([command(key) for key in queues])
        except BrokerUnavailable:
            self.pending.add(queues)
            raise

    def close(self) -> None:
        self.tracking.close()
        super().close()
