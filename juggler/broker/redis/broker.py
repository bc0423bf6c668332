"""`RedisBroker`: puts the roles and their links together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from juggler.broker import (
    CallConsumer,
    CalleeBroker,
    CallerBroker,
    Done,
    IncomingCall,
    PendingCall,
    PubSubBroker,
    Subscriber,
)
from juggler.broker.redis import url as redis_url
from juggler.broker.redis.callee import RedisCallee
from juggler.broker.redis.caller import RedisCaller
from juggler.broker.redis.link import Link
from juggler.broker.redis.pop import PopLink
from juggler.broker.redis.pubsub import RedisPubSub
from juggler.broker.redis.results import ResultsLink
from juggler.broker.redis.store import Store
from juggler.broker.redis.watchdog import Watchdog


class RedisBroker(CallerBroker, CalleeBroker, PubSubBroker):
    """A broker on one Redis server. Greenlets may share it; use one a process.

    It connects when it is first used, or with `connect`, and survives that Redis goes away: meanwhile requests fail
    with `BrokerUnavailable`, and subscriptions are made again with the new connection. A silent peer is noticed within
    5 seconds. It needs gevent's monkey-patching.
    """

    def __init__(
        self,
        url: str = "redis://127.0.0.1:6379",
        *,
        call_capacity: int = 0,
        result_capacity: int = 0,
        blocking_timeout: float = 1.0,
        legacy: bool = False,
    ) -> None:
        """Make a broker that is not connected yet.

        Args:
            url: where Redis is, see `juggler.broker.redis.url.connector`.
            call_capacity: the most calls that may wait for one URI; 0 means no limit but their timeouts.
            result_capacity: the most results that may wait for one consumer; 0 means no limit but their timeouts.
            blocking_timeout: seconds for which Redis holds a pop when there is nothing to pop, at least 0.01.
            legacy: use only what Redis 6.2 understands; newer servers are recognised without it.

        Raises:
            ConfigError: the URL cannot be used.
            ValueError: a capacity is negative, or the blocking timeout too short.
        """
        if call_capacity < 0 or result_capacity < 0:
            raise ValueError(f"expected capacities of at least 0, got {call_capacity} and {result_capacity}")
        if blocking_timeout < 0.01:
            raise ValueError(f"blocking_timeout: expected at least 0.01 seconds, got {blocking_timeout}")
        self._connector = redis_url.connector(url, legacy=legacy)
        self._blocking_timeout = blocking_timeout
        self._watchdog = Watchdog()
        self._commands = Link("commands", self._connector, self._watchdog)
        self.caller = RedisCaller(Store(self._commands, call_capacity), self._watchdog, self._make_results_link)
        self.callee = RedisCallee(self._commands, Store(self._commands, result_capacity), self._make_pop_link)
        self.pubsub = RedisPubSub(self._commands, self._connector, self._watchdog)

    def connect(self) -> None:
        """Wait until Redis answers, with one attempt.

        Raises:
            BrokerUnavailable: it does not.
        """
        self._commands.execute("PING")

    def call(self, uri: str, args: bytes, timeout: float, pending: PendingCall) -> None:
        self.caller.call(uri, args, timeout, pending)

    def forget(self, pending: PendingCall) -> None:
        self.caller.forget(pending)

    def calls(self, uris: Sequence[str]) -> CallConsumer:
        return self.callee.calls(uris)

    def result(self, call: IncomingCall, args: bytes, on_done: Done) -> None:
        self.callee.result(call, args, on_done)

    def publish(self, channel: str, uuid: str, args: bytes, on_done: Done) -> None:
        self.pubsub.publish(channel, uuid, args, on_done)

    def subscribe(self, channel: str, pattern: bool, subscriber: Subscriber, on_done: Done) -> None:
        self.pubsub.subscribe(channel, pattern, subscriber, on_done)

    def unsubscribe(self, channel: str, pattern: bool, subscriber: Subscriber, on_done: Done) -> None:
        self.pubsub.unsubscribe(channel, pattern, subscriber, on_done)

    def unsubscribe_all(self, subscriber: Subscriber) -> None:
        self.pubsub.unsubscribe_all(subscriber)

    def close(self) -> None:
        # First the commands: it fails those who wait for a reply.
        self._commands.close()
        self.caller.close()
        self.callee.close()
        self.pubsub.close()
        self._watchdog.close()

    def _make_results_link(self, key: bytes, on_results: Callable[[list[bytes]], None]) -> ResultsLink:
        return ResultsLink(self._connector, self._watchdog, self._blocking_timeout, key, on_results)

    def _make_pop_link(self) -> PopLink:
        return PopLink("calls", self._connector, self._watchdog, self._blocking_timeout)
