"""`PartSender`: stores the parts of a result as fast as its caller takes them."""

from __future__ import annotations

from collections import deque
from time import monotonic

import gevent
from gevent.event import Event

from juggler.broker import CalleeBroker, IncomingCall
from juggler.broker.streams import HELD
from juggler.callee.parts import PROGRESS_INTERVAL, check_wanted
from juggler.errors import BrokerError

BATCH_PARTS, BATCH_BYTES = 256, 64 * 1024
"""Maximum number of parts that are joined, and of their bytes; a larger part is sent alone."""

RETRY_PAUSE = 0.2
"""Seconds before a batch is stored again that could not be stored."""

TURN = 64
"""Parts after which a generator that never waits lets other greenlets run."""


class PartSender:
    """Stores the parts of one call: in order, none beyond the caller's credit, one batch at any time.

    What the function yields while a batch is being stored is joined to the next one. In mode "latest", a part that
    could not be sent yet is replaced by the next.
    """

    def __init__(self, call: IncomingCall, broker: CalleeBroker, callee_id: str, hold: float) -> None:
        """Create a sender for a call that has asked for parts.

        Args:
            call: the call.
            broker: stores the parts.
            callee_id: identifier of this process.
            hold: seconds for which a part is held, so that the next ones are joined to it.
        """
        assert call.parts is not None
        self._call = call
        self._broker = broker
        self._callee_id = callee_id
        self._hold = hold
        self._timeout = max(0.0, call.deadline - monotonic()) + call.waited
        self._until = call.parts.until
        self._is_latest = call.parts.mode == "latest"
        self._waiting: deque[bytes] = deque()
        self._replaceable = False  # whether the last waiting part may be replaced
        self._bytes = 0
        self._sent = 0  # parts that are stored or being stored
        self._storing = False
        self._is_flush_due = False
        self._yields = 0
        self._progress_at = 0.0
        self._changed = Event()
        broker.part(call, callee_id, _ignore)

    def __call__(self, text: bytes, is_progress: bool) -> None:
        """Send a part. Blocks while there is no credit, except in mode "latest" and for progress.

        Raises:
            juggler.callee.failures.TimeIsUp: the call was cancelled or has expired.
        """
        check_wanted(self._call)
        if is_progress:
            self._put_latest(text)
            self._flush_in(self._progress_at + PROGRESS_INTERVAL - monotonic())
            return
        if self._is_latest:
            self._put_latest(text)
        else:
            self._replaceable = False
            while self._is_full():
                self._wait()
            self._put(text)
        self._flush_in(self._hold)
        self._yields += 1
        if self._yields % TURN == 0:
            gevent.sleep(0)

    def credit(self, until: int) -> None:
        """Allow parts up to number ``until``. Servers repeat it while the caller is busy: the call must not expire."""
        self._prolong()
        if until > self._until:
            self._until = until
            self._flush_in(0.0)
            self._changed.set()

    def wake(self) -> None:
        """Make a function that waits for credit notice that its call was cancelled."""
        self._changed.set()

    def finish(self) -> None:
        """Wait until all parts are stored that may be sent: the result follows them.

        Raises:
            juggler.callee.failures.TimeIsUp: the call was cancelled or has expired.
        """
        self._hold = 0.0
        self._flush_in(0.0)
        while self._storing or (self._waiting and self._sent < self._until):
            self._wait()

    def _is_full(self) -> bool:
        return (
            self._sent + len(self._waiting) >= self._until
            or len(self._waiting) >= BATCH_PARTS
            or self._bytes >= BATCH_BYTES
        )

    def _wait(self) -> None:
        """Wait for credit or for Redis."""
        self._changed.clear()
        self._flush_in(0.0)
        if not self._storing and self._sent + len(self._waiting) >= self._until:
            self._call.deadline = max(self._call.deadline, monotonic() + HELD)
        self._changed.wait(self._call.time_left())
        check_wanted(self._call)

    def _put(self, text: bytes) -> None:
        self._waiting.append(text)
        self._bytes += len(text)

    def _put_latest(self, text: bytes) -> None:
        if self._replaceable and self._waiting:
            self._bytes -= len(self._waiting.pop())
        self._put(text)
        self._replaceable = True

    def _flush_in(self, seconds: float) -> None:
        if self._is_flush_due and seconds > 0:
            return
        if seconds > 0:
            self._is_flush_due = True
            gevent.spawn_later(seconds, self._flush)
        elif not self._storing:
            self._flush()

    def _prolong(self) -> None:
        self._call.deadline = max(self._call.deadline, monotonic() + max(self._timeout, HELD))

    def _flush(self) -> None:
        self._is_flush_due = False
        room = self._until - self._sent
        if self._storing or not self._waiting or room <= 0 or self._call.given_up():
            return
        batch = [self._waiting.popleft()]
        size = len(batch[0])
        while self._waiting and len(batch) < room and size + len(self._waiting[0]) <= BATCH_BYTES:
            batch.append(self._waiting.popleft())
            size += len(batch[-1])
        self._bytes -= sum(map(len, batch))
        self._store(self._sent + 1, batch)
        self._sent += len(batch)

    def _store(self, seq: int, batch: list[bytes]) -> None:
        self._storing = True
        self._progress_at = monotonic()
        joined = len(batch) > 1
        args = b"[" + b",".join(batch) + b"]" if joined else batch[0]

        def on_done(error: BrokerError | None) -> None:
            if error is not None and not self._call.given_up():
                # Parts that were stored, although no reply arrived, are recognised by their numbers.
                gevent.spawn_later(RETRY_PAUSE, self._store, seq, batch)
                return
            self._storing = False
            if error is None:
                self._prolong()
            self._changed.set()
            self._flush()

        self._broker.part(self._call, self._callee_id, on_done, seq, args, joined)


def _ignore(error: BrokerError | None) -> None:
    """The server learns the callee from the first part, too."""
