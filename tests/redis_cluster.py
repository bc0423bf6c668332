"""A real Redis Cluster on loopback, formed without redis-cli, to be resharded and to lose a master."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack, suppress
from typing import Any

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from juggler.errors import ConfigError
from juggler.process.embedded import HOST, EmbeddedRedis, bundled_server, free_port
from tests.support import eventually

NODE_TIMEOUT_MS = 800

PORT_ATTEMPTS = 5
"""Attempts to start a server on ports that are free."""


class Node:
    """One server of a cluster."""

    def __init__(self, server: EmbeddedRedis, port: int) -> None:
        self.server = server
        self.port = port
        self._is_running = True
        self.id = self.run("CLUSTER", "MYID").decode()

    def run(self, *command: Any) -> Any:
        """Run one command on a connection of its own, and return the raw reply."""
        connection = redis.Connection(host=HOST, port=self.port, socket_timeout=5, protocol=2)
        try:
            connection.send_command(*command)
            return connection.read_response()
        finally:
            connection.disconnect()

    def info(self) -> dict[str, str]:
        """Return the reply to ``CLUSTER INFO``."""
        lines = self.run("CLUSTER", "INFO").decode().split("\r\n")
        return dict(line.split(":", 1) for line in lines if line)

    def is_running(self) -> bool:
        """Return whether its process has not exited."""
        return self._is_running

    def kill(self) -> None:
        """Kill the process."""
        self._is_running = False
        os.kill(self.server.pid, signal.SIGKILL)
        self.server.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal: ``SIGSTOP`` suspends the server, ``SIGCONT`` resumes it."""
        os.kill(self.server.pid, number)


class RedisCluster:
    """``masters`` with an equal share of the slots each, and one replica for each of the first ``replicas`` of them."""

    def __init__(self, masters: int = 3, replicas: int = 0) -> None:
        self._stack = ExitStack()
        try:
            self.masters = [self._start() for _ in range(masters)]
            self.replicas = [self._start() for _ in range(replicas)]
            self._form()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> Node:
        for _ in range(PORT_ATTEMPTS - 1):
            with suppress(ConfigError):  # another process has taken the port in the meantime
                return self._start_on(free_port(), free_port())
        return self._start_on(free_port(), free_port())

    def _start_on(self, port: int, cluster_port: int) -> Node:
        options = (
            *("--port", str(port), "--bind", HOST),
            *("--cluster-enabled", "yes", "--cluster-port", str(cluster_port)),
            *("--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--cluster-replica-validity-factor", "0"),
            *("--repl-diskless-sync-delay", "0", "--save", ""),
        )
        return Node(self._stack.enter_context(EmbeddedRedis(bundled_server(), options=options)), port)

    def _form(self) -> None:
        nodes = [*self.masters, *self.replicas]
        bounds = [n * REDIS_CLUSTER_HASH_SLOTS // len(self.masters) for n in range(len(self.masters) + 1)]
        for number, (node, start, end) in enumerate(zip(self.masters, bounds, bounds[1:], strict=False)):
            node.run("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            node.run("CLUSTER", "ADDSLOTSRANGE", start, end - 1)
        for node in nodes[1:]:
            self._meet(node)
        eventually(lambda: all(self._knows(node, nodes) for node in nodes))
        for master, replica in zip(self.masters, self.replicas, strict=False):
            replica.run("CLUSTER", "REPLICATE", master.id)
        eventually(lambda: all(node.info()["cluster_state"] == "ok" for node in nodes))
        eventually(lambda: all(b"master_link_status:up" in node.run("INFO", "replication") for node in self.replicas))

    def _meet(self, node: Node) -> None:
        first = self.masters[0]
        bus = first.run("CONFIG", "GET", "cluster-port")[1]
        node.run("CLUSTER", "MEET", HOST, first.port, bus)

    @staticmethod
    def _knows(node: Node, nodes: list[Node]) -> bool:
        known = node.run("CLUSTER", "NODES").decode()
        return all(other.id in known for other in nodes) and "handshake" not in known

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"{HOST}:{node.port}" for node in self.masters)

    def stop(self) -> None:
        self._stack.close()

    # Changes by tests

    def add_master(self) -> Node:
        """Start one more master, without slots."""
        node = self._start()
        self.masters.append(node)
        self._meet(node)
        eventually(lambda: all(self._knows(each, self.masters) for each in self.masters))
        return node

    def master_of(self, key: bytes) -> Node:
        """Return the master of a key's slot."""
        return self._owner(key_slot(key))

    def _owner(self, slot: int) -> Node:
        for node in [*self.masters, *self.replicas]:
            if node.is_running():
                for start, end, (_, port, *_), *_ in node.run("CLUSTER", "SLOTS"):
                    if start <= slot <= end:
                        return next(n for n in [*self.masters, *self.replicas] if n.port == port)
        raise AssertionError(f"no node has slot {slot}")

    def begin_move(self, key: bytes, target: Node) -> tuple[Node, int]:
        """Start migrating a key's slot: from now on the source redirects commands on missing keys to the target."""
        slot = key_slot(key)
        source = self._owner(slot)
        target.run("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.run("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        return source, slot

    def end_move(self, source: Node, slot: int, target: Node) -> None:
        """Migrate the remaining keys and assign the slot to the target."""
        while keys := source.run("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.run("MIGRATE", HOST, target.port, "", 0, 1000, "KEYS", *keys)
        # All nodes must know before the next move: two nodes that take each other for the owner would never agree.
        for node in (target, source, *self.masters):
            node.run("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def move(self, key: bytes, target: Node) -> None:
        """Reshard: move a key's slot to another master."""
        source, slot = self.begin_move(key, target)
        self.end_move(source, slot, target)

    def keys(self) -> list[bytes]:
        return [key for node in self.masters for key in node.run("KEYS", "*")]

    def ttls(self) -> dict[bytes, int]:
        """Return the remaining milliseconds of each key."""
        return {key: node.run("PTTL", key) for node in self.masters for key in node.run("KEYS", "*")}

    def settle(self) -> None:
        """Wait until all publications have reached all nodes: they are passed on from node to node."""
        listeners = [redis.Redis(host=HOST, port=node.port, protocol=2) for node in self.masters]
        with ExitStack() as stack:
            pubsubs = [stack.enter_context(stack.enter_context(listener).pubsub()) for listener in listeners]
            for pubsub in pubsubs:
                pubsub.subscribe("settled")
                pubsub.get_message(timeout=30)
            for node in self.masters:
                node.run("PUBLISH", "settled", "")
            for pubsub in pubsubs * len(self.masters):
                assert pubsub.get_message(timeout=30)

    def flush(self) -> None:
        for node in self.masters:
            node.run("FLUSHALL")
