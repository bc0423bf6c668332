"""The nodes of a Redis Cluster: one link for commands to each master, and the map that says which has which slot.

Masters move, die and come back. A command that was sent to the wrong node has not been executed: it is sent once more,
to the node that the error names, and the slot map is refreshed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import hiredis

from juggler.broker.redis.cluster.slot_map import Address, Redirection, SlotMap, key_slot, redirection
from juggler.broker.redis.commands import ASKING, PING, pack
from juggler.broker.redis.keys import Names
from juggler.broker.redis.link import Connector, Link, OnReply, Reply, ignore
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerUnavailable


class NodeLink(Link):
    """The link for commands to one node. What turns out to live on another one is sent there, once."""

    def __init__(self, address: Address, nodes: ClusterNodes) -> None:
        super().__init__(f"commands {address[0]}:{address[1]}", nodes.connector_to(address), nodes.watchdog)
        self.address = address
        self._nodes = nodes

    def send(self, packed: bytes, on_replies: Iterable[OnReply]) -> None:
        request = _Request(packed, tuple(on_replies), self.address, self._nodes)
        super().send(packed, [request.on_reply] * len(request.on_replies))

    def send_finally(self, packed: bytes, on_replies: Iterable[OnReply]) -> None:
        """As `send`, but a redirection is told as the error that it is."""
        super().send(packed, on_replies)

    def ping(self) -> None:
        self.send_finally(PING, (ignore,))

    def on_lost(self, error: BrokerUnavailable) -> None:
        super().on_lost(error)
        self._nodes.slots.refresh()


class _Request:
    """Commands that were sent together; their replies are told in order when all are known."""

    __slots__ = ("_address", "_left", "_nodes", "_packed", "_redirections", "_replies", "on_replies")

    def __init__(self, packed: bytes, on_replies: tuple[OnReply, ...], address: Address, nodes: ClusterNodes) -> None:
        self.on_replies = on_replies
        self._packed = packed
        self._address = address
        self._nodes = nodes
        self._replies: list[Reply] = []
        self._redirections: dict[int, Redirection] = {}
        self._left = 0

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
                self._tell()

    def _tell(self) -> None:
        for on_reply, reply in zip(self.on_replies, self._replies, strict=True):
            on_reply(reply)

    def _follow(self) -> None:
        reader = hiredis.Reader()
        reader.feed(self._packed)
        commands = [reader.gets() for _ in self.on_replies]
        self._left = len(self._redirections)
        for number, to in self._redirections.items():
            self._resend(number, pack(*commands[number]), to)

    def _resend(self, number: int, packed: bytes, to: Redirection) -> None:
        def on_reply(reply: Reply) -> None:
            self._replies[number] = reply
            self._left -= 1
            if not self._left:
                self._tell()

        try:
            link = self._nodes.follow(to)
            if to.asking:
                link.send_finally(ASKING + packed, (ignore, on_reply))
            else:
                link.send_finally(packed, (on_reply,))
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
        on_up: functions that are called whenever a connection for commands is up again, or the slot map has changed.
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
        self.on_up: list[Callable[[], None]] = []
        self._links: dict[Address, NodeLink] = {}
        self._closed = False
        self.slots.on_change.append(self._on_change)

    def link_for(self, key: bytes) -> NodeLink:
        """Return the link to the master of a key's slot."""
        return self.link_to(self.slots.master_of(key_slot(key)))

    def master_links(self) -> list[NodeLink]:
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
            link.up_functions.append(self._notify_up)
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
        for link in self.master_links():
            link.start()

    def close(self) -> None:
        """Close all links. Idempotent."""
        self._closed = True
        self.slots.close()
        for link in self._links.values():
            link.close()
        self._links.clear()

    def _on_change(self) -> None:
        """Close links to nodes that have left; requests for them may go to other nodes now."""
        known = self.slots.nodes
        gone = [address for address, link in self._links.items() if address not in known and not link.usable]
        for address in gone:
            self._links.pop(address).close()
        self._notify_up()

    def _notify_up(self) -> None:
        for function in self.on_up:
            function()
