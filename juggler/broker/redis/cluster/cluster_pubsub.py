"""Pub-sub on a Redis Cluster: broadcast to all nodes, or sharded by the slots of channels."""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from typing import Any

import hiredis

from juggler.broker.ledgers import SubscriptionLedger
from juggler.broker.redis.cluster.nodes import ClusterNodes, NodeLink
from juggler.broker.redis.cluster.slot_map import Address, key_slot, redirection
from juggler.broker.redis.commands import pack
from juggler.broker.redis.connector import Connector
from juggler.broker.redis.event_receiver import OnEvent, PubSubLink, TopicKey, Topics
from juggler.broker.redis.persistent_connection import PersistentConnection
from juggler.broker.redis.replies import OnReply, Reply, is_unsettled
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerError, BrokerUnavailable, NackCode

log = logging.getLogger("juggler.redis")

RECENT_EVENTS = 4096
"""Events of one node that are recognised when the next node delivers them once more."""

REPETITION_PERIOD = 10.0
"""Seconds after a reconnect in which they are."""

EVENT_START = 64
"""Bytes of a payload that identify it: they contain the identifier of the publication."""


class BroadcastPubSub:
    """Publishes on one node and subscribes on another, both random. A node that is lost is replaced.

    All publications of a process are sent on one link, so that they arrive in order whatever their channels.

    Attributes:
        subscribed_node: the node of the subscriptions; ``None`` before the first connection.
    """

    def __init__(self, nodes: ClusterNodes) -> None:
        self._nodes = nodes
        self._publisher: NodeLink | None = None
        self._receiver: PubSubLink | None = None
        self.subscribed_node: Address | None = None
        nodes.slots.on_change.append(self._on_change)

    def publish(self, channel: bytes, payload: bytes, on_reply: OnReply) -> None:
        """See `Topology.publish`."""
        if self._publisher is None:
            self._publisher = self._nodes.link_to(self._choose())
        elif not self._publisher.connection.usable:
            self._publisher = self._nodes.link_to(self._choose(but=self._publisher.address))
        self._publisher.send(pack(b"PUBLISH", channel, payload), (on_reply,))

    def make_receiver(self, topics: Topics, on_event: OnEvent) -> PubSubLink:
        """Return a receiver that connects to a different node each time."""
        self._receiver = _BroadcastLink("pubsub", self._connect, self._nodes.watchdog, topics, on_event)
        return self._receiver

    def _choose(self, but: Address | None = None) -> Address:
        masters = self._nodes.slots.masters or self._nodes.slots.seeds
        return random.choice([address for address in masters if address != but] or masters)  # noqa: S311

    def _connect(self) -> tuple[Any, bool]:
        self.subscribed_node = self._choose(but=self.subscribed_node)
        return self._nodes.connector_to(self.subscribed_node)()

    def _on_change(self) -> None:
        """Leave a node that was removed from the cluster: it no longer receives events."""
        if self._receiver is not None and self.subscribed_node not in self._nodes.slots.nodes:
            self._receiver.connection.drop("the node has left the cluster")


class _BroadcastLink(PubSubLink):
    """Drops events that the former node has delivered already: the next one may receive them later."""

    def __init__(self, name: str, connector: Connector, watchdog: Watchdog, topics: Topics, on_event: OnEvent) -> None:
        super().__init__(name, connector, watchdog, topics, self._on_first)
        self._pass_on = on_event
        self._recent: deque[tuple[bool, bytes, bytes]] = deque(maxlen=RECENT_EVENTS)
        self._delivered: set[tuple[bool, bytes, bytes]] = set()  # by former nodes
        self._up_since = 0.0

    def on_up(self) -> None:
        self._delivered.update(self._recent)
        self._recent.clear()
        self._up_since = time.monotonic()
        super().on_up()

    def _on_first(self, pattern: bool, name: bytes, channel: bytes, payload: bytes) -> None:
        event = (pattern, name, payload[:EVENT_START])
        if self._delivered:
            if time.monotonic() - self._up_since > REPETITION_PERIOD:
                self._delivered.clear()
            elif event in self._delivered:
                return
        self._recent.append(event)
        self._pass_on(pattern, name, channel, payload)


