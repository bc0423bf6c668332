"""Links: commands with one reply each, pipelined by many greenlets on one connection."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias

import hiredis
from gevent.event import AsyncResult, Event
from msgspec import Struct

from juggler.broker.redis.commands import PING, pack
from juggler.broker.redis.commands import prolong as pack_prolong
from juggler.broker.redis.commands import push as pack_push
from juggler.broker.redis.connector import Connector
from juggler.broker.redis.persistent_connection import PersistentConnection, ReplyHandler
from juggler.broker.redis.replies import (
    OnReplies,
    OnReply,
    Reply,
    as_error,
    ignore,
    is_not_master,
    is_temporary,
    is_unsettled,
    lacks_replicas,
)
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerUnavailable, OutcomeUnknown

OnProlonged: TypeAlias = Callable[[bytes, Reply], None]

_JOINED_BYTES = 64 * 1024  # payloads pushed together, after which they are handed to the connection


class Pushed(Protocol):
    """A payload that is pushed to a list.

    Attributes:
        payload: the payload.
    """

    payload: bytes

    def on_length(self, length: Reply) -> None:
        """Called once with the length of the list after the push, or an error as `Link.send` reports it."""


class _Pushes(Struct, gc=False):
    """What is pushed to a list in one turn of the loop."""

    list_key: bytes
    ttl_ms: int
    prolonged: OnProlonged
    pushed: list[Pushed]

    def on_length(self, reply: Reply) -> None:
        if type(reply) is not int:
            for each in self.pushed:
                each.on_length(reply)
            return
        length = reply - len(self.pushed)
        for each in self.pushed:
            length += 1
            each.on_length(length)

    def on_prolonged(self, reply: Reply) -> None:
        self.prolonged(self.list_key, reply)

    def fail(self, error: BrokerUnavailable) -> None:
        self.on_length(error)
        self.on_prolonged(error)


class Link(ReplyHandler):
    """Matches replies to commands in their order. A connection to a server that is not the master is replaced.

    Attributes:
        connection: the connection.
        blocking_timeout: seconds for which commands may block in Redis.
        supports_redis7: whether the server is Redis 7 or later; ``None`` before the first connection.
        up_listeners: called whenever a connection is up; they must not block.
        lost_listeners: called whenever a connection, or the first attempt, has failed; they must not block.
    """

    def __init__(self, name: str, connector: Connector, watchdog: Watchdog, *, blocking_timeout: float = 0.0) -> None:
        """Create an unconnected link; see `PersistentConnection`."""
        self.connection = PersistentConnection(name, connector, watchdog, self, blocking_timeout=blocking_timeout)
        self.blocking_timeout = blocking_timeout
        self.supports_redis7: bool | None = None
        self.up_listeners: list[Callable[[], None]] = []
        self.lost_listeners: list[Callable[[], None]] = []
        self._waiting: deque[OnReply] = deque()
        self._deferred: list[tuple[Callable[[], None], OnReply]] = []
        self._pushes: dict[bytes, _Pushes] = {}  # of this turn, by list
        self._size = 0  # bytes of their payloads
        self._may_have_sent = False

    def start(self) -> None:
        """Connect in the background. Idempotent."""
        self.connection.start()

    def close(self) -> None:
        """Close the connection; what is in flight fails. Idempotent."""
        self.connection.close()

    # Sending

    def send(self, packed: bytes, on_replies: Iterable[OnReply]) -> None:
        """Send packed commands. Each of ``on_replies`` is called with the reply to one, in order.

        An error reply is a `hiredis.ReplyError`, the loss of the connection an `OutcomeUnknown`, and the failure of the
        first attempt to connect a `BrokerUnavailable`.

        Raises:
            BrokerUnavailable: see `PersistentConnection.write`; ``on_replies`` are not called.
        """
        # Commands are sent in the order of the calls.
        if self._deferred:
            on_replies = tuple(on_replies)
            self._deferred.append((partial(self.send, packed, on_replies), partial(_tell_all, on_replies)))
            return
        if self._pushes:
            self.before_send()
        self._transmit(packed, on_replies)

    def _transmit(self, packed: bytes, on_replies: Iterable[OnReply]) -> None:
        """Hand packed commands to the connection. Links that send some of them once more override this."""
        self.connection.write(packed)
        self._waiting.extend(on_replies)

    def push(
        self, list_key: bytes, pushed: Pushed, ttl_ms: int, on_prolonged: OnProlonged, before: bytes = b""
    ) -> None:
        """Push a payload to a list, in one command with all others of this turn, and prolong the list.

        The list then lives for the longest ``ttl_ms`` of the turn, or longer. It is deleted when it has been emptied.

        Args:
            list_key: key of the list.
            pushed: the payload.
            ttl_ms: milliseconds.
            on_prolonged: called with the key and the reply, or an error as `send` reports it.
            before: a packed command to be executed before; its reply is ignored.

        Raises:
            BrokerUnavailable: as `send`; nothing is called.
        """
        pushes = self._pushes.get(list_key)
        if before or pushes is None:
            self.connection.write(before)  # what is put next to it is sent in this turn, too
        if before:
            self._waiting.append(ignore)
        if pushes is None:
            pushes = self._pushes[list_key] = _Pushes(list_key, ttl_ms, on_prolonged, [])
        elif ttl_ms > pushes.ttl_ms:
            pushes.ttl_ms = ttl_ms
        pushes.pushed.append(pushed)
        self._size += len(pushed.payload)
        if self._size > _JOINED_BYTES:
            self.before_send()

    def gather(self, commands: Sequence[bytes], on_replies: OnReplies) -> None:
        """Send packed commands, at least one, and call ``on_replies`` once with all replies, in order.

        Raises:
            BrokerUnavailable: as `send`; ``on_replies`` is not called.
        """
        replies: list[Reply] = []

        def on_last(reply: Reply) -> None:
            replies.append(reply)
            on_replies(replies)

        self.send(b"".join(commands), (*[replies.append] * (len(commands) - 1), on_last))

    def execute_all(self, commands: Sequence[bytes]) -> list[Reply]:
        """Send packed commands, at least one, and wait for their replies.

        Raises:
            BrokerUnavailable: as `send`.
        """
        result: AsyncResult = AsyncResult()
        self.gather(commands, result.set)
        replies: list[Reply] = result.get()
        return replies

    def execute(self, *command: Any) -> Reply:
        """Send one command and wait for its reply.

        Raises:
            BrokerUnavailable: there is no connection, or it was lost.
            BrokerError: Redis replied with an error.
        """
        (reply,) = self.execute_all([pack(*command)])
        if isinstance(reply, Exception):
            raise as_error(reply)
        return reply

    def when_version_known(self, function: Callable[[], None], on_error: OnReply) -> None:
        """Call ``function`` as soon as `supports_redis7` is known.

        Args:
            function: sends commands.
            on_error: called if they cannot be sent.

        Raises:
            BrokerUnavailable: the link is down; neither is called.
        """
        self.connection.ensure()
        if self.supports_redis7 is None:
            self._deferred.append((function, on_error))
        else:
            function()

    # What happens on the connection

    def on_up(self) -> None:
        self.supports_redis7 = self.connection.supports_redis7
        self._may_have_sent = True
        deferred, self._deferred = self._deferred, []
        for function, on_error in deferred:
            try:
                function()
            except BrokerUnavailable as error:
                on_error(error)
        for listener in self.up_listeners:
            listener()

    def before_send(self) -> None:
        if self._pushes:
            all_pushes, self._pushes = self._pushes, {}
            self._size = 0
            for list_key, pushes in all_pushes.items():
                packed = pack_push(list_key, [each.payload for each in pushes.pushed])
                packed += pack_prolong(list_key, pushes.ttl_ms)
                try:
                    self._transmit(packed, (pushes.on_length, pushes.on_prolonged, ignore))
                except BrokerUnavailable as error:
                    pushes.fail(error)

    def on_reply(self, reply: Reply) -> None:
        if type(reply) is hiredis.ReplyError and is_temporary(reply):
            if is_not_master(reply):
                raise ConnectionError(str(reply))
            if not is_unsettled(reply):
                self.connection.refused_at = time.monotonic()
            if lacks_replicas(reply):
                self.connection.look_for_master()
        on_reply = self._waiting.popleft()
        if on_reply is not ignore or type(reply) is hiredis.ReplyError:  # spares a call for most replies
            on_reply(reply)

    def on_lost(self, error: BrokerUnavailable) -> None:
        waiting, self._waiting = self._waiting, deque()
        deferred, self._deferred = self._deferred, []
        pushes, self._pushes = self._pushes, {}
        self._size = 0
        lost = OutcomeUnknown(error.reason, detail=error.detail) if self._may_have_sent else error
        self._may_have_sent = False
        for on_reply in waiting:
            on_reply(lost)
        for each in pushes.values():
            each.fail(lost)
        for _, on_error in deferred:
            on_error(error)
        for listener in self.lost_listeners:
            listener()

    @property
    def reply_due(self) -> bool:
        return bool(self._waiting)

    def ping(self) -> None:
        self.connection.write(PING)
        self._waiting.append(ignore)


def _tell_all(on_replies: Iterable[OnReply], error: Reply) -> None:
    for on_reply in on_replies:
        on_reply(error)


def gather(
    link_for: Callable[[bytes], Link], commands: Sequence[tuple[bytes, bytes]], on_replies: OnReplies
) -> list[Reply]:
    """Send commands on the links of their keys, and call ``on_replies`` once with all replies, in order.

    Args:
        link_for: returns the link of a key.
        commands: pairs of a key and a packed command.
        on_replies: called with `BrokerUnavailable` in place of the reply to a command that could not be sent.

    Returns:
        The list that fills with replies. Those that have not arrived are `BrokerUnavailable`.
    """
    replies: list[Reply] = [BrokerUnavailable("Redis has not replied in time")] * len(commands)
    due = len(commands)

    def on_reply(number: int, reply: Reply) -> None:
        nonlocal due
        replies[number] = reply
        due -= 1
        if not due:
            on_replies(replies)

    if not commands:
        on_replies(replies)
    for number, (key, packed) in enumerate(commands):
        try:
            link_for(key).send(packed, (partial(on_reply, number),))
        except BrokerUnavailable as error:
            on_reply(number, error)
    return replies


def execute_each(
    link_for: Callable[[bytes], Link], commands: Sequence[tuple[bytes, bytes]], timeout: float | None = None
) -> list[Reply]:
    """Send commands as `gather` and wait for their replies, at most ``timeout`` seconds; ``None`` means no limit."""
    done = Event()
    replies = gather(link_for, commands, lambda _: done.set())
    done.wait(timeout)
    return list(replies)
