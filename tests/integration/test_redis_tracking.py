"""Very many URIs of one callee: Redis reports which of them have calls."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import gevent
import pytest
import redis

from juggler.broker.redis import RedisBroker
from juggler.broker.redis.callee import RedisConsumer
from juggler.broker.redis.keys import Names
from juggler.broker.redis.many_uris import tracking
from juggler.broker.redis.many_uris.tracked_source import TrackedSource
from juggler.broker.redis.many_uris.tracking import Tracking
from juggler.errors import BrokerError
from tests.recorders import RecordedCall
from tests.stack import serving
from tests.support import eventually

URIS = [f"test.many.{number}" for number in range(500)]
URIS_KEYS = [Names().calls(uri) for uri in URIS]


@pytest.fixture
def client(mortal) -> Iterator[redis.Redis]:
    """A client of a server that can be killed."""
    mortal.start()
    with mortal.client() as client:
        yield client


@contextmanager
def many(url) -> Iterator[tuple[RedisBroker, TrackedSource]]:
    """Run an echoing callee of all URIs; yield its broker and its source of calls."""
    with (
        closing(RedisBroker(url, blocking_timeout=0.1)) as broker,
        serving(broker, URIS, lambda call: call.args) as consumer,
    ):
        yield broker, consumer.source


@contextmanager
def tracked_many(url) -> Iterator[tuple[RedisBroker, TrackedSource]]:
    """As `many`, once Redis reports which URIs have calls."""
    with many(url) as (broker, source):
        eventually(lambda: source.tracking.is_on)
        yield broker, source


def tracked_consumer(broker) -> RedisConsumer:
    """Return a consumer of all URIs, once Redis reports which of them have calls."""
    consumer = broker.calls(URIS)

    def is_on():
        consumer.pop(1)
        return consumer.source.tracking.is_on

    eventually(is_on)
    return consumer


def lose_reports(tracked: Tracking) -> None:
    """Discard reports, as a proxy might."""
    tracked.changes.on_changed = lambda names: None


def answers(broker, uri):
    call = RecordedCall()
    try:
        broker.call(uri, b"1", 5.0, call)
        return call.wait(2)[1] == ("result", b"1")
    except (AssertionError, IndexError):
        return False


def pops(client):
    """Return how often Redis has popped from a single list."""
    return client.info("commandstats").get("cmdstat_rpop", {}).get("calls", 0)


def test_earlier_calls_are_served_and_then_new_ones(mortal, client):
    with closing(RedisBroker(mortal.url)) as caller:
        early = [RecordedCall() for _ in URIS]
        for uri, call in zip(URIS, early, strict=True):
            caller.call(uri, b"1", 10.0, call)
        for call in early:
            call.wait(1)
        with many(mortal.url) as (_, source):
            for call in early:
                assert call.wait(2)[1] == ("result", b"1")
            eventually(lambda: source.tracking.is_on)
            # Own pops are not reported, and it may block on all of them once more.
            eventually(lambda: answers(caller, URIS[0]) and pops(client) > 0)
            before = pops(client)
            for uri in URIS[::50]:
                assert answers(caller, uri)
            after = pops(client)
    # Only from those that have calls; but one may be reported twice.
    assert len(URIS[::50]) <= after - before < 2 * len(URIS[::50])


def test_callees_share_the_same_uris(mortal, client):
    with closing(RedisBroker(mortal.url)) as caller, tracked_many(mortal.url), tracked_many(mortal.url):
        calls = [RecordedCall() for _ in range(2000)]
        for number, call in enumerate(calls):
            caller.call(URIS[number % len(URIS)], b"%d" % number, 10.0, call)
        for number, call in enumerate(calls):
            assert call.wait(2) == [("stored", None), ("result", b"%d" % number)]


def test_a_restart_of_redis(mortal, client):
    with tracked_many(mortal.url) as (broker, source):
        mortal.kill()
        eventually(lambda: not source.tracking.is_on)
        mortal.start()
        eventually(lambda: answers(broker, URIS[7]))
        eventually(lambda: source.tracking.is_on)
        assert answers(broker, URIS[8])


@pytest.mark.parametrize("which", ["pops", "receives reports"])
def test_either_connection_is_lost(mortal, client, which):
    with tracked_many(mortal.url) as (broker, source):
        assert answers(broker, URIS[7])
        connection = source.popper.link.connection if which == "pops" else source.tracking.changes.connection
        connection.drop("on purpose")
        assert not source.tracking.is_on
        eventually(lambda: answers(broker, URIS[8]))
        eventually(lambda: source.tracking.is_on)
        assert answers(broker, URIS[9])


def test_everything_is_flushed(mortal, client):
    with tracked_many(mortal.url) as (broker, source):
        client.flushall()
        assert answers(broker, URIS[7])
        assert source.tracking.changes.connection.losses == 0


def test_unreported_calls_are_found_after_a_while(mortal, client, monkeypatch):
    monkeypatch.setattr(tracking, "PERIOD", 0.3)
    with tracked_many(mortal.url) as (broker, source):
        lose_reports(source.tracking)
        assert answers(broker, URIS[7])


def test_tracking_stops_when_redis_does_not_report(mortal, client, monkeypatch, caplog):
    monkeypatch.setattr(tracking, "PERIOD", 0.2)
    with tracked_many(mortal.url) as (broker, source):
        lose_reports(source.tracking)
        numbers = iter(range(500))
        eventually(lambda: answers(broker, URIS[next(numbers)]) and source.tracking.is_stopped)
        assert answers(broker, URIS[-1])
        assert not source.tracking.is_on
    logged = [record.getMessage() for record in caplog.records]
    reason = 'error="Redis has not reported queues that have calls"'
    assert logged[0].startswith(f"redis: tracking many URIs failed {reason} retry_in=")
    assert logged[-1] == f"redis: tracking many URIs stopped {reason}"


@pytest.mark.parametrize(
    ("pending_before", "reported_since", "unreported"),
    [(True, False, False), (False, True, False), (False, False, True)],
)
def test_a_report_in_time_is_not_missing(mortal, client, pending_before, reported_since, unreported):
    """Between a survey and its replies a queue may be reported, and taken by the source."""
    with closing(RedisBroker(mortal.url, blocking_timeout=0.1)) as broker:
        source = tracked_consumer(broker).source
        tracked, pending = source.tracking, source.pending
        key = URIS_KEYS[7]
        client.lpush(key, "a call")
        eventually(lambda: pending.keys() == {key})
        if not pending_before:
            pending.take(1)
        tracked.refresh(time.monotonic() + 2 * tracking.PERIOD)
        assert tracked.is_surveying
        if reported_since:
            tracked.changes.on_changed([key])
        pending.take(1)
        eventually(lambda: not tracked.is_surveying)
        assert tracked.unreported == ({key} if unreported else set())
        assert pending.keys() == {key}


def test_connections_to_different_servers(mortal, client, redis_server, monkeypatch, caplog):
    """Behind an address that moves, each may lead to another one."""
    monkeypatch.setattr(tracking, "PERIOD", 0.3)
    with tracked_many(mortal.url) as (broker, source), closing(RedisBroker(redis_server.url)) as elsewhere:
        changes = source.tracking.changes.connection
        connector, changes.connector = changes.connector, elsewhere.topology.link.connection.connector
        changes.drop("on purpose")
        eventually(lambda: "two connections lead to different servers" in caplog.text)
        for uri in URIS[:3]:
            assert answers(broker, uri)
        assert not source.tracking.is_on
        changes.connector = connector
        eventually(lambda: source.tracking.is_on)
        assert answers(broker, URIS[7])


def test_a_refused_pop_is_repeated(mortal, client):
    with closing(RedisBroker(mortal.url, blocking_timeout=0.1)) as broker:
        consumer = tracked_consumer(broker)
        broker.call(URIS[7], b"1", 30.0, RecordedCall())
        eventually(lambda: consumer.source.pending)
        client.config_set("min-replicas-to-write", 1)
        for _ in range(3):
            with pytest.raises(BrokerError, match="NOREPLICAS"):
                consumer.pop(1)
        client.config_set("min-replicas-to-write", 0)
        (call,) = consumer.pop(1)
        assert call.args == b"1"


def test_lists_that_others_have_emptied_cost_no_round_trip_each(mortal, client):
    with closing(RedisBroker(mortal.url, blocking_timeout=0.1)) as broker:
        consumer = tracked_consumer(broker)
        pending = consumer.source.pending
        pending.add(URIS_KEYS)
        broker.call(URIS[-1], b"1", 30.0, RecordedCall())
        eventually(lambda: client.llen(URIS_KEYS[-1]))
        before = pops(client)
        (call,) = consumer.pop(1)
        assert (call.args, len(pending)) == (b"1", 1)
        assert pops(client) - before <= 2


def test_a_key_that_is_no_list_costs_the_others_nothing(mortal, client, caplog):
    with tracked_many(mortal.url) as (broker, _):
        for _ in range(2):
            client.set(URIS_KEYS[3], 1)
            for uri in URIS[4:9]:
                assert answers(broker, uri)
        # Logged once, and nothing else.
        (record,) = caplog.records
        assert record.getMessage().startswith("redis: queue of calls is no list key=juggler:calls:{test.many.3} ")
        client.delete(URIS_KEYS[3])
        assert answers(broker, URIS[3])


def test_what_another_client_publishes_is_no_report(mortal, client):
    with tracked_many(mortal.url) as (broker, source):
        assert client.publish("__redis__:invalidate", "x" * 1000) == 1
        assert answers(broker, URIS[7])
        assert source.tracking.changes.connection.losses == 0


def test_redis_disconnects_a_callee_that_does_not_read(mortal, client):
    """Reports go to a subscriber, whose output buffer Redis limits."""
    client.config_set("client-output-buffer-limit", "pubsub 100000 0 0")
    with tracked_many(mortal.url):
        (reading,) = greenlets("juggler-redis-changes")
        reading.kill(block=False)
        gevent.sleep(0)
        long = "juggler:calls:{test.many." + "x" * 1000 + "}"

        def is_cut():
            for number in range(1000):
                client.set(f"{long}{number}", 1)
            return not any("P" in each["flags"] for each in client.client_list())

        eventually(is_cut)


def greenlets(name: str) -> list[gevent.Greenlet]:
    """Return the greenlets with a name that have not completed."""
    alive = [each for each in gc.get_objects() if issubclass(type(each), gevent.Greenlet) and not each.dead]
    return [each for each in alive if each.name == name]
