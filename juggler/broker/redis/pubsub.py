"""The pub-sub role: one subscription in Redis for each topic of the process, and the fan-out within the process."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from operator import itemgetter

import gevent

from juggler.broker import COUNTED_EVENTS, Done, Event, PubSubBroker, Subscriber, count_events
from juggler.broker.ledgers import SubscriptionLedger, Topic
from juggler.broker.names import GAP_CHANNEL, check_channel, is_reserved
from juggler.broker.redis.event_receiver import Ledger, TopicKey
from juggler.broker.redis.keys import Names
from juggler.broker.redis.pattern_covers import PatternCovers
from juggler.broker.redis.replies import Reply, as_error
from juggler.broker.redis.topology import Topology
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerError, BrokerUnavailable, InvalidMessage
from juggler.process.uuids import new_uuid
from juggler.protocol import codec

RETRY_PERIOD = 5.0
"""Seconds between two attempts to subscribe to a topic that Redis has refused."""

FAN_OUT_STEP = 256
"""Subscribers notified before other greenlets run."""

FAN_OUT_BYTES = 1024 * 1024
"""Bytes of an event, once for each pattern that matches, that are delivered before other greenlets run."""


class RedisPubSub(PubSubBroker):
    """See `juggler.broker.PubSubBroker`.

    Attributes:
        events: events received from Redis.
        invalid: malformed publications.
    """

    def __init__(self, names: Names, topology: Topology, watchdog: Watchdog, pattern_capacity: int) -> None:
        self.events = 0
        self.invalid = 0
        self._names = names
        self._topology = topology
        # To append to a deque costs a tenth of counting in a dictionary.
        self._latest: deque[str] = deque(maxlen=COUNTED_EVENTS)
        self._taken = 0
        self._topics: Ledger = SubscriptionLedger(itemgetter(0))
        self._covers = PatternCovers(self._topics, self._on_matches)
        self.receiver = self._covers.receiver = topology.make_receiver(self._covers, self._on_event)
        self._watchdog = watchdog
        self._pattern_capacity = pattern_capacity
        self._is_watched = False
        self._gaps_reported = 0
        self._since_retry = 0.0

    def check_ready(self) -> None:
        pending = self._topics.pending()
        if pending:
            raise BrokerUnavailable(f"{pending} of {len(self._topics)} subscriptions are not confirmed")

    def publish(self, channel: str, uuid: str, args: bytes, on_done: Done, trace: str = "") -> None:
        def on_receivers(reply: Reply) -> None:
            on_done(None if type(reply) is int else as_error(reply))

        try:
            check_channel(channel)
            self._topology.publish(self._names.channel(channel), codec.encode_event(uuid, args, trace), on_receivers)
        except BrokerError as error:
            on_done(error)

    def subscribe(self, channel: str, pattern: bool, subscriber: Subscriber, on_done: Done) -> None:
        try:
            check_channel(channel)
            key = self._key(pattern, channel)
            topic = self._topics.get(key)
            confirmed = False
            if topic is None:
                if pattern:
                    self._topics.check_patterns(self._pattern_capacity)
                self._watch()
                confirmed = self._covers.subscribe(key)
            elif not topic.confirmed:
                self._covers.expect(key)
        except BrokerError as error:
            on_done(error)
            return
        self._topics.add(key, subscriber, on_done, confirmed=confirmed)

    def is_subscribed(self, channel: str, pattern: bool, subscriber: Subscriber) -> bool:
        return self._topics.has(self._key(pattern, channel), subscriber)

    def subscriptions_of(self, subscriber: Subscriber) -> list[tuple[str, bool]]:
        names = self._names
        return [
            (names.pattern_of(name) if pattern else names.channel_of(name), pattern)
            for pattern, name in self._topics.of(subscriber)
        ]

    def subscription_count(self, subscriber: Subscriber) -> int:
        return self._topics.count(subscriber)

    def pattern_count(self, subscriber: Subscriber) -> int:
        return self._topics.pattern_count(subscriber)

    def unsubscribe(self, channel: str, pattern: bool, subscriber: Subscriber, on_done: Done) -> None:
        key = self._key(pattern, channel)
        if self._topics.remove(key, subscriber):
            self._covers.unsubscribe(key)
        on_done(None)

    def unsubscribe_all(self, subscriber: Subscriber) -> None:
        for key in self._topics.remove_all(subscriber):
            self._covers.unsubscribe(key)

    def take_event_counts(self) -> Mapping[str, float]:
        counts = count_events(self._latest, self.events - self._taken)
        self._latest.clear()
        self._taken = self.events
        return counts

    @property
    def topics(self) -> int:
        """Channels and patterns that have subscribers."""
        return len(self._topics)

    def close(self) -> None:
        self.receiver.close()
        self._topics.clear()

    @property
    def gaps(self) -> int:
        """How often a connection with subscriptions was lost. Events published before it is re-established are lost."""
        return self.receiver.gaps

    def _watch(self) -> None:
        # Not in the constructor: a process may be forked from the one that made the broker.
        if not self._is_watched:
            self._is_watched = True
            self._watchdog.add(self._report_gaps)
            self._watchdog.add(self._retry)

    def _retry(self, elapsed: float) -> None:
        """Subscribe again to topics that Redis has refused: the permission may be given back."""
        self._since_retry += elapsed
        if self._since_retry >= RETRY_PERIOD:
            self._since_retry = 0.0
            for key in self._topics.unconfirmed():
                with suppress(BrokerUnavailable):
                    self._covers.expect(key)
            self.tidy()

    def tidy(self) -> None:
        """Leave what is broader in Redis than the patterns of this process. Happens every `RETRY_PERIOD`."""
        with suppress(BrokerUnavailable):
            self._covers.tidy()

    def _report_gaps(self, _: float) -> None:
        """Publish a gap to this process once all subscriptions are confirmed again or refused."""
        if self.gaps > self._gaps_reported and not self._topics.pending():
            self._gaps_reported = self.gaps
            name = self._names.channel(GAP_CHANNEL)
            self._on_event(False, name, name, codec.encode_event(new_uuid(), b'{"gaps":%d}' % self.gaps))

    def _key(self, pattern: bool, channel: str) -> TopicKey:
        return pattern, self._names.pattern(channel) if pattern else self._names.channel(channel)

    def _on_event(self, pattern: bool, name: bytes, channel: bytes, data: bytes) -> None:
        if pattern:
            self._covers.on_event(name, channel, data)
            return
        topic = self._topics.get((False, channel))
        if topic is None or not topic.confirmed:
            return
        try:
            event = Event(self._names.channel_of(channel), "", *codec.decode_event(data))
        except (InvalidMessage, UnicodeDecodeError):
            self.invalid += 1
            return
        self.events += 1
        self._latest.append(event.channel)
        self._deliver(topic, event)

    def _on_matches(self, patterns: Sequence[bytes], channel: bytes, data: bytes) -> None:
        try:
            shown = self._names.channel_of(channel)
            if is_reserved(shown):
                return
            uuid, args, trace = codec.decode_event(data)
        except (InvalidMessage, UnicodeDecodeError):
            self.invalid += 1
            return
        self.events += 1
        self._latest.append(shown)
        written = 0
        for name in patterns:
            topic = self._topics.get((True, name))
            if topic is not None and topic.confirmed:
                if written > FAN_OUT_BYTES:
                    gevent.sleep(0)
                    written = 0
                self._deliver(topic, Event(shown, self._names.pattern_of(name), uuid, args, trace))
                written += len(data)

    def _deliver(self, topic: Topic, event: Event) -> None:
        subscribers = tuple(topic.subscribers)
        for start in range(0, len(subscribers), FAN_OUT_STEP):
            if start:
                gevent.sleep(0)
            for subscriber in subscribers[start : start + FAN_OUT_STEP]:
                if subscriber in topic.subscribers:
                    subscriber.on_event(event)
