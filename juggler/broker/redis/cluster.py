"""`Cluster`: routes to the masters of a Redis Cluster, which move, die and come back.

There is one link for commands to each master. A command that was sent to the wrong node has not been executed: it is
sent once more, to the node that the answer names, and the slot map is renewed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import hiredis

from juggler.broker.redis.any_node import AnyNode
from juggler.broker.redis.follower import ASKING
from juggler.broker.redis.keys import Names
from juggler.broker.redis.link import Connector, Link, OnReply, Reply, ignore
from juggler.broker.redis.pop import Popper
from juggler.broker.redis.receiver import OnEvent, Receiver, Topics
from juggler.broker.redis.resp import pack
from juggler.broker.redis.results import OnResults, ResultsReader
from juggler.broker.redis.routes import Routes
from juggler.broker.redis.sharded import ShardedPubSub
from juggler.broker.redis.slot_pop import SlotsPopper
from juggler.broker.redis.slot_results import ListPerMaster
from juggler.broker.redis.slotmap import Address, Redirection, SlotMap, key_slot, redirection
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerUnavailable


class NodeLink(Link):
    """The link for commands to one node. What turns out to live on another one is sent there, once."""

    def __init__(self, address: Address, cluster: Cluster) -> None:
        super().__init__(f"commands {address[0]}:{address[1]}", cluster.connector_to(address), cluster.watchdog)
        self.address = address
        self._cluster = cluster

    def send(self, packed: bytes, on_replies: Iterable[OnReply]) -> None:
        request = _Request(packed, tuple(on_replies), self.address, self._cluster)
        super().send(packed, [request.on_reply] * len(request.on_replies))

    def send_finally(self, packed: bytes, on_replies: Iterable[OnReply]) -> None:
        """As `send`, but a redirection is told as the error that it is."""
        super().send(packed, on_replies)

    def ping(self) -> None:
        self.send_finally(pack(b"PING"), (ignore,))

    def on_lost(self, error: BrokerUnavailable) -> None:
        super().on_lost(error)
        self._cluster.slots.refresh()


class _Request:
    """Commands that were sent together; their replies are told in order when all are known."""

    __slots__ = ("_address", "_cluster", "_left", "_packed", "_redirections", "_replies", "on_replies")

    def __init__(self, packed: bytes, on_replies: tuple[OnReply, ...], address: Address, cluster: Cluster) -> None:
        self.on_replies = on_replies
        self._packed = packed
        self._address = address
        self._cluster = cluster
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
            link = self._cluster.follow(to)
            if to.asking:
                link.send_finally(ASKING + packed, (ignore, on_reply))
            else:
                link.send_finally(packed, (on_reply,))
        except BrokerUnavailable as error:
            on_reply(error)


class Cluster(Routes):
    """See `juggler.broker.redis.routes.Routes`.

    Attributes:
        names: of the keys.
        slots: the slot map.
        connector_to: makes connectors to nodes.
        watchdog: the broker's.
        blocking_timeout: seconds for which Redis holds a pop when there is nothing to pop.
    """

    def __init__(
        self,
        seeds: Sequence[Address],
        connector_to: Callable[[Address], Connector],
        names: Names,
        watchdog: Watchdog,
        blocking_timeout: float,
        *,
        sharded: bool = False,
    ) -> None:
        """Make routes that know no more than ``seeds``, some nodes of the cluster."""
        self.names = names
        self.slots = SlotMap(seeds, connector_to)
        self.connector_to = connector_to
        self.watchdog = watchdog
        self.blocking_timeout = blocking_timeout
        self._links: dict[Address, NodeLink] = {}
        self._pubsub = ShardedPubSub(self) if sharded else AnyNode(self)
        self._up_functions: list[Callable[[], None]] = []
        self._closed = False
        self.slots.on_change.append(self._on_change)

    def link_for(self, key: bytes) -> Link:
        return self.link_to(self.slots.master_of(key_slot(key)))

    def links(self) -> list[Link]:
        return [self.link_to(master) for master in self.slots.masters or self.slots.seeds]

    def link_to(self, address: Address) -> NodeLink:
        """Return the link for commands to a node."""
        link = self._links.get(address)
        if link is None:
            if self._closed:
                raise BrokerUnavailable("the broker is closed")
            link = self._links[address] = NodeLink(address, self)
            link.up_functions.append(self._tell_up)
        return link

    def follow(self, to: Redirection) -> NodeLink:
        """Return the link to the node that a redirection names, and remember what it says."""
        if not to.asking:
            self.slots.learn(to)
        return self.link_to(to.address)

    def publish(self, channel: bytes, payload: bytes, on_reply: OnReply) -> None:
        self._pubsub.publish(channel, payload, on_reply)

    def on_up(self, function: Callable[[], None]) -> None:
        self._up_functions.append(function)

    def make_popper(self, lists: Sequence[bytes]) -> Popper:
        return SlotsPopper(self, lists)

    def make_results_reader(self, on_results: OnResults) -> ResultsReader:
        return ListPerMaster(self, on_results)

    def make_receiver(self, topics: Topics, on_event: OnEvent) -> Receiver:
        return self._pubsub.make_receiver(topics, on_event)

    def connect(self) -> None:
        self.slots.load()
        for master in self.slots.masters:
            self.link_to(master).start()

    def close(self) -> None:
        self._closed = True
        self.slots.close()
        for link in self._links.values():
            link.close()
        self._links.clear()

    def _on_change(self) -> None:
        """Give up links to nodes that are gone; what waited for them may go to others now."""
        known = self.slots.nodes
        gone = [address for address, link in self._links.items() if address not in known and not link.usable]
        for address in gone:
            self._links.pop(address).close()
        self._tell_up()

    def _tell_up(self) -> None:
        for function in self._up_functions:
            function()
