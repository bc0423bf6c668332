"""Very many URIs of one callee: Redis tells which of them have calls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import gevent
import pytest
import redis

from juggler.broker.redis import RedisBroker
from juggler.broker.redis.keys import Names
from juggler.broker.redis.many_uris import tracking
from juggler.broker.redis.many_uris.tracked_source import TrackedSource
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
def many(url) -> Iterator[tuple[RedisBroker, list[TrackedSource]]]:
    """A callee of all URIs that echoes, once Redis tells it what has calls."""
    with closing(RedisBroker(url, blocking_timeout=0.1)) as broker:
        poppers: list[TrackedSource] = []
        make_call_source = broker.topology.make_call_source

        def make(lists):
            poppers.append(make_call_source(lists))
            return poppers[-1]

        broker.topology.make_call_source = make
        with serving(broker, URIS, lambda call: call.args):
            yield broker, poppers


def told_consumer(broker):
    """Return a consumer of all URIs, once Redis tells it what has calls."""
    consumer = broker.calls(URIS)

    def is_on():
        consumer.pop(1)
        return consumer._source._tracking.on

    eventually(is_on)
    return consumer


def is_told(poppers):
    return all(popper._tracking.on for popper in poppers)


def answers(broker, uri):
    call = RecordedCall()
    try:
        broker.call(uri, b"1", 5.0, call)
        return call.wait(2)[1] == ("result", b"1")
    except (AssertionError, IndexError):
        return False


def pops(client):
    """How often Redis was asked to pop from a single list."""
    return client.info("commandstats").get("cmdstat_rpop", {}).get("calls", 0)


def test_what_waits_already_is_served_and_then_what_comes(mortal, client):
    with closing(RedisBroker(mortal.url)) as caller:
        early = [RecordedCall() for _ in URIS]
        for uri, call in zip(URIS, early, strict=True):
            caller.call(uri, b"1", 10.0, call)
        for call in early:
            call.wait(1)
        with many(mortal.url) as (_, poppers):
            for call in early:
                assert call.wait(2)[1] == ("result", b"1")
            eventually(lambda: is_told(poppers))
            # What it popped until now was not told; and it may wait for all of them once more.
            eventually(lambda: answers(caller, URIS[0]) and pops(client) > 0)
            before = pops(client)
            for uri in URIS[::50]:
                assert answers(caller, uri)
            after = pops(client)
    # Those that had something, and no others; but one may be told twice.
    assert len(URIS[::50]) <= after - before < 2 * len(URIS[::50])


def test_callees_share_the_same_uris(mortal, client):
    with closing(RedisBroker(mortal.url)) as caller, many(mortal.url) as (_, one), many(mortal.url) as (_, other):
        eventually(lambda: is_told(one + other))
        calls = [RecordedCall() for _ in range(2000)]
        for number, call in enumerate(calls):
            caller.call(URIS[number % len(URIS)], b"%d" % number, 10.0, call)
        for number, call in enumerate(calls):
            assert call.wait(2) == [("stored", None), ("result", b"%d" % number)]


def test_a_restart_of_redis(mortal, client):
    with many(mortal.url) as (broker, poppers):
        eventually(lambda: is_told(poppers))
        mortal.kill()
        eventually(lambda: not is_told(poppers))
        mortal.start()
        eventually(lambda: answers(broker, URIS[7]))
        eventually(lambda: is_told(poppers))
        assert answers(broker, URIS[8])


@pytest.mark.parametrize("which", ["pops", "is told"])
def test_either_connection_is_lost(mortal, client, which):
    with many(mortal.url) as (broker, poppers):
        eventually(lambda: is_told(poppers))
        (popper,) = poppers
        assert answers(broker, URIS[7])
        (popper._link if which == "pops" else popper._tracking._changes).drop("on purpose")
        assert not is_told(poppers)
        eventually(lambda: answers(broker, URIS[8]))
        eventually(lambda: is_told(poppers))
        assert answers(broker, URIS[9])


def test_everything_is_flushed(mortal, client):
    with many(mortal.url) as (broker, poppers):
        eventually(lambda: is_told(poppers))
        client.flushall()
        assert answers(broker, URIS[7])
        assert poppers[0]._tracking._changes.losses == 0


def test_what_redis_does_not_tell_is_found_after_a_while(mortal, client, monkeypatch):
    monkeypatch.setattr(tracking, "PERIOD", 0.3)
    with many(mortal.url) as (broker, poppers):
        eventually(lambda: is_told(poppers))
        poppers[0]._tracking._changes._on_changed = lambda names: None
        assert answers(broker, URIS[7])


def test_it_is_given_up_when_redis_does_not_tell(mortal, client, monkeypatch, caplog):
    monkeypatch.setattr(tracking, "PERIOD", 0.2)
    with many(mortal.url) as (broker, poppers):
        eventually(lambda: is_told(poppers))
        (popper,) = poppers
        popper._tracking._changes._on_changed = lambda names: None
        numbers = iter(range(500))
        eventually(lambda: answers(broker, URIS[next(numbers)]) and popper._tracking._refused)
        assert answers(broker, URIS[-1])
        assert not is_told(poppers)
    told = [record.getMessage() for record in caplog.records]
    reason = "calls came, and Redis did not tell"
    assert told[0] == f"many URIs are served slower for now: {reason}"
    assert told[-1] == f"many URIs are served slower from now on: {reason}"


@pytest.mark.parametrize(
    ("marked_before", "told_since", "untold"), [(True, False, False), (False, True, False), (False, False, True)]
)
def test_what_is_told_in_time_counts_as_told(mortal, client, marked_before, told_since, untold):
    """Between a survey and its answer a list may be told, and taken by who pops."""
    with closing(RedisBroker(mortal.url, blocking_timeout=0.1)) as broker:
        tracked = told_consumer(broker)._source._tracking
        key = URIS_KEYS[7]
        client.lpush(key, "a call")
        eventually(lambda: tracked.pending.keys() == {key})
        if not marked_before:
            tracked.pending.take(1)
        tracked._due = time.monotonic()
        tracked.refresh()
        if told_since:
            tracked._on_changed([key])
        tracked.pending.take(1)
        eventually(lambda: tracked._accounted is None)
        assert tracked._untold == ({key} if untold else set())
        assert tracked.pending.keys() == {key}


def test_connections_to_different_servers(mortal, client, redis_server, monkeypatch, caplog):
    """Behind an address that moves, each may lead to another one."""
    monkeypatch.setattr(tracking, "PERIOD", 0.3)
    with many(mortal.url) as (broker, poppers), closing(RedisBroker(redis_server.url)) as elsewhere:
        eventually(lambda: is_told(poppers))
        changes = poppers[0]._tracking._changes
        connector, changes._connector = changes._connector, elsewhere.topology._connector
        changes.drop("on purpose")
        eventually(lambda: "two connections lead to different servers" in caplog.text)
        for uri in URIS[:3]:
            assert answers(broker, uri)
        assert not is_told(poppers)
        changes._connector = connector
        eventually(lambda: is_told(poppers))
        assert answers(broker, URIS[7])


def test_what_redis_refuses_is_asked_for_again(mortal, client):
    with closing(RedisBroker(mortal.url, blocking_timeout=0.1)) as broker:
        consumer = told_consumer(broker)
        broker.call(URIS[7], b"1", 30.0, RecordedCall())
        eventually(lambda: consumer._source._tracking.pending)
        client.config_set("min-replicas-to-write", 1)
        for _ in range(3):
            with pytest.raises(BrokerError, match="NOREPLICAS"):
                consumer.pop(1)
        client.config_set("min-replicas-to-write", 0)
        (call,) = consumer.pop(1)
        assert call.args == b"1"


def test_lists_that_others_have_emptied_cost_no_round_trip_each(mortal, client):
    with closing(RedisBroker(mortal.url, blocking_timeout=0.1)) as broker:
        consumer = told_consumer(broker)
        tracked = consumer._source._tracking
        tracked.pending.add(URIS_KEYS)
        broker.call(URIS[-1], b"1", 30.0, RecordedCall())
        eventually(lambda: client.llen(URIS_KEYS[-1]))
        before = pops(client)
        (call,) = consumer.pop(1)
        assert (call.args, len(tracked.pending)) == (b"1", 1)
        assert pops(client) - before <= 2


def test_a_key_that_is_no_list_costs_the_others_nothing(mortal, client, caplog):
    with many(mortal.url) as (broker, poppers):
        eventually(lambda: is_told(poppers))
        for _ in range(2):
            client.set(URIS_KEYS[3], 1)
            for uri in URIS[4:9]:
                assert answers(broker, uri)
        assert caplog.text.count("nobody can call what has its calls at juggler:calls:{test.many.3}") == 1
        assert "consumer: " not in caplog.text
        client.delete(URIS_KEYS[3])
        assert answers(broker, URIS[3])


def test_what_anybody_publishes_is_no_name(mortal, client):
    with many(mortal.url) as (broker, poppers):
        eventually(lambda: is_told(poppers))
        assert client.publish("__redis__:invalidate", "x" * 1000) == 1
        assert answers(broker, URIS[7])
        assert poppers[0]._tracking._changes.losses == 0


def test_a_callee_that_does_not_pop_does_not_let_redis_keep_more_and_more(mortal, client):
    """The names go to a subscriber, and Redis cuts off one that does not read."""
    client.config_set("client-output-buffer-limit", "pubsub 100000 0 0")
    with many(mortal.url) as (_, poppers):
        eventually(lambda: is_told(poppers))
        (popper,) = poppers
        popper._tracking._changes._greenlet.kill(block=False)  # it reads no more
        gevent.sleep(0)
        long = "juggler:calls:{test.many." + "x" * 1000 + "}"

        def is_cut():
            for number in range(1000):
                client.set(f"{long}{number}", 1)
            return not any("P" in each["flags"] for each in client.client_list())

        eventually(is_cut)
