"""juggler.locust.request_checks through the book: one ACK or NACK a request, one result or expiry an acked call."""

from __future__ import annotations

import pytest

from juggler.client.state import Exp
from juggler.locust.book import Book
from juggler.locust.request_checks import LATE, PATIENCE, SECOND_RESPONSE, Fate
from juggler.process.uuids import new_uuid
from juggler.protocol.messages import Ack, Auth, Call, Cncl, Crdt, Nack, Part, Parts, Pub, Res, Wlcm, ack, nack
from loadtest.disturbances import Disturbances


@pytest.fixture
def disturbances():
    return Disturbances()


@pytest.fixture
def book(disturbances):
    book = Book(disturbances.overlap)
    assert book.connected(0.0) == 1
    return book


def call(book, now=1.0, timeout=5.0, expected=Fate.ANY, acked=True):
    message = Call(uuid=new_uuid(), uri="f", args=b"1", timeout=timeout)
    book.sent(1, message, now, expected)
    if acked:
        book.received(1, ack(message), now)
    return message


def result(message, args=b"1"):
    return Res(for_=message.uuid, uri=message.uri, args=args)


def expiry(message):
    return Exp(for_=message.uuid, uri=message.uri)


def violations(book, now=100.0):
    book.finish(now)
    return dict(book.violations.counts)


def test_no_faults(book):
    book.received(1, result(call(book)), 1.5)
    book.received(1, expiry(call(book)), 6.0)
    refused = call(book, acked=False)
    book.received(1, nack(refused, 503, "away"), 1.0)
    publication = Pub(uuid=new_uuid(), channel="c")
    book.sent(1, publication, 1.0)
    assert book.unanswered() == book.unanswered(1) == 1
    entry = book.received(1, ack(publication), 1.2)
    assert (entry.type, entry.name, entry.sent_at) == ("PUB", "c", 1.0)
    assert book.unanswered() == 0
    assert violations(book) == {}
    tally = book.tally
    assert (tally.sent, tally.acked, tally.nacked) == ({"CALL": 3, "PUB": 1}, {"CALL": 2, "PUB": 1}, {"CALL": 1})
    assert (tally.answered, tally.expired, tally.overdue) == (1, 1, 1)


def test_a_result_before_its_ack(book):
    message = call(book, acked=False)
    book.received(1, result(message), 1.5)
    assert book.unanswered() == 1
    book.received(1, ack(message), 1.6)
    assert book.unanswered() == 0
    assert violations(book) == {"a result before its ACK": 1}


def test_a_request_without_ack_or_nack(book):
    call(book, acked=False)
    assert "a request without ACK or NACK" in violations(book)


def test_a_call_without_result_or_expiry(book):
    call(book)
    assert "a call without result or expiry" in violations(book)


def test_a_late_response_is_reported_during_the_test(book):
    call(book, now=1.0, timeout=5.0)
    book.judge(1.0 + 5.0 + PATIENCE)
    assert not book.violations
    book.judge(1.1 + 5.0 + PATIENCE)
    assert dict(book.violations.counts) == {"a call without result or expiry": 1}


@pytest.mark.parametrize("second", [ack, lambda message: nack(message, 500, "no")])
def test_a_second_response(book, second):
    message = Pub(uuid=new_uuid(), channel="c")
    book.sent(1, message, 1.0)
    book.received(1, ack(message), 1.0)
    book.received(1, second(message), 1.0)
    assert violations(book) == {"a second response to a request, or one to an unknown request": 1}


def test_an_ack_and_a_nack_for_a_call(book):
    book.received(1, nack(call(book), 503, "away"), 1.1)
    assert violations(book)["an ACK and a NACK for one request"] == 1


def test_a_second_ack_for_a_call(book):
    message = call(book)
    book.received(1, ack(message), 1.0)
    book.received(1, result(message), 1.1)
    assert violations(book) == {"a second response to a request, or one to an unknown request": 1}


def test_an_ack_of_another_type(book):
    message = call(book, acked=False)
    book.received(1, Ack(for_=message.uuid, for_type=2, channel="f"), 1.0)
    book.received(1, result(message), 1.0)
    assert violations(book) == {"an ACK that names another type than its request": 1}


def test_a_nack_replaces_a_result_that_is_too_large(book):
    message = call(book)
    book.received(1, Nack(for_=message.uuid, for_type=1, code=413, message="large", uri="f"), 1.1)
    assert violations(book) == {}
    assert (book.tally.replaced, book.tally.nacked["CALL"]) == (1, 0)


