"""A call travels to a callee and its result back, once, unchanged and in order."""

from __future__ import annotations

import gc
import time
import uuid
import weakref

import gevent
import pytest

from juggler.errors import BrokerError, NackCode
from tests.contract.conftest import BLOCKING_TIMEOUT
from tests.recorders import Outcome, RecordedCall, pop_all
from tests.support import eventually

TEXTS = [
    b"null",
    b'""',
    b'{"a": 1,  "a": 2,\n "b" : [1e400, 0.1000000000000000055511151231257827, 123456789012345678901234567890]}',
    rb'"\ud800 \u0000 \r\n"',
    '"ünï ☃ 𝄞"'.encode(),
    b'"' + b"x" * 200_000 + b'"',
]
ODD_URIS = ["a b", " ", "ünï.☃", "{x}", "a{b}c", "a}b", "*", "[a]", "line\nbreak", "juggler:calls:{x}", "u" * 5000]
REFUSED_URIS = ["", "}", "}x", "\ud800", "u" * 8193]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_args_and_result_arrive_byte_for_byte(caller, callee, call, text):
    pending = call(caller, "test.uri", text)
    (incoming,) = pop_all(callee.calls(["test.uri"]), 1)
    assert (incoming.uri, incoming.args, incoming.msg_uuid) == ("test.uri", text, pending.call_id)
    done = Outcome()
    callee.result(incoming, text, done)
    assert done.wait() is None
    assert pending.wait(2) == [("stored", None), ("result", text)]


@pytest.mark.parametrize("by", [b"", *TEXTS[1:5]], ids=range(5))
def test_a_callee_learns_who_calls(caller, callee, by):
    pending = RecordedCall()
    caller.call("test.uri", b'{"by": "mallory"}', 5.0, pending, by=by)
    (incoming,) = pop_all(callee.calls(["test.uri"]), 1)
    assert (incoming.by, incoming.args) == (by, b'{"by": "mallory"}')
    callee.result(incoming, b"1", Outcome())
    pending.wait(2)


@pytest.mark.parametrize("failed", [None, False, True])
def test_the_failed_flag_arrives_with_a_result(caller, callee, call, failed):
    pending = call(caller)
    (incoming,) = pop_all(callee.calls(["test.uri"]), 1)
    callee.result(incoming, b"1", Outcome(), failed)
    assert pending.wait(2)[1] == ("result", b"1")
    assert pending.failed is failed


def test_a_call_knows_how_long_it_has_waited(caller, callee, call):
    call(caller)
    since = time.monotonic()
    eventually(lambda: time.monotonic() > since + 0.1)
    (incoming,) = pop_all(callee.calls(["test.uri"]), 1)
    assert 0.09 < incoming.waited < 4


def test_identifiers_are_uuids_and_differ(caller, callee, call, round_trip):
    for _ in range(3):
        call(caller)
    popped = pop_all(callee.calls(["test.uri"]), 3)
    assert len({uuid.UUID(incoming.msg_uuid) for incoming in popped}) == 3
    assert all(uuid.UUID(incoming.conn_uuid) for incoming in popped)


def test_deadline_is_the_remaining_time_on_the_monotonic_clock(caller, callee, call):
    before = time.monotonic()
    call(caller, timeout=20.0)
    (incoming,) = pop_all(callee.calls(["test.uri"]), 1)
    assert before + 19 < incoming.deadline <= time.monotonic() + 20


@pytest.mark.parametrize("uri", ODD_URIS)
def test_odd_uris_work(round_trip, uri):
    assert round_trip(uri, b"1", b"2").told == [("stored", None), ("result", b"2")]


@pytest.mark.parametrize("uri", REFUSED_URIS)
def test_invalid_uris_are_refused(caller, callee, uri):
    pending = RecordedCall()
    caller.call(uri, b"null", 1.0, pending)
    ((_, error),) = pending.wait(1)
    assert isinstance(error, BrokerError)
    assert error.code == NackCode.BAD_REQUEST
    with pytest.raises(ValueError, match="URI"):
        callee.calls(["test.good", uri])


def test_a_consumer_needs_a_uri(callee):
    with pytest.raises(ValueError, match="at least one URI"):
        callee.calls([])


