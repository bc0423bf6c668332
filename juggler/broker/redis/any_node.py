"""Pub-sub on a cluster, of the kind that reaches all nodes: one node is chosen to publish on, one to subscribe on."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from juggler.broker.redis.link import OnReply
from juggler.broker.redis.receiver import OnEvent, PubSubLink, Topics
from juggler.broker.redis.resp import pack
from juggler.broker.redis.slotmap import Address

if TYPE_CHECKING:
    from juggler.broker.redis.cluster import Cluster, NodeLink


class AnyNode:
    """Chooses nodes for pub-sub: at random, and another one when a node is lost.

    All publications of a process leave on one link, so that they arrive in their order whatever their channels.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._publisher: NodeLink | None = None
        self._receiver: PubSubLink | None = None
        self._subscribed: Address | None = None
        cluster.slots.on_change.append(self._on_change)

    def publish(self, channel: bytes, payload: bytes, on_reply: OnReply) -> None:
        """See `Routes.publish`."""
        if self._publisher is None:
            self._publisher = self._cluster.link_to(self._choose())
        elif not self._publisher.usable:
            self._publisher = self._cluster.link_to(self._choose(but=self._publisher.address))
        self._publisher.send(pack(b"PUBLISH", channel, payload), (on_reply,))

    def make_receiver(self, topics: Topics, on_event: OnEvent) -> PubSubLink:
        """Return a link that connects to another node each time."""
        self._receiver = PubSubLink("pubsub", self._connect, self._cluster.watchdog, topics, on_event)
        return self._receiver

    def _choose(self, but: Address | None = None) -> Address:
        masters = self._cluster.slots.masters or self._cluster.slots.seeds
        return random.choice([address for address in masters if address != but] or masters)  # noqa: S311

    def _connect(self) -> tuple[Any, bool]:
        self._subscribed = self._choose(but=self._subscribed)
        return self._cluster.connector_to(self._subscribed)()

    def _on_change(self) -> None:
        """Leave a node that was removed from the cluster: it hears of nothing any more."""
        if self._receiver is not None and self._subscribed not in self._cluster.slots.nodes:
            self._receiver.drop("the node is not part of the cluster any more")