def test_a_second_result(book):
    message = call(book)
    book.received(1, result(message), 1.1)
    book.received(1, result(message), 1.2)
    assert violations(book) == {"a second result, or one of an unknown call": 1}


def test_a_late_result_is_counted_and_tolerated_for_a_while(book):
    shortly, too_late = call(book), call(book)
    for message in (shortly, too_late):
        book.received(1, expiry(message), 6.0)
    book.received(1, result(shortly), 6.0 + LATE)
    book.received(1, result(too_late), 6.1 + LATE)
    assert violations(book) == {"a second result, or one of an unknown call": 1}
    assert (book.tally.late, book.tally.answered, book.tally.expired) == (1, 0, 2)


def test_a_call_may_expire_before_its_ack(book):
    acked, refused = call(book, acked=False), call(book, acked=False)
    for message in (acked, refused):
        book.received(1, expiry(message), 6.0)
    assert book.unanswered() == 2
    book.received(1, ack(acked), 7.0)
    book.received(1, nack(refused, 503, "away"), 7.0)
    assert violations(book) == {}
    assert (book.tally.expired, book.tally.nacked["CALL"]) == (1, 1)


def test_calls_that_are_made_to_expire_are_not_overdue(book):
    book.received(1, expiry(call(book, expected=Fate.EXPIRES)), 6.0)
    assert (book.tally.expired, book.tally.overdue) == (1, 0)


@pytest.mark.parametrize(("since", "expected"), [(0.5, {}), (2.0, {"a wrong result": 1})])
def test_a_killed_callee_ends_its_calls(book, disturbances, since, expected):
    disturbances.begin(since)
    gone = Res(for_=call(book, expected=1).uuid, uri="f", args=b'{"error":{"type":"CalleeGone"}}', failed=True)
    book.received(1, gone, 1.1)
    assert violations(book) == expected


def test_a_wrong_result(book):
    book.received(1, result(call(book, expected=[1, "a"]), b'[1,"a"]'), 1.1)
    assert not book.violations
    book.received(1, result(call(book, expected=[1, "a"]), b'{"error":{"message":"no"}}'), 1.1)
    assert violations(book) == {"a wrong result": 1}


def test_requests_of_a_lost_connection_are_lost(book):
    other = book.connected(0.0)
    kept = Pub(uuid=new_uuid(), channel="c")
    book.sent(other, kept, 1.0)
    call(book)
    call(book, acked=False)
    book.lost(1, 2.0, "1006")
    assert book.unanswered() == book.unanswered(other) == 1
    book.received(other, ack(kept), 3.0)
    book.lost(1, 3.0, "once is enough")
    assert violations(book) == {"a connection was lost": 1}
    assert (book.tally.lost["CALL"], book.tally.lost_calls, book.tally.lost_connections) == (1, 1, 1)


def test_a_connection_lost_during_a_failure_is_excused(book, disturbances):
    disturbances.begin(1.0)
    disturbances.end(2.0)
    message = call(book, now=1.5, timeout=5.0)
    book.received(1, expiry(message), 6.5)
    book.lost(1, 7.0, "1006")
    assert book.violations  # it was well at 6.5
    other = book.connected(1.9)
    book.lost(other, 3.0, "1006")
    assert violations(book) == {"a connection was lost": 1}
    assert book.tally.overdue == 0


def test_closing_with_requests_in_flight_is_a_fault(book):
    call(book)
    book.closed(1, 2.0, 2.1)
    book.closed(1, 2.0, 2.1)
    assert violations(book) == {"a request in flight when its connection was closed": 1}


def test_responses_at_another_client(book):
    other = book.connected(0.0)
    answered, unanswered = call(book), call(book, acked=False)
    assert book.received(other, result(answered), 1.5) is None
    assert book.received(other, ack(unanswered), 1.5) is None
    assert book.unanswered(1) == 2
    assert violations(book, 1.6) == {
        "RES at another client than its request's": 1,
        "ACK at another client than its request's": 1,
        "a call without result or expiry": 1,
        "a request without ACK or NACK": 1,
        "CALL: 2 sent, but 1 acknowledged, refused or lost": 1,
        "CALL: 1 acknowledged, but 0 answered, expired, cancelled or lost": 1,
    }


def test_a_late_result_at_another_client(book):
    other = book.connected(0.0)
    message = call(book, expected=Fate.EXPIRES)
    book.received(1, expiry(message), 6.0)
    book.received(other, result(message), 6.1)
    assert violations(book) == {"RES at another client than its request's": 1}