def test_calls_are_popped_first_in_first_out_and_no_more_than_the_limit(caller, callee, call):
    for number in range(20):
        call(caller, args=b"%d" % number)
    consumer = callee.calls(["test.uri"])
    popped = []
    while len(popped) < 20:
        batch = consumer.pop(3)
        assert len(batch) <= 3
        popped += [incoming.args for incoming in batch]
    assert popped == [b"%d" % number for number in range(20)]


def test_pop_waits_for_the_blocking_timeout_and_returns_an_empty_list(callee):
    consumer = callee.calls(["test.uri"])
    before = time.monotonic()
    assert consumer.pop(10) == []
    assert BLOCKING_TIMEOUT * 0.9 < time.monotonic() - before < BLOCKING_TIMEOUT + 2


def test_pop_waits_for_a_call_and_leaves_others_alone(caller, callee, call):
    consumer = callee.calls(["test.uri"])
    popping = gevent.spawn(pop_all, consumer, 1)
    call(caller, "test.other", timeout=0.2)
    call(caller, "test.uri", b"7")
    (incoming,) = popping.get(timeout=30)
    assert incoming.args == b"7"
    assert consumer.pop(10) == []


def test_no_call_is_delivered_twice(caller, callee, make_broker, call):
    calls = [call(caller, args=b"%d" % number) for number in range(60)]
    consumers = [callee.calls(["test.uri"]), callee.calls(["test.uri"]), make_broker().calls(["test.uri"])]
    popped = []

    def consume(consumer):
        while len(popped) < 60:
            popped.extend(incoming.msg_uuid for incoming in consumer.pop(4))

    gevent.joinall([gevent.spawn(consume, consumer) for consumer in consumers], timeout=5, raise_error=True)
    assert sorted(popped) == sorted(pending.call_id for pending in calls)


def test_a_consumer_takes_no_call_before_it_asks(caller, callee, make_broker, call):
    busy, free = callee.calls(["test.uri"]), make_broker().calls(["test.uri"])
    for args in (b"1", b"2", b"3"):
        call(caller, args=args)
    assert [incoming.args for incoming in pop_all(busy, 1, limit=1)] == [b"1"]
    assert [incoming.args for incoming in pop_all(free, 2)] == [b"2", b"3"]


@pytest.mark.parametrize("limit", [1, 3])
def test_no_uri_of_a_consumer_starves(caller, callee, call, limit):
    for _ in range(30):
        call(caller, "test.busy")
    for uri in ("test.a", "test.b", "test.c"):
        call(caller, uri)
    consumer = callee.calls(["test.busy", "test.a", "test.b", "test.c"])
    first = [incoming.uri for _ in range(8) for incoming in consumer.pop(limit)]
    assert {"test.a", "test.b", "test.c"} <= set(first)
    pop_all(consumer, 33 - len(first))


def test_results_reach_their_own_call_in_any_order(caller, callee, call):
    calls = [call(caller) for _ in range(10)]
    for incoming in reversed(pop_all(callee.calls(["test.uri"]), 10)):
        callee.result(incoming, f'"{incoming.msg_uuid}"'.encode(), Outcome())
    for pending in calls:
        assert pending.wait(2)[1] == ("result", f'"{pending.call_id}"'.encode())


def test_results_reach_the_caller_that_asked(make_broker, call):
    callers = [make_broker(), make_broker()]
    calls = [call(each, args=b"%d" % n) for n, each in enumerate(callers)]
    callee = make_broker()
    for incoming in pop_all(callee.calls(["test.uri"]), 2):
        callee.result(incoming, incoming.args, Outcome())
    assert [pending.wait(2)[1] for pending in calls] == [("result", b"0"), ("result", b"1")]


def test_an_early_result_is_delivered_after_the_confirmation(caller, callee):
    consumer = callee.calls(["test.uri"])

    def answer():
        for incoming in pop_all(consumer, 30):
            callee.result(incoming, b"1", Outcome())

    answering = gevent.spawn(answer)
    calls = [RecordedCall() for _ in range(30)]
    for pending in calls:
        caller.call("test.uri", b"null", 5.0, pending)
    for pending in calls:
        assert pending.wait(2) == [("stored", None), ("result", b"1")]
    answering.join()


def test_a_forgotten_call_is_notified_of_nothing(caller, callee, call, round_trip):
    pending = call(caller)
    (incoming,) = pop_all(callee.calls(["test.uri"]), 1)
    caller.forget(pending)
    caller.forget(pending)
    done = Outcome()
    callee.result(incoming, b"1", done)
    assert done.wait() is None
    round_trip()
    assert pending.told == [("stored", None)]


