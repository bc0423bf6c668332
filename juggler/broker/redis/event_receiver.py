"""Receive events: the connection for pub-sub, and its subscriptions in Redis."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeAlias

import hiredis

from juggler.broker.ledgers import SubscriptionLedger
from juggler.broker.redis.commands import PING, pack
from juggler.broker.redis.connector import Connector
from juggler.broker.redis.persistent_connection import PersistentConnection, ReplyHandler
from juggler.broker.redis.replies import Reply, as_error
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerError, BrokerUnavailable
from juggler.process.logline import Line

log = logging.getLogger("juggler.redis")

RESUBSCRIBE_STEP = 1000
"""Channels named in one command on a new connection."""

TopicKey: TypeAlias = tuple[bool, bytes]
"""Whether the topic is a pattern, and its name in Redis."""

OnEvent: TypeAlias = Callable[[bool, bytes, bytes, bytes], None]
"""Called with whether a pattern matched, the pattern or channel, the channel, and the payload."""

Ledger: TypeAlias = SubscriptionLedger[TopicKey]
"""The topics of a process."""


class TopicState(Protocol):
    """State of a topic: whether Redis delivers its events, and whether it has refused it."""

    confirmed: bool
    refused: bool


class Topics(Protocol):
    """The topics in Redis: those of the process, or what takes their place. See `SubscriptionLedger`."""

    def __iter__(self) -> Iterator[TopicKey]: ...
    def __contains__(self, key: TopicKey) -> bool: ...
    @property
    def get(self) -> Callable[[TopicKey], TopicState | None]: ...
    def unconfirm(self, keys: Iterable[TopicKey]) -> bool: ...
    def confirm(self, key: TopicKey) -> bool: ...
    def fail(self, key: TopicKey, error: BrokerError) -> None: ...


class EventReceiver(Protocol):
    """Subscribes and receives events, on one connection or on one for each node."""

    @property
    def gaps(self) -> int:
        """How often a connection with subscriptions was lost, or a refused subscription was recreated."""

    def subscribe(self, key: TopicKey) -> None:
        """Subscribe to a topic, which is confirmed or fails in the ledger.

        Raises:
            BrokerUnavailable: there is no connection.
            BrokerError: the topic is not supported.
        """

    def unsubscribe(self, key: TopicKey) -> None:
        """Unsubscribe from a topic, if there is a connection."""

    def expect(self, key: TopicKey) -> None:
        """Ensure that an unconfirmed topic will be confirmed or fail.

        Raises:
            BrokerUnavailable: there is no connection.
        """

    def connections(self) -> list[PersistentConnection]:
        """Return the connections that are started."""

    def close(self) -> None:
        """Close the connections. Idempotent."""


class PubSubLink(ReplyHandler):
    """The subscriptions on one connection: all of them, unless a subclass selects some.

    Attributes:
        connection: the connection.
        gaps: how often it was lost with subscriptions, or a refused one was recreated.
    """

    def __init__(self, name: str, connector: Connector, watchdog: Watchdog, topics: Topics, on_event: OnEvent) -> None:
        self.connection = PersistentConnection(name, connector, watchdog, self)
        self._topics = topics
        self._on_event = on_event
        self._pinged = False
        # Topics of each command in flight, none for a PING. Replies arrive in order, and errors do not name the topic.
        self._in_flight: deque[list[TopicKey]] = deque()
        # How often each topic is in flight: only the last reply counts after an unsubscription.
        self._unconfirmed: Counter[TopicKey] = Counter()
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
        self.connection.write(PING)
        self._pinged = True
        self._in_flight.append([])

    def subscribe(self, key: TopicKey) -> None:
        self.connection.ensure()
        # Otherwise `on_up` will subscribe.
        if self.connection.up:
            self._subscribe(key[0], [key[1]])

    def expect(self, key: TopicKey) -> None:
        # It may have been refused, and kept for subscribers from an earlier connection.
        if not self._unconfirmed[key]:
            self.subscribe(key)

    def unsubscribe(self, key: TopicKey) -> None:
        if self.connection.up:
            self.connection.write(pack(b"PUNSUBSCRIBE" if key[0] else b"UNSUBSCRIBE", key[1]))

    def on_up(self) -> None:
        self._pinged = False
        if self._gap_began is not None:
            gap = time.monotonic() - self._gap_began
            self._gap_began = None
            log.warning(Line("redis: events lost, resubscribing", link=self.connection.name, seconds=gap))
        keys = self._own_topics()
        for pattern in (False, True):
            names = [name for is_pattern, name in keys if is_pattern is pattern]
            for start in range(0, len(names), RESUBSCRIBE_STEP):
                self._subscribe(pattern, names[start : start + RESUBSCRIBE_STEP])

    def _subscribe(self, pattern: bool, names: list[bytes]) -> None:
        command = pack(b"PSUBSCRIBE" if pattern else b"SUBSCRIBE", *names)
        self._send(command, [(pattern, name) for name in names])

    def _send(self, command: bytes, keys: list[TopicKey]) -> None:
        self.connection.write(command)
        self._in_flight.append(keys)
        self._unconfirmed.update(keys)

    def on_reply(self, reply: Reply) -> None:
        if isinstance(reply, hiredis.ReplyError):
            self._on_error(reply)
            return
        if not isinstance(reply, list):
            self._on_pong()
            return
        kind = reply[0]
        if kind == b"message":
            self._on_event(False, reply[1], reply[1], reply[2])
        elif kind == b"pmessage":
            self._on_event(True, reply[1], reply[2], reply[3])
        elif kind == b"subscribe" or kind == b"psubscribe":
            self._on_confirmed()
        elif kind == b"pong":
            self._on_pong()

    def _on_pong(self) -> None:
        self._pinged = False
        self._in_flight.popleft()

    def _on_confirmed(self) -> None:
        keys = self._in_flight[0]
        key = keys.pop(0)
        if not keys:
            self._in_flight.popleft()
        if self._is_last_reply(key) and self._topics.confirm(key):
            self.gaps += 1

    def _is_last_reply(self, key: TopicKey) -> bool:
        self._unconfirmed[key] -= 1
        if self._unconfirmed[key]:
            return False
        del self._unconfirmed[key]
        return True

    def _on_error(self, error: hiredis.ReplyError) -> None:
        if not self._in_flight:
            log.warning(Line("redis: command failed", error=error))
            return
        keys = self._in_flight.popleft()
        if not keys:
            # Redis refuses the PING: it lacks disk space, runs a script or denies the permission. But it is alive.
            self._pinged = False
            log.warning(Line("redis: command failed", error=error))
            return
        settled = [key for key in keys if self._is_last_reply(key)]
        if len(keys) == 1:
            for key in settled:
                self._on_refused(key, error)
        else:
            # One that is not permitted must not affect the others: subscribe to each with a command of its own.
            for pattern, name in settled:
                self._subscribe(pattern, [name])

    def _on_refused(self, key: TopicKey, error: hiredis.ReplyError) -> None:
        topic = self._topics.get(key)
        if topic is not None:
            if not topic.refused:
                log.warning(Line("redis: subscription refused", error=error))
            self._topics.fail(key, as_error(error))

    def on_lost(self, error: BrokerUnavailable) -> None:
        self._in_flight.clear()
        self._unconfirmed.clear()
        keys = self._own_topics()
        if self._topics.unconfirm(keys):
            self.gaps += 1
            self._gap_began = time.monotonic()
        for key in keys:
            self._topics.fail(key, error)

    def _own_topics(self) -> list[TopicKey]:
        """Return the topics of this connection."""
        return list(self._topics)
