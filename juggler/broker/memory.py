"""A broker within one process: for tests and examples, and the executable specification of the three roles.

It keeps what Redis would keep, in the same lists, and is simple rather than fast. Results, events and expiries are told
from gevent's event loop, one at a time and in order, never inside a call of somebody else.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, TypeVar

import gevent
import msgspec
from gevent.event import Event as Flag

from juggler.broker import (
    Announcement,
    CallConsumer,
    CalleeBroker,
    CallerBroker,
    Done,
    Event,
    IncomingCall,
    OnServed,
    PendingCall,
    PubSubBroker,
    ServedFunction,
    Subscriber,
    served_function,
)
from juggler.broker.names import check_channel, check_uri, check_uris
from juggler.errors import BrokerError, BrokerUnavailable, CapacityExceeded
from juggler.process.uuids import new_uuid
from juggler.protocol import glob

Clock: TypeAlias = Callable[[], float]
Subscription: TypeAlias = tuple[str, bool]
"""A channel, or with ``True`` a pattern."""
Item = TypeVar("Item")


class MemoryBroker(CallerBroker, CalleeBroker, PubSubBroker):
    """All three roles, for the greenlets of one thread.

    Args:
        call_capacity: how many calls to one URI may wait; 0 means any number.
        result_capacity: how many results for one consumer may wait; 0 means any number.
        blocking_timeout: how long `CallConsumer.pop` waits for a call, in seconds.
        clock: tells the time in seconds. With one that is turned by hand, call `expire` after turning it.

    Attributes:
        expired: calls whose time was over before a result came.
        dropped: results that came too late, or for a call that was forgotten.
    """

    def __init__(
        self,
        *,
        call_capacity: int = 0,
        result_capacity: int = 0,
        blocking_timeout: float = 1.0,
        clock: Clock = time.monotonic,
    ) -> None:
        self.expired = 0
        self.dropped = 0
        self._call_capacity = call_capacity
        self._result_capacity = result_capacity
        self._blocking_timeout = blocking_timeout
        self._clock = clock
        self._conn_uuid = new_uuid()
        self._pending: dict[str, tuple[PendingCall, float]] = {}
        self._calls: dict[str, deque[tuple[IncomingCall, float]]] = {}  # each with the time of its arrival
        self._results: dict[str, deque[tuple[IncomingCall, bytes, bool | None]]] = {}
        self._consumers: list[MemoryConsumer] = []
        self._announced: dict[str, dict[str, tuple[Announcement, float]]] = {}
        self._subscriptions: dict[Subscription, dict[int, Subscriber]] = {}
        self._deadlines: list[float] = []
        self._closed = False
        self._loop = gevent.get_hub().loop
        self._timer = self._loop.timer(0)

    def is_empty(self) -> bool:
        """Tell whether no call, result or subscription is kept."""
        return not (self._pending or self._calls or self._results or self._subscriptions)

    def close(self) -> None:
        self._closed = True
        self._timer.close()
        for consumer in list(self._consumers):
            consumer.close()
        for table in (self._pending, self._calls, self._results, self._subscriptions):
            table.clear()

    # Caller

    def call(self, uri: str, args: bytes, timeout: float, pending: PendingCall) -> None:
        pending.call_id = new_uuid()
        deadline = self._clock() + timeout
        call = IncomingCall(self._conn_uuid, pending.call_id, uri, args, deadline)
        try:
            self._check_open()
            check_uri(uri)
            _append(self._calls, uri, (call, self._clock()), self._call_capacity)
        except BrokerError as error:
            pending.on_stored(error)
            return
        self._pending[pending.call_id] = pending, deadline
        self._expire_at(deadline)
        for consumer in self._consumers:
            consumer.notice(uri)
        pending.on_stored(None)

    def forget(self, pending: PendingCall) -> None:
        self._pending.pop(pending.call_id, None)

    def ask_served(self, uris: Sequence[str], on_served: OnServed) -> None:
        on_served({uri: bool(self._announcements(uri)) for uri in uris})

    def functions(self, limit: int = 1000) -> list[ServedFunction]:
        found = [(uri, said) for uri in sorted(self._announced) if (said := self._announcements(uri))]
        return [served_function(uri, said, len(self._calls.get(uri, ()))) for uri, said in found[:limit]]

    def queue_lengths(self, uris: Sequence[str]) -> dict[str, int]:
        return {uri: len(self._calls.get(uri, ())) for uri in uris}

    def _deliver_results(self) -> None:
        for call, args, failed in self._results.pop(self._conn_uuid, ()):
            pending, deadline = self._pending.pop(call.msg_uuid, (None, 0.0))
            if pending is None:
                self.dropped += 1
            elif deadline <= self._clock():
                self.expired += 1
                pending.on_expired()
            else:
                pending.on_result(args, failed)

    # Callee

    def calls(self, uris: Sequence[str]) -> MemoryConsumer:
        consumer = MemoryConsumer(self, check_uris(uris), self._blocking_timeout)
        if self._closed:
            consumer.close()
        else:
            self._consumers.append(consumer)
        return consumer

    def result(self, call: IncomingCall, args: bytes, on_done: Done, failed: bool | None = None) -> None:
        try:
            self._check_open()
            if call.deadline <= self._clock():
                self.dropped += 1
            else:
                _append(self._results, call.conn_uuid, (call, args, failed), self._result_capacity)
        except BrokerError as error:
            on_done(error)
            return
        self._expire_at(call.deadline)
        self._loop.run_callback(self._deliver_results)
        on_done(None)

    def announce(self, callee_id: str, functions: Mapping[str, Announcement], lifetime: float) -> None:
        until = self._clock() + lifetime
        for uri, announcement in functions.items():
            self._announced.setdefault(uri, {})[callee_id] = announcement, until

    def withdraw(self, callee_id: str, uris: Sequence[str]) -> None:
        for uri in uris:
            self._announced.get(uri, {}).pop(callee_id, None)

    def _announcements(self, uri: str) -> list[Announcement]:
        now = self._clock()
        return [announcement for announcement, until in self._announced.get(uri, {}).values() if until > now]

    def take(self, uri: str) -> IncomingCall | None:
        """Return the oldest call to ``uri`` that is still wanted, for a consumer; ``None`` when there is none."""
        waiting = self._calls.get(uri)
        while waiting:
            call, since = waiting.popleft()
            if not waiting:
                del self._calls[uri]
            if call.deadline > self._clock():
                return msgspec.structs.replace(call, waited=self._clock() - since)
        return None

    def remove(self, consumer: MemoryConsumer) -> None:
        """Forget a consumer that is closed."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)

    # Pub-sub

    def publish(self, channel: str, uuid: str, args: bytes, on_done: Done) -> None:
        try:
            self._check_open()
            check_channel(channel)
        except BrokerError as error:
            on_done(error)
            return
        for subscription in sorted(self._subscriptions, key=_patterns_last):
            name, pattern = subscription
            if glob.matches(name, channel) if pattern else name == channel:
                event = Event(channel, name if pattern else "", uuid, args)
                subscribers = list(self._subscriptions[subscription].values())
                self._loop.run_callback(self._deliver_event, subscription, subscribers, event)
        on_done(None)

    def subscribe(self, channel: str, pattern: bool, subscriber: Subscriber, on_done: Done) -> None:
        try:
            self._check_open()
            check_channel(channel)
        except BrokerError as error:
            on_done(error)
            return
        self._subscriptions.setdefault((channel, pattern), {})[id(subscriber)] = subscriber
        on_done(None)

    def unsubscribe(self, channel: str, pattern: bool, subscriber: Subscriber, on_done: Done) -> None:
        self._remove_subscriber((channel, pattern), subscriber)
        on_done(None)

    def unsubscribe_all(self, subscriber: Subscriber) -> None:
        for subscription in list(self._subscriptions):
            self._remove_subscriber(subscription, subscriber)

    def _remove_subscriber(self, subscription: Subscription, subscriber: Subscriber) -> None:
        subscribers = self._subscriptions.get(subscription, {})
        subscribers.pop(id(subscriber), None)
        if not subscribers:
            self._subscriptions.pop(subscription, None)

    def _deliver_event(self, subscription: Subscription, subscribers: list[Subscriber], event: Event) -> None:
        for subscriber in subscribers:
            if id(subscriber) in self._subscriptions.get(subscription, {}):
                subscriber.on_event(event)

    # Time

    def expire(self) -> None:
        """Drop what nobody wants any more, and tell those who wait. Happens by itself where time passes by itself."""
        now = self._clock()
        while self._deadlines and self._deadlines[0] <= now:
            heapq.heappop(self._deadlines)
        _drop(self._calls, lambda waiting: waiting[0].deadline <= now)
        _drop(self._results, lambda result: result[0].deadline <= now)
        for call_id, (pending, deadline) in list(self._pending.items()):
            if deadline <= now and call_id in self._pending:
                del self._pending[call_id]
                self.expired += 1
                pending.on_expired()
        self._set_timer()

    def _expire_at(self, deadline: float) -> None:
        heapq.heappush(self._deadlines, deadline)
        if self._deadlines[0] == deadline:
            self._set_timer()

    def _set_timer(self) -> None:
        self._timer.close()
        if self._deadlines and not self._closed and not self.is_empty():
            self._timer = self._loop.timer(max(0.0, self._deadlines[0] - self._clock()))
            self._timer.start(self.expire)

    def _check_open(self) -> None:
        if self._closed:
            raise BrokerUnavailable("the broker is closed")


