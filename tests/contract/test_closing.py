"""A closed broker leaves no caller waiting."""

from __future__ import annotations

from time import monotonic

import gevent

from juggler.broker import IncomingCall
from juggler.errors import BrokerUnavailable
from juggler.process.uuids import new_uuid
from tests.recorders import Outcome, RecordedCall, RecordedSubscriber


def test_close_is_idempotent(make_broker, round_trip):
    round_trip()
    broker = make_broker()
    broker.close()
    broker.close()


def test_an_unused_broker_can_be_closed(make_broker):
    make_broker().close()


def test_requests_to_a_closed_broker_fail(make_broker):
    broker = make_broker()
    broker.close()
    pending, published, subscribed, answered = RecordedCall(), Outcome(), Outcome(), Outcome()
    broker.call("test.uri", b"null", 5.0, pending)
    broker.publish("news", new_uuid(), b"null", published)
    broker.subscribe("news", False, RecordedSubscriber(), subscribed)
    broker.result(IncomingCall(new_uuid(), new_uuid(), "test.uri", b"null", monotonic() + 5), b"1", answered)
    for outcome in (published, subscribed, answered):
        assert isinstance(outcome.wait(), BrokerUnavailable)
    ((_, error),) = pending.wait(1)
    assert isinstance(error, BrokerUnavailable)


def test_requests_in_flight_complete_once(make_broker):
    broker = make_broker()
    calls = [RecordedCall() for _ in range(5)]
    outcomes = [Outcome() for _ in range(5)]
    for pending, done in zip(calls, outcomes, strict=True):
        broker.call("test.uri", b"null", 0.2, pending)
        broker.publish("news", new_uuid(), b"null", done)
    broker.close()
    for pending, done in zip(calls, outcomes, strict=True):
        ((name, error),) = pending.wait(1)
        assert name == "stored"
        assert error is None or isinstance(error, BrokerUnavailable)
        assert done.wait() is None or isinstance(done.told[0], BrokerUnavailable)


def test_a_closed_consumer_pops_nothing_and_takes_no_call(caller, callee, call, round_trip):
    consumer = callee.calls(["test.uri"])
    consumer.close()
    consumer.close()
    assert consumer.pop(10) == []
    assert round_trip("test.uri").told[1] == ("result", b"null")


def test_closing_a_consumer_ends_its_pop_within_the_blocking_timeout(callee):
    consumer = callee.calls(["test.uri"])
    popping = gevent.spawn(consumer.pop, 10)
    gevent.sleep(0)
    consumer.close()
    assert popping.get(timeout=5) == []


def test_closing_the_broker_ends_its_pops(make_broker):
    broker = make_broker(blocking_timeout=60.0)
    popping = gevent.spawn(broker.calls(["test.uri"]).pop, 10)
    gevent.sleep(0)
    broker.close()
    assert popping.get(timeout=5) == []
