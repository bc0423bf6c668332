"""How a process reads lists of its own from a cluster: its results, from one list on each master, so that no node
carries all of them, and control messages."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import cycle

from juggler.broker.redis.cluster.nodes import ClusterNodes
from juggler.broker.redis.cluster.slot_follower import SlotFollower, SlotLink
from juggler.broker.redis.cluster.slot_map import key_slot
from juggler.broker.redis.persistent_connection import PersistentConnection
from juggler.broker.redis.results_reader import ListReader, OnResults, ResultsReader, pop_forever
from juggler.process.uuids import new_uuid


class SlotReader(SlotFollower, ListReader):
    """Pops from one list for as long as it lives, on whichever node the list is."""

    def __init__(self, name: str, nodes: ClusterNodes, key: bytes, on_batch: Callable[[list[bytes]], None]) -> None:
        self._key = key
        self._on_batch = on_batch
        super().__init__(name, nodes, key_slot(key))
        self.link.start()

    def on_link(self, link: SlotLink) -> None:
        pop_forever(link, self._key, self._on_batch)

    @property
    def connection(self) -> PersistentConnection:
        return self.link.connection


class _ResultsList(SlotReader):
    def __init__(self, nodes: ClusterNodes, conn_uuid: str, on_results: OnResults) -> None:
        self.conn_uuid = conn_uuid
        super().__init__("results", nodes, nodes.names.results(conn_uuid), partial(on_results, conn_uuid))


class ListPerMaster(ResultsReader):
    """Uses the lists in turn. One that is no longer used is read until its last call has completed."""

    def __init__(self, nodes: ClusterNodes, on_results: OnResults) -> None:
        self._nodes = nodes
        self._on_results = on_results
        self._lists = [_ResultsList(nodes, new_uuid(), on_results)]
        # The latest call when each list was found to be unused.
        self._unused: dict[_ResultsList, str] = {}
        self._used = set(self._lists)
        self.conn_uuids = cycle([each.conn_uuid for each in self._lists])
        self._on_change()
        nodes.slots.on_change.append(self._on_change)

    def connections(self) -> list[PersistentConnection]:
        return [each.connection for each in self._lists]

    def release(self, oldest: str | None, newest: str) -> None:
        for each in self._lists.copy():
            if each in self._used:
                self._unused.pop(each, None)
                continue
            latest = self._unused.setdefault(each, newest)
            if oldest is None or oldest > latest:
                del self._unused[each]
                self._lists.remove(each)
                each.close()

    def close(self) -> None:
        if self._on_change in self._nodes.slots.on_change:
            self._nodes.slots.on_change.remove(self._on_change)
        for each in self._lists:
            each.close()

    def _on_change(self) -> None:
        """Create a list on each master that has none, and use one list on each."""
        masters = self._nodes.slots.masters
        on = {each.master: each for each in self._lists}
        missing = set(masters) - set(on)
        while missing:
            uuid = new_uuid()
            master = self._nodes.slots.master_of(key_slot(self._nodes.names.results(uuid)))
            if master in missing:
                missing.remove(master)
                on[master] = _ResultsList(self._nodes, uuid, self._on_results)
                self._lists.append(on[master])
        if masters:
            self._used = {on[master] for master in masters}
            self.conn_uuids = cycle([on[master].conn_uuid for master in masters])
