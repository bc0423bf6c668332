"""The pub-sub role: one subscription in Redis for each channel and process, and the fan-out within the process."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import gevent
import hiredis

from juggler import codec
from juggler.broker import Done, Event, PubSubBroker, Subscriber
from juggler.broker.names import check_channel
from juggler.broker.redis.keys import Names
from juggler.broker.redis.link import BaseLink, Connector, Link, Reply, as_error
from juggler.broker.redis.resp import pack
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerError, BrokerUnavailable, InvalidMessage
from juggler.message import EventPayload

log = logging.getLogger("juggler.redis")

FAN_OUT_STEP = 256
"""Subscribers that are served before other greenlets get their turn."""

RESUBSCRIBE_STEP = 1000
"""Channels named in one command when a connection is new."""


TopicKey: TypeAlias = tuple[bool, bytes]
"""Whether it is a pattern, and its name in Redis."""

OnEvent: TypeAlias = Callable[[bool, bytes, bytes, bytes], None]
"""Told whether a pattern matched, the pattern or channel, the channel, and the payload."""


class _Waiting(NamedTuple):
    """A subscriber that waits for the confirmation of a topic; ``is_new`` unless it was subscribed before."""

    subscriber: Subscriber
    on_done: Done
    is_new: bool


class _Topic:
    """A channel or pattern that somebody here has subscribed to."""

    __slots__ = ("confirmed", "subscribers", "waiting")

    def __init__(self) -> None:
        self.confirmed = False
        # Dictionaries because they keep the order.
        self.subscribers: dict[Subscriber, None] = {}
        self.waiting: list[_Waiting] = []

    def tell(self, error: BrokerError | None, only: Subscriber | None = None) -> None:
        """Tell all who wait for the confirmation, or only one subscriber, how it has ended."""
        waiting = self.waiting
        self.waiting = [entry for entry in waiting if only is not None and entry.subscriber is not only]
        for entry in waiting:
            if only is None or entry.subscriber is only:
                entry.on_done(error)


class _PubSubLink(BaseLink):
    """The connection that receives: it keeps Redis's subscriptions in step with the topics."""

    def __init__(
        self, connector: Connector, watchdog: Watchdog, topics: dict[TopicKey, _Topic], on_event: OnEvent
    ) -> None:
        super().__init__("pubsub", connector, watchdog)
        self._topics = topics
        self._on_event = on_event
        self._pinged = False
        # Confirmations on the way: only the last one counts for a topic that was left and entered again.
        self._unconfirmed: Counter[TopicKey] = Counter()
        self.gaps = 0
        self._gap_began: float | None = None

    @property
    def reply_due(self) -> bool:
        return self._pinged

    def ping(self) -> None:
        self._pinged = True
        self.write(b"*1\r\n$4\r\nPING\r\n")

    def subscribe(self, key: TopicKey) -> None:
        """Ask for a topic; on a connection that is not there yet, `on_up` does.

        Raises:
            BrokerUnavailable: as `BaseLink.ensure`.
        """
        self.ensure()
        if self.up:
            self._subscribe(key[0], [key[1]])

    def unsubscribe(self, key: TopicKey) -> None:
        """Leave a topic; when there is no connection, there is nothing to leave."""
        if self.up:
            self.write(pack(b"PUNSUBSCRIBE" if key[0] else b"UNSUBSCRIBE", key[1]))

    def on_up(self) -> None:
        self._pinged = False
        self._unconfirmed.clear()
        if self._gap_began is not None:
            gap = time.monotonic() - self._gap_began
            self._gap_began = None
            log.warning("events of the last %.1f s are lost; %d subscriptions are made again", gap, len(self._topics))
        for pattern in (False, True):
            names = [name for is_pattern, name in self._topics if is_pattern is pattern]
            for start in range(0, len(names), RESUBSCRIBE_STEP):
                self._subscribe(pattern, names[start : start + RESUBSCRIBE_STEP])

    def _subscribe(self, pattern: bool, names: list[bytes]) -> None:
        self.write(pack(b"PSUBSCRIBE" if pattern else b"SUBSCRIBE", *names))
        self._unconfirmed.update((pattern, name) for name in names)

    def on_reply(self, reply: Reply) -> None:
        if not isinstance(reply, list):
            self._pinged = False
            if isinstance(reply, hiredis.ReplyError):
                # It does not say which channel it means (an ACL forbids one, say): all that wait have failed.
                log.warning("redis refuses a subscription: %s", reply)
                self._fail_waiting(as_error(reply))
            return
        kind = reply[0]
        if kind == b"message":
            self._on_event(False, reply[1], reply[1], reply[2])
        elif kind == b"pmessage":
            self._on_event(True, reply[1], reply[2], reply[3])
        elif kind == b"subscribe" or kind == b"psubscribe":
            self._on_confirmed((kind == b"psubscribe", reply[1]))
        elif kind == b"pong":
            self._pinged = False

    def _on_confirmed(self, key: TopicKey) -> None:
        self._unconfirmed[key] -= 1
        if self._unconfirmed[key] > 0:
            return
        del self._unconfirmed[key]
        topic = self._topics.get(key)
        if topic is not None:
            topic.confirmed = True
            topic.tell(None)

    def on_lost(self, error: BrokerUnavailable) -> None:
        if any(topic.confirmed for topic in self._topics.values()):
            self.gaps += 1
            self._gap_began = time.monotonic()
        for topic in self._topics.values():
            topic.confirmed = False
        self._fail_waiting(error)

    def _fail_waiting(self, error: BrokerError) -> None:
        for key, topic in list(self._topics.items()):
            for entry in topic.waiting:
                if entry.is_new:
                    topic.subscribers.pop(entry.subscriber, None)
            if not topic.subscribers:
                del self._topics[key]
            topic.tell(error)