@pytest.mark.parametrize(("now", "expected"), [(2.9, {}), (3.1, {"a late result": 1})])
def test_the_maximum_latency(now, expected):
    book = Book(max_latency=2.0)
    assert book.connected(0.0) == 1
    book.received(1, result(call(book, now=1.0)), now)
    assert violations(book) == expected


def test_a_call_expires_that_was_never_sent(book):
    assert book.received(1, Exp(for_=new_uuid(), uri="f"), 1.0) is None
    assert violations(book) == {}


# Under juggler.1, a result implies the ACK.


def welcomed(book):
    book.received(1, Wlcm(conn=new_uuid()), 0.5)
    return book


def test_a_result_implies_the_ack(book):
    welcomed(book)
    entry = book.received(1, result(call(book, acked=False)), 1.5)
    assert (entry.type, entry.acked) == ("CALL", True)
    book.received(1, result(call(book)), 1.5)
    assert book.unanswered() == 0
    assert violations(book) == {}
    assert (book.tally.acked, book.tally.implied, book.tally.answered) == ({"CALL": 2}, 1, 2)


def test_an_ack_after_its_result_is_a_second_response(book):
    message = call(welcomed(book), acked=False)
    book.received(1, result(message), 1.5)
    book.received(1, ack(message), 1.6)
    assert violations(book) == {SECOND_RESPONSE: 1}


def test_a_late_result_implies_the_ack(book):
    message = call(welcomed(book), timeout=1.0, acked=False)
    book.received(1, expiry(message), 2.0)
    book.received(1, result(message), 2.1)
    assert book.unanswered() == 0
    assert violations(book) == {}
    assert (book.tally.expired, book.tally.late, book.tally.acked) == (1, 1, {"CALL": 1})


def test_each_connection_has_its_subprotocol(book):
    welcomed(book)
    assert book.connected(0.0) == 2
    message = Call(uuid=new_uuid(), uri="f", args=b"1", timeout=5.0)
    book.sent(2, message, 1.0)
    book.received(2, result(message), 1.5)
    book.received(2, ack(message), 1.6)
    assert violations(book) == {"a result before its ACK": 1}


def test_a_call_without_any_response(book):
    call(welcomed(book), acked=False)
    assert "a request without ACK or NACK" in violations(book)


# juggler.1: parts, cancels, tokens


@pytest.fixture
def newer(book):
    """The book, whose connection speaks juggler.1."""
    book.received(1, Wlcm(conn=new_uuid()), 0.5)
    return book


def stream(book, mode="all", now=1.0):
    message = Call(uuid=new_uuid(), uri="f", timeout=5.0, parts=Parts(mode, 64))
    book.sent(1, message, now)
    return message


def part(book, message, seq, now=1.5, args=b"1", joined=False):
    return book.received(1, Part(for_=message.uuid, seq=seq, args=args, joined=joined), now)


def cancel(book, message, now=2.0, wait=False):
    request = Cncl(uuid=new_uuid(), for_=message.uuid, wait=wait)
    book.sent(1, request, now)
    return request


def test_a_stream(newer):
    message = stream(newer)
    assert part(newer, message, 1).parts == 1
    entry = part(newer, message, 2, args=b"[2,3]", joined=True)
    assert (entry.parts, entry.size, entry.implied) == (3, 6, True)
    part(newer, message, 4)
    newer.received(1, result(message), 2.0)
    assert violations(newer) == {}
    tally = newer.tally
    assert (tally.parts, tally.answered, tally.acked["CALL"], tally.implied) == (3, 1, 1, 1)


@pytest.mark.parametrize(
    ("mode", "seqs", "expected"),
    [
        ("all", [2], {"a part was missed": 1}),
        ("all", [1, 3], {"a part was missed": 1}),
        ("all", [1, 1], {"a part was received twice or out of order": 1}),
        ("latest", [2, 5, 6], {}),
        ("latest", [2, 1], {"a part was received twice or out of order": 1}),
    ],
)
def test_parts_with_a_gap(newer, mode, seqs, expected):
    message = stream(newer, mode)
    for seq in seqs:
        part(newer, message, seq)
    newer.received(1, result(message), 2.0)
    assert violations(newer) == expected


def test_parts_of_a_call_that_asked_for_none(newer):
    part(newer, call(newer), 1)
    assert newer.violations.counts == {"a part of a call that has asked for none": 1}


