"""Exact accounts of what clients sent and received, held against docs/protocol.md. PURE: no I/O, no clock.

Shares no code with juggler. Times are seconds of one clock, read by the caller.

- Each request has exactly one ACK or NACK, on its own connection.
- Each acknowledged call has one result, on its own connection, after its ACK, in time and with the right value.
- A connection receives each event exactly once if it was subscribed from PUB to `SLACK` after the ACK, and never if it
  was not subscribed at any of that time. Events of one publisher on one channel arrive in their order, and in time.
- What was refused has no effect, unless the code is 504.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from dataclasses import dataclass, field
from math import inf
from typing import Any

from juggler.locust.violations import Violations
from loadtest.disturbances import Disturbances

CALL, PUB, SUB, UNSB, NACK, ACK, RES, EVNT = 1, 2, 3, 4, 7, 8, 9, 10
NAMES = {CALL: "CALL", PUB: "PUB", SUB: "SUB", UNSB: "UNSB"}
OUTCOME_UNKNOWN = 504
GOING_AWAY = 1001
GAPS = "juggler.gap"
GONE = "CalleeGone"

SLACK = 2.0
"""Seconds after the ACK of a publication in which its event may still be delivered or missed."""

MAX_LATENCY = 5.0
"""Seconds in which events and results must arrive."""

HORIZON = 20.0
"""Seconds after which `Accounts.judge` judges and drops what was sent."""

MAX_LATENCIES = 100_000

MAX_CACHED = 20_000
"""Texts of events that are decoded once for all their recipients."""


@dataclass(eq=False)
class Request:
    """A request and what came back.

    Attributes:
        connection: number of its connection.
        type: CALL, PUB, SUB or UNSB.
        payload: its payload.
        sent: time of sending.
        expected: result that a call must have; `Accounts.ANY` for any.
        duration: seconds that its function takes.
        answered: time of its ACK or NACK; None before.
        code: code of its NACK; None for an ACK.
        ended: time of its result; None before.
        dropped: whether its connection was lost before it was complete.
    """

    connection: int
    type: int
    payload: dict[str, Any]
    sent: float
    expected: Any = None
    duration: float = 0.0
    answered: float | None = None
    code: int | None = None
    ended: float | None = None
    dropped: bool = False

    @property
    def acknowledged(self) -> bool:
        return self.answered is not None and self.code is None

    @property
    def is_complete(self) -> bool:
        """Whether it has an ACK or NACK, and an acknowledged call its result."""
        return self.answered is not None and not (self.type == CALL and self.acknowledged and self.ended is None)

    @property
    def refused(self) -> bool:
        """Whether the server promises that it has no effect."""
        return self.code is not None and self.code != OUTCOME_UNKNOWN

    @property
    def shown(self) -> str:
        name = self.payload.get("uri") or self.payload.get("channel")
        return f"{NAMES[self.type]} {name} of client {self.connection}"


@dataclass(eq=False)
class _Publication:
    request: Request
    number: int

    @property
    def over(self) -> float:
        """Time at which it has reached all subscribers."""
        answered = self.request.answered
        return inf if answered is None else answered + SLACK

    @property
    def shown(self) -> str:
        return f"{self.request.payload['channel']} {self.number}"


@dataclass
class _Interval:
    """One subscription, from SUB to UNSB or the end of the connection."""

    asked: float
    confirmed: float = inf
    leaving: float = inf
    left: float = inf

    def must_receive(self, publication: _Publication) -> bool:
        request = publication.request
        return request.acknowledged and self.confirmed <= request.sent and publication.over <= self.leaving

    def may_receive(self, publication: _Publication) -> bool:
        return self.asked <= publication.over and publication.request.sent <= self.left


@dataclass
class _Subscriber:
    """A connection on a channel.

    Attributes:
        intervals: its subscriptions, the last one last.
        received: events by publisher, in the order of their arrival.
        heard: time of the last event.
    """

    connection: int
    intervals: list[_Interval] = field(default_factory=list)
    received: dict[int, list[_Publication]] = field(default_factory=lambda: defaultdict(list))
    heard: float = -inf

    def must_receive(self, publication: _Publication) -> bool:
        return any(interval.must_receive(publication) for interval in self.intervals)

    def may_receive(self, publication: _Publication) -> bool:
        return any(interval.may_receive(publication) for interval in self.intervals)

    def was_there(self, first: _Publication, last: _Publication) -> bool:
        """Return whether one subscription may have received all from the first to the last."""
        return any(each.may_receive(first) and each.may_receive(last) for each in self.intervals)

    def awaits(self, publisher: int, publication: _Publication) -> bool:
        received = self.received[publisher]
        has_later = bool(received) and received[-1].number >= publication.number
        return not has_later and self.must_receive(publication)


class Accounts:
    """The accounts of all connections of a process.

    Attributes:
        violations: broken promises.
        connections: number of opened connections.
        deliveries: number of received events.
        results: number of received results.
        latencies: seconds from call to result of the last calls without a failure nearby.
        gone: calls that ended because their callee was killed.
        gaps: events on ``juggler.gap``.
        after_nack: publications that arrived after their NACK, which may have been 504.
    """

    ANY = object()

    def __init__(self, disturbances: Disturbances | None = None, max_latency: float = MAX_LATENCY) -> None:
        """Open the accounts.

        Args:
            disturbances: injected failures, which excuse what is lost or late. Default: none.
            max_latency: seconds in which events and results must arrive.
        """
        self.violations = Violations()
        self.connections = self.deliveries = self.results = self.gaps = self.after_nack = self.gone = 0
        self.latencies: deque[float] = deque(maxlen=MAX_LATENCIES)
        self._excused = (disturbances or Disturbances()).overlap
        self._max_latency = max_latency
        self._requests: dict[str, Request] = {}
        self._open: dict[int, float] = {}
        self._numbers: dict[tuple[int, str], int] = defaultdict(int)
        self._publications: dict[str, _Publication] = {}
        # By channel, in the order of sending.
        self._streams: dict[str, dict[int, list[_Publication]]] = defaultdict(lambda: defaultdict(list))
        self._subscribers: dict[str, dict[int, _Subscriber]] = defaultdict(dict)
        self._cache: dict[bytes, _Publication] = {}

    # Connections

    def connected(self, now: float) -> int:
        """Open a connection, and return its number."""
        self.connections += 1
        self._open[self.connections] = now
        return self.connections

    def closed(self, connection: int, now: float, code: int | None) -> None:
        """Close a connection; ``code`` is the server's close code, or None if the client closed it.

        A server that goes away completes the calls in flight before.
        """
        heard = self._open.pop(connection, None)
        if heard is None:
            return
        if code not in (None, GOING_AWAY) and not self._excused(heard, now):
            self.violations.add("a connection was lost", f"client {connection}, code {code}")
        for subscribers in self._subscribers.values():
            if connection in subscribers:
                for interval in subscribers[connection].intervals:
                    interval.leaving = min(interval.leaving, heard)
                    interval.left = min(interval.left, now)
        for request in self._requests.values():
            # What was overdue before, or abandoned by the client itself, has no excuse.
            if request.connection == connection and not request.is_complete and code and now < self._deadline(request):
                request.dropped = True
                if code == GOING_AWAY and request.acknowledged and not self._excused(request.sent, now):
                    self.violations.add("a call in flight when the server went away", request.shown)

    def _deadline(self, request: Request) -> float:
        return request.sent + request.duration + self._max_latency

    # Messages

    def sent(
        self, connection: int, uuid: str, type: int, payload: dict[str, Any], now: float, expected: Any = ANY
    ) -> Request:
        """Record a request that is about to be sent.

        Args:
            connection: number of the connection.
            uuid: UUID of the request.
            type: CALL, PUB, SUB or UNSB.
            payload: its payload.
            now: current time.
            expected: result that a call must have.
        """
        request = self._requests[uuid] = Request(connection, type, payload, now, expected)
        if type == CALL:
            return request
        channel = payload["channel"]
        if type == PUB:
            self._numbers[connection, channel] += 1
            publication = _Publication(request, self._numbers[connection, channel])
            self._publications[uuid] = publication
            self._streams[channel][connection].append(publication)
        elif type == SUB:
            subscriber = self._subscribers[channel].setdefault(connection, _Subscriber(connection))
            subscriber.intervals.append(_Interval(now))
        else:
            self._last_interval(request).leaving = now
        return request

    def received(self, connection: int, text: bytes, now: float) -> Request | None:
        """Record a message of the server. Return its request, unless it is an event."""
        if connection in self._open:
            self._open[connection] = now
        publication = self._cache.get(text)
        if publication is not None:
            self._on_event(connection, publication, now)
            return None
        message = json.loads(text)
        type, payload = message["meta"]["type"], message["payload"]
        if type == EVNT:
            self._on_new_event(connection, text, payload, now)
            return None
        request = self._requests.get(payload["for"])
        if request is None:
            self.violations.add("a response to an unknown request", text.decode(errors="replace")[:200])
        elif request.connection != connection:
            self.violations.add("a response at another client than its request's", f"{request.shown}: {connection}")
        elif type == RES:
            self._on_result(request, payload, now)
        else:
            self._on_answer(request, payload if type == NACK else None, now)
        return request

    def _on_answer(self, request: Request, nack: dict[str, Any] | None, now: float) -> None:
        if request.answered is not None:
            self.violations.add("a second ACK or NACK", request.shown)
            return
        request.answered = now
        request.code = nack["code"] if nack else None
        if request.type == SUB:
            interval = self._last_interval(request)
            if nack:
                interval.leaving = interval.left = now
            else:
                interval.confirmed = now
        elif request.type == UNSB and not nack:
            self._last_interval(request).left = now

    def _on_result(self, request: Request, payload: dict[str, Any], now: float) -> None:
        self.results += 1
        if request.ended is not None:
            self.violations.add("a second result", request.shown)
            return
        request.ended = now
        if request.answered is None:
            self.violations.add("a result before its ACK", request.shown)
        elif request.refused:
            self.violations.add("a refused call has a result", f"{request.shown}, NACK {request.code}")
        if _is_gone(payload):
            self.gone += 1
            if not self._excused(request.sent, now):
                self.violations.add("a callee was gone without a failure", request.shown)
        elif request.expected is not self.ANY and payload.get("args") != request.expected:
            wrong = f"expected {request.expected!r:.60}, got {payload.get('args')!r:.60}"
            self.violations.add("a wrong result", f"{request.shown}: {wrong}")
        if not self._excused(request.sent, now):
            self.latencies.append(now - request.sent)
        self._check_age("a late result", request.shown, request.sent + request.duration, now)

    def _on_new_event(self, connection: int, text: bytes, payload: dict[str, Any], now: float) -> None:
        if payload["channel"] == GAPS:
            self.gaps += 1
            return
        publication = self._publications.get(payload["for"])
        if publication is None:
            self.violations.add("an event that was not published", f"{text!r:.200}")
            return
        sent = publication.request.payload
        if payload["channel"] != sent["channel"] or payload.get("args") != sent.get("args"):
            self.violations.add("an event that differs from its publication", publication.shown)
        if len(self._cache) >= MAX_CACHED:
            self._cache.clear()
        self._cache[text] = publication
        self._on_event(connection, publication, now)

    def _on_event(self, connection: int, publication: _Publication, now: float) -> None:
        self.deliveries += 1
        request = publication.request
        subscriber = self._subscribers[request.payload["channel"]].get(connection)
        if subscriber is None:
            self.violations.add("an event without a subscription", f"{publication.shown}, client {connection}")
            return
        subscriber.heard = now
        received = subscriber.received[request.connection]
        if received and received[-1].number >= publication.number:
            what = "an event was received twice" if publication in received else "an event out of order"
            self.violations.add(what, f"{publication.shown}, client {connection}")
            if publication in received:
                return
        received.append(publication)
        if request.code is not None and request.answered is not None and now > request.answered:
            self.after_nack += 1
        if now - request.sent > self._max_latency:
            self._check_age("a late event", f"{publication.shown}, client {connection}", request.sent, now)

    def _check_age(self, what: str, example: str, since: float, now: float) -> None:
        if now - since > self._max_latency and not self._excused(since, now):
            self.violations.add(what, f"{example}: after {now - since:.1f} s")

    def _last_interval(self, request: Request) -> _Interval:
        intervals = self._subscribers[request.payload["channel"]][request.connection].intervals
        return intervals[-1]

    # Verdicts

    def unanswered(self, since: float = -inf) -> int:
        """Return how many requests that were sent after ``since`` await an ACK, a NACK or a result."""
        recent = (request for request in self._requests.values() if request.sent >= since)
        return sum(not (request.is_complete or request.dropped) for request in recent)

    def arrived(self, channel: str) -> bool:
        """Return whether all publications on a channel are answered, and all its subscribers have received the last."""
        for publisher, publications in self._streams[channel].items():
            if any(each.request.answered is None and not each.request.dropped for each in publications):
                return False
            last = next((each for each in reversed(publications) if each.request.acknowledged), None)
            if last and any(s.awaits(publisher, last) for s in self._subscribers[channel].values()):
                return False
        return True

    def heard(self, connection: int, channel: str) -> float | None:
        """Return when a subscriber received its last event, or its ACK if there was none; None if it is none now."""
        subscriber = self._subscribers[channel].get(connection)
        if subscriber is None or not subscriber.intervals:
            return None
        last = subscriber.intervals[-1]
        if last.confirmed == inf or last.leaving != inf:
            return None
        return max(last.confirmed, subscriber.heard)

    def judge(self, now: float, finally_: bool = False) -> None:
        """Judge and drop what is older than `HORIZON`; with ``finally_``, everything."""
        before = inf if finally_ else now - HORIZON
        for channel, streams in list(self._streams.items()):
            for publisher, publications in list(streams.items()):
                due = [each for each in publications if each.request.sent < before]
                if due:
                    self._judge_events(channel, publisher, due)
                    del publications[: len(due)]
                if not publications:
                    del streams[publisher]
            self._drop_subscribers(channel)
        for uuid, request in list(self._requests.items()):
            if request.sent < before:
                self._judge_request(request)
                del self._requests[uuid]
                self._publications.pop(uuid, None)
        self._cache.clear()

    def _judge_events(self, channel: str, publisher: int, due: list[_Publication]) -> None:
        last = due[-1].number
        refused = any(each.request.refused for each in due)
        for subscriber in self._subscribers[channel].values():
            received = subscriber.received[publisher]
            if received[: len(due)] == due and not refused and subscriber.was_there(due[0], due[-1]):
                del received[: len(due)]
                continue
            arrived = {each for each in received if each.number <= last}
            subscriber.received[publisher] = [each for each in received if each.number > last]
            for each in due:
                self._judge_event(each, subscriber, each in arrived)

    def _judge_event(self, publication: _Publication, subscriber: _Subscriber, has_arrived: bool) -> None:
        request = publication.request
        example = f"{publication.shown}, client {subscriber.connection}"
        if has_arrived:
            if request.refused:
                self.violations.add("a refused publication took effect", f"{example}, NACK {request.code}")
            if not subscriber.may_receive(publication):
                self.violations.add("an event without a subscription", example)
        elif subscriber.must_receive(publication) and not self._excused(request.sent, publication.over):
            self.violations.add("an event was missed", example)

    def _drop_subscribers(self, channel: str) -> None:
        """Forget the subscribers whose connection has closed, once nothing is left to judge."""
        subscribers = self._subscribers[channel]
        for connection, subscriber in list(subscribers.items()):
            if connection not in self._open and not any(subscriber.received.values()) and not self._streams[channel]:
                del subscribers[connection]

    def _judge_request(self, request: Request) -> None:
        if request.dropped or self._excused(request.sent, self._deadline(request)):
            return
        if request.answered is None:
            self.violations.add("a request without ACK or NACK", request.shown)
        elif request.type == CALL and request.acknowledged and request.ended is None:
            self.violations.add("an acknowledged call without a result", request.shown)


def _is_gone(payload: dict[str, Any]) -> bool:
    """Return whether a result reports that the callee of its call has died, which completes the call."""
    return bool(payload.get("failed")) and payload["args"]["error"].get("type") == GONE
