"""How a process reads its results from a cluster: from one list on each master, so that no node carries them all."""

from __future__ import annotations

from functools import partial
from itertools import cycle

from juggler.broker.redis.cluster.nodes import ClusterNodes
from juggler.broker.redis.cluster.slot_follower import Follower, Following
from juggler.broker.redis.cluster.slot_map import Address, key_slot
from juggler.broker.redis.link import BaseLink, Connector
from juggler.broker.redis.results_reader import OnResults, ResultsLink, ResultsReader
from juggler.process.uuids import new_uuid


class _FollowingResultsLink(Following, ResultsLink):
    """Pops from one list without end, on whichever node it is."""


class _OwnList(Follower):
    """One list of results."""

    def __init__(self, nodes: ClusterNodes, conn_uuid: str, on_results: OnResults) -> None:
        self.conn_uuid = conn_uuid
        self._on_results = partial(on_results, conn_uuid)
        self._key = nodes.names.results(conn_uuid)
        super().__init__(nodes, key_slot(self._key))
        self.link.start()

    def make_link(self, connector: Connector) -> Following:
        return _FollowingResultsLink(
            connector, self._nodes.watchdog, self._nodes.blocking_timeout, self._key, self._on_results
        )

    @property
    def master(self) -> Address:
        return self._nodes.slots.master_of(self._slot)


class ListPerMaster(ResultsReader):
    """Uses the lists in turn. None is ever given up, as a result may still come: they move with their slots."""

    def __init__(self, nodes: ClusterNodes, on_results: OnResults) -> None:
        self._nodes = nodes
        self._on_results = on_results
        self._lists = [_OwnList(nodes, new_uuid(), on_results)]
        self.conn_uuids = cycle([each.conn_uuid for each in self._lists])
        self._on_change()
        nodes.slots.on_change.append(self._on_change)

    def links(self) -> list[BaseLink]:
        return [each.link for each in self._lists]

    def close(self) -> None:
        if self._on_change in self._nodes.slots.on_change:
            self._nodes.slots.on_change.remove(self._on_change)
        for each in self._lists:
            each.close()

    def _on_change(self) -> None:
        """See that there is a list on each master, and use one of each."""
        masters = self._nodes.slots.masters
        on = {each.master: each for each in self._lists}
        missing = set(masters) - set(on)
        while missing:
            uuid = new_uuid()
            master = self._nodes.slots.master_of(key_slot(self._nodes.names.results(uuid)))
            if master in missing:
                missing.remove(master)
                on[master] = _OwnList(self._nodes, uuid, self._on_results)
                self._lists.append(on[master])
        if masters:
            self.conn_uuids = cycle([on[master].conn_uuid for master in masters])