def test_a_part_after_the_result(newer):
    message = stream(newer)
    newer.received(1, result(message), 2.0)
    assert part(newer, message, 1, now=2.1) is None
    assert violations(newer) == {"a part after the end of its call": 1}


@pytest.mark.parametrize(("now", "expected"), [(6.0 + LATE, {}), (6.1 + LATE, {"a part after the end of its call": 1})])
def test_a_part_after_the_expiry(newer, now, expected):
    message = stream(newer)
    newer.received(1, ack(message), 1.1)
    newer.received(1, expiry(message), 6.0)
    part(newer, message, 1, now=now)
    assert violations(newer) == expected


def test_a_stream_may_take_long_and_is_not_late():
    book = Book(max_latency=2.0)
    book.connected(0.0)
    book.received(1, Wlcm(conn=new_uuid()), 0.0)
    message = stream(book)
    for seq in range(1, 101):
        part(book, message, seq, now=1.0 + seq)
        book.judge(1.0 + seq)
    book.received(1, result(message), 103.0)
    assert violations(book, 103.0) == {}


def test_the_credit_of_a_stream_gets_no_answer(newer):
    assert newer.sent(1, Crdt(uuid=new_uuid(), for_=stream(newer).uuid, until=9), 1.0) is None
    assert newer.unanswered() == 1


@pytest.mark.parametrize("answer", [ack, lambda message: nack(message, 404, "not in flight")])
@pytest.mark.parametrize("acked", [True, False])
def test_a_cancelled_call(newer, answer, acked):
    message = call(newer, acked=acked)
    request = cancel(newer, message)
    entry = newer.received(1, answer(request), 2.1)
    assert (entry.type, entry.name) == ("CNCL", "f")
    assert newer.unanswered() == 0
    assert violations(newer) == {}
    assert (newer.tally.cancelled, newer.tally.acked["CALL"], newer.tally.implied) == (1, 1, not acked)


def test_the_result_of_a_cancelled_call_is_one_too_many(newer):
    message = call(newer)
    newer.received(1, ack(cancel(newer, message)), 2.1)
    newer.received(1, result(message), 2.2)
    assert violations(newer) == {"a second result, or one of an unknown call": 1}


def test_a_result_may_overtake_the_cancel(newer):
    message = call(newer)
    request = cancel(newer, message)
    assert newer.received(1, result(message), 2.1).cancelled
    newer.received(1, nack(request, 404, "not in flight"), 2.2)
    assert violations(newer) == {}
    assert (newer.tally.answered, newer.tally.cancelled) == (1, 0)


def test_a_cancel_that_waits_for_the_result(newer):
    message = call(newer)
    newer.received(1, ack(cancel(newer, message, wait=True)), 2.1)
    assert newer.unanswered() == 1
    assert newer.received(1, result(message), 2.2).cancelled
    assert violations(newer) == {}
    assert (newer.tally.answered, newer.tally.cancelled) == (1, 0)


def test_a_renewed_token(newer):
    for answer in (ack, lambda message: nack(message, 401, "expired")):
        request = Auth(uuid=new_uuid(), token="t")
        newer.sent(1, request, 1.0)
        assert newer.received(1, answer(request), 1.1).name == ""
    lost = Auth(uuid=new_uuid(), token="t")
    newer.sent(1, lost, 1.0)
    assert violations(newer) == {
        "a request without ACK or NACK": 1,
        "AUTH: 3 sent, but 2 acknowledged, refused or lost": 1,
    }


def test_requests_of_a_lost_connection_are_returned(book):
    message = call(book)
    (entry,) = book.lost(1, 2.0, "1006")
    assert entry.message is message
    assert book.unanswered(1) == book.unanswered() == 0


@pytest.mark.parametrize(("now", "expected"), [(5.9, {}), (6.1, {"a call without result or expiry": 1})])
def test_calls_within_their_timeout_may_be_unfinished_at_the_end(now, expected):
    book = Book(allow_unfinished=True)
    book.connected(0.0)
    call(book)
    assert book.last_deadline() == 6.0
    found = violations(book, now)
    assert {kind: count for kind, count in found.items() if kind.startswith("a ")} == expected
    assert book.tally.unfinished == (not expected)


def test_a_client_may_leave_calls_behind_but_no_other_requests():
    book = Book(allow_unfinished=True)
    book.connected(0.0)
    call(book)
    book.sent(1, Pub(uuid=new_uuid(), channel="c"), 1.0)
    book.closed(1, 2.0, 2.1)
    assert violations(book) == {"a request in flight when its connection was closed": 1}
    assert book.tally.unfinished == 1
