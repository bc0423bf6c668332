"""Executes commands from outside for the connections of a server: disconnect, unsubscribe, list."""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from heapq import nsmallest
from operator import attrgetter
from typing import NamedTuple

import gevent

from juggler.broker import ServerListener
from juggler.process.logline import Line
from juggler.process.uuids import new_uuid
from juggler.protocol.codec import decode_args
from juggler.protocol.server_commands import (
    ConnectionInfo,
    ServerAnswer,
    ServerCommand,
    canonical,
    canonical_names,
    within_answer,
)
from juggler.protocol.server_status import ServerStatus
from juggler.server.connection import Connection

log = logging.getLogger("juggler.server")

CAPACITY = 10_000
"""Maximum number of commands that wait to be executed."""

REMEMBERED = 10_000
"""Maximum number of disconnected identities that are remembered for clients in their handshake."""

STEP = 100
"""Connections that are processed before other greenlets run."""

HOOK_TIMEOUT = 5.0
"""Seconds in which the caller hook may return the identities of connections that have made no call yet."""

NEXT_TURN = 1e-9
"""Seconds to sleep. After sleep(0), gevent may not look at sockets for long."""

SHOWN = 200
"""Characters of an identity that are logged."""

Answer = Callable[[ServerAnswer], None]


class _Disconnected(NamedTuple):
    at: float
    code: int
    reason: str


class CommandInbox(ServerListener):
    """The commands to one server.

    A command covers clients in their handshake, too: one whose connect hook may have accepted it before the command
    arrived is closed when it is connected.
    """

    def __init__(
        self, connections: Collection[Connection], status: Callable[[str], ServerStatus], handshake_time: float
    ) -> None:
        """Create an inbox.

        Args:
            connections: connections of the server, a live view.
            status: returns the status of the server with an identifier.
            handshake_time: maximum seconds from the beginning of the connect hook until the client is connected.
        """
        self.server_id = ""
        self._connections = connections
        self._status = status
        self._handshake_time = handshake_time
        self._waiting: deque[tuple[ServerCommand, Answer]] = deque()
        self._greenlet: gevent.Greenlet | None = None
        self._disconnected: dict[bytes, _Disconnected] = {}  # by canonical identity, oldest first

    def begin(self) -> None:
        """Choose the identifier. This is not in the constructor because forked processes must not share it."""
        self.server_id = new_uuid()

    def status(self) -> ServerStatus:
        return self._status(self.server_id)

    def on_command(self, command: ServerCommand, answer: Answer) -> None:
        self._remember(command)
        if len(self._waiting) >= CAPACITY:
            answer(ServerAnswer(self.server_id, error=f"{CAPACITY} commands wait to be executed"))
            return
        self._waiting.append((command, answer))
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._run)
            self._greenlet.name = "juggler-commands"

    def execute(self, command: ServerCommand) -> ServerAnswer:
        """Execute a command now. Other greenlets may run meanwhile."""
        self._remember(command)
        return self._execute(command, _Index(self._connections, by_identity=bool(bytes(command.identity))))

    def close(self) -> None:
        """Stop executing. Idempotent."""
        self._waiting.clear()
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill(block=False)

    # Clients in their handshake

    def _remember(self, command: ServerCommand) -> None:
        identity = bytes(command.identity)
        if command.do == "disconnect" and identity:
            now = time.monotonic()
            self._forget(now)
            key = canonical(identity)
            self._disconnected.pop(key, None)  # the latest is the last
            self._disconnected[key] = _Disconnected(now, command.code, command.reason)

    def _forget(self, now: float) -> None:
        known = self._disconnected
        while known:
            key, oldest = next(iter(known.items()))
            if len(known) < REMEMBERED and now - oldest.at < self._handshake_time:
                return
            del known[key]

    def close_if_disconnected(self, connection: Connection) -> None:
        """Close a connection that is new if its identity was disconnected during its handshake."""
        if self._disconnected:
            self._forget(time.monotonic())
        if self._disconnected:
            for name in _names_of(connection):
                found = self._disconnected.get(name)
                if found is not None and found.at >= connection.began:
                    connection.close(found.code, found.reason)

    # Executing

    def _run(self) -> None:
        try:
            while self._waiting:
                batch = list(self._waiting)
                self._waiting.clear()
                self._execute_all(batch)
        finally:
            self._greenlet = None

    def _execute_all(self, batch: list[tuple[ServerCommand, Answer]]) -> None:
        index: _Index | None = None
        for command, answer in batch:
            try:
                if index is None:
                    # One for all: 10,000 commands must not search 10,000 connections each.
                    index = _Index(self._connections, by_identity=any(bytes(each.identity) for each, _ in batch))
                found = self._execute(command, index)
            except (Exception, SystemExit):
                log.exception(Line("server: command failed", do=command.do))
                found = ServerAnswer(self.server_id, error="internal error")
            answer(found)
            gevent.sleep(NEXT_TURN)

    def _execute(self, command: ServerCommand, index: _Index) -> ServerAnswer:
        # What is known is processed nevertheless.
        error = _unknown(index.unknown) if bytes(command.identity) else ""
        found = [each for each in index.find(command) if each.websocket.close_code is None]
        if command.do == "connections":
            oldest = nsmallest(command.limit, found, key=attrgetter("began"))
            listed: list[ConnectionInfo] = []
            with suppress(gevent.Timeout), gevent.Timeout(HOOK_TIMEOUT):
                listed = within_answer(map(_info, oldest), command.limit)
            return ServerAnswer(self.server_id, len(found), listed, error or _unknown(0 if listed else len(oldest)))
        act = _disconnect if command.do == "disconnect" else _unsubscribe
        count = sum(act(each, command) for each in _in_steps(found))
        if count:
            of = command.connection or bytes(command.identity).decode(errors="replace")[:SHOWN]
            log.info(Line("server: command executed", do=command.do, of=of, connections=count))
        return ServerAnswer(self.server_id, count, error=error)


