"""A full list refuses further entries, and keeps nothing of them."""

from __future__ import annotations

from time import monotonic

import pytest

from juggler.broker import IncomingCall
from juggler.errors import CapacityExceeded
from juggler.process.uuids import new_uuid
from tests.recorders import Outcome, pop_all


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


def test_each_uri_has_its_own_capacity(limited, call):
    for uri in ("test.a", "test.a", "test.b"):
        assert call(limited, uri).told == [("stored", None)]
    pop_all(limited.calls(["test.a", "test.b"]), 3)


def test_popping_makes_room(limited, call):
    consumer = limited.calls(["test.uri"])
    for _ in range(4):
        assert call(limited).told == [("stored", None)]
        pop_all(consumer, 1)


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
