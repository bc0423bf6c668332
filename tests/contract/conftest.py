"""Run every test of this directory against every broker: they test the contract of the roles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from juggler.broker.memory import MemoryBroker
from juggler.broker.redis import RedisBroker
from juggler.process.uuids import new_uuid
from tests.recorders import Outcome, RecordedCall, RecordedSubscriber, pop_all
from tests.redis_cluster import RedisCluster
from tests.support import eventually, is_kept

BLOCKING_TIMEOUT = 0.1
RESULTS = (b"juggler:results:{",)


class Memory:
    """One memory broker, shared by all roles of a test."""

    def __init__(self) -> None:
        self._broker: MemoryBroker | None = None

    def make(self, **options: Any) -> MemoryBroker:
        if self._broker is None:
            self._broker = MemoryBroker(**{"blocking_timeout": BLOCKING_TIMEOUT, **options})
        return self._broker

    def close(self) -> None:
        if self._broker is not None:
            self._broker.close()
            assert self._broker.is_empty()

    def has_calls_or_results(self) -> bool:
        assert self._broker is not None
        return self._broker.has_calls_or_results()


class Redis:
    """Brokers on one Redis. Each looks to Redis like another process."""

    def __init__(self, url: str, **options: Any) -> None:
        self._url = url
        self._options = {"blocking_timeout": BLOCKING_TIMEOUT, **options}
        self._brokers: list[RedisBroker] = []

    def make(self, **options: Any) -> RedisBroker:
        broker = RedisBroker(self._url, **{**self._options, **options})
        self._brokers.append(broker)
        return broker

    def close(self) -> None:
        for broker in self._brokers:
            broker.close()

    def has_calls_or_results(self) -> bool:
        with redis.Redis.from_url(self._url, protocol=2) as client:
            return any(is_kept(key, client.pttl(key), RESULTS) for key in client.keys("*"))


class Cluster(Redis):
    """Brokers on a Redis Cluster, connected to all masters."""

    def __init__(self, cluster: RedisCluster) -> None:
        super().__init__(cluster.url)
        self._cluster = cluster

    def make(self, **options: Any) -> RedisBroker:
        broker = super().make(**options)
        broker.connect()
        eventually(lambda: all(connection.up for connection in broker.topology.connections()))
        return broker

    def has_calls_or_results(self) -> bool:
        return any(is_kept(key, ttl, RESULTS) for key, ttl in self._cluster.ttls().items())


# Each of them passes all tests: with the commands of Redis 7, those of Redis 6.2, and a prefix that is a pattern.
REDIS = {"redis": {}, "redis6": {"legacy": True}, "prefixed": {"key_prefix": "a*[b]:"}}


@pytest.fixture(params=["memory", *REDIS, "cluster"])
def backend(request: pytest.FixtureRequest) -> Iterator[Memory | Redis]:
    """A factory of brokers that share one store. It closes them after the test."""
    if request.param == "memory":
        made: Memory | Redis = Memory()
    elif request.param == "cluster":
        made = Cluster(request.getfixturevalue("redis_cluster"))
    else:
        made = Redis(request.getfixturevalue("redis_url"), **REDIS[request.param])
    yield made
    made.close()


@pytest.fixture
def make_broker(backend):
    return backend.make


@pytest.fixture
def caller(make_broker):
    return make_broker()


@pytest.fixture
def callee(make_broker, caller):
    return make_broker()


@pytest.fixture
def pubsub(make_broker):
    return make_broker()


@pytest.fixture
def peer(make_broker, pubsub):
    """Another broker on the same store."""
    return make_broker()


@pytest.fixture
def nothing_is_kept(backend) -> Callable[[], None]:
    """A check that no calls or results are left in the store soon."""
    return lambda: eventually(lambda: not backend.has_calls_or_results(), message="the store is empty")


@pytest.fixture
def call() -> Callable[..., RecordedCall]:
    """Make a call and wait until it is stored: ``call(broker, uri, args, timeout)``."""

    def call(broker: Any, uri: str = "test.uri", args: bytes = b"null", timeout: float = 5.0) -> RecordedCall:
        pending = RecordedCall()
        broker.call(uri, args, timeout, pending)
        pending.wait(1)
        return pending

    return call


@pytest.fixture
def round_trip(caller, callee, call) -> Callable[..., RecordedCall]:
    """Call, pop, answer and wait for the result. Anything that was in flight before has then arrived."""

    def round_trip(uri: str = "test.barrier", args: bytes = b"null", result: bytes = b"null") -> RecordedCall:
        pending = call(caller, uri, args)
        consumer = callee.calls([uri])
        (incoming,) = pop_all(consumer, 1)
        consumer.close()
        callee.result(incoming, result, Outcome())
        pending.wait(2)
        return pending

    return round_trip


@pytest.fixture
def subscribe() -> Callable[..., RecordedSubscriber]:
    """Subscribe a new or the given subscriber, and wait for the confirmation."""

    def subscribe(
        broker: Any, channel: str, pattern: bool = False, subscriber: RecordedSubscriber | None = None
    ) -> RecordedSubscriber:
        subscriber = subscriber or RecordedSubscriber()
        done = Outcome()
        broker.subscribe(channel, pattern, subscriber, done)
        assert done.wait() is None
        return subscriber

    return subscribe


@pytest.fixture
def publish() -> Callable[..., None]:
    """Publish and wait until the broker has done so."""

    def publish(broker: Any, channel: str, args: bytes = b"null", uuid: str | None = None) -> None:
        done = Outcome()
        broker.publish(channel, uuid or new_uuid(), args, done)
        assert done.wait() is None

    return publish