class MemoryConsumer(CallConsumer):
    """See `juggler.broker.CallConsumer`. Serves its URIs in turn."""

    def __init__(self, broker: MemoryBroker, uris: tuple[str, ...], blocking_timeout: float) -> None:
        self._broker = broker
        self._uris = deque(uris)
        self._blocking_timeout = blocking_timeout
        self._noticed = Flag()
        self._closed = False

    def pop(self, limit: int) -> list[IncomingCall]:
        batch = self._take(limit)
        if not batch and not self._closed:
            self._noticed.clear()
            self._noticed.wait(self._blocking_timeout)
            batch = self._take(limit)
        return batch

    def notice(self, uri: str) -> None:
        """There is a call to ``uri``."""
        if uri in self._uris:
            self._noticed.set()

    def close(self) -> None:
        self._closed = True
        self._noticed.set()
        self._broker.remove(self)

    def _take(self, limit: int) -> list[IncomingCall]:
        batch: list[IncomingCall] = []
        without = 0
        while not self._closed and len(batch) < limit and without < len(self._uris):
            call = self._broker.take(self._uris[0])
            self._uris.rotate(-1)
            if call is None:
                without += 1
            else:
                batch.append(call)
                without = 0
        return batch


def _append(lists: dict[str, deque[Item]], name: str, item: Item, capacity: int) -> None:
    waiting = lists.get(name, ())
    if capacity > 0 and len(waiting) >= capacity:
        raise CapacityExceeded
    lists.setdefault(name, deque()).append(item)


def _drop(lists: dict[str, deque[Item]], over: Callable[[Item], bool]) -> None:
    for name, waiting in list(lists.items()):
        kept = deque(item for item in waiting if not over(item))
        if kept:
            lists[name] = kept
        else:
            del lists[name]


def _patterns_last(subscription: Subscription) -> bool:
    return subscription[1]
