"""The nodes of a Redis Cluster: a link for commands to each master, and the slot map.

Masters move, fail and come back. A command that was sent to the wrong node has not been executed: it is sent once more,
to the node that the error names, and the slot map is refreshed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import hiredis

from juggler.broker.redis.cluster.slot_map import Address, Redirection, SlotMap, key_slot, redirection
from juggler.broker.redis.commands import ASKING, pack
from juggler.broker.redis.connector import Connector
from juggler.broker.redis.keys import Names
from juggler.broker.redis.link import Link, OnProlonged, Pushed
from juggler.broker.redis.replies import OnReply, Reply, ignore
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerUnavailable


class NodeLink(Link):
    """The link to one node. Commands that the node redirects are sent once more, to the right node.

    Attributes:
        address: the node.
    """

    def __init__(self, address: Address, nodes: ClusterNodes) -> None:
        super().__init__(f"commands {address[0]}:{address[1]}", nodes.connector_to(address), nodes.watchdog)
        self.address = address
        self._nodes = nodes

    def push(
        self, list_key: bytes, pushed: Pushed, ttl_ms: int, on_prolonged: OnProlonged, before: bytes = b""
    ) -> None:
        if before:
            self._transmit(before, (ignore,))
        super().push(list_key, pushed, ttl_ms, on_prolonged)

    def _transmit(self, packed: bytes, on_replies: Iterable[OnReply]) -> None:
        request = _Request(packed, tuple(on_replies), self.address, self._nodes)
        self.send_here(packed, [request.on_reply] * len(request.on_replies))

    def send_here(self, packed: bytes, on_replies: Iterable[OnReply]) -> None:
        """Send to this node only: a redirection is an error like any other."""
        super()._transmit(packed, on_replies)


class _Request:
    """Commands that were sent together. Their replies are passed on in order once all are known."""

    __slots__ = ("_address", "_due", "_nodes", "_packed", "_redirections", "_replies", "on_replies")

    def __init__(self, packed: bytes, on_replies: tuple[OnReply, ...], address: Address, nodes: ClusterNodes) -> None:
        self.on_replies = on_replies
        self._packed = packed
        self._address = address
        self._nodes = nodes
        self._replies: list[Reply] = []
        self._redirections: dict[int, Redirection] = {}
        self._due = 0

    def on_reply(self, reply: Reply) -> None:
        if isinstance(reply, hiredis.ReplyError):
            to = redirection(reply, self._address)
            if to is not None:
                self._redirections[len(self._replies)] = to
        self._replies.append(reply)
        if len(self._replies) == len(self.on_replies):
            if self._redirections:
                self._follow()
            else:
                self._finish()

    def _finish(self) -> None:
        for on_reply, reply in zip(self.on_replies, self._replies, strict=True):
            on_reply(reply)

    def _follow(self) -> None:
        reader = hiredis.Reader()
        reader.feed(self._packed)
        commands = [reader.gets() for _ in self.on_replies]
        self._due = len(self._redirections)
        for number, to in self._redirections.items():
            self._resend(number, pack(*commands[number]), to)

    def _resend(self, number: int, packed: bytes, to: Redirection) -> None:
        def on_reply(reply: Reply) -> None:
            self._replies[number] = reply
            self._due -= 1
            if not self._due:
                self._finish()

        try:
            link = self._nodes.follow(to)
            if to.asking:
                link.send_here(ASKING + packed, (ignore, on_reply))
            else:
                link.send_here(packed, (on_reply,))
        except BrokerUnavailable as error:
            on_reply(error)


class ClusterNodes:
    """Links to the nodes of a cluster.

    Attributes:
        names: names of the keys.
        slots: the slot map.
        connector_to: returns the connector of a node.
        watchdog: the broker's watchdog.
        blocking_timeout: seconds for which Redis blocks a pop while the lists are empty.
        up_listeners: called whenever a connection for commands is up, and when the slot map has changed.
    """

    def __init__(
        self,
        seeds: Sequence[Address],
        connector_to: Callable[[Address], Connector],
        names: Names,
        watchdog: Watchdog,
        blocking_timeout: float,
    ) -> None:
        """Create an unconnected set of nodes from ``seeds``, some nodes of the cluster."""
        self.names = names
        self.slots = SlotMap(seeds, connector_to)
        self.connector_to = connector_to
        self.watchdog = watchdog
        self.blocking_timeout = blocking_timeout
        self.up_listeners: list[Callable[[], None]] = []
        self._links: dict[Address, NodeLink] = {}
        self._closed = False
        self.slots.on_change.append(self._on_change)

    def link_for(self, key: bytes) -> NodeLink:
        """Return the link to the master of a key's slot."""
        return self.link_to(self.slots.master_of(key_slot(key)))

    def links(self) -> list[NodeLink]:
        """Return the links to all masters; while none is known, to the seeds."""
        return [self.link_to(master) for master in self.slots.masters or self.slots.seeds]

    def link_to(self, address: Address) -> NodeLink:
        """Return the link to a node.

        Raises:
            BrokerUnavailable: the broker is closed.
        """
        link = self._links.get(address)
        if link is None:
            if self._closed:
                raise BrokerUnavailable("the broker is closed")
            link = self._links[address] = NodeLink(address, self)
            link.up_listeners.append(self._notify_up)
            link.lost_listeners.append(self.slots.refresh)
        return link

    def follow(self, to: Redirection) -> NodeLink:
        """Return the link to the node that a redirection names, and learn from the redirection."""
        if not to.asking:
            self.slots.learn(to)
        return self.link_to(to.address)

    def connect(self) -> None:
        """Load the slot map and start the links to all masters.

        Raises:
            BrokerUnavailable: no node answers.
            redis.RedisError: the credentials are refused.
        """
        self.slots.load()
        for link in self.links():
            link.start()

    def close(self) -> None:
        """Close all links. Idempotent."""
        self._closed = True
        self.slots.close()
        for link in self._links.values():
            link.close()
        self._links.clear()

    def _on_change(self) -> None:
        """Close links to nodes that have left the cluster. What waited for them may be sent to other nodes now."""
        known = self.slots.nodes
        gone = [address for address, link in self._links.items() if address not in known and not link.connection.usable]
        for address in gone:
            self._links.pop(address).close()
        self._notify_up()

    def _notify_up(self) -> None:
        for listener in self.up_listeners:
            listener()