class RedisPubSub(PubSubBroker):
    """See `juggler.broker.PubSubBroker`.

    Attributes:
        events: events that Redis sent here.
        invalid: publications that are no events.
    """

    def __init__(self, names: Names, commands: Link, connector: Connector, watchdog: Watchdog) -> None:
        self.events = 0
        self.invalid = 0
        self._names = names
        self._commands = commands
        self._topics: dict[TopicKey, _Topic] = {}
        self._of: dict[Subscriber, set[TopicKey]] = {}
        self.link = _PubSubLink(connector, watchdog, self._topics, self._on_event)

    def publish(self, channel: str, uuid: str, args: bytes, on_done: Done) -> None:
        def on_receivers(reply: Reply) -> None:
            on_done(None if type(reply) is int else as_error(reply))

        try:
            check_channel(channel)
            payload = codec.encode_event(EventPayload(uuid, args))
            self._commands.send(pack(b"PUBLISH", self._names.channel(channel), payload), (on_receivers,))
        except BrokerError as error:
            on_done(error)

    def subscribe(self, channel: str, pattern: bool, subscriber: Subscriber, on_done: Done) -> None:
        try:
            check_channel(channel)
            key = self._key(pattern, channel)
            topic = self._topics.get(key)
            if topic is None:
                self.link.subscribe(key)
                topic = self._topics[key] = _Topic()
            elif not topic.confirmed:
                self.link.ensure()
        except BrokerError as error:
            on_done(error)
            return
        is_new = subscriber not in topic.subscribers
        topic.subscribers[subscriber] = None
        self._of.setdefault(subscriber, set()).add(key)
        if topic.confirmed:
            on_done(None)
        else:
            topic.waiting.append(_Waiting(subscriber, on_done, is_new))

    def unsubscribe(self, channel: str, pattern: bool, subscriber: Subscriber, on_done: Done) -> None:
        key = self._key(pattern, channel)
        keys = self._of.get(subscriber, set())
        if key in keys:
            keys.remove(key)
            if not keys:
                del self._of[subscriber]
            self._leave(key, subscriber)
        on_done(None)

    def unsubscribe_all(self, subscriber: Subscriber) -> None:
        for key in self._of.pop(subscriber, ()):
            self._leave(key, subscriber)

    def close(self) -> None:
        self.link.close()
        self._topics.clear()
        self._of.clear()

    @property
    def gaps(self) -> int:
        """How often the connection was lost while there were subscriptions. Events published meanwhile are lost."""
        return self.link.gaps

    def _key(self, pattern: bool, channel: str) -> TopicKey:
        return pattern, self._names.pattern(channel) if pattern else self._names.channel(channel)

    def _leave(self, key: TopicKey, subscriber: Subscriber) -> None:
        topic = self._topics.get(key)
        if topic is None or subscriber not in topic.subscribers:
            return
        del topic.subscribers[subscriber]
        if not topic.subscribers:
            del self._topics[key]
            self.link.unsubscribe(key)
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
