"""`RedisBroker`: all three roles on one Redis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain

import gevent
import redis

from juggler.broker import (
    CALL_BYTES,
    CALL_CAPACITY,
    PATTERN_CAPACITY,
    Announcement,
    BrokerStats,
    CallConsumer,
    CalleeBroker,
    CallerBroker,
    ControlListener,
    Done,
    IncomingCall,
    OnServed,
    PendingCall,
    PubSubBroker,
    Registered,
    ServerListener,
    Subscriber,
)
from juggler.broker.redis.announcements import Announcements
from juggler.broker.redis.callee import RedisCallee
from juggler.broker.redis.caller import RedisCaller
from juggler.broker.redis.cluster.cluster_topology import ClusterTopology
from juggler.broker.redis.connector import connector
from juggler.broker.redis.keys import Names
from juggler.broker.redis.persistent_connection import PersistentConnection
from juggler.broker.redis.pubsub import RedisPubSub
from juggler.broker.redis.replies import REFUSALS
from juggler.broker.redis.servers import Servers
from juggler.broker.redis.stale_keys import StaleKeys
from juggler.broker.redis.topology import SingleServer, Topology
from juggler.broker.redis.url import RedisUrl, parse
from juggler.broker.redis.watchdog import Watchdog
from juggler.errors import BrokerError, BrokerUnavailable, ConfigError
from juggler.process.backoff import pauses
from juggler.protocol.codec import StoredParts
from juggler.protocol.messages import NULL
from juggler.protocol.server_commands import TIMEOUT, CommandOutcome, ServerCommand
from juggler.protocol.server_status import ServerStatus

DEFAULT_URL = "redis://127.0.0.1:6379"
"""URL of Redis if none is configured."""

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
"""Seconds between attempts of `connect_or_wait`: exponential backoff, with jitter."""


class RedisBroker(CallerBroker, CalleeBroker, PubSubBroker):
    """All three roles on one Redis. Greenlets may share it; use one in each process.

    It connects when it is first used, or with `connect`. While Redis is unreachable, requests fail with
    `BrokerUnavailable`. Once the connection is re-established, subscriptions are recreated. A dead peer is detected
    within 5 seconds. The process must be monkey-patched by gevent.

    Attributes:
        shown_url: the URL without its secrets.
        topology: the links for commands.
        caller: the caller's role.
        callee: the callee's role.
        pubsub: the pub-sub role.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        call_capacity: int = CALL_CAPACITY,
        call_bytes: int = CALL_BYTES,
        result_capacity: int = 0,
        pattern_capacity: int = PATTERN_CAPACITY,
        blocking_timeout: float = 1.0,
        key_prefix: str = "",
        sharded_pubsub: bool = False,
        legacy: bool = False,
    ) -> None:
        """Create an unconnected broker.

        Args:
            url: where Redis is; see `juggler.broker.redis.url`.
            call_capacity: maximum calls queued per URI; 0 means unlimited. Default: 10,000.
            call_bytes: maximum bytes of arguments of this process's calls in flight, per URI; 0 means unlimited.
                Default: 64 MiB.
            result_capacity: maximum results queued per consumer; 0 means unlimited. Default: 0.
            pattern_capacity: maximum distinct patterns of this process, since Redis matches each publication against
                all of them; 0 means unlimited. Default: 500.
            blocking_timeout: seconds for which Redis blocks a pop while the lists are empty, at least 0.01. Default: 1.
            key_prefix: prefix of the names of all keys and channels. Servers and callees must use the same prefix, and
                those of the Go package work only without one. Default: none.
            sharded_pubsub: publish only to the nodes of a channel's slot, on a cluster of Redis 7 or later; the same as
                the URL option ``sharded``. Servers must agree on it, and patterns are refused. Default: false.
            legacy: use only commands of Redis 6.2. Older servers are recognised without it. Default: false.

        Raises:
            ConfigError: the URL is invalid.
            ValueError: a limit is negative, the blocking timeout is too short, or the prefix contains braces.
        """
        for name, value in (
            ("call_capacity", call_capacity),
            ("call_bytes", call_bytes),
            ("result_capacity", result_capacity),
            ("pattern_capacity", pattern_capacity),
        ):
            if value < 0:
                raise ValueError(f"{name}: expected at least 0, got {value}")
        if blocking_timeout < 0.01:
            raise ValueError(f"blocking_timeout: expected at least 0.01 seconds, got {blocking_timeout}")
        names = Names(key_prefix)
        parsed = parse(url)
        self.shown_url = parsed.shown
        self._watchdog = Watchdog()
        self.topology = topology = self._make_topology(
            parsed, names, blocking_timeout, legacy, sharded_pubsub or parsed.sharded
        )
        self.caller = RedisCaller(names, self._watchdog, topology, call_capacity, call_bytes)
        self.callee = RedisCallee(names, self._watchdog, topology, result_capacity)
        self.pubsub = RedisPubSub(names, topology, self._watchdog, pattern_capacity)
        # Each call, result, subscription and publication would pass a method that only delegates.
        self.call = self.caller.call  # type: ignore[method-assign]
        self.result = self.callee.result  # type: ignore[method-assign]
        self.publish = self.pubsub.publish  # type: ignore[method-assign]
        self.subscribe = self.pubsub.subscribe  # type: ignore[method-assign]
        self._announcements = Announcements(names, topology)
        self._servers = Servers(names, topology, self._watchdog)
        StaleKeys(names, topology, self._watchdog)

    def _make_topology(
        self, url: RedisUrl, names: Names, blocking_timeout: float, legacy: bool, sharded: bool
    ) -> Topology:
        connector_to = partial(connector, version_key=names.version, legacy=legacy)
        if url.kind != "cluster":
            if sharded:
                raise ConfigError(f"Redis URL {url.shown!r}: sharded pub-sub needs a cluster")
            return SingleServer(connector_to(url), names, self._watchdog, blocking_timeout)
        return ClusterTopology(
            url.hosts, lambda host: connector_to(url.at(host)), names, self._watchdog, blocking_timeout, sharded=sharded
        )

    def connect(self) -> None:
        """Connect and authenticate, with one attempt.

        Raises:
            BrokerUnavailable: Redis is unreachable.
            ConfigError: Redis refuses the credentials, or the user lacks a permission.
        """
        try:
            self.topology.connect()
        except REFUSALS as error:
            raise ConfigError(f"Redis at {self.shown_url} refuses access: {error}") from error
        except (redis.RedisError, OSError) as error:
            raise BrokerUnavailable(str(error)) from error
        except BrokerUnavailable:
            raise
        except BrokerError as error:
            raise ConfigError(f"Redis at {self.shown_url}: {error}") from error

    def queue_lengths(self, uris: Sequence[str]) -> dict[str, int]:
        return self.caller.queue_lengths(uris)

    def connections(self) -> list[PersistentConnection]:
        """Return the connections that are in use, except for those of consumers."""
        commands = [connection for connection in self.topology.connections() if connection.is_started]
        others = (self.caller.connections(), self._servers.connections(), self.pubsub.receiver.connections())
        return [*commands, *chain.from_iterable(others)]

    def stats(self) -> BrokerStats:
        up: dict[str, bool] = {}
        for connection in self.connections():
            # In a cluster, several lists of results have connections of the same name.
            up[connection.name] = up.get(connection.name, True) and connection.up
        return BrokerStats(
            calls=self.caller.calls,
            dropped=self.caller.dropped,
            invalid_results=self.caller.invalid,
            events=self.pubsub.events,
            invalid_events=self.pubsub.invalid,
            gaps=self.pubsub.gaps,
            links=up,
            losses=dict.fromkeys(up, 0) | self._watchdog.losses,
            expired_calls=self.callee.expired,
            invalid_calls=self.callee.invalid,
            unchecked_calls=self.callee.unchecked,
            late_results=self.callee.late,
        )

    def check_ready(self) -> None:
        self.topology.check_ready()
        self.caller.check_ready()
        self.pubsub.check_ready()

    def pending_calls(self) -> int:
        return self.caller.pending

    def ask_served(self, uris: Sequence[str], on_served: OnServed) -> None:
        self._announcements.ask_served(uris, on_served)

    def registered(self, limit: int = 1000) -> list[Registered]:
        return self._announcements.registered(limit)

    def attend(self, listener: ServerListener) -> None:
        self._servers.attend(listener)

    def leave(self, server_id: str) -> None:
        self._servers.leave(server_id)

    def servers(self, timeout: float = TIMEOUT) -> list[ServerStatus]:
        return self._servers.statuses(timeout)

    def command(self, command: ServerCommand, timeout: float = TIMEOUT) -> CommandOutcome:
        return self._servers.command(command, timeout)

    def announce(self, callee_id: str, functions: Mapping[str, Announcement], lifetime: float) -> None:
        self._announcements.announce(callee_id, functions, lifetime)

    def withdraw(self, callee_id: str, uris: Sequence[str]) -> None:
        self._announcements.withdraw(callee_id, uris)

    def call(
        self,
        uri: str,
        args: bytes,
        timeout: float,
        pending: PendingCall,
        limit: int | None = None,
        max_bytes: int | None = None,
        by: bytes = b"",
        parts: StoredParts | None = None,
        trace: str = "",
    ) -> None:
        self.caller.call(uri, args, timeout, pending, limit, max_bytes, by, parts, trace)

    def forget(self, pending: PendingCall) -> None:
        self.caller.forget(pending)

    def abandon(self, owner: object, cancel: bool = False) -> None:
        self.caller.abandon(owner, cancel)

    def cancel(self, pending: PendingCall) -> None:
        self.caller.cancel(pending)

    def credit(self, pending: PendingCall, until: int) -> None:
        self.caller.credit(pending, until)

    def in_flight(self, owner: object) -> int:
        return self.caller.in_flight(owner)

    def calls_of(self, owner: object) -> Sequence[PendingCall]:
        return self.caller.calls_of(owner)

    def calls(self, uris: Sequence[str]) -> CallConsumer:
        return self.callee.calls(uris)

    def result(self, call: IncomingCall, args: bytes, on_done: Done, failed: bool | None = None) -> None:
        self.callee.result(call, args, on_done, failed)

    def part(
        self, call: IncomingCall, callee_id: str, on_done: Done, seq: int = 0, args: bytes = NULL, joined: bool = False
    ) -> None:
        self.callee.part(call, callee_id, on_done, seq, args, joined)

    def listen(self, callee_id: str, listener: ControlListener) -> None:
        self.callee.listen(callee_id, listener)

    def unlisten(self, callee_id: str) -> None:
        self.callee.unlisten(callee_id)

    def publish(self, channel: str, uuid: str, args: bytes, on_done: Done, trace: str = "") -> None:
        self.pubsub.publish(channel, uuid, args, on_done, trace)

    def subscribe(self, channel: str, pattern: bool, subscriber: Subscriber, on_done: Done) -> None:
        self.pubsub.subscribe(channel, pattern, subscriber, on_done)

    def is_subscribed(self, channel: str, pattern: bool, subscriber: Subscriber) -> bool:
        return self.pubsub.is_subscribed(channel, pattern, subscriber)

    def subscriptions_of(self, subscriber: Subscriber) -> list[tuple[str, bool]]:
        return self.pubsub.subscriptions_of(subscriber)

    def subscription_count(self, subscriber: Subscriber) -> int:
        return self.pubsub.subscription_count(subscriber)

    def pattern_count(self, subscriber: Subscriber) -> int:
        return self.pubsub.pattern_count(subscriber)

    def unsubscribe(self, channel: str, pattern: bool, subscriber: Subscriber, on_done: Done) -> None:
        self.pubsub.unsubscribe(channel, pattern, subscriber, on_done)

    def unsubscribe_all(self, subscriber: Subscriber) -> None:
        self.pubsub.unsubscribe_all(subscriber)

    def take_event_counts(self) -> Mapping[str, float]:
        return self.pubsub.take_event_counts()

    def close(self) -> None:
        self._announcements.close()
        self._servers.close()
        # The links for commands first, so that what is in flight fails.
        self.topology.close()
        self.caller.close()
        self.callee.close()
        self.pubsub.close()
        self._watchdog.close()


def connect_or_wait(broker: RedisBroker, report: Callable[[str], object], *, wait: bool, remedies: str) -> None:
    """Connect a broker when a command starts.

    Args:
        broker: the broker.
        report: called with a line before each further attempt.
        wait: wait until Redis is reachable, with exponential backoff and jitter, instead of raising.
        remedies: what the user can do, for the error.

    Raises:
        ConfigError: Redis is unreachable and ``wait`` is false, or it refuses access.
    """
    for pause in pauses(FIRST_PAUSE, LONGEST_PAUSE):
        try:
            broker.connect()
            return
        except BrokerUnavailable as error:
            if not wait:
                raise ConfigError(f"no Redis at {broker.shown_url}: {remedies} ({error})") from error
            report(f"no Redis at {broker.shown_url} ({error}), retrying in {pause:.1f} s")
        gevent.sleep(pause)
