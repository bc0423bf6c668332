"""Patterns are matched in the process: many of them cost Redis one, and no event is lost when they change."""

from __future__ import annotations

from contextlib import closing

import gevent
import pytest
import redis

from juggler.broker.redis import RedisBroker
from juggler.process.uuids import new_uuid
from juggler.protocol.codec import encode_event
from tests.recorders import Outcome, RecordedSubscriber
from tests.support import eventually


@pytest.fixture
def client(redis_url):
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        yield client


@pytest.fixture
def broker(redis_url):
    with closing(RedisBroker(redis_url)) as broker:
        yield broker


def subscribe(broker, pattern, subscriber):
    done = Outcome()
    broker.subscribe(pattern, True, subscriber, done)
    assert done.wait() is None


def event(number: int, size: int = 0) -> bytes:
    return encode_event(new_uuid(), b'[%d,"%b"]' % (number, b"x" * size))


def number_of(args: bytes) -> int:
    return int(args[1:].partition(b",")[0])


def test_an_event_that_matches_500_patterns_is_sent_once(broker, client):
    """Events of a megabyte, once for each pattern, would exceed Redis's limit for a subscriber with the first one."""
    connections = [RecordedSubscriber() for _ in range(25)]
    for number in range(500):
        beginning = "*" * (number % 4 + 1) + "channel"[number // 4 % 7 :]
        subscribe(broker, f"{beginning}{'?' * (number // 28)}*", connections[number % 25])
    assert client.pubsub_numpat() == 1
    channel = "channel" + "x" * 20
    for number in range(20):
        assert client.publish(channel, event(number, 1_000_000)) == 1
    eventually(lambda: all(len(connection.events) == 20 * 20 for connection in connections))
    for connection in connections:
        seen = [number_of(args) for _, _, args in connection.seen]
        assert seen == sorted(seen)
    assert broker.pubsub.gaps == 0


def test_costly_patterns_do_not_stop_redis(broker, client):
    subscriber = RecordedSubscriber()
    for number in range(500):
        subscribe(broker, f"*{'a' * 120}{number}b", subscriber)
    client.config_resetstat()
    for _ in range(20):
        client.publish("a" * 512, event(0))
    last = Outcome()
    broker.subscribe("last", False, subscriber, last)
    assert last.wait() is None
    client.publish("last", event(1))
    eventually(lambda: subscriber.events)
    assert [channel for channel, _, _ in subscriber.seen] == ["last"]
    # 86 ms each, when Redis matched them.
    assert client.info("commandstats")["cmdstat_publish"]["usec_per_call"] < 5000


@pytest.mark.parametrize("legacy", [False, True])
def test_no_event_is_lost_or_repeated_while_patterns_change(redis_url, client, legacy):
    with closing(RedisBroker(redis_url, legacy=legacy)) as broker:
        steady = {pattern: RecordedSubscriber() for pattern in ("room.a.*", "room.*.x", "room.a.x")}
        for pattern, subscriber in steady.items():
            subscribe(broker, pattern, subscriber)
        sent = 0
        is_over = False

        def publish():
            nonlocal sent
            while not is_over:
                client.publish("room.a.x", event(sent))
                sent += 1
                gevent.sleep(0)

        publishing = gevent.spawn(publish)
        passing = RecordedSubscriber()
        for _ in range(20):
            for pattern in ("*", "room.*", "r*x"):
                subscribe(broker, pattern, passing)
            broker.unsubscribe_all(passing)
            broker.pubsub.tidy()
            for pattern in ("ro*", "room.a*"):
                subscribe(broker, pattern, passing)
            for pattern in ("ro*", "room.a*"):
                broker.unsubscribe(pattern, True, passing, Outcome())
                broker.pubsub.tidy()
        is_over = True
        publishing.join()
        for subscriber in steady.values():
            eventually(lambda subscriber=subscriber: len(subscriber.events) >= sent)
            assert [number_of(args) for _, _, args in subscriber.seen] == list(range(sent))


def test_a_broad_subscription_to_redis_ends_with_its_pattern(broker, client):
    room, everything = RecordedSubscriber(), RecordedSubscriber()
    subscribe(broker, "room.*", room)
    subscribe(broker, "*", everything)
    eventually(lambda: client.pubsub_numpat() == 1)
    assert client.publish("other", event(1)) == 1
    everything.wait(1)
    broker.unsubscribe_all(everything)
    # Within the period of `RETRY_PERIOD`.
    eventually(lambda: client.pubsub_numpat() == 1 and client.publish("other", event(2)) == 0)
    assert client.publish("room.1", event(3)) == 1
    assert [number_of(args) for _, _, args in room.wait(1)] == [3]
