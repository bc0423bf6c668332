"""`Router`: send each command to the server that has its key, and again if that server has not executed it.

No I/O: see `juggler.backend.steps`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import redis
from redis.crc import key_slot

from juggler.backend.steps import Address, Pause, Reconnect, Send, Steps
from juggler.broker.redis import commands
from juggler.broker.redis.cluster.slot_ranges import parse_slots
from juggler.broker.redis.replies import OTHER_NODE, REFUSALS
from juggler.broker.redis.url import RedisUrl
from juggler.errors import BrokerError, BrokerUnavailable, OutcomeUnknown

Reply: TypeAlias = Any
"""A reply as redis-py parses it; an error is a `BrokerError`."""

PATIENCE = 2.0
"""Seconds for which commands are sent again that a server has not executed: a failover, or a cluster that changes."""

PAUSE = 0.1
"""Seconds between two attempts."""

_NOT_MASTER = (redis.exceptions.ReadOnlyError, redis.exceptions.MasterDownError, redis.exceptions.BusyLoadingError)
_NOT_EXECUTED = (*OTHER_NODE, *_NOT_MASTER)
_TEMPORARY = ("BUSY ", "MISCONF ", "NOREPLICAS ", "UNBLOCKED ")


class Router:
    """Finds the server of each key: the only one, the current master, or a node of a cluster. Threads may share it."""

    def __init__(self, url: RedisUrl, clock: Callable[[], float]) -> None:
        self._seeds = url.hosts if url.kind == "cluster" else ()
        self._clock = clock
        self._masters: dict[int, Address] = {}  # by slot
        self._is_stale = True

    @property
    def is_cluster(self) -> bool:
        """Whether keys have slots on several nodes."""
        return bool(self._seeds)

    def execute(self, key: bytes, *command: bytes | str | int) -> Steps[Reply]:
        """Send one command. Raises as `gather`, and the error if the reply is one."""
        (reply,) = yield from self.gather(key, [commands.pack(*command)])
        if isinstance(reply, BrokerError):
            raise reply
        return reply

    def gather(self, key: bytes, packed: Sequence[bytes], waits: bool = False) -> Steps[list[Reply]]:
        """Send commands, and return their replies. Commands that were not executed are sent again.

        Args:
            key: a key in the slot of all commands. Any, for commands without a key.
            packed: the commands.
            waits: whether one of them blocks until there is a result.

        Raises:
            BrokerUnavailable: there is no connection; nothing was executed.
            OutcomeUnknown: the connection was lost before all replies.
        """
        replies: list[Reply] = [None] * len(packed)
        left = list(range(len(packed)))
        until = self._clock() + PATIENCE
        asked: Address | None = None
        while left:
            address, is_asking = (asked, True) if asked else ((yield from self._master_of(key)), False)
            asked = None
            sent = [part for at in left for part in ((commands.ASKING, packed[at]) if is_asking else (packed[at],))]
            try:
                received = yield Send(sent, address, waits)
            except OutcomeUnknown:
                self._is_stale = True
                raise
            except BrokerUnavailable:
                self._is_stale = True
                if not self.is_cluster or self._clock() >= until:
                    raise
                yield Pause(PAUSE)
                continue
            for at, reply in zip(left, received[1::2] if is_asking else received, strict=True):
                replies[at] = reply
            left = [at for at in left if isinstance(replies[at], _NOT_EXECUTED)]
            if not left or self._clock() >= until:
                break
            asked = yield from self._adapt(key, address, replies[left[0]])
        return [self._converted(reply) for reply in replies]

    def _adapt(self, key: bytes, address: Address | None, error: redis.RedisError) -> Steps[Address | None]:
        """Learn from the error of a server that has executed nothing. Return the node to ask this time only."""
        if isinstance(error, redis.exceptions.AskError) and address is not None:
            target = error.host or address[0], error.port
            if not isinstance(error, redis.exceptions.MovedError):
                return target
            self._is_stale = True
            self._masters[key_slot(key)] = target
            return None
        self._is_stale = True
        yield Reconnect(address)
        yield Pause(PAUSE)
        return None

    def _master_of(self, key: bytes) -> Steps[Address | None]:
        if not self._seeds:
            return None
        if self._is_stale:
            yield from self._refresh()
        master = self._masters.get(key_slot(key))
        if master is None:
            raise BrokerUnavailable("no node of the Redis Cluster has the slot of a key")
        return master

    def _refresh(self) -> Steps[None]:
        """Load the slots of the cluster from any node."""
        failure: object = "none is known"
        for address in dict.fromkeys((*self._masters.values(), *self._seeds)):
            try:
                (reply,) = yield Send([commands.pack(b"CLUSTER", b"SLOTS")], address)
            except BrokerUnavailable as error:
                failure = error
                continue
            if not isinstance(reply, Exception):
                self._is_stale = False
                for each in parse_slots(reply, address[0]):
                    self._masters.update(dict.fromkeys(range(each.start, each.end + 1), each.master))
                return
            failure = reply
        raise BrokerUnavailable("no node of the Redis Cluster is reachable", detail=str(failure))

    def _converted(self, reply: Any) -> Reply:
        """Convert an error reply to a `BrokerError`."""
        if not isinstance(reply, redis.RedisError) or isinstance(reply, redis.exceptions.NoScriptError):
            return reply
        is_temporary = isinstance(reply, (*_NOT_EXECUTED, redis.exceptions.OutOfMemoryError)) or (
            str(reply).startswith(_TEMPORARY)
        )
        if isinstance(reply, REFUSALS):
            return BrokerError("the Redis user lacks a permission", detail=str(reply))
        return (BrokerUnavailable if is_temporary else BrokerError)("Redis refused the request", detail=str(reply))


def is_unknown_script(reply: Reply) -> bool:
    """Return whether the server does not know the hash of a script."""
    return isinstance(reply, redis.exceptions.NoScriptError)