class ShardedPubSub:
    """Publishes to the master of a channel's slot, and subscribes there: only its nodes receive the events.

    A subscription moves with its slot, as soon as the former node reports the move. Events published before it is
    recreated on the new node are lost, as when a connection is lost.
    """

    def __init__(self, nodes: ClusterNodes) -> None:
        self._nodes = nodes
        self._topics: Topics = SubscriptionLedger()
        self._on_event: OnEvent
        self._links: dict[Address, _ShardLink] = {}
        self._link_of: dict[TopicKey, _ShardLink] = {}
        self._gaps = 0
        nodes.slots.on_change.append(self._on_change)

    def publish(self, channel: bytes, payload: bytes, on_reply: OnReply) -> None:
        """See `Topology.publish`."""
        self._nodes.link_for(channel).send(pack(b"SPUBLISH", channel, payload), (on_reply,))

    def make_receiver(self, topics: Topics, on_event: OnEvent) -> ShardedPubSub:
        """See `Topology.make_receiver`."""
        self._topics = topics
        self._on_event = on_event
        return self

    # As a receiver

    @property
    def gaps(self) -> int:
        return self._gaps + sum(link.gaps for link in self._links.values())

    def subscribe(self, key: TopicKey) -> None:
        if key[0]:
            raise BrokerError("sharded pub-sub does not support patterns", NackCode.BAD_REQUEST)
        link = self._link_to(self._nodes.slots.master_of(key_slot(key[1])))
        link.subscribe(key)
        self._link_of[key] = link

    def expect(self, key: TopicKey) -> None:
        link = self._link_of.get(key)
        # Without a link, it will be subscribed to on another node soon.
        if link is not None:
            link.expect(key)

    def unsubscribe(self, key: TopicKey) -> None:
        link = self._link_of.pop(key, None)
        if link is not None:
            link.unsubscribe(key)

    def connections(self) -> list[PersistentConnection]:
        return [link.connection for link in self._links.values() if link.connection.is_started]

    def close(self) -> None:
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._link_of.clear()

    # For its links

    def topics_of(self, link: _ShardLink) -> list[TopicKey]:
        """Return the topics of a link."""
        return [key for key in self._topics if self._link_of.get(key) is link]

    def on_event(self, link: _ShardLink, channel: bytes, payload: bytes) -> None:
        """Pass on an event, unless it comes from a node that its topic has left."""
        if self._link_of.get((False, channel)) is link:
            self._on_event(False, channel, channel, payload)

    def leave(self, key: TopicKey) -> None:
        """Move a topic that its node no longer has, once the slot map is refreshed."""
        if key in self._topics:
            self._gaps += self._topics.unconfirm([key])
        self._link_of.pop(key, None)
        self._nodes.slots.refresh()

    def _on_change(self) -> None:
        for key in list(self._topics):
            link = self._link_to(self._nodes.slots.master_of(key_slot(key[1])))
            if self._link_of.get(key) is not link and key in self._topics:
                self._move(key, link)
        gone = [a for a, link in self._links.items() if a not in self._nodes.slots.nodes and not link.connection.usable]
        for address in gone:
            link = self._links.pop(address)
            link.close()
            self._gaps += link.gaps

    def _move(self, key: TopicKey, link: _ShardLink) -> None:
        self._gaps += self._topics.unconfirm([key])
        self._link_of[key] = link
        try:
            link.subscribe(key)
        except BrokerUnavailable:
            # The link subscribes to it as soon as it is up.
            return

    def _link_to(self, address: Address) -> _ShardLink:
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = _ShardLink(address, self, self._nodes, self._topics)
        return link


class _ShardLink(PubSubLink):
    """The subscriptions on one node."""

    def __init__(self, address: Address, pubsub: ShardedPubSub, nodes: ClusterNodes, topics: Topics) -> None:
        name = f"pubsub {address[0]}:{address[1]}"
        super().__init__(name, nodes.connector_to(address), nodes.watchdog, topics, self._ignore)
        self._address = address
        self._pubsub = pubsub
        self._nodes = nodes

    @staticmethod
    def _ignore(pattern: bool, name: bytes, channel: bytes, payload: bytes) -> None:
        """Ignore other events: none is subscribed to."""

    def _own_topics(self) -> list[TopicKey]:
        return self._pubsub.topics_of(self)

    def unsubscribe(self, key: TopicKey) -> None:
        if self.connection.up:
            self.connection.write(pack(b"SUNSUBSCRIBE", key[1]))

    def on_lost(self, error: BrokerUnavailable) -> None:
        super().on_lost(error)
        self._nodes.slots.refresh()

    def _subscribe(self, pattern: bool, names: list[bytes]) -> None:
        for name in names:
            self._send(pack(b"SSUBSCRIBE", name), [(pattern, name)])

    def on_reply(self, reply: Reply) -> None:
        if isinstance(reply, hiredis.ReplyError):
            self._on_error(reply)
        elif not isinstance(reply, list) or reply[0] == b"pong":
            self._on_pong()
        elif reply[0] == b"smessage":
            self._pubsub.on_event(self, reply[1], reply[2])
        elif reply[0] == b"ssubscribe":
            self._on_confirmed()
        elif reply[0] == b"sunsubscribe":
            self._on_unsubscribed((False, reply[1]))

    def _on_unsubscribed(self, key: TopicKey) -> None:
        """Move a topic if the node no longer has its slot. Otherwise this process has unsubscribed."""
        topic = self._topics.get(key)
        if topic is not None and topic.confirmed and key in self._own_topics():
            self._pubsub.leave(key)

    def _on_refused(self, key: TopicKey, error: hiredis.ReplyError) -> None:
        if key not in self._own_topics():
            return
        to = redirection(error, self._address)
        if to is None:
            super()._on_refused(key, error)
            if not is_unsettled(error):
                return
        elif not to.asking:
            self._nodes.slots.learn(to)
        self._pubsub.leave(key)
