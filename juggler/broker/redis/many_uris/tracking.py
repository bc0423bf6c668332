"""Find out from Redis which of many queues have calls, without naming them all again and again.

Redis's client tracking in broadcasting mode reports to one connection the names of all keys with a prefix that other
clients have changed. What the queues contained before is surveyed once for each new connection, and periodically in
case something between this process and Redis does not pass reports on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import takewhile

import hiredis
from gevent.event import Event

from juggler.broker.redis.commands import pack
from juggler.broker.redis.link import Link
from juggler.broker.redis.many_uris.key_changes import KeyChanges
from juggler.broker.redis.many_uris.pending_queues import PendingQueues
from juggler.broker.redis.replies import OnReply, Reply, ignore, is_forbidden, is_no_list
from juggler.errors import BrokerUnavailable
from juggler.process.backoff import pauses
from juggler.process.logline import Line

log = logging.getLogger("juggler.redis")

PERIOD = 10.0
"""Seconds between surveys, and before tracking is tried again after a failure."""

LONGEST_BACKOFF = 32
"""Number of periods that the time between failing attempts grows to."""

MOST_MISSES = 2
"""Number of surveys with missing reports after which tracking stops."""


class Tracking:
    """Keeps a set of pending queues up to date.

    Attributes:
        changes: receives the reports.
        is_on: whether the set is up to date.
        is_stopped: whether tracking has stopped for good: Redis refuses, or reports are missing.
        unreported: queues that had calls in the last survey, and that no report has named.
    """

    def __init__(self, link: Link, queues: Sequence[bytes], pending: PendingQueues, changes: KeyChanges) -> None:
        """Start when ``link`` is up.

        Args:
            link: the link that pops. Its own changes are not reported.
            queues: keys of the queues.
            pending: the set to keep up to date. A queue that is taken and may have more calls must be added again.
            changes: receives the reports.
        """
        self.changes = changes
        self.is_on = False
        self.is_stopped = False
        self.unreported: set[bytes] = set()
        self._link = link
        self._queues = queues
        self._prefix = _common_prefix(queues)
        self._pending = pending
        self._state_changed = Event()
        self._due = 0.0
        self._reported: set[bytes] | None = None
        self._misses = 0
        self._backoff = pauses(PERIOD, PERIOD * LONGEST_BACKOFF)
        self._asked = False
        self._attempt = 0
        self._no_lists: set[bytes] = set()
        changes.on_state = self._on_changes_state
        changes.on_changed = self._on_changed
        link.up_listeners.append(self._on_link_up)
        link.lost_listeners.append(self._on_link_lost)

    @property
    def is_surveying(self) -> bool:
        """Whether a periodic survey is in flight."""
        return self._reported is not None

    # For the source

    def wait(self, timeout: float) -> bool:
        """Wait until a queue is pending, at most ``timeout`` seconds, and return whether one is.

        Returns early when `is_on` ends and when `refresh` is due.
        """
        if not self._pending:
            self._state_changed.clear()
            self._state_changed.wait(max(0.0, min(timeout, self._due - time.monotonic())))
        return bool(self._pending)

    def refresh(self, now: float | None = None) -> None:
        """Do what is due every `PERIOD`; ``now`` is the time of the monotonic clock by default."""
        if self.is_stopped or not self._due or (time.monotonic() if now is None else now) < self._due:
            return
        if not self.is_on:
            self._restart()
        elif self.unreported:
            self._misses += 1
            error = ConnectionError("Redis has not reported queues that have calls")
            if self._misses < MOST_MISSES:
                self._fail(error)
            else:
                self.stop(error)
        else:
            self._reported = self._pending.keys()
            self.survey()

    def survey(self) -> None:
        """Get the lengths of all queues."""
        self._due = time.monotonic() + PERIOD
        attempt = self._attempt

        def on_lengths(lengths: list[Reply]) -> None:
            if attempt == self._attempt:
                self._on_surveyed(lengths)

        with suppress(BrokerUnavailable):
            self._link.gather([pack(b"LLEN", key) for key in self._queues], on_lengths)

    def stop(self, error: Exception) -> None:
        """Stop tracking for good: Redis refuses, or reports are missing."""
        if self.is_stopped:
            return
        self.is_stopped = True
        self._suspend()
        self.changes.connection.close()
        if self._asked:
            self._send(pack(b"CLIENT", b"TRACKING", b"OFF"), ignore)
        if is_forbidden(error):
            log.warning(Line("redis: tracking many URIs is not permitted", error=error, see="docs/redis.md"))
        else:
            log.warning(Line("redis: tracking many URIs stopped", error=error))

    def set_aside(self, key: bytes, error: Exception) -> None:
        """Log once that a key holds no list. The source leaves it alone until it changes."""
        if key not in self._no_lists:
            self._no_lists.add(key)
            log.warning(Line("redis: queue of calls is no list", key=key.decode(errors="replace"), error=error))

    def close(self) -> None:
        """Close the connection for reports. Idempotent."""
        self.changes.connection.close()

    # State of the connections

    def _on_link_up(self) -> None:
        if not self.is_stopped:
            self.changes.connection.start()
            self._begin()

    def _on_link_lost(self) -> None:
        self._asked = False
        self._suspend()
        # It may lead to the former master.
        self.changes.connection.drop("the connection that pops was lost")

    def _on_changes_state(self) -> None:
        if self.changes.refusal is not None:
            self.stop(self.changes.refusal)
        elif self.changes.client_id is None:
            self._suspend()
        else:
            self._begin()

    # Starting

    def _begin(self) -> None:
        client_id = self.changes.client_id
        if client_id is not None and self._link.connection.up:
            self._due = 0.0
            # A write, so that no replica replies to it.
            self._send(pack(b"PEXPIRE", self.changes.proof, 1), partial(self._on_proved, self._attempt, client_id))

    def _on_proved(self, attempt: int, client_id: int, proved: Reply) -> None:
        if isinstance(proved, BrokerUnavailable) or attempt != self._attempt:
            return
        if proved == 1:
            if self._asked:
                # The client that receives reports cannot be changed while tracking is on.
                self._send(pack(b"CLIENT", b"TRACKING", b"OFF"), ignore)
            self._asked = True
            options = (b"REDIRECT", client_id, b"BCAST", b"NOLOOP", b"PREFIX", self._prefix)
            self._send(pack(b"CLIENT", b"TRACKING", b"ON", *options), partial(self._on_begun, attempt))
        else:
            self._fail(ConnectionError("two connections lead to different servers"))

    def _on_begun(self, attempt: int, begun: Reply) -> None:
        if isinstance(begun, BrokerUnavailable) or attempt != self._attempt:
            return
        if is_forbidden(begun):
            self.stop(begun)
        elif isinstance(begun, hiredis.ReplyError):
            self._fail(begun)
        else:
            self.survey()

    def _on_surveyed(self, lengths: list[Reply]) -> None:
        error = next((each for each in lengths if isinstance(each, Exception) and not is_no_list(each)), None)
        if isinstance(error, BrokerUnavailable):
            return
        if is_forbidden(error):
            self.stop(error)
            return
        found = []
        for key, length in zip(self._queues, lengths, strict=True):
            if is_no_list(length):
                self.set_aside(key, length)
            elif length != 0:
                found.append(key)
        # The report of a queue that has calls may still arrive.
        self.unreported = set() if self._reported is None else set(found) - self._reported
        self._reported = None
        self._backoff = pauses(PERIOD, PERIOD * LONGEST_BACKOFF)
        self.is_on = True
        self._add(found)

    def _on_changed(self, keys: list[bytes]) -> None:
        if self._reported is not None:
            self._reported.update(keys)
        elif self.unreported:
            self.unreported.difference_update(keys)
        self._add(keys)

    def _add(self, keys: Sequence[bytes]) -> None:
        self._pending.add(keys)
        if self._pending:
            self._state_changed.set()

    # Suspending

    def _fail(self, error: Exception) -> None:
        """Suspend tracking until the `refresh` that is due after a pause."""
        self._suspend()
        pause = next(self._backoff)
        self._due = time.monotonic() + pause
        log.warning(Line("redis: tracking many URIs failed", error=error, retry_in=pause))

    def _restart(self) -> None:
        self._due = 0.0
        self.changes.connection.drop("tracking restarts")

    def _suspend(self) -> None:
        # Replies to the current attempt are ignored from now on.
        self._attempt += 1
        self.is_on = False
        self.unreported.clear()
        self._reported = None
        self._pending.clear()
        self._state_changed.set()

    def _send(self, packed: bytes, on_reply: OnReply) -> None:
        # Without a connection, everything starts over with the next one.
        with suppress(BrokerUnavailable):
            self._link.send(packed, (on_reply,))


def _common_prefix(names: Sequence[bytes]) -> bytes:
    first, last = min(names), max(names)
    return first[: sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))]
