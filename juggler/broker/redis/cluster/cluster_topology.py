"""The topology of a Redis Cluster: keys live on the master of their slot."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from juggler.broker.redis.call_source import CallSource
from juggler.broker.redis.cluster.cluster_pubsub import BroadcastPubSub, ShardedPubSub
from juggler.broker.redis.cluster.nodes import ClusterNodes
from juggler.broker.redis.cluster.slot_map import Address
from juggler.broker.redis.cluster.slot_results import ListPerMaster, SlotReader
from juggler.broker.redis.cluster.slots_source import SlotsSource
from juggler.broker.redis.connector import Connector
from juggler.broker.redis.event_receiver import EventReceiver, OnEvent, Topics
from juggler.broker.redis.keys import Names
from juggler.broker.redis.link import Link
from juggler.broker.redis.replies import OnReply
from juggler.broker.redis.results_reader import ListReader, OnResults, ResultsReader
from juggler.broker.redis.topology import Topology
from juggler.broker.redis.watchdog import Watchdog


class ClusterTopology(Topology):
    """See `juggler.broker.redis.topology.Topology`.

    Attributes:
        nodes: the nodes of the cluster.
        pubsub: selects the nodes for events.
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
        """Create an unconnected topology.

        Args:
            seeds: some nodes of the cluster.
            connector_to: returns the connector of a node.
            names: names of the keys.
            watchdog: the broker's watchdog.
            blocking_timeout: seconds for which Redis blocks a pop while the lists are empty.
            sharded: whether pub-sub is sharded by the slots of channels.
        """
        self.nodes = ClusterNodes(seeds, connector_to, names, watchdog, blocking_timeout)
        self.pubsub = ShardedPubSub(self.nodes) if sharded else BroadcastPubSub(self.nodes)

    def link_for(self, key: bytes) -> Link:
        return self.nodes.link_for(key)

    def links(self) -> Sequence[Link]:
        return self.nodes.links()

    def publish(self, channel: bytes, payload: bytes, on_reply: OnReply) -> None:
        self.pubsub.publish(channel, payload, on_reply)

    def on_up(self, listener: Callable[[], None]) -> None:
        self.nodes.up_listeners.append(listener)

    def make_call_source(self, lists: Sequence[bytes]) -> CallSource:
        return SlotsSource(self.nodes, lists)

    def make_list_reader(self, name: str, key: bytes, on_batch: Callable[[list[bytes]], None]) -> ListReader:
        return SlotReader(name, self.nodes, key, on_batch)

    def make_results_reader(self, on_results: OnResults) -> ResultsReader:
        return ListPerMaster(self.nodes, on_results)

    def make_receiver(self, topics: Topics, on_event: OnEvent) -> EventReceiver:
        return self.pubsub.make_receiver(topics, on_event)

    def connect(self) -> None:
        self.nodes.connect()

    def close(self) -> None:
        self.nodes.close()
