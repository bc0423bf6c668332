"""Check events: which subscribers must, may or must not receive each of them. PURE: no I/O, no clock.

A publication happens at an unknown time between PUB and ACK. A subscription begins between SUB and ACK, and ends
between UNSB and ACK. A connection that was subscribed all that time must receive the event once; one that was not at
any time must not receive it. Anything else is counted as uncertain. What one connection publishes on a channel arrives
in its order.

Events of others, such as callees or users in other processes, are foreign. Once a connection has received one, all
connections that were subscribed long before must receive it, too.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from juggler.locust.tally import Tally
from juggler.locust.violations import Violations
from juggler.protocol.glob import matches
from juggler.protocol.messages import Evnt

SLACK = 2.0
"""Seconds after the ACK of a publication in which its event may still be delivered or missed."""

HORIZON = 30.0
"""Seconds after PUB when a publication is judged and dropped."""

FOREIGN_AGE = 10.0
"""Seconds before the first receipt of a foreign event in which it was published."""

RESERVED = "juggler."
"""Prefix of channels on which servers publish, each to its own clients."""

Key: TypeAlias = tuple[int, str, bool]
"""A connection, and a channel or pattern."""


@dataclass
class _Subscription:
    asked: float
    confirmed: float | None = None
    leaving: float | None = None
    left: float | None = None

    def has_to_receive(self, publication: _Publication) -> bool:
        if publication.withheld:
            return False
        if publication.acked is None or self.confirmed is None or self.confirmed > publication.sent:
            return False
        return self.leaving is None or self.leaving >= publication.over

    def may_receive(self, publication: _Publication) -> bool:
        # A server delivers an event to the connections that are subscribed when it arrives there.
        before_it = publication.acked is not None and publication.over < self.asked
        after_it = self.left is not None and self.left < publication.sent
        return not before_it and not after_it


@dataclass
class _Publication:
    publisher: int
    number: int
    channel: str
    sent: float
    acked: float | None = None
    foreign: bool = False
    withheld: bool = False
    receipts: Counter[Key] = field(default_factory=Counter)

    @property
    def over(self) -> float:
        """Time at which it has reached all subscribers."""
        return (self.acked or self.sent) + SLACK


class EventChecks:
    """The publications and subscriptions of all connections of a process.

    Attributes:
        subscriptions: subscriptions by channel or pattern and by connection; old ones are dropped.
        withheld: globs of channels whose events the application withholds from some subscribers: they may be missed.
    """

    def __init__(
        self,
        tally: Tally,
        violations: Violations,
        excused: Callable[[float, float], bool],
        max_latency: float | None = None,
    ) -> None:
        self._tally = tally
        self._violations = violations
        self._excused = excused
        self._max_latency = max_latency
        self._publications: dict[str, _Publication] = {}
        self._numbers = itertools.count()
        # The last event of a publisher on a channel, by subscription.
        self._last_numbers: dict[Key, dict[tuple[int, str], int]] = defaultdict(dict)
        self.subscriptions: dict[tuple[str, bool], dict[int, list[_Subscription]]] = defaultdict(dict)
        self._patterns: set[str] = set()
        self.withheld: set[str] = set()

    # Messages

    def publishing(self, connection: int, uuid: str, channel: str, now: float) -> None:
        withheld = self._is_withheld(channel)
        self._publications[uuid] = _Publication(connection, next(self._numbers), channel, now, withheld=withheld)

    def published(self, uuid: str, now: float) -> None:
        """Record the ACK of a PUB; without it, the event may be delivered all the same."""
        if uuid in self._publications:
            self._publications[uuid].acked = now

    def subscribing(self, connection: int, channel: str, pattern: bool, now: float) -> None:
        self.subscriptions[channel, pattern].setdefault(connection, []).append(_Subscription(now))
        if pattern:
            self._patterns.add(channel)

    def subscribed(self, connection: int, channel: str, pattern: bool, now: float) -> None:
        for each in self._last(connection, channel, pattern):
            each.confirmed = now

    def refused(self, connection: int, channel: str, pattern: bool, now: float) -> None:
        """Record the NACK of a SUB: there is no subscription."""
        for each in self._last(connection, channel, pattern):
            each.leaving = each.left = now

    def unsubscribing(self, connection: int, channel: str, pattern: bool, now: float) -> None:
        for each in self._last(connection, channel, pattern):
            each.leaving = now

    def unsubscribed(self, connection: int, channel: str, pattern: bool, now: float) -> None:
        for each in self._last(connection, channel, pattern):
            each.left = now

    def gone(self, connection: int, since: float, now: float) -> None:
        """Record that a connection closed at some time after ``since``."""
        for subscribers in self.subscriptions.values():
            for each in subscribers.get(connection, ()):
                each.leaving = since if each.leaving is None else min(each.leaving, since)
                each.left = now if each.left is None else each.left
        for key in [key for key in self._last_numbers if key[0] == connection]:
            del self._last_numbers[key]

    def sent_at(self, uuid: str) -> float | None:
        """Return when a client of this process sent the PUB of an event; ``None`` for the events of others."""
        publication = self._publications.get(uuid)
        return None if publication is None or publication.foreign else publication.sent

    def received(self, connection: int, event: Evnt, now: float) -> None:
        self._tally.events += 1
        publication = self._publications.get(event.for_) or self._foreign(event, now)
        if publication.foreign:
            self._tally.foreign += 1
        if event.channel != publication.channel:
            self._violations.add("an event on another channel than its publication's", event.for_)
        key = (connection, event.pattern, True) if event.pattern else (connection, event.channel, False)
        publication.receipts[key] += 1
        if publication.foreign:
            return
        last_numbers, stream = self._last_numbers[key], (publication.publisher, event.channel)
        if last_numbers.get(stream, -1) > publication.number:
            self._violations.add("an event out of order", f"{event.channel} {event.for_}, connection {connection}")
        last_numbers[stream] = publication.number
        age = now - publication.sent
        if self._max_latency and age > self._max_latency and not self._excused(publication.sent, now):
            self._violations.add("a late event", f"{event.channel} {event.for_}: after {age:.1f} s")

    def _foreign(self, event: Evnt, now: float) -> _Publication:
        """Return a publication of others, known from its first receipt."""
        withheld = self._is_withheld(event.channel)
        publication = _Publication(0, next(self._numbers), event.channel, now - FOREIGN_AGE, now, True, withheld)
        if not event.channel.startswith(RESERVED):
            self._publications[event.for_] = publication
        return publication

    # Verdicts

    def missing(self) -> int:
        """Return the number of events that are due and have not arrived, without those that are excused."""
        return sum(
            1
            for publication in self._publications.values()
            if not self._excused(publication.sent, publication.over)
            for key, subscriptions in self._concerned(publication)
            if not publication.receipts[key] and any(s.has_to_receive(publication) for s in subscriptions)
        )

    def judge(self, now: float, finally_: bool = False) -> None:
        """Judge and drop publications older than `HORIZON`; with ``finally_``, all of them."""
        before = now if finally_ else now - HORIZON
        for uuid, publication in list(self._publications.items()):
            if publication.sent > before:
                break  # in the order of sending
            del self._publications[uuid]
            self._judge(uuid, publication)
        self._drop_subscriptions(now - 2 * HORIZON)

    def _judge(self, uuid: str, publication: _Publication) -> None:
        receipts, event = publication.receipts, f"{publication.channel} {uuid}"
        for key, subscriptions in self._concerned(publication):
            count = receipts.pop(key, 0)
            if any(each.has_to_receive(publication) for each in subscriptions):
                if count:
                    self._tally.due += not publication.foreign
                elif self._excused(publication.sent, publication.over):
                    self._tally.excused += 1
                else:
                    self._violations.add("an event was missed", f"{event}, connection {key[0]}")
            elif any(each.may_receive(publication) for each in subscriptions):
                self._tally.uncertain += not publication.foreign
            elif count:
                self._violations.add("an event without a subscription", event)
            if count > 1:
                self._violations.add("an event was received twice", f"{event}, connection {key[0]}")
        if receipts:
            self._violations.add("an event without a subscription", event)

    def _is_withheld(self, channel: str) -> bool:
        return any(matches(glob, channel) for glob in self.withheld)

    def _concerned(self, publication: _Publication) -> Iterator[tuple[Key, list[_Subscription]]]:
        keys = [(publication.channel, False)]
        keys += [(pattern, True) for pattern in self._patterns if matches(pattern, publication.channel)]
        for channel, pattern in keys:
            for connection, subscriptions in self.subscriptions.get((channel, pattern), {}).items():
                yield (connection, channel, pattern), subscriptions

    def _last(self, connection: int, channel: str, pattern: bool) -> list[_Subscription]:
        return self.subscriptions.get((channel, pattern), {}).get(connection, [])[-1:]

    def _drop_subscriptions(self, before: float) -> None:
        for key, subscribers in list(self.subscriptions.items()):
            for connection, subscriptions in list(subscribers.items()):
                subscriptions[:] = [each for each in subscriptions if each.left is None or each.left >= before]
                if not subscriptions:
                    del subscribers[connection]
            if not subscribers:
                del self.subscriptions[key]
                self._patterns -= {key[0]} if key[1] else set()