def _unknown(count: int) -> str:
    return f"the caller hook has not returned the identities of {count} connections in time" if count else ""


class _Index:
    """Finds the connections of a command.

    Attributes:
        unknown: connections whose identity is not known.
    """

    def __init__(self, connections: Collection[Connection], *, by_identity: bool) -> None:
        self.unknown = 0
        self._all = list(connections)
        self._by_id = {connection.uuid: connection for connection in self._all}
        self._by_identity: defaultdict[bytes, list[Connection]] = defaultdict(list)
        if by_identity:
            self._add_identities()

    def _add_identities(self) -> None:
        unknown = []
        for connection in _in_steps(self._all):
            if connection.by is None:
                unknown.append(connection)
            else:
                self._add_identity(connection)
        self.unknown = len(unknown)
        # It may also be a timeout of the hook's own.
        with suppress(gevent.Timeout), gevent.Timeout(HOOK_TIMEOUT):
            for connection in _in_steps(unknown):
                self._add_identity(connection)
                self.unknown -= 1

    def _add_identity(self, connection: Connection) -> None:
        for name in _names_of(connection):
            self._by_identity[name].append(connection)

    def find(self, command: ServerCommand) -> list[Connection]:
        identity = bytes(command.identity)
        if identity:
            return self._by_identity.get(canonical(identity), [])
        if command.connection:
            connection = self._by_id.get(command.connection.lower())
            return [] if connection is None else [connection]
        return self._all


def _in_steps(connections: Iterable[Connection]) -> Iterable[Connection]:
    for number, connection in enumerate(connections, 1):
        yield connection
        if number % STEP == 0:
            gevent.sleep(NEXT_TURN)


def _names_of(connection: Connection) -> Iterable[bytes]:
    """Return the canonical forms of its caller identity; none without one, or if the caller hook fails."""
    by = _known(connection)
    return canonical_names(by) if by else ()


def _known(connection: Connection) -> bytes:
    """Return the caller identity as JSON text; empty without one, or if the caller hook fails."""
    by = connection.by
    if by is None:
        try:
            by = connection.identify()
        except (Exception, SystemExit) as error:
            log.warning(Line("server: caller hook failed", error=error), extra={"connection": connection.uuid})
            return b""
    return by


def _disconnect(connection: Connection, command: ServerCommand) -> bool:
    if connection.websocket.close_code is not None:
        return False
    connection.close(command.code, command.reason)
    return True


def _unsubscribe(connection: Connection, command: ServerCommand) -> bool:
    if connection.websocket.close_code is not None:
        return False
    return connection.end_subscription(command.channel, command.pattern, command.code, command.reason)


def _info(connection: Connection) -> ConnectionInfo:
    by = _known(connection)
    return ConnectionInfo(
        id=connection.uuid,
        identity=decode_args(by) if by else None,
        address=connection.address,
        since=round(time.time() - (time.monotonic() - connection.began), 3),
        subprotocol=connection.subprotocol or "",
        calls=connection.calls_in_flight,
        subscriptions=connection.pubsub_broker.subscription_count(connection),
    )
