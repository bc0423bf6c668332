"""ACKs of calls that wait for a moment under juggler.1, because a RES that is ready in time implies them.

One timer serves all calls of a server. It ticks twice in the longest time for which an ACK is held. A tick costs as
much as an ACK, so the timer stops as soon as no ACK is held: with quick results, it hardly ever ticks.
"""

from __future__ import annotations

from typing import Any, Protocol

import gevent


class HeldAck(Protocol):
    """A call whose ACK is held.

    Attributes:
        awaits_ack: whether its ACK has still to be sent. What implies the ACK sets it to false, and calls
            `HeldAcks.implied`.
    """

    awaits_ack: bool

    def acknowledge(self) -> None:
        """Send the ACK."""


class HeldAcks:
    """The held ACKs of one server.

    Args:
        delay: longest time for which an ACK is held, in seconds; the shortest one is half of it.

    Attributes:
        is_ticking: whether the timer runs.
    """

    __slots__ = ("_count", "_new", "_old", "_period", "_timer", "is_ticking")

    def __init__(self, delay: float) -> None:
        self._period = delay / 2
        self._timer: Any = None
        self._count = 0  # of calls that await their ACK, or more: it may stop the timer too late, not too early
        self.is_ticking = False
        self._new: list[HeldAck] = []  # since the last tick
        self._old: list[HeldAck] = []  # before it

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def add(self, call: HeldAck) -> None:
        """Send the ACK of a call in a moment, unless ``awaits_ack`` is false by then."""
        self._new.append(call)
        self._count += 1
        if not self.is_ticking:
            self._start()

    def implied(self) -> None:
        """Note that an ACK that was held is not needed any more."""
        self._count -= 1
        if self._count <= 0 and self.is_ticking:
            self._rest()

    def close(self) -> None:
        """Stop the timer; no further ACK is sent."""
        if self._timer is not None:
            self._rest()
            self._timer.close()
            self._timer = None

    def _rest(self) -> None:
        self._timer.stop()
        self.is_ticking = False
        self._count = 0
        self._new.clear()
        self._old.clear()

    def _start(self) -> None:
        if self._timer is None:
            # Created with the first call, because processes are forked before.
            self._timer = gevent.get_hub().loop.timer(self._period, self._period)
        self.is_ticking = True
        self._timer.start(self._tick)

    def _tick(self) -> None:
        # At the end of this turn of the loop, which may have results in store.
        gevent.get_hub().loop.run_callback(self._send)

    def _send(self) -> None:
        due = self._old
        self._old = [call for call in self._new if call.awaits_ack]
        self._new = []
        self._count = len(self._old)
        for call in due:
            if call.awaits_ack:
                call.acknowledge()
        if not self._count and self.is_ticking:
            self._rest()