def test_queued_calls_of_an_owner_that_has_gone_are_removed(caller, callee, nothing_is_kept):
    def call(owner, args):
        pending = RecordedCall()
        pending.owner = owner
        caller.call("test.uri", args, 60.0, pending)
        return pending

    calls = [call(owner, b"%d" % number) for number in range(40) for owner in ("gone", "here")]
    assert [pending.wait(1) for pending in calls] == [[("stored", None)]] * 80
    unconfirmed = call("gone", b"-1")
    caller.abandon("gone")
    consumer = callee.calls(["test.uri"])
    assert [incoming.args for incoming in pop_all(consumer, 40)] == [b"%d" % number for number in range(40)]
    assert consumer.pop(10) == []
    nothing_is_kept()
    call("gone", b"1").wait(1)
    caller.abandon("gone")
    nothing_is_kept()
    assert all(len(pending.told) == 1 for pending in calls)
    assert unconfirmed.told in ([], [("stored", None)])


def test_a_second_result_is_dropped(caller, callee, call, round_trip):
    pending = call(caller)
    (incoming,) = pop_all(callee.calls(["test.uri"]), 1)
    for args in (b"1", b"2"):
        callee.result(incoming, args, Outcome())
    round_trip()
    assert pending.told == [("stored", None), ("result", b"1")]


def test_nothing_is_kept_of_a_completed_call(round_trip, nothing_is_kept):
    reference = weakref.ref(round_trip())
    gc.collect()
    assert reference() is None
    nothing_is_kept()


def test_nothing_is_kept_of_a_forgotten_call(caller, callee, call, nothing_is_kept):
    pending = call(caller)
    pop_all(callee.calls(["test.uri"]), 1)
    caller.forget(pending)
    reference = weakref.ref(pending)
    del pending
    gc.collect()
    assert reference() is None
    nothing_is_kept()


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
@pytest.mark.parametrize("count", [5, 300])
def test_many_uris_are_served_in_bounds_and_each_in_its_order(caller, callee, count, limit):
    uris = [f"test.many.{number}" for number in range(count)]
    made = [(uri, b"%d" % turn) for turn in range(2) for uri in uris]
    pending = [RecordedCall() for _ in made]
    for (uri, args), each in zip(made, pending, strict=True):
        caller.call(uri, args, 30.0, each)
    for each in pending:
        each.wait(1)
    consumer = callee.calls(uris)
    popped = []
    with gevent.Timeout(30):
        while len(popped) < len(made):
            batch = consumer.pop(limit)
            assert len(batch) <= limit
            popped += batch
            for call in batch:
                callee.result(call, call.args, Outcome())
    consumer.close()
    assert sorted((call.uri, call.args) for call in popped) == sorted(made)
    for uri in uris:
        assert [call.args for call in popped if call.uri == uri] == [b"0", b"1"]
    for (_, args), each in zip(made, pending, strict=True):
        assert each.wait(2)[1] == ("result", args)


@pytest.mark.parametrize("count", [20, 300])
def test_a_busy_uri_does_not_starve_the_others(caller, callee, call, count):
    uris = [f"test.many.{number}" for number in range(count)]
    for _ in range(200):
        call(caller, uris[0], timeout=60.0)
    call(caller, uris[13], timeout=60.0)
    consumer = callee.calls(uris)
    turns = 0
    with gevent.Timeout(30):
        while uris[13] not in {incoming.uri for incoming in consumer.pop(10)}:
            turns += 1
    # Each pop may start with another list.
    assert turns <= len(uris)
    while consumer.pop(100):
        pass
    consumer.close()


# Chosen calls


@pytest.fixture
def call_of(caller):
    """Make a call of an owner and wait until it is stored: ``call_of(owner, args)``."""

    def call_of(owner, args=b"null", uri="test.uri", timeout=5.0):
        pending = RecordedCall()
        pending.owner = owner
        caller.call(uri, args, timeout, pending)
        assert pending.wait(1) == [("stored", None)]
        return pending

    return call_of


def test_the_calls_of_an_owner_are_known_by_its_client(callee, make_broker, call_of):
    for owner in ("ann", "bob", "ann"):
        call_of(owner)
    popped = pop_all(callee.calls(["test.uri"]), 3)
    assert [incoming.client == popped[0].client for incoming in popped] == [True, False, True]
    assert all(incoming.client for incoming in popped)


