"""`Topology`: which link leads to a key, and what blocks on connections of its own.

A single server is the simplest topology. That of a cluster is in `juggler.broker.redis.cluster`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from juggler.broker.redis import many_uris
from juggler.broker.redis.call_source import BlockingSource, CallSource, PollingSource
from juggler.broker.redis.commands import pack
from juggler.broker.redis.connector import Connector
from juggler.broker.redis.event_receiver import EventReceiver, OnEvent, PubSubLink, Topics
from juggler.broker.redis.keys import Names
from juggler.broker.redis.link import Link
from juggler.broker.redis.persistent_connection import PersistentConnection
from juggler.broker.redis.popper import Popper
from juggler.broker.redis.replies import OnReply
from juggler.broker.redis.results_reader import LinkReader, ListReader, OnResults, ResultsReader, SingleListReader
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerUnavailable

REFUSAL_LIFETIME = 5.0
"""Seconds for which a server is not ready after Redis has refused a command for now."""

MANY = 4
"""Lists from which on a busy source polls before it blocks."""

VERY_MANY = 200
"""Lists from which on Redis reports the non-empty ones."""


class Topology(ABC):
    """Selects the link for each command, and creates what blocks on connections of its own."""

    @abstractmethod
    def link_for(self, key: bytes) -> Link:
        """Return the link for commands on a key and on others in its slot."""

    @abstractmethod
    def publish(self, channel: bytes, payload: bytes, on_reply: OnReply) -> None:
        """Publish on a channel. The reply is the number of receivers.

        Raises:
            BrokerUnavailable: there is no connection; ``on_reply`` is not called.
        """

    @abstractmethod
    def on_up(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever a connection for commands is up again."""

    @abstractmethod
    def make_call_source(self, lists: Sequence[bytes]) -> CallSource:
        """Return a source of the calls in some lists."""

    @abstractmethod
    def make_results_reader(self, on_results: OnResults) -> ResultsReader:
        """Start reading the results of this process."""

    @abstractmethod
    def make_list_reader(self, name: str, key: bytes, on_batch: Callable[[list[bytes]], None]) -> ListReader:
        """Start popping from a list, on a connection called ``name``, until the reader is closed."""

    @abstractmethod
    def make_receiver(self, topics: Topics, on_event: OnEvent) -> EventReceiver:
        """Return a receiver of the events of ``topics``."""

    @abstractmethod
    def links(self) -> Sequence[Link]:
        """Return the links for commands, one to each server."""

    def connections(self) -> list[PersistentConnection]:
        """Return the connections for commands."""
        return [link.connection for link in self.links()]

    def check_ready(self) -> None:
        """Check that commands can be sent now.

        Raises:
            BrokerUnavailable: a connection is down, or Redis has recently refused a command for now.
        """
        for connection in self.connections():
            connection.ensure()
            if not connection.up:
                raise BrokerUnavailable(f"the connection to Redis ({connection.name}) is not up yet")
            if time.monotonic() - connection.refused_at < REFUSAL_LIFETIME:
                raise BrokerUnavailable("Redis refuses commands for now")

    @abstractmethod
    def connect(self) -> None:
        """Connect, with one attempt.

        Raises:
            BrokerUnavailable: the connection was lost again.
            redis.RedisError: connecting failed.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the links for commands; what is in flight fails. Idempotent."""


class SingleServer(Topology):
    """All keys are on one server, and all commands are sent on one link.

    Attributes:
        link: the link for commands.
    """

    def __init__(self, connector: Connector, names: Names, watchdog: Watchdog, blocking_timeout: float) -> None:
        self.link = Link("commands", connector, watchdog)
        self._connector = connector
        self._names = names
        self._watchdog = watchdog
        self._blocking_timeout = blocking_timeout

    def link_for(self, key: bytes) -> Link:
        return self.link

    def links(self) -> Sequence[Link]:
        return (self.link,)

    def publish(self, channel: bytes, payload: bytes, on_reply: OnReply) -> None:
        self.link.send(pack(b"PUBLISH", channel, payload), (on_reply,))

    def on_up(self, listener: Callable[[], None]) -> None:
        self.link.up_listeners.append(listener)

    def make_call_source(self, lists: Sequence[bytes]) -> CallSource:
        popper = Popper(Link("calls", self._connector, self._watchdog, blocking_timeout=self._blocking_timeout))
        if len(lists) >= VERY_MANY:
            return many_uris.make_source(popper, lists, self._connector, self._watchdog, self._names.proofs)
        return PollingSource(popper, lists) if len(lists) >= MANY else BlockingSource(popper, lists)

    def make_list_reader(self, name: str, key: bytes, on_batch: Callable[[list[bytes]], None]) -> ListReader:
        return LinkReader(name, self._connector, self._watchdog, self._blocking_timeout, key, on_batch)

    def make_results_reader(self, on_results: OnResults) -> ResultsReader:
        return SingleListReader(self._connector, self._names, self._watchdog, self._blocking_timeout, on_results)

    def make_receiver(self, topics: Topics, on_event: OnEvent) -> EventReceiver:
        receiver = PubSubLink("pubsub", self._connector, self._watchdog, topics, on_event)

        def follow() -> None:
            # Subscriptions are never refused for a lack of replicas: they follow the commands to another master.
            if self.link.connection.losses:
                receiver.connection.look_for_master()

        self.link.up_listeners.append(follow)
        return receiver

    def connect(self) -> None:
        connection, _ = self._connector()
        connection.disconnect()
        self.link.execute("PING")

    def close(self) -> None:
        self.link.close()
