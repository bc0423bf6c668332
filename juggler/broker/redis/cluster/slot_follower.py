"""Links for blocking commands in one slot, which follow the slot from node to node."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable

import gevent
import hiredis

from juggler.broker.redis.cluster.nodes import ClusterNodes
from juggler.broker.redis.cluster.slot_map import Address, Redirection, redirection
from juggler.broker.redis.commands import ASKING
from juggler.broker.redis.link import Link
from juggler.broker.redis.replies import OnReply, Reply, ignore
from juggler.errors import BrokerUnavailable

MOVE_INTERVAL = 0.05
"""Minimum number of seconds between two moves, since nodes may disagree about a slot."""


class SlotLink(Link):
    """A link to the node of a slot. Redirections go to its follower.

    Attributes:
        address: the node.
        asking: whether the slot is still being migrated to this node.
    """

    def __init__(self, name: str, nodes: ClusterNodes, follower: SlotFollower, address: Address, asking: bool) -> None:
        super().__init__(name, nodes.connector_to(address), nodes.watchdog, blocking_timeout=nodes.blocking_timeout)
        self.address = address
        self.asking = asking
        self._follower = follower

    def send(self, packed: bytes, on_replies: Iterable[OnReply]) -> None:
        if self.asking:
            packed, on_replies = ASKING + packed, (ignore, *on_replies)
        super().send(packed, on_replies)

    def on_reply(self, reply: Reply) -> None:
        to = redirection(reply, self.address) if isinstance(reply, hiredis.ReplyError) else None
        if to is None:
            super().on_reply(reply)
        else:
            self._follower.on_redirected(self, to)

    def on_lost(self, error: BrokerUnavailable) -> None:
        super().on_lost(error)
        self._follower.on_lost(self, error)


class SlotFollower(ABC):
    """Has a link to the node of a slot, and replaces it when the slot moves.

    What is in flight on a link that is replaced has failed: the node has not executed it.

    Attributes:
        link: the current link.
    """

    def __init__(self, name: str, nodes: ClusterNodes, slot: int) -> None:
        """Create an unconnected link, called ``name``, and prepare it with `on_link`."""
        self.link: SlotLink
        self._name = name
        self._nodes = nodes
        self._slot = slot
        self._moved_at = 0.0
        self._closed = False
        self._use(self.master)
        nodes.slots.on_change.append(self._on_change)

    @property
    def master(self) -> Address:
        """The master of the slot."""
        return self._nodes.slots.master_of(self._slot)

    @abstractmethod
    def on_link(self, link: SlotLink) -> None:
        """Prepare a new link before it is started."""

    def on_lost(self, link: SlotLink, error: BrokerUnavailable) -> None:
        """React to the loss of a connection, or to a failed attempt to connect."""
        if link is self.link and not self._closed:
            self._nodes.slots.refresh()
            if link.asking:
                self._move(self.master)

    def on_redirected(self, link: SlotLink, to: Redirection) -> None:
        """Follow the slot to another node."""
        if link is self.link:
            if not to.asking:
                self._nodes.slots.learn(to)
            self._move(to.address, asking=to.asking)

    def close(self) -> None:
        """Close the link. Idempotent."""
        self._closed = True
        if self._on_change in self._nodes.slots.on_change:
            self._nodes.slots.on_change.remove(self._on_change)
        self.link.close()

    def _on_change(self) -> None:
        # A slot that is being migrated is not in the map yet.
        if self.master != self.link.address and not (self.link.asking and self.link.connection.up):
            self._move(self.master)

    def _move(self, address: Address, *, asking: bool = False) -> None:
        old = self.link
        self._use(address, asking=asking)
        old.close()
        pause = self._moved_at + MOVE_INTERVAL - time.monotonic()
        self._moved_at = time.monotonic()
        if pause <= 0:
            self.link.start()
        else:
            gevent.spawn_later(pause, self.link.start)

    def _use(self, address: Address, *, asking: bool = False) -> None:
        self.link = SlotLink(self._name, self._nodes, self, address, asking)
        self.on_link(self.link)