def test_chosen_calls_are_popped_and_others_stay(callee, call_of, nothing_is_kept):
    made = [call_of(owner, b"%d" % number) for number, owner in enumerate(("ann", "ann", "bob", "ann", "bob"))]
    consumer, asked = callee.calls(["test.uri"]), []

    def last_of_each(clients):
        asked.append(clients)
        return [len(clients) - 1, len(clients) - 2]

    popped = consumer.pop_chosen(2, last_of_each)
    assert [incoming.args for incoming in popped] == [b"4", b"3"]
    (clients,) = asked
    assert [client == clients[0] for client in clients] == [True, True, False, True, False]
    assert popped[0].deadline > time.monotonic() + 3
    assert [incoming.args for incoming in consumer.pop_chosen(1, lambda clients: [1, 0])] == [b"1"]
    assert consumer.pop_chosen(1, lambda clients: []) == []
    left = pop_all(consumer, 2)
    assert [incoming.args for incoming in left] == [b"0", b"2"]
    assert consumer.pop_chosen(5, lambda clients: list(range(len(clients)))) == []
    assert len(made) == 5
    nothing_is_kept()


def test_a_chosen_call_far_behind_in_its_queue_is_found(caller, callee, call_of):
    calls = [RecordedCall() for _ in range(900)]
    for pending in calls:
        caller.call("test.uri", b"1", 60.0, pending)
    assert [pending.wait(1) for pending in calls] == [[("stored", None)]] * 900
    call_of("bob", b'"b"')
    consumer = callee.calls(["test.uri"])
    first = []

    def others(clients):
        first[:] = first or clients[:1]
        return [index for index, client in enumerate(clients) if client != first[0]]

    assert [incoming.args for incoming in consumer.pop_chosen(3, others)] == [b'"b"']
    assert consumer.pop_chosen(3, others) == []
    assert len(pop_all(consumer, 900)) == 900


def test_no_chosen_call_is_delivered_twice(make_broker, callee, call_of):
    calls = [call_of(number % 3, b"%d" % number) for number in range(60)]
    consumers = [callee.calls(["test.uri"]), callee.calls(["test.uri"]), make_broker().calls(["test.uri"])]
    popped = []

    def consume(consumer, choose):
        while len(popped) < 60:
            batch = consumer.pop_chosen(4, choose) if choose else consumer.pop(4)
            popped.extend(incoming.msg_uuid for incoming in batch)
            gevent.sleep(0)

    choices = [lambda clients: list(range(len(clients))), lambda clients: list(range(len(clients)))[::-1], None]
    consuming = [gevent.spawn(consume, *pair) for pair in zip(consumers, choices, strict=True)]
    gevent.joinall(consuming, timeout=5, raise_error=True)
    assert sorted(popped) == sorted(pending.call_id for pending in calls)


@pytest.mark.parametrize("count", [5, 300])
def test_calls_are_chosen_from_all_uris(callee, call_of, count):
    uris = [f"test.many.{number}" for number in range(count)]
    for uri in uris:
        call_of("ann", uri=uri)
    consumer = callee.calls(uris)
    popped = []
    with gevent.Timeout(30):
        while len(popped) < count:
            batch = consumer.pop_chosen(7, lambda clients: list(range(len(clients))))
            assert len(batch) <= 7
            popped += batch
    assert sorted(incoming.uri for incoming in popped) == sorted(uris)
    consumer.close()
    assert consumer.pop_chosen(7, lambda clients: list(range(len(clients)))) == []


def test_expired_calls_are_not_chosen(caller, callee, call_of):
    expired = call_of("ann", timeout=0.05)
    call_of("ann", b"2")
    expired.wait(2)
    popped = []
    eventually(lambda: popped.extend(callee.calls(["test.uri"]).pop_chosen(5, lambda c: list(range(len(c))))) or popped)
    assert [incoming.args for incoming in popped] == [b"2"]


@pytest.mark.parametrize("trace", ["", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"])
def test_the_trace_of_a_call_arrives_with_it(caller, callee, trace):
    pending = RecordedCall()
    caller.call("test.uri", b"1", 5.0, pending, trace=trace)
    (incoming,) = pop_all(callee.calls(["test.uri"]), 1)
    assert (incoming.trace, incoming.args) == (trace, b"1")
    callee.result(incoming, b"2", Outcome())
    pending.wait(2)
