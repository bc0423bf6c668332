"""Expired calls and results are dropped wherever they are, and the caller is notified once."""

from __future__ import annotations

import gc
import weakref
from time import monotonic

from juggler.broker import IncomingCall
from juggler.process.uuids import new_uuid
from tests.recorders import Outcome, pop_all
from tests.support import eventually

SHORT = 0.05
EXPIRED = [("stored", None), ("expired",)]


def test_the_caller_is_notified_once(caller, call, round_trip):
    pending = call(caller, timeout=SHORT)
    assert pending.wait(2) == EXPIRED
    round_trip()
    assert pending.told == EXPIRED


def test_an_expired_call_is_not_popped(caller, callee, call):
    expired, wanted = call(caller, args=b"1", timeout=SHORT), call(caller, args=b"2")
    expired.wait(2)
    consumer = callee.calls(["test.uri"])
    assert [incoming.msg_uuid for incoming in pop_all(consumer, 1)] == [wanted.call_id]
    assert consumer.pop(10) == []


def test_calls_without_a_callee_expire_in_the_store(caller, call, nothing_is_kept):
    for _ in range(5):
        call(caller, "test.nobody", timeout=SHORT)
    nothing_is_kept()


def test_a_late_result_is_dropped(caller, callee, call, round_trip, nothing_is_kept):
    pending = call(caller, timeout=0.5)
    (incoming,) = pop_all(callee.calls(["test.uri"]), 1)
    pending.wait(2)
    done = Outcome()
    callee.result(incoming, b"1", done)
    assert done.wait() is None
    round_trip()
    assert pending.told == EXPIRED
    nothing_is_kept()


def test_unread_results_expire_in_the_store(callee, nothing_is_kept):
    stranger = IncomingCall(new_uuid(), new_uuid(), "test.uri", b"null", monotonic() + SHORT)
    done = Outcome()
    callee.result(stranger, b"1", done)
    assert done.wait() is None
    nothing_is_kept()


def test_a_long_call_does_not_expire_with_a_short_one(caller, callee, call, nothing_is_kept):
    long_before, short, long_after = call(caller), call(caller, timeout=SHORT), call(caller)
    short.wait(2)
    popped = pop_all(callee.calls(["test.uri"]), 2)
    assert [incoming.msg_uuid for incoming in popped] == [long_before.call_id, long_after.call_id]
    nothing_is_kept()


def test_nothing_is_kept_of_an_expired_call(caller, call):
    pending = call(caller, timeout=SHORT)
    reference = weakref.ref(pending)
    pending.wait(2)
    del pending

    def gone():
        gc.collect()
        return reference() is None

    eventually(gone)
