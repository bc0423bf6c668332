"""A broker within one process: for tests and examples, and the executable specification of the three roles.

It keeps what Redis would keep, in the same lists, and is simple rather than fast. Results, events and expiries are
delivered from gevent's event loop, one by one and in order, never inside a call to the broker.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, TypeVar
from uuid import uuid4

import gevent
import msgspec
from gevent.event import Event as Flag

from juggler.broker import (
    CALL_BYTES,
    CALL_CAPACITY,
    COUNTED_EVENTS,
    PATTERN_CAPACITY,
    Announcement,
    BrokerStats,
    CallConsumer,
    CalleeBroker,
    CallerBroker,
    Choose,
    ControlListener,
    Done,
    Event,
    IncomingCall,
    OnServed,
    PendingCall,
    PubSubBroker,
    Registered,
    ServerListener,
    Subscriber,
    client_of,
    count_events,
)
from juggler.broker.ledgers import CallLedger, SubscriptionLedger
from juggler.broker.names import check_channel, check_uri, check_uris, is_reserved
from juggler.broker.streams import GONE, LOST, Streams
from juggler.errors import BrokerError, BrokerUnavailable, CapacityExceeded, InvalidMessage
from juggler.process.uuids import new_uuid
from juggler.protocol import glob
from juggler.protocol.codec import StoredParts, StoredResult
from juggler.protocol.messages import NULL
from juggler.protocol.server_commands import (
    TIMEOUT,
    CommandOutcome,
    ServerAnswer,
    ServerCommand,
    decode_command,
    encode_answer,
    encode_command,
    outcome,
)
from juggler.protocol.server_status import ServerStatus

Clock: TypeAlias = Callable[[], float]
Subscription: TypeAlias = tuple[str, bool]
"""A channel, or with ``True`` a pattern."""
Item = TypeVar("Item")


class MemoryBroker(CallerBroker, CalleeBroker, PubSubBroker):
    """All three roles, for the greenlets of one thread.

    Args:
        call_capacity: maximum calls queued per URI (0 = unlimited). Default: 10,000.
        call_bytes: maximum bytes of arguments of calls in flight per URI (0 = unlimited). Default: 64 MiB.
        result_capacity: maximum results queued per consumer (0 = unlimited).
        pattern_capacity: maximum distinct patterns with subscribers (0 = unlimited). Default: 500.
        blocking_timeout: how long `CallConsumer.pop` waits for a call, in seconds.
        clock: returns the time in seconds. After advancing a clock by hand, call `expire`.
    """

    def __init__(
        self,
        *,
        call_capacity: int = CALL_CAPACITY,
        call_bytes: int = CALL_BYTES,
        result_capacity: int = 0,
        pattern_capacity: int = PATTERN_CAPACITY,
        blocking_timeout: float = 1.0,
        clock: Clock = time.monotonic,
    ) -> None:
        self._late_results = 0
        self._call_capacity = call_capacity
        self._result_capacity = result_capacity
        self._pattern_capacity = pattern_capacity
        self._blocking_timeout = blocking_timeout
        self._clock = clock
        self._conn_uuid = new_uuid()
        self._ledger = CallLedger(call_bytes)
        self._ledger.name = uuid4().hex[-9:]
        self._calls: dict[str, deque[tuple[IncomingCall, float]]] = {}  # each with the time of its arrival
        self._results: dict[str, deque[tuple[StoredResult, float]]] = {}  # each with its deadline
        self._consumers: list[MemoryConsumer] = []
        self._announced: dict[str, dict[str, tuple[Announcement, float]]] = {}
        self._subscriptions: SubscriptionLedger[Subscription] = SubscriptionLedger(_is_pattern)
        self._listeners: dict[str, ControlListener] = {}
        self._servers: dict[str, ServerListener] = {}
        self._events = 0
        self._latest_events: deque[str] = deque(maxlen=COUNTED_EVENTS)
        self._streams = Streams()
        self._deadlines: list[float] = []
        self._closed = False
        self._loop = gevent.get_hub().loop
        self._timer = self._loop.timer(0)

    def is_empty(self) -> bool:
        """Return whether no call, result or subscription is kept."""
        return not (len(self._ledger) or self.has_calls_or_results() or len(self._subscriptions))

    def has_calls_or_results(self) -> bool:
        """Return whether a call or result is queued."""
        return bool(self._calls or self._results)

    def stats(self) -> BrokerStats:
        return BrokerStats(late_results=self._late_results)

    def close(self) -> None:
        self._closed = True
        self._timer.close()
        for consumer in list(self._consumers):
            consumer.close()
        self._servers.clear()
        for table in (self._ledger, self._streams, self._calls, self._results, self._subscriptions):
            table.clear()

    # Caller

    def call(
        self,
        uri: str,
        args: bytes,
        timeout: float,
        pending: PendingCall,
        limit: int | None = None,
        max_bytes: int | None = None,
        by: bytes = b"",
        parts: StoredParts | None = None,
        trace: str = "",
    ) -> None:
        deadline = self._clock() + timeout
        try:
            self._check_open()
            check_uri(uri)
            self._ledger.add(pending, uri, deadline, len(args), limit, max_bytes)
        except BrokerError as error:
            pending.on_stored(error)
            return
        client = client_of(self._conn_uuid, pending.call_id)
        call = IncomingCall(
            self._conn_uuid, pending.call_id, uri, args, deadline, by=by, parts=parts, trace=trace, client=client
        )
        try:
            _append(self._calls, uri, (call, self._clock()), self._call_capacity)
        except BrokerError as error:
            self._ledger.remove(pending)
            pending.on_stored(error)
            return
        if parts is not None:
            self._streams.add(pending, timeout, parts, self._clock() + pending.max_time)
        pending.stored = True
        self._expire_at(deadline)
        for consumer in self._consumers:
            consumer.notice(uri)
        pending.on_stored(None)

    def forget(self, pending: PendingCall) -> None:
        if self._remove(pending):
            self._unqueue(pending)

    def abandon(self, owner: object, cancel: bool = False) -> None:
        for pending in self._ledger.abandon(owner):
            self._streams.remove(pending)
            if not self._unqueue(pending) and cancel:
                self._loop.run_callback(self._control, lambda each, call_id: each.on_cancel(call_id), pending.call_id)

    def cancel(self, pending: PendingCall) -> None:
        if pending in self._ledger:
            self._loop.run_callback(self._cancel, pending)

    def _cancel(self, pending: PendingCall) -> None:
        if not self._unqueue(pending):
            self._control(lambda each, call_id: each.on_cancel(call_id), pending.call_id)
        elif self._remove(pending):
            pending.on_unqueued()

    def credit(self, pending: PendingCall, until: int) -> None:
        stream = self._streams.stream_of(pending)
        if stream is not None:
            granted = stream.grant(until)
            self._loop.run_callback(
                self._control, lambda each, call_id: each.on_credit(call_id, granted), pending.call_id
            )

    def _control(self, tell: Callable[[ControlListener, str], None], call_id: str) -> None:
        for listener in list(self._listeners.values()):
            tell(listener, call_id)

    def _remove(self, pending: PendingCall) -> bool:
        """Remove a call that has completed. Return whether it was in flight."""
        self._streams.remove(pending)
        return self._ledger.remove(pending)

    def _unqueue(self, pending: PendingCall) -> bool:
        """Remove a call from its queue. Return whether it was there."""
        queued = self._calls.pop(pending.uri, deque())
        kept = deque(entry for entry in queued if entry[0].msg_uuid != pending.call_id)
        if kept:
            self._calls[pending.uri] = kept
        return len(kept) < len(queued)

    def in_flight(self, owner: object) -> int:
        return self._ledger.in_flight(owner)

    def calls_of(self, owner: object) -> Sequence[PendingCall]:
        return self._ledger.calls_of(owner)

    def pending_calls(self) -> int:
        return len(self._ledger)

    def ask_served(self, uris: Sequence[str], on_served: OnServed) -> None:
        on_served({uri: bool(self._announcements(uri)) for uri in uris})

    def registered(self, limit: int = 1000) -> list[Registered]:
        found = [(uri, said) for uri in sorted(self._announced) if (said := self._announcements(uri))]
        return [Registered(uri, len(self._calls.get(uri, ())), said) for uri, said in found[:limit]]

    def queue_lengths(self, uris: Sequence[str]) -> dict[str, int]:
        return {uri: len(self._calls.get(uri, ())) for uri in uris}

    def attend(self, listener: ServerListener) -> None:
        self._servers[listener.server_id] = listener

    def leave(self, server_id: str) -> None:
        self._servers.pop(server_id, None)

    def servers(self, timeout: float = TIMEOUT) -> list[ServerStatus]:
        self._check_open()
        return [self._servers[server_id].status() for server_id in sorted(self._servers)]

    def command(self, command: ServerCommand, timeout: float = TIMEOUT) -> CommandOutcome:
        self._check_open()
        listeners = dict(self._servers)
        text = encode_command(msgspec.structs.replace(command, reply=new_uuid()))
        answers: list[bytes] = []
        complete = Flag()

        def on_answer(answer: ServerAnswer) -> None:
            answers.append(encode_answer(answer))
            if len(answers) == len(listeners):
                complete.set()

        for listener in listeners.values():
            listener.on_command(decode_command(text), on_answer)
        if listeners:
            complete.wait(timeout)
        return outcome(listeners, answers, command.limit)

    def _deliver_results(self) -> None:
        for result, _ in self._results.pop(self._conn_uuid, ()):
            pending = self._ledger.get(result.msg_uuid)
            if pending is None:
                continue
            if pending.deadline <= self._clock():
                self._remove(pending)
                pending.on_expired()
            elif result.more:
                self._deliver_part(pending, result)
            else:
                self._remove(pending)
                pending.on_result(result.args, result.failed)

    def _deliver_part(self, pending: PendingCall, result: StoredResult) -> None:
        try:
            is_new = self._streams.on_part(pending, result, self._clock())
        except InvalidMessage:
            self._remove(pending)
            pending.on_result(LOST, True)
            return
        self._expire_at(pending.deadline)
        if is_new:
            pending.on_part(result.seq, result.args, result.joined)

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
                self._late_results += 1
            else:
                self._append_result(call, StoredResult(call.msg_uuid, args, failed))
        except BrokerError as error:
            on_done(error)
            return
        on_done(None)

    def _append_result(self, call: IncomingCall, result: StoredResult) -> None:
        _append(self._results, call.conn_uuid, (result, call.deadline), self._result_capacity)
        self._expire_at(call.deadline)
        self._loop.run_callback(self._deliver_results)

    def part(
        self, call: IncomingCall, callee_id: str, on_done: Done, seq: int = 0, args: bytes = NULL, joined: bool = False
    ) -> None:
        result = StoredResult(call.msg_uuid, args, seq=seq, more=True, callee=callee_id, joined=joined)
        try:
            self._check_open()
            self._append_result(call, result)
        except BrokerError as error:
            on_done(error)
            return
        on_done(None)

    def listen(self, callee_id: str, listener: ControlListener) -> None:
        self._listeners[callee_id] = listener

    def unlisten(self, callee_id: str) -> None:
        self._listeners.pop(callee_id, None)
        for pending in self._streams.taken_by([callee_id]):
            self._remove(pending)
            self._loop.run_callback(pending.on_result, GONE, True)

    def announce(self, callee_id: str, functions: Mapping[str, Announcement], lifetime: float) -> None:
        until = self._clock() + lifetime
        for uri, announcement in functions.items():
            self._announced.setdefault(uri, {})[callee_id] = announcement, until

    def withdraw(self, callee_id: str, uris: Sequence[str]) -> None:
        for uri in uris:
            self._announced.get(uri, {}).pop(callee_id, None)

    def _announcements(self, uri: str) -> dict[str, Announcement]:
        now = self._clock()
        said = self._announced.get(uri, {})
        return {callee_id: announcement for callee_id, (announcement, until) in said.items() if until > now}

    def take(self, uri: str) -> IncomingCall | None:
        """Return the oldest call to ``uri`` that has not expired, for a consumer; ``None`` when there is none."""
        while waiting := self._calls.get(uri):
            call = self._take(waiting[0])
            if call.deadline > self._clock():
                return call
        return None

    def take_chosen(self, uris: Sequence[str], limit: int, choose: Choose) -> list[IncomingCall]:
        """Return the queued calls that ``choose`` chooses, at most ``limit``; see `CallConsumer.pop`."""
        now = self._clock()
        waiting = [entry for uri in uris for entry in self._calls.get(uri, ()) if entry[0].deadline > now]
        chosen = choose([call.client for call, _ in waiting])[:limit]
        return [self._take(waiting[index]) for index in chosen]

    def _take(self, entry: tuple[IncomingCall, float]) -> IncomingCall:
        call, since = entry
        waiting = self._calls[call.uri]
        waiting.remove(entry)
        if not waiting:
            del self._calls[call.uri]
        return msgspec.structs.replace(call, waited=self._clock() - since)

    def remove(self, consumer: MemoryConsumer) -> None:
        """Remove a closed consumer."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)

    # Pub-sub

    def publish(self, channel: str, uuid: str, args: bytes, on_done: Done, trace: str = "") -> None:
        try:
            self._check_open()
            check_channel(channel)
        except BrokerError as error:
            on_done(error)
            return
        delivered = False
        for key in sorted(self._subscriptions, key=_is_pattern):
            name, pattern = key
            if glob.matches(name, channel) and not is_reserved(channel) if pattern else name == channel:
                event = Event(channel, name if pattern else "", uuid, args, trace)
                subscribers = list(self._subscriptions.subscribers(key))
                self._loop.run_callback(self._deliver_event, key, subscribers, event)
                delivered = True
        if delivered:
            self._events += 1
            self._latest_events.append(channel)
        on_done(None)

    def subscribe(self, channel: str, pattern: bool, subscriber: Subscriber, on_done: Done) -> None:
        try:
            self._check_open()
            check_channel(channel)
            if pattern and (channel, True) not in self._subscriptions:
                self._subscriptions.check_patterns(self._pattern_capacity)
        except BrokerError as error:
            on_done(error)
            return
        self._subscriptions.add((channel, pattern), subscriber, on_done, confirmed=True)

    def is_subscribed(self, channel: str, pattern: bool, subscriber: Subscriber) -> bool:
        return self._subscriptions.has((channel, pattern), subscriber)

    def subscriptions_of(self, subscriber: Subscriber) -> list[tuple[str, bool]]:
        return self._subscriptions.of(subscriber)

    def subscription_count(self, subscriber: Subscriber) -> int:
        return self._subscriptions.count(subscriber)

    def pattern_count(self, subscriber: Subscriber) -> int:
        return self._subscriptions.pattern_count(subscriber)

    def unsubscribe(self, channel: str, pattern: bool, subscriber: Subscriber, on_done: Done) -> None:
        self._subscriptions.remove((channel, pattern), subscriber)
        on_done(None)

    def unsubscribe_all(self, subscriber: Subscriber) -> None:
        self._subscriptions.remove_all(subscriber)

    def take_event_counts(self) -> Mapping[str, float]:
        counts = count_events(self._latest_events, self._events)
        self._latest_events.clear()
        self._events = 0
        return counts

    def _deliver_event(self, key: Subscription, subscribers: list[Subscriber], event: Event) -> None:
        for subscriber in subscribers:
            if self._subscriptions.has(key, subscriber):
                subscriber.on_event(event)

    # Time

    def expire(self) -> None:
        """Drop what has expired and notify the callers. Runs on a timer, except with a clock advanced by hand."""
        now = self._clock()
        while self._deadlines and self._deadlines[0] <= now:
            heapq.heappop(self._deadlines)
        _drop(self._calls, lambda waiting: waiting[0].deadline <= now)
        _drop(self._results, lambda result: result[1] <= now)
        for stream in self._streams.hold(now):
            self.credit(stream.pending, stream.until)
            self._expire_at(stream.pending.deadline)
        for pending in self._ledger.overdue(now):
            if self._remove(pending):
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
        self.closed = False

    def pop_chosen(self, limit: int, choose: Choose) -> list[IncomingCall]:
        self._uris.rotate(-1)
        return [] if self.closed else self._broker.take_chosen(self._uris, limit, choose)

    def pop(self, limit: int) -> list[IncomingCall]:
        batch = self._take(limit)
        if not batch and not self.closed:
            self._noticed.clear()
            self._noticed.wait(self._blocking_timeout)
            batch = self._take(limit)
        return batch

    def notice(self, uri: str) -> None:
        """A call to ``uri`` has arrived."""
        if uri in self._uris:
            self._noticed.set()

    def close(self) -> None:
        self.closed = True
        self._noticed.set()
        self._broker.remove(self)

    def _take(self, limit: int) -> list[IncomingCall]:
        batch: list[IncomingCall] = []
        without = 0
        while not self.closed and len(batch) < limit and without < len(self._uris):
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


def _is_pattern(subscription: Subscription) -> bool:
    return subscription[1]
