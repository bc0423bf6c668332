"""Where keys live: which link leads to a key, what waits for lists, what receives events. `Topology` alone knows.

A single server has the simplest answer, given here; a cluster's is `juggler.broker.redis.cluster`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from juggler.broker.redis import many_uris
from juggler.broker.redis.call_source import BlockingSource, CallSource, PollingSource, PopLink
from juggler.broker.redis.commands import pack
from juggler.broker.redis.keys import Names
from juggler.broker.redis.link import Connector, Link, OnReply
from juggler.broker.redis.receiver import OnEvent, PubSubLink, Receiver, Topics
from juggler.broker.redis.results_reader import OnResults, ResultsReader, SingleListReader
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerUnavailable

MANY = 4
"""Lists from which on a pop that is busy looks at all of them before it waits."""

VERY_MANY = 200
"""Lists from which on Redis is asked to tell which of them have something."""


class Topology(ABC):
    """Chooses the link for each command, and makes whatever waits for something on connections of its own."""

    @abstractmethod
    def link_for(self, key: bytes) -> Link:
        """Return the link for commands on a key, and on others of its slot."""

    @abstractmethod
    def publish(self, channel: bytes, payload: bytes, on_reply: OnReply) -> None:
        """Publish on a channel; ``on_reply`` is told how many received it.

        Raises:
            BrokerUnavailable: there is no connection; ``on_reply`` is told nothing then.
        """

    @abstractmethod
    def on_up(self, function: Callable[[], None]) -> None:
        """Call ``function`` whenever a connection for commands is there again."""

    @abstractmethod
    def make_call_source(self, lists: Sequence[bytes]) -> CallSource:
        """Return what pops from lists of calls."""

    @abstractmethod
    def make_results_reader(self, on_results: OnResults) -> ResultsReader:
        """Begin to read the results for this process, and return what does."""

    @abstractmethod
    def make_receiver(self, topics: Topics, on_event: OnEvent) -> Receiver:
        """Return what keeps Redis's subscriptions in step with ``topics``, and receives their events."""

    @abstractmethod
    def links(self) -> list[Link]:
        """Return the links that all commands need."""

    def check_ready(self) -> None:
        """See that commands can be sent now.

        Raises:
            BrokerUnavailable: not yet, or not now.
        """
        for link in self.links():
            link.ensure()
            if not link.up:
                raise BrokerUnavailable(f"redis link {link.name}: not connected yet")

    @abstractmethod
    def connect(self) -> None:
        """Wait until Redis answers, with one attempt.

        Raises:
            BrokerUnavailable: it was lost again.
            redis.RedisError: of redis-py, as the connector.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the links for commands: those who wait for a reply fail. Idempotent."""


class SingleServer(Topology):
    """All keys live on one server, and all commands leave on one link."""

    def __init__(self, connector: Connector, names: Names, watchdog: Watchdog, blocking_timeout: float) -> None:
        self.link = Link("commands", connector, watchdog)
        self._connector = connector
        self._names = names
        self._watchdog = watchdog
        self._blocking_timeout = blocking_timeout

    def link_for(self, key: bytes) -> Link:
        return self.link

    def links(self) -> list[Link]:
        return [self.link]

    def publish(self, channel: bytes, payload: bytes, on_reply: OnReply) -> None:
        self.link.send(pack(b"PUBLISH", channel, payload), (on_reply,))

    def on_up(self, function: Callable[[], None]) -> None:
        self.link.up_functions.append(function)

    def make_call_source(self, lists: Sequence[bytes]) -> CallSource:
        link = PopLink("calls", self._connector, self._watchdog, self._blocking_timeout)
        if len(lists) >= VERY_MANY:
            return many_uris.make_source(link, self._connector, self._watchdog, lists, self._names.proofs)
        return PollingSource(link, lists) if len(lists) >= MANY else BlockingSource(link, lists)

    def make_results_reader(self, on_results: OnResults) -> ResultsReader:
        return SingleListReader(self._connector, self._names, self._watchdog, self._blocking_timeout, on_results)

    def make_receiver(self, topics: Topics, on_event: OnEvent) -> Receiver:
        return PubSubLink("pubsub", self._connector, self._watchdog, topics, on_event)

    def connect(self) -> None:
        connection, _ = self._connector()
        connection.disconnect()
        self.link.execute("PING")

    def close(self) -> None:
        self.link.close()
