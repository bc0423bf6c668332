"""The book of a load test: all that its clients sent and received, and what is wrong with it. PURE: no I/O, no clock.

Its rule: what is certain is judged, what is not is counted. Times are seconds of one clock, which the caller reads.
"""

from __future__ import annotations

from math import inf
from typing import Any

from juggler.client.state import Exp
from juggler.protocol.messages import Ack, Evnt, Nack, Pub, Request, Res, Response, Sub, Unsb
from loadtest.locust.answers import Answers, Entry, Fate
from loadtest.locust.deliveries import Deliveries
from loadtest.locust.tally import Faults, Tally


class Book:
    """What the clients of one process sent and received.

    Memory is bounded by the load, not by the time, as long as `judge` is called every now and then.

    Attributes:
        tally: the sums.
        faults: what was wrong.
        deliveries: publications and subscriptions.
    """

    def __init__(self) -> None:
        """Open an empty book."""
        self.tally = Tally()
        self.faults = Faults()
        self._disturbed: list[tuple[float, float]] = []
        self._answers = Answers(self.tally, self.faults, self.is_disturbed)
        self.deliveries = Deliveries(self.tally, self.faults, self.is_disturbed)
        self._open: dict[int, float] = {}
        self._last = 0

    # Connections

    def connected(self, now: float) -> int:
        """Return the number of a new connection."""
        self._last += 1
        self._open[self._last] = now
        self.tally.connections += 1
        return self._last

    def closed(self, connection: int, since: float, now: float) -> None:
        """We have begun to close a connection at ``since``. What is under way on it has no end, which is a fault."""
        if self._open.pop(connection, None) is None:
            return
        self.deliveries.gone(connection, since, now)
        for _ in range(self._answers.pending(connection)):
            self.faults.add("a request without an end when its connection was closed")
        self._answers.lost(connection)

    def lost(self, connection: int, now: float, reason: str) -> None:
        """A connection has ended without our doing, some time since it was last heard of."""
        heard = self._open.pop(connection, None)
        if heard is None:
            return
        self.tally.lost_connections += 1
        if not self.is_disturbed(heard, now):
            self.faults.add("a connection was lost", reason)
        self.deliveries.gone(connection, heard, now)
        self._answers.lost(connection)

    # Messages

    def sent(self, connection: int, message: Request, now: float, expected: Any = Fate.ANY) -> None:
        """A request is about to be sent.

        Args:
            connection: on which.
            message: the request.
            now: the time.
            expected: of a call: the value that it has to be answered with, or its `Fate`.
        """
        self._answers.sent(connection, message, now, expected)
        if isinstance(message, Pub):
            self.deliveries.publishing(message.uuid, message.channel, now)
        elif isinstance(message, Sub):
            self.deliveries.subscribing(connection, message.channel, message.pattern, now)
        elif isinstance(message, Unsb):
            self.deliveries.unsubscribing(connection, message.channel, message.pattern, now)

    def received(self, connection: int, message: Response | Exp, now: float) -> Entry | None:
        """Something came, or a call has expired. Return the request that this is about; None for an event."""
        if connection in self._open:
            self._open[connection] = now
        if isinstance(message, Evnt):
            self.deliveries.received(connection, message)
            return None
        if isinstance(message, Res):
            return self._answers.answered(message, now)
        if isinstance(message, Exp):
            return self._answers.expired(message, now)
        return self._on_ack(message, now) if isinstance(message, Ack) else self._on_nack(message, now)

    def _on_ack(self, ack: Ack, now: float) -> Entry | None:
        entry = self._answers.acked(ack)
        request = entry.message if entry else None
        if isinstance(request, Pub):
            self.deliveries.published(request.uuid, now)
        elif entry and isinstance(request, Sub):
            self.deliveries.subscribed(entry.connection, request.channel, request.pattern, now)
        elif entry and isinstance(request, Unsb):
            self.deliveries.unsubscribed(entry.connection, request.channel, request.pattern, now)
        return entry

    def _on_nack(self, nack: Nack, now: float) -> Entry | None:
        entry = self._answers.nacked(nack)
        if entry and isinstance(entry.message, Sub):
            self.deliveries.refused(entry.connection, entry.message.channel, entry.message.pattern, now)
        return entry

    # Disturbances

    def disturbed(self, since: float, until: float = inf) -> None:
        """Something is broken on purpose, until `recovered`: events may be missed, calls overdue, connections lost."""
        self._disturbed.append((since, until))

    def recovered(self, now: float) -> None:
        """All that was broken is well again."""
        self._disturbed = [(since, min(until, now)) for since, until in self._disturbed]

    def is_disturbed(self, since: float, until: float) -> bool:
        """Return whether something was broken on purpose at some time between these."""
        return any(begin <= until and since <= end for begin, end in self._disturbed)

    # The end

    def unanswered(self, connection: int | None = None) -> int:
        """Return how many requests, of one connection or of all, have not ended."""
        return self._answers.pending(connection)

    def missing(self) -> int:
        """Return how many events have to come and have not."""
        return self.deliveries.missing()

    def judge(self, now: float) -> None:
        """Judge what is old enough, and forget it. To be called every few seconds."""
        self._answers.judge(now)
        self.deliveries.judge(now)

    def finish(self, now: float) -> None:
        """Judge all there is. To be called once, while connections are still open, when nothing is waited for."""
        self.deliveries.judge(now, finally_=True)
        self._answers.judge(now, finally_=True)
        self.faults.add_all(self.tally.disagreements())
        self._open.clear()
