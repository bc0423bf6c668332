"""A full list refuses further entries, and keeps nothing of them."""

from __future__ import annotations

from time import monotonic

import pytest

from juggler.broker import IncomingCall
from juggler.errors import CapacityExceeded
from juggler.process.uuids import new_uuid
from tests.recorders import Outcome, RecordedCall, pop_all


@pytest.fixture
def limited(make_broker):
    return make_broker(call_capacity=2, result_capacity=2)


def test_calls_over_the_capacity_are_refused(limited, call, nothing_is_kept):
    for args in (b"1", b"2"):
        assert call(limited, args=args).told == [("stored", None)]
    ((_, error),) = call(limited, args=b"3").told
    assert isinstance(error, CapacityExceeded)
    assert str(error) == "list capacity exceeded"
    assert [incoming.args for incoming in pop_all(limited.calls(["test.uri"]), 2)] == [b"1", b"2"]
    nothing_is_kept()


def test_calls_of_one_turn_over_the_capacity_are_refused(limited, nothing_is_kept):
    calls = [RecordedCall() for _ in range(5)]
    for number, call in enumerate(calls):
        limited.call("test.uri", b"%d" % number, 5.0, call)
    told = [call.wait(1)[0][1] for call in calls]
    assert told[:2] == [None, None]
    assert [type(error) for error in told[2:]] == [CapacityExceeded] * 3
    assert [incoming.args for incoming in pop_all(limited.calls(["test.uri"]), 2)] == [b"0", b"1"]
    nothing_is_kept()


def test_each_uri_has_its_own_capacity(limited, call):
    for uri in ("test.a", "test.a", "test.b"):
        assert call(limited, uri).told == [("stored", None)]
    pop_all(limited.calls(["test.a", "test.b"]), 3)


def test_popping_makes_room(limited, call):
    consumer = limited.calls(["test.uri"])
    for _ in range(4):
        assert call(limited).told == [("stored", None)]
        pop_all(consumer, 1)


def test_calls_are_either_stored_or_refused_while_a_callee_pops(limited):
    """A call over the capacity that a callee has popped in the meantime is not refused."""
    consumer, popped = limited.calls(["test.uri"]), []
    calls = [RecordedCall() for _ in range(300)]
    for number, call in enumerate(calls):
        limited.call("test.uri", b"null", 5.0, call)
        if number % 3 == 0:
            popped += consumer.pop(2)
    told = [call.wait(1)[0] for call in calls]
    stored = [call.call_id for call, (_, error) in zip(calls, told, strict=True) if error is None]
    assert all(error is None or isinstance(error, CapacityExceeded) for _, error in told)
    popped += pop_all(consumer, len(stored) - len(popped)) if len(stored) > len(popped) else []
    assert [incoming.msg_uuid for incoming in popped] == stored


def test_the_bytes_of_calls_to_a_uri_are_bounded(make_broker, call, nothing_is_kept):
    broker = make_broker(call_bytes=10)
    assert call(broker, args=b"12345678901").told == [("stored", None)]
    ((_, error),) = call(broker, args=b"1").told
    assert isinstance(error, CapacityExceeded)
    first = call(broker, "test.other", args=b"123456", timeout=0.05)
    ((_, error),) = call(broker, "test.other", args=b"12345").told
    assert isinstance(error, CapacityExceeded)
    assert call(broker, "test.other", args=b"1234").told == [("stored", None)]
    assert first.wait(2)[-1] == ("expired",)
    assert call(broker, "test.other", args=b"123456").told == [("stored", None)]
    broker.abandon(None)
    nothing_is_kept()


def test_the_bytes_of_the_calls_of_an_owner_are_bounded(caller, nothing_is_kept):
    def call(args, owner):
        pending = RecordedCall()
        pending.owner = owner
        caller.call("test.uri", args, 5.0, pending, None, 10)
        return pending.wait(1)[0][1]

    assert call(b"12345678", "me") is None
    assert call(b"123", "me").code == 429
    assert call(b"12", "me") is None
    assert call(b"12345678901", "other") is None
    for owner in ("me", "other"):
        caller.abandon(owner)
    nothing_is_kept()


def test_results_over_the_capacity_are_refused(limited, nothing_is_kept):
    reader = new_uuid()
    outcomes = []
    for _ in range(3):
        done = Outcome()
        limited.result(IncomingCall(reader, new_uuid(), "test.uri", b"null", monotonic() + 0.2), b"1", done)
        outcomes.append(done.wait())
    assert outcomes[:2] == [None, None]
    assert isinstance(outcomes[2], CapacityExceeded)
    nothing_is_kept()


def test_results_that_are_read_make_room(limited, call):
    consumer = limited.calls(["test.uri"])
    for _ in range(5):
        pending = call(limited)
        done = Outcome()
        limited.result(pop_all(consumer, 1)[0], b"1", done)
        assert done.wait() is None
        pending.wait(2)
