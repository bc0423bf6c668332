"""Links that wait for lists in one slot, and go with the slot from node to node."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable

import gevent
import hiredis

from juggler.broker.redis.cluster.nodes import ClusterNodes
from juggler.broker.redis.cluster.slot_map import Address, Redirection, redirection
from juggler.broker.redis.commands import ASKING
from juggler.broker.redis.link import Connector, Link, OnReply, Reply, ignore
from juggler.errors import BrokerUnavailable

MOVE_INTERVAL = 0.05
"""The least number of seconds between two moves: nodes that disagree would send us to and fro."""


class Following(Link):
    """A link that tells its follower where its slot has gone. A base to stand before the one that says what it does."""

    follower: Follower
    address: Address
    asking: bool

    def follow(self, follower: Follower, address: Address, *, asking: bool) -> None:
        """Belong to a follower, and to a node; with ``asking`` the slot is still on its way to this node."""
        self.follower = follower
        self.address = address
        self.asking = asking

    def send(self, packed: bytes, on_replies: Iterable[OnReply]) -> None:
        if self.asking:
            packed, on_replies = ASKING + packed, (ignore, *on_replies)
        super().send(packed, on_replies)

    def on_reply(self, reply: Reply) -> None:
        to = redirection(reply, self.address) if isinstance(reply, hiredis.ReplyError) else None
        if to is None:
            super().on_reply(reply)
        else:
            self.follower.on_redirected(self, to)

    def on_lost(self, error: BrokerUnavailable) -> None:
        super().on_lost(error)
        self.follower.on_lost(self, error)


class Follower(ABC):
    """Has a link to the node of a slot, and a new one whenever that is another node.

    What is in flight on a link that is left has failed: the node has said, or will say, that it did not execute it.

    Attributes:
        link: the link of the moment.
    """

    def __init__(self, nodes: ClusterNodes, slot: int) -> None:
        self.link: Following
        self._nodes = nodes
        self._slot = slot
        self._moved = 0.0
        self._closed = False
        self._use(nodes.slots.master_of(slot))
        nodes.slots.on_change.append(self._on_change)

    @abstractmethod
    def make_link(self, connector: Connector) -> Following:
        """Return a new link."""

    def on_lost(self, link: Following, error: BrokerUnavailable) -> None:
        """A connection, or an attempt to make one, has failed."""
        if link is self.link and not self._closed:
            self._nodes.slots.refresh()
            if link.asking:
                self._move(self._nodes.slots.master_of(self._slot))

    def on_redirected(self, link: Following, to: Redirection) -> None:
        """The slot has gone, or a part of it."""
        if link is self.link:
            if not to.asking:
                self._nodes.slots.learn(to)
            self._move(to.address, asking=to.asking)

    def close(self) -> None:
        """End at once. Idempotent."""
        self._closed = True
        if self._on_change in self._nodes.slots.on_change:
            self._nodes.slots.on_change.remove(self._on_change)
        self.link.close()

    def _on_change(self) -> None:
        address = self._nodes.slots.master_of(self._slot)
        # A slot that is on its way is not in the map yet.
        if address != self.link.address and not (self.link.asking and self.link.up):
            self._move(address)

    def _move(self, address: Address, *, asking: bool = False) -> None:
        old = self.link
        self._use(address, asking=asking)
        old.close()
        pause = self._moved + MOVE_INTERVAL - time.monotonic()
        self._moved = time.monotonic()
        if pause <= 0:
            self.link.start()
        else:
            gevent.spawn_later(pause, self.link.start)

    def _use(self, address: Address, *, asking: bool = False) -> None:
        self.link = self.make_link(self._nodes.connector_to(address))
        self.link.follow(self, address, asking=asking)
