"""The pub-sub role: one subscription in Redis for each channel and process, and the fan-out within the process."""

from __future__ import annotations

import gevent

from juggler.broker import Done, Event, PubSubBroker, Subscriber
from juggler.broker.names import check_channel
from juggler.broker.redis.keys import Names
from juggler.broker.redis.link import Reply, as_error
from juggler.broker.redis.receiver import Topic, TopicKey, Topics, Waiting
from juggler.broker.redis.topology import Topology
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerError, BrokerUnavailable, InvalidMessage
from juggler.process.uuids import new_uuid
from juggler.protocol import codec
from juggler.protocol.messages import EventPayload

GAP_CHANNEL = "juggler.gap"
"""Subscribers of this channel get an event when events may have been lost, from this process and not through Redis."""

FAN_OUT_STEP = 256
"""Subscribers that are served before other greenlets get their turn."""


class RedisPubSub(PubSubBroker):
    """See `juggler.broker.PubSubBroker`.

    Attributes:
        events: events that Redis sent here.
        invalid: publications that are no events.
    """

    def __init__(self, names: Names, topology: Topology, watchdog: Watchdog) -> None:
        self.events = 0
        self.invalid = 0
        self._names = names
        self._topology = topology
        self._topics: Topics = {}
        self._of: dict[Subscriber, set[TopicKey]] = {}
        self.receiver = topology.make_receiver(self._topics, self._on_event)
        self._watchdog = watchdog
        self._is_watched = False
        self._gaps_told = 0

    def check_ready(self) -> None:
        unconfirmed = sum(not topic.confirmed for topic in self._topics.values())
        if unconfirmed:
            raise BrokerUnavailable(f"{unconfirmed} of {len(self._topics)} subscriptions are not confirmed")

    def publish(self, channel: str, uuid: str, args: bytes, on_done: Done) -> None:
        def on_receivers(reply: Reply) -> None:
            on_done(None if type(reply) is int else as_error(reply))

        try:
            check_channel(channel)
            payload = codec.encode_event(EventPayload(uuid, args))
            self._topology.publish(self._names.channel(channel), payload, on_receivers)
        except BrokerError as error:
            on_done(error)

    def subscribe(self, channel: str, pattern: bool, subscriber: Subscriber, on_done: Done) -> None:
        try:
            check_channel(channel)
            key = self._key(pattern, channel)
            topic = self._topics.get(key)
            if topic is None:
                self._watch()
                self.receiver.subscribe(key)
                topic = self._topics[key] = Topic()
            elif not topic.confirmed:
                self.receiver.expect(key)
        except BrokerError as error:
            on_done(error)
            return
        is_new = subscriber not in topic.subscribers
        topic.subscribers[subscriber] = None
        self._of.setdefault(subscriber, set()).add(key)
        if topic.confirmed:
            on_done(None)
            return

        def on_answer(error: BrokerError | None) -> None:
            if error is not None and is_new:
                self._forget_key(subscriber, key)
            on_done(error)

        topic.waiting.append(Waiting(subscriber, on_answer, is_new))

    def unsubscribe(self, channel: str, pattern: bool, subscriber: Subscriber, on_done: Done) -> None:
        key = self._key(pattern, channel)
        self._forget_key(subscriber, key)
        self._leave(key, subscriber)
        on_done(None)

    def _forget_key(self, subscriber: Subscriber, key: TopicKey) -> None:
        keys = self._of.get(subscriber)
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._of[subscriber]

    def unsubscribe_all(self, subscriber: Subscriber) -> None:
        for key in self._of.pop(subscriber, ()):
            self._leave(key, subscriber)

    def close(self) -> None:
        self.receiver.close()
        self._topics.clear()
        self._of.clear()

    @property
    def gaps(self) -> int:
        """How often the connection was lost while there were subscriptions. Events published meanwhile are lost."""
        return self.receiver.gaps

    def _watch(self) -> None:
        # Not in the constructor: a process may be forked from the one that made the broker.
        if not self._is_watched:
            self._is_watched = True
            self._watchdog.add(self._tell_of_gaps)

    def _tell_of_gaps(self, _: float) -> None:
        """Once all subscriptions are in place again, tell those who want to know that events may be missing."""
        if self.gaps > self._gaps_told and all(topic.confirmed for topic in self._topics.values()):
            self._gaps_told = self.gaps
            name = self._names.channel(GAP_CHANNEL)
            payload = EventPayload(new_uuid(), b'{"gaps":%d}' % self.gaps)
            self._on_event(False, name, name, codec.encode_event(payload))

    def _key(self, pattern: bool, channel: str) -> TopicKey:
        return pattern, self._names.pattern(channel) if pattern else self._names.channel(channel)

    def _leave(self, key: TopicKey, subscriber: Subscriber) -> None:
        topic = self._topics.get(key)
        if topic is None or subscriber not in topic.subscribers:
            return
        del topic.subscribers[subscriber]
        if not topic.subscribers:
            del self._topics[key]
            self.receiver.unsubscribe(key)
        topic.tell(None, only=subscriber)

    def _on_event(self, pattern: bool, name: bytes, channel: bytes, data: bytes) -> None:
        topic = self._topics.get((pattern, name))
        if topic is None or not topic.confirmed:
            return
        try:
            payload = codec.decode_event(data)
            matched = self._names.pattern_of(name) if pattern else ""
            event = Event(self._names.channel_of(channel), matched, payload.msg_uuid, payload.args)
        except (InvalidMessage, UnicodeDecodeError):
            self.invalid += 1
            return
        self.events += 1
        subscribers = tuple(topic.subscribers)
        for start in range(0, len(subscribers), FAN_OUT_STEP):
            if start:
                gevent.sleep(0)
            for subscriber in subscribers[start : start + FAN_OUT_STEP]:
                if subscriber in topic.subscribers:
                    subscriber.on_event(event)
