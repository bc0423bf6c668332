"""A server process in Redis: it shows that it is alive, reads commands from its control list, and answers them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import hiredis

from juggler.broker import ServerListener
from juggler.broker.redis.commands import pack
from juggler.broker.redis.keys import Names
from juggler.broker.redis.persistent_connection import PersistentConnection
from juggler.broker.redis.replies import Reply, ignore, is_unsettled
from juggler.broker.redis.topology import Topology
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerUnavailable, InvalidMessage
from juggler.process.logline import Line
from juggler.protocol.server_commands import ServerAnswer, decode_command, encode_answer
from juggler.protocol.server_status import encode_status

log = logging.getLogger("juggler.redis")

ALIVE_MS = 5_000
"""Milliseconds after which a server process that is silent counts as gone."""

REPLIES_TTL_MS = 10_000
"""Milliseconds for which a list of answers lives after an answer."""

MAX_REPLIES = 10_000
"""Maximum number of answers to a command."""

PRUNE_AFTER = ALIVE_MS // 1000 + 1
"""Seconds after which a server removes those that were killed before it started."""


class ServerPresence:
    """Keeps the key of a server alive and passes commands to its listener, until `close`."""

    def __init__(
        self,
        listener: ServerListener,
        names: Names,
        topology: Topology,
        watchdog: Watchdog,
        prune: Callable[[], None],
    ) -> None:
        """Begin.

        Args:
            listener: executes the commands.
            names: names of the keys.
            topology: the broker's topology.
            watchdog: the broker's watchdog.
            prune: called once, a few seconds later.
        """
        self._listener = listener
        self._names = names
        self._topology = topology
        self._watchdog = watchdog
        self._prune = prune
        self._id = listener.server_id
        self._key = names.server(self._id)
        self._closed = False
        self._refused = False
        self._rounds = 0
        self._keep_alive(0.0)
        watchdog.add(self._keep_alive)
        topology.on_up(self._announce)
        self._reader = topology.make_list_reader("control", names.control(self._id), self._on_commands)

    @property
    def connection(self) -> PersistentConnection:
        """The connection that reads commands."""
        return self._reader.connection

    def close(self) -> None:
        """Stop reading and delete the keys. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._watchdog.remove(self._keep_alive)
        self._reader.close()
        control, servers = self._names.control(self._id), self._names.servers
        for key, command in (
            (self._key, pack(b"DEL", self._key)),
            (control, pack(b"DEL", control)),
            (servers, pack(b"SREM", servers, self._id)),
        ):
            with suppress(BrokerUnavailable):
                self._topology.link_for(key).send(command, (ignore,))

    def _keep_alive(self, elapsed: float) -> None:
        self._announce()
        self._rounds += 1
        if self._rounds == PRUNE_AFTER + 1:
            self._prune()

    def _announce(self) -> None:
        if self._closed:
            return
        servers = self._names.servers
        status = encode_status(self._listener.status())
        with suppress(BrokerUnavailable):
            self._topology.link_for(self._key).send(
                pack(b"SET", self._key, status, b"PX", ALIVE_MS), (self._on_written,)
            )
            self._topology.link_for(servers).gather(
                [pack(b"SADD", servers, self._id), pack(b"PEXPIRE", servers, ALIVE_MS)], self._on_all_written
            )

    def _on_all_written(self, replies: list[Reply]) -> None:
        for reply in replies:
            self._on_written(reply)

    def _on_written(self, reply: Reply) -> None:
        if isinstance(reply, hiredis.ReplyError) and not is_unsettled(reply) and not self._refused:
            # Log once: a missing permission will be missing the next time as well.
            self._refused = True
            log.warning(Line("redis: announcing the server failed", error=reply, see="docs/redis.md"))

    def _on_commands(self, batch: list[bytes]) -> None:
        malformed = []
        for text in batch:
            try:
                command = decode_command(text)
            except InvalidMessage as error:
                malformed.append(error)
                continue
            self._listener.on_command(command, partial(self._answer, command.reply))
        if malformed:
            log.warning(Line("redis: commands to the server ignored", count=len(malformed), first=malformed[0]))

    def _answer(self, reply: str, answer: ServerAnswer) -> None:
        if not reply or self._closed:
            return
        key = self._names.replies(reply)
        with suppress(BrokerUnavailable):  # the asker counts the servers that have answered
            self._topology.link_for(key).send(
                pack(b"LPUSH", key, encode_answer(answer))
                + pack(b"PEXPIRE", key, REPLIES_TTL_MS)
                + pack(b"LTRIM", key, 0, MAX_REPLIES - 1),
                (self._on_written, ignore, ignore),
            )
