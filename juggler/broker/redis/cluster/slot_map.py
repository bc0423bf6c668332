"""Which master of a Redis Cluster has which slot. The map is refreshed whenever it turns out to be wrong."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import gevent
import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from juggler.broker.redis.cluster.slot_ranges import Address, SlotRange, parse_slots
from juggler.broker.redis.connector import Connector
from juggler.broker.redis.persistent_connection import Closed
from juggler.broker.redis.replies import REFUSALS, Reply
from juggler.errors import BrokerUnavailable
from juggler.process.address import parse_address
from juggler.process.logline import Line

__all__ = ["Address", "Redirection", "SlotMap", "key_slot", "redirection"]

log = logging.getLogger("juggler.redis")

REFRESH_INTERVAL = 0.1
"""Minimum number of seconds between two refreshes."""

ASK_TIMEOUT = 1.0
"""Seconds for each node to reply before the next one is asked."""


class Redirection(NamedTuple):
    """The node to send a command to, from the error of a node that has not executed it.

    Attributes:
        slot: slot of the command's keys.
        address: the node.
        asking: whether the slot is being migrated. Then the redirection is for this command only, after ``ASKING``.
    """

    slot: int
    address: Address
    asking: bool


def redirection(reply: Reply, asked: Address) -> Redirection | None:
    """Return the redirection in an error reply of the node ``asked``, or ``None``."""
    kind, _, rest = str(reply).partition(" ")
    if kind not in ("MOVED", "ASK"):
        return None
    slot, _, place = rest.partition(" ")
    host, port = parse_address(place)
    return Redirection(int(slot), (host or asked[0], port), kind == "ASK")


class SlotMap:
    """The map, and a greenlet that refreshes it on demand. Greenlets may share it.

    Until the map is loaded, all slots lead to the first seed, which redirects.

    Attributes:
        seeds: some nodes of the cluster.
        masters: the nodes that have slots.
        nodes: the masters and their replicas.
        on_change: called after each refresh, in its greenlet.
    """

    def __init__(self, seeds: Sequence[Address], connector_to: Callable[[Address], Connector]) -> None:
        """Create an empty map.

        Args:
            seeds: some nodes of the cluster.
            connector_to: returns the connector of a node.
        """
        self.masters: tuple[Address, ...] = ()
        self.nodes: frozenset[Address] = frozenset()
        self.on_change: list[Callable[[], None]] = []
        self.seeds = tuple(seeds)
        self._slots: list[Address] = [self.seeds[0]] * REDIS_CLUSTER_HASH_SLOTS
        self._connector_to = connector_to
        self._refreshed = 0.0
        self._wanted = False
        self._greenlet: gevent.Greenlet | None = None
        self._closed = False

    def master_of(self, slot: int) -> Address:
        """Return the master of a slot."""
        return self._slots[slot]

    def learn(self, redirection: Redirection) -> None:
        """Update a slot that has moved, and refresh the map."""
        self._slots[redirection.slot] = redirection.address
        self.refresh()

    def refresh(self) -> None:
        """Refresh the map soon; requests made in the meantime are joined."""
        self._wanted = True
        if self._greenlet is None and not self._closed:
            self._greenlet = gevent.spawn(self._refresh)
            self._greenlet.name = "juggler-redis-slots"

    def load(self) -> None:
        """Load the map now.

        Raises:
            BrokerUnavailable: no node has returned one.
            redis.RedisError: one of `REFUSALS`.
        """
        self._refreshed = time.monotonic()
        ranges = self._ask_any()
        if not ranges:
            raise BrokerUnavailable("the Redis Cluster has no slots assigned")
        self.masters = tuple(sorted({each.master for each in ranges}))
        self.nodes = frozenset(self.masters).union(*(each.replicas for each in ranges))
        for start, end, master, _ in ranges:
            self._slots[start : end + 1] = [master] * (end + 1 - start)
        for on_change in tuple(self.on_change):
            on_change()

    def close(self) -> None:
        """Stop refreshing. Idempotent."""
        self._closed = True
        self.on_change.clear()
        if self._greenlet is not None and self._greenlet is not gevent.getcurrent():
            self._greenlet.kill(Closed)

    def _refresh(self) -> None:
        try:
            with suppress(Closed):
                while self._wanted and not self._closed:
                    gevent.sleep(max(0.0, self._refreshed + REFRESH_INTERVAL - time.monotonic()))
                    self._wanted = False
                    self._load_or_log()
        finally:
            self._greenlet = None

    def _load_or_log(self) -> None:
        try:
            self.load()
        except (BrokerUnavailable, redis.RedisError) as error:
            if self._closed:
                return
            log.warning(Line("redis: refreshing the slot map failed", error=error))

    def _ask_any(self) -> list[SlotRange]:
        failure: Exception | None = None
        for address in self._candidates():
            try:
                return self._ask(address)
            except REFUSALS:
                raise
            except (redis.RedisError, OSError) as error:
                failure = error
            if self._closed:
                break
        raise BrokerUnavailable(f"no node of the Redis Cluster is reachable: {failure}")

    def _candidates(self) -> Iterator[Address]:
        """Yield each known node once. The seeds come last, since they may have left the cluster."""
        known = list(self.nodes)
        random.shuffle(known)
        yield from dict.fromkeys((*known, *self.seeds))

    def _ask(self, address: Address) -> list[SlotRange]:
        # An OSError, so that redis-py closes a socket that is being connected.
        with gevent.Timeout(ASK_TIMEOUT, TimeoutError(f"{address[0]}:{address[1]} does not reply")):
            connection, _ = self._connector_to(address)()
            try:
                connection.send_command("CLUSTER", "SLOTS")
                reply = connection.read_response()
            finally:
                connection.disconnect()
        return parse_slots(reply, address[0])
