"""What the memory broker has beyond the contract: a clock to turn by hand, and callbacks that never interleave."""

from __future__ import annotations

import gevent
import pytest

from juggler.broker.memory import MemoryBroker
from tests.recorders import Outcome, RecordedCall, RecordedSubscriber


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def broker(clock):
    broker = MemoryBroker(clock=clock, blocking_timeout=0.01)
    yield broker
    broker.close()


def call(broker, uri="f", timeout=5.0, pending=None):
    pending = pending or RecordedCall()
    broker.call(uri, b"null", timeout, pending)
    return pending


def test_time_passes_only_with_the_clock(broker, clock):
    pending = call(broker)
    clock.now += 4.9
    broker.expire()
    assert pending.told == [("stored", None)]
    clock.now += 0.2
    broker.expire()
    broker.expire()
    assert pending.told == [("stored", None), ("expired",)]
    assert broker.is_empty()


def test_deadlines_are_on_the_clock(broker, clock):
    call(broker, timeout=5.0)
    (incoming,) = broker.calls(["f"]).pop(1)
    assert incoming.deadline == 1005.0


def test_a_call_is_not_popped_at_its_deadline(broker, clock):
    call(broker, timeout=5.0)
    clock.now += 5.0
    assert broker.calls(["f"]).pop(1) == []


def test_a_result_at_the_deadline_is_late(broker, clock):
    pending = call(broker)
    (incoming,) = broker.calls(["f"]).pop(1)
    clock.now = incoming.deadline
    broker.result(incoming, b"1", Outcome())
    broker.expire()
    assert pending.told == [("stored", None), ("expired",)]
    assert broker.stats().late_results == 1


def test_a_result_that_is_read_too_late_expires(broker, clock):
    pending = call(broker)
    (incoming,) = broker.calls(["f"]).pop(1)
    broker.result(incoming, b"1", Outcome())
    clock.now = incoming.deadline
    gevent.sleep(0)
    assert pending.told == [("stored", None), ("expired",)]


def test_results_and_events_are_never_told_inside_somebody_elses_call(broker):
    pending, subscriber = call(broker), RecordedSubscriber()
    broker.subscribe("news", False, subscriber, Outcome())
    (incoming,) = broker.calls(["f"]).pop(1)
    broker.result(incoming, b"1", Outcome())
    broker.publish("news", "uuid", b"1", Outcome())
    assert (pending.told, subscriber.events) == ([("stored", None)], [])
    pending.wait(2)
    subscriber.wait(1)


def test_an_event_published_while_events_are_told_comes_after_them(broker):
    class Echo(RecordedSubscriber):
        def on_event(self, event):
            super().on_event(event)
            if event.args == b"1":
                broker.publish("news", "uuid", b"2", Outcome())

    echo, listener = Echo(), RecordedSubscriber()
    for subscriber in (echo, listener):
        broker.subscribe("news", False, subscriber, Outcome())
    broker.publish("news", "uuid", b"1", Outcome())
    for subscriber in (echo, listener):
        assert [args for _, _, args in subscriber.wait(2)] == [b"1", b"2"]


def test_a_call_made_while_another_expires_is_not_disturbed(broker, clock):
    class Again(RecordedCall):
        def on_expired(self):
            super().on_expired()
            again.append(call(broker))

    again = []
    call(broker, pending=Again())
    clock.now += 6
    broker.expire()
    assert again[0].told == [("stored", None)]
    assert not broker.is_empty()
