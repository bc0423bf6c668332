"""The book of a load test: everything that its clients send and receive, and its violations. PURE: no I/O, no clock.

What is certain is judged, what is not is counted. Times are seconds of one clock, read by the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from juggler.client.state import Exp
from juggler.locust.event_checks import EventChecks
from juggler.locust.request_checks import Entry, Fate, RequestChecks
from juggler.locust.tally import Tally
from juggler.locust.violations import Violations
from juggler.protocol.messages import Ack, Crdt, Ends, Evnt, Nack, Part, Pub, Request, Res, Response, Sub, Unsb, Wlcm

Excused: TypeAlias = "Callable[[float, float], bool]"
"""Returns whether a failure was injected between two times: what is lost then is excused."""


def never(since: float, until: float) -> bool:
    """Excuse nothing."""
    return False


class Book:
    """The messages of all clients of one process.

    Memory is bounded by the load, not by the duration, if `judge` is called every few seconds.

    Attributes:
        tally: counts.
        violations: what the server must not do, and did.
        events: publications, subscriptions and received events.
    """

    def __init__(
        self, excused: Excused = never, max_latency: float | None = None, allow_unfinished: bool = False
    ) -> None:
        """Open the book.

        Args:
            excused: times of injected failures, which excuse missed events, overdue calls and lost connections.
                Default: none.
            max_latency: seconds in which results and events must arrive. Default: ``None``, unlimited.
            allow_unfinished: whether calls may be in flight, within their timeout, when their connection closes or the
                test ends. Default: they are violations.
        """
        self.tally = Tally()
        self.violations = Violations()
        self._excused = excused
        self._requests = RequestChecks(self.tally, self.violations, excused, max_latency, allow_unfinished)
        self.events = EventChecks(self.tally, self.violations, excused, max_latency)
        self._open: dict[int, float] = {}
        self._last = 0

    # Connections

    def connected(self, now: float) -> int:
        """Count a new connection, and return its number."""
        self._last += 1
        self._open[self._last] = now
        self.tally.connections += 1
        return self._last

    def closed(self, connection: int, since: float, now: float) -> None:
        """Record that the client closed a connection from ``since`` on; requests in flight on it are violations."""
        if self._open.pop(connection, None) is None:
            return
        self.events.gone(connection, since, now)
        for _ in range(self._requests.abandon(connection, now)):
            self.violations.add("a request in flight when its connection was closed")
        self._requests.lost(connection)

    def lost(self, connection: int, now: float, reason: str) -> list[Entry]:
        """Record that a connection was lost, at some time since its last message. Return its requests in flight."""
        heard = self._open.pop(connection, None)
        if heard is None:
            return []
        self.tally.lost_connections += 1
        if not self._excused(heard, now):
            self.violations.add("a connection was lost", reason)
        self.events.gone(connection, heard, now)
        return self._requests.lost(connection)

    # Messages

    def sent(self, connection: int, message: Request, now: float, expected: Any = Fate.ANY) -> Entry | None:
        """Record a request that is about to be sent, and return its entry; None if it gets no answer.

        Args:
            connection: number of the connection.
            message: the request.
            now: current time.
            expected: result that a call must have, or its `Fate`.
        """
        if isinstance(message, Crdt):
            return None
        entry = self._requests.sent(connection, message, now, expected)
        if isinstance(message, Pub):
            self.events.publishing(connection, message.uuid, message.channel, now)
        elif isinstance(message, Sub):
            self.events.subscribing(connection, message.channel, message.is_pattern, now)
        elif isinstance(message, Unsb):
            self.events.unsubscribing(connection, message.channel, message.is_pattern, now)
        return entry

    def received(self, connection: int, message: Response | Exp, now: float) -> Entry | None:
        """Record a response or an expiry, and return the entry of its request; None for an event."""
        if connection in self._open:
            self._open[connection] = now
        if isinstance(message, Wlcm):
            self._requests.welcomed(connection)
            return None
        if isinstance(message, Ends):
            self.events.refused(connection, message.channel, message.is_pattern, now)
            return None
        if isinstance(message, Evnt):
            self.events.received(connection, message, now)
            return None
        if isinstance(message, Exp):
            return self._requests.expired(message, now)
        if not self._requests.is_own(connection, message):
            return None
        if isinstance(message, Part):
            return self._requests.part(message, now)
        if isinstance(message, Res):
            return self._requests.answered(message, now)
        return self._on_ack(message, now) if isinstance(message, Ack) else self._on_nack(message, now)

    def _on_ack(self, ack: Ack, now: float) -> Entry | None:
        entry = self._requests.acked(ack, now)
        request = entry.message if entry else None
        if isinstance(request, Pub):
            self.events.published(request.uuid, now)
        elif entry and isinstance(request, Sub):
            self.events.subscribed(entry.connection, request.channel, request.is_pattern, now)
        elif entry and isinstance(request, Unsb):
            self.events.unsubscribed(entry.connection, request.channel, request.is_pattern, now)
        return entry

    def _on_nack(self, nack: Nack, now: float) -> Entry | None:
        entry = self._requests.nacked(nack, now)
        if entry and isinstance(entry.message, Sub):
            self.events.refused(entry.connection, entry.message.channel, entry.message.is_pattern, now)
        return entry

    # Verdicts

    def unanswered(self, connection: int | None = None) -> int:
        """Return the number of requests in flight, of one connection or of all."""
        return self._requests.pending(connection)

    def last_deadline(self) -> float | None:
        """Return when the last call in flight expires; ``None`` without one."""
        return self._requests.last_deadline()

    def missing(self) -> int:
        """Return the number of events that are due and have not arrived."""
        return self.events.missing()

    def judge(self, now: float) -> None:
        """Judge and drop what is old enough. Call it every few seconds."""
        self._requests.judge(now)
        self.events.judge(now)

    def finish(self, now: float) -> None:
        """Judge everything. Call it once, while connections are open, when nothing is in flight."""
        self.events.judge(now, finally_=True)
        self._requests.judge(now, finally_=True)
        self.violations.add_all(self.tally.disagreements())
        self._open.clear()
