"""The connection that receives events, and keeps Redis's subscriptions in step with what is wanted here."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol, TypeAlias

import hiredis

from juggler.broker.ledgers import SubscriptionLedger
from juggler.broker.redis.commands import PING, pack
from juggler.broker.redis.connector import Connector
from juggler.broker.redis.persistent_connection import PersistentConnection, ReplyHandler
from juggler.broker.redis.replies import Reply, as_error
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerUnavailable

log = logging.getLogger("juggler.redis")

RESUBSCRIBE_STEP = 1000
"""Channels named in one command when a connection is new."""

TopicKey: TypeAlias = tuple[bool, bytes]
"""Whether it is a pattern, and its name in Redis."""

OnEvent: TypeAlias = Callable[[bool, bytes, bytes, bytes], None]
"""Told whether a pattern matched, the pattern or channel, the channel, and the payload."""


Topics: TypeAlias = SubscriptionLedger[TopicKey]


class Receiver(Protocol):
    """What subscribes and receives events: one link, or one for each node."""

    @property
    def gaps(self) -> int:
        """How often a connection was lost that had subscriptions."""

    def subscribe(self, key: TopicKey) -> None:
        """Ask for a topic; its waiting subscribers are told.

        Raises:
            BrokerUnavailable: there is no connection.
            BrokerError: this topic cannot be had.
        """

    def unsubscribe(self, key: TopicKey) -> None:
        """Leave a topic; when there is no connection, there is nothing to leave."""

    def expect(self, key: TopicKey) -> None:
        """See that a topic which was asked for will be confirmed, or fail.

        Raises:
            BrokerUnavailable: there is no connection.
        """

    def connections(self) -> list[PersistentConnection]:
        """Return the connections that are started."""

    def close(self) -> None:
        """End at once. Idempotent."""


class PubSubLink(ReplyHandler):
    """One connection, for all topics unless a subclass knows better."""

    def __init__(self, name: str, connector: Connector, watchdog: Watchdog, topics: Topics, on_event: OnEvent) -> None:
        self.connection = PersistentConnection(name, connector, watchdog, self)
        self._topics = topics
        self._on_event = on_event
        self._pinged = False
        # What was asked for and is not answered yet, a command each: answers come in order, errors say nothing else.
        self._asked: deque[list[TopicKey]] = deque()
        # How often each topic is in there: only the last answer counts for one that was left and entered again.
        self._unanswered: Counter[TopicKey] = Counter()
        self.gaps = 0
        self._gap_began: float | None = None

    def connections(self) -> list[PersistentConnection]:
        return [self.connection] if self.connection.is_started else []

    def close(self) -> None:
        self.connection.close()

    @property
    def reply_due(self) -> bool:
        return self._pinged

    def ping(self) -> None:
        self._pinged = True
        self.connection.write(PING)

    def subscribe(self, key: TopicKey) -> None:
        self.connection.ensure()
        # On a connection that is not there yet, `on_up` asks.
        if self.connection.up:
            self._subscribe(key[0], [key[1]])

    def expect(self, key: TopicKey) -> None:
        # It may have been refused, and kept for those who had it on an earlier connection.
        if not self._unanswered[key]:
            self.subscribe(key)

    def unsubscribe(self, key: TopicKey) -> None:
        if self.connection.up:
            self.connection.write(pack(b"PUNSUBSCRIBE" if key[0] else b"UNSUBSCRIBE", key[1]))

    def on_up(self) -> None:
        self._pinged = False
        if self._gap_began is not None:
            gap = time.monotonic() - self._gap_began
            self._gap_began = None
            log.warning("events of the last %.1f s are lost; the subscriptions are made again", gap)
        keys = self._own_topics()
        for pattern in (False, True):
            names = [name for is_pattern, name in keys if is_pattern is pattern]
            for start in range(0, len(names), RESUBSCRIBE_STEP):
                self._subscribe(pattern, names[start : start + RESUBSCRIBE_STEP])

    def _subscribe(self, pattern: bool, names: list[bytes]) -> None:
        command = pack(b"PSUBSCRIBE" if pattern else b"SUBSCRIBE", *names)
        self._ask(command, [(pattern, name) for name in names])

    def _ask(self, command: bytes, keys: list[TopicKey]) -> None:
        self.connection.write(command)
        self._asked.append(keys)
        self._unanswered.update(keys)

    def on_reply(self, reply: Reply) -> None:
        if isinstance(reply, hiredis.ReplyError):
            self._on_error(reply)
            return
        if not isinstance(reply, list):
            self._pinged = False
            return
        kind = reply[0]
        if kind == b"message":
            self._on_event(False, reply[1], reply[1], reply[2])
        elif kind == b"pmessage":
            self._on_event(True, reply[1], reply[2], reply[3])
        elif kind == b"subscribe" or kind == b"psubscribe":
            self._on_confirmed()
        elif kind == b"pong":
            self._pinged = False

    def _on_confirmed(self) -> None:
        keys = self._asked[0]
        key = keys.pop(0)
        if not keys:
            self._asked.popleft()
        if self._is_last_answer(key):
            self._topics.confirm(key)

    def _is_last_answer(self, key: TopicKey) -> bool:
        self._unanswered[key] -= 1
        if self._unanswered[key]:
            return False
        del self._unanswered[key]
        return True

    def _on_error(self, error: hiredis.ReplyError) -> None:
        if not self._asked:
            log.warning("redis answered with an error: %s", error)
            return
        keys = self._asked.popleft()
        answered = [key for key in keys if self._is_last_answer(key)]
        if len(keys) == 1:
            for key in answered:
                self._on_refused(key, error)
        else:
            # One that is forbidden, by an ACL say, must not cost the others: ask for each by itself.
            for pattern, name in answered:
                self._subscribe(pattern, [name])

    def _on_refused(self, key: TopicKey, error: hiredis.ReplyError) -> None:
        if key in self._topics:
            log.warning("redis refuses a subscription: %s", error)
            self._topics.fail(key, as_error(error))

    def on_lost(self, error: BrokerUnavailable) -> None:
        self._asked.clear()
        self._unanswered.clear()
        keys = self._own_topics()
        if self._topics.unconfirm(keys):
            self.gaps += 1
            self._gap_began = time.monotonic()
        for key in keys:
            self._topics.fail(key, error)

    def _own_topics(self) -> list[TopicKey]:
        """Return the topics that this connection is for."""
        return list(self._topics)
