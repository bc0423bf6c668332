"""All server processes, as one broker sees them: those of its own process, and commands to all that live."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import gevent
import msgspec

from juggler.broker import ServerListener
from juggler.broker.redis.commands import pack, push_control
from juggler.broker.redis.keys import Names
from juggler.broker.redis.link import execute_each, gather
from juggler.broker.redis.persistent_connection import PersistentConnection
from juggler.broker.redis.replies import Reply, as_error, ignore, ignore_all
from juggler.broker.redis.server_presence import ServerPresence
from juggler.broker.redis.topology import Topology
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerUnavailable
from juggler.process.uuids import new_uuid
from juggler.protocol.server_commands import CommandOutcome, ServerCommand, encode_command, outcome
from juggler.protocol.server_status import ServerStatus, decode_statuses

MINIMUM = 0.1
"""Seconds to wait for Redis, at least."""

FIRST_PAUSE, LONGEST_PAUSE = 0.002, 0.05
"""Seconds between two checks for answers."""


class Servers:
    """Announces servers of this process, and sends commands to all. Only `statuses` and `command` block."""

    def __init__(self, names: Names, topology: Topology, watchdog: Watchdog) -> None:
        self._names = names
        self._topology = topology
        self._watchdog = watchdog
        self._present: dict[str, ServerPresence] = {}

    def attend(self, listener: ServerListener) -> None:
        """See `juggler.broker.CallerBroker.attend`."""
        if listener.server_id not in self._present:
            self._present[listener.server_id] = ServerPresence(
                listener, self._names, self._topology, self._watchdog, self._prune
            )

    def leave(self, server_id: str) -> None:
        """See `juggler.broker.CallerBroker.leave`."""
        presence = self._present.pop(server_id, None)
        if presence is not None:
            presence.close()

    def close(self) -> None:
        """Withdraw all servers of this process. Idempotent."""
        for server_id in list(self._present):
            self.leave(server_id)

    def connections(self) -> list[PersistentConnection]:
        """Return the connections that read commands."""
        return [presence.connection for presence in self._present.values()]

    def statuses(self, timeout: float) -> list[ServerStatus]:
        """See `juggler.broker.CallerBroker.servers`."""
        return decode_statuses(self._living(time.monotonic() + timeout))

    def command(self, command: ServerCommand, timeout: float) -> CommandOutcome:
        """See `juggler.broker.CallerBroker.command`."""
        deadline = time.monotonic() + timeout
        ids = list(self._living(deadline))
        if not ids:
            return CommandOutcome()
        replies = new_uuid()
        text = encode_command(msgspec.structs.replace(command, reply=replies))
        for server_id in ids:
            self._push(self._names.control(server_id), text)
        key = self._names.replies(replies)
        self._await_answers(key, len(ids), deadline)
        (texts,) = execute_each(self._topology.link_for, [(key, pack(b"LRANGE", key, 0, -1))], 1.0)
        with suppress(BrokerUnavailable):
            self._topology.link_for(key).send(pack(b"DEL", key), (ignore,))
        return outcome(ids, texts if isinstance(texts, list) else (), command.limit)

    def _push(self, key: bytes, text: bytes) -> None:
        with suppress(BrokerUnavailable):  # its answer will be missing
            self._topology.link_for(key).gather(push_control(key, text), ignore_all)

    def _await_answers(self, key: bytes, count: int, deadline: float) -> None:
        pause = FIRST_PAUSE
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            (length,) = execute_each(self._topology.link_for, [(key, pack(b"LLEN", key))], left)
            if isinstance(length, int) and length >= count:
                return
            gevent.sleep(min(pause, max(0.0, deadline - time.monotonic())))
            pause = min(LONGEST_PAUSE, 1.5 * pause)

    # Which servers live

    def _living(self, deadline: float) -> dict[str, bytes]:
        """Return the description of each living server by its identifier. Remove those that have gone.

        Raises:
            BrokerError: it is not known now.
        """
        servers = self._names.servers
        (members,) = self._execute([(servers, pack(b"SMEMBERS", servers))], deadline)
        ids = _texts(members)
        texts = self._execute([(key, pack(b"MGET", key)) for key in map(self._names.server, ids)], deadline)
        found = {}
        for server_id, text in zip(ids, texts, strict=True):
            if not isinstance(text, list):
                raise as_error(text)
            found[server_id] = text[0]
        self._remove_gone(found)
        return {server_id: text for server_id, text in found.items() if text is not None}

    def _execute(self, commands: Sequence[tuple[bytes, bytes]], deadline: float) -> list[Reply]:
        return execute_each(self._topology.link_for, commands, max(MINIMUM, deadline - time.monotonic()))

    def _prune(self) -> None:
        """Remove servers that were killed."""

        def on_members(replies: list[Reply]) -> None:
            if not isinstance(replies[0], list):
                return
            ids = _texts(replies[0])
            commands = [(key, pack(b"MGET", key)) for key in map(self._names.server, ids)]

            def on_texts(texts: list[Reply]) -> None:
                self._remove_gone({id: text[0] for id, text in zip(ids, texts, strict=True) if isinstance(text, list)})

            gather(self._topology.link_for, commands, on_texts)

        gather(self._topology.link_for, [(self._names.servers, pack(b"SMEMBERS", self._names.servers))], on_members)

    def _remove_gone(self, found: Mapping[str, bytes | None]) -> None:
        gone = [server_id for server_id, text in found.items() if text is None]
        if gone:
            servers = self._names.servers
            with suppress(BrokerUnavailable):
                self._topology.link_for(servers).send(pack(b"SREM", servers, *gone), (ignore,))


def _texts(members: Reply) -> list[str]:
    if not isinstance(members, list):
        raise as_error(members)
    return [member.decode(errors="replace") for member in members]
