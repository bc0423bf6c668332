"""What a client makes of messages, without a websocket: literal JSON in, outcomes out."""

from __future__ import annotations

import json

import pytest

from juggler.client.state import ClientState, result_value
from juggler.errors import CallFailed, ConnectionClosed, Expired, InvalidMessage, InvalidValue, Nacked
from juggler.process.uuids import new_uuid
from juggler.protocol.messages import Call, Pub, Res, Sub, Unsb

CALL, PUB, SUB, UNSB, NACK, ACK, RES, EVNT = 1, 2, 3, 4, 7, 8, 9, 10


class Waiter:
    def __init__(self):
        self.outcomes = []

    def settle(self, outcome):
        self.outcomes.append(outcome.args if isinstance(outcome, Res) else outcome)

    @property
    def outcome(self):
        (only,) = self.outcomes
        return only


class Sink:
    def __init__(self):
        self.args = []
        self.ends = []
        self.gaps = 0

    def on_gap(self):
        self.gaps += 1

    def on_event(self, event):
        self.args.append(event.args)

    def on_end(self, error):
        self.ends.append(str(error))


@pytest.fixture
def session():
    return ClientState()


def text(type, **payload):
    if "for_" in payload:
        payload["for"] = payload.pop("for_")
    return json.dumps({"meta": {"type": type, "uuid": new_uuid()}, "payload": payload})


def ack(message):
    return text(ACK, for_=message.uuid, for_type=message.type)


def nack(message, code=403, reason="no"):
    return text(NACK, for_=message.uuid, for_type=message.type, code=code, message=reason)


def res(call, args):
    return text(RES, for_=call.uuid, uri=call.uri, args=args)


def event(channel, args, pattern=""):
    return text(EVNT, for_=new_uuid(), channel=channel, args=args, pattern=pattern)


def start_call(session, deadline=60.0):
    call, waiter = Call(uuid=new_uuid(), uri="test.echo", timeout=deadline), Waiter()
    session.call(call, deadline, waiter)
    return call, waiter


def subscribe(session, channel="news", pattern=False):
    message, sink, waiter = Sub(uuid=new_uuid(), channel=channel, pattern=pattern), Sink(), Waiter()
    is_sent = session.subscribe(message, sink, waiter)
    return message, sink, waiter, is_sent


def unsubscribe(session, sink, channel="news", pattern=False):
    message, waiter = Unsb(uuid=new_uuid(), channel=channel, pattern=pattern), Waiter()
    is_sent = session.unsubscribe(message, sink, waiter)
    return message, waiter, is_sent


# Calls


def test_a_call_is_settled_by_its_result_and_not_by_its_ack(session):
    call, waiter = start_call(session)
    session.receive(ack(call))
    assert waiter.outcomes == []
    session.receive(res(call, [1, "é"]))
    assert json.loads(waiter.outcome) == [1, "é"]


def test_a_result_may_come_before_the_ack(session):
    call, waiter = start_call(session)
    session.receive(res(call, 1))
    session.receive(ack(call))
    assert waiter.outcome == b"1"


def test_results_find_their_own_calls(session):
    (first, first_waiter), (second, second_waiter) = start_call(session), start_call(session)
    session.receive(res(second, 2))
    session.receive(res(first, 1))
    assert (first_waiter.outcome, second_waiter.outcome) == (b"1", b"2")


def test_only_the_first_result_counts(session):
    call, waiter = start_call(session)
    session.receive(res(call, 1))
    session.receive(res(call, 2))
    assert waiter.outcome == b"1"


@pytest.mark.parametrize("acknowledged", [False, True], ids=["at once", "for a result that could not be sent"])
def test_a_nack_ends_a_call(session, acknowledged):
    call, waiter = start_call(session)
    if acknowledged:
        session.receive(ack(call))
    session.receive(nack(call, 413, "too large"))
    assert isinstance(waiter.outcome, Nacked)
    assert (waiter.outcome.code, waiter.outcome.message) == (413, "too large")


def test_a_call_expires_at_its_deadline_and_not_before(session):
    call, waiter = start_call(session, deadline=5.0)
    assert session.next_deadline() == 5.0
    assert session.expire(4.9) == []
    (exp,) = session.expire(5.0)
    assert (exp.for_, exp.uri, exp.args, exp.type) == (call.uuid, "test.echo", b"null", 256)
    assert isinstance(waiter.outcome, Expired)
    assert session.next_deadline() is None


def test_a_result_after_the_deadline_is_dropped(session):
    call, waiter = start_call(session, deadline=5.0)
    session.expire(6.0)
    session.receive(res(call, 1))
    assert isinstance(waiter.outcome, Expired)


def test_an_answered_call_does_not_expire(session):
    call, waiter = start_call(session, deadline=5.0)
    session.receive(res(call, 1))
    assert session.next_deadline() is None
    assert session.expire(6.0) == []
    assert waiter.outcome == b"1"


def test_answered_calls_are_not_remembered_until_their_deadline(session):
    unanswered, waiter = start_call(session, deadline=1.0)
    for _ in range(10_000):
        call, _ = start_call(session, deadline=60.0)
        session.receive(res(call, 1))
    assert len(session._deadlines) < 100
    assert [exp.for_ for exp in session.expire(1.0)] == [unanswered.uuid]
    assert isinstance(waiter.outcome, Expired)


# Publications


def test_a_publication_is_settled_by_its_ack(session):
    message, waiter = Pub(uuid=new_uuid(), channel="news"), Waiter()
    session.publish(message, waiter)
    session.receive(ack(message))
    session.receive(nack(message))
    assert waiter.outcome is None


def test_a_publication_is_settled_by_its_nack(session):
    message, waiter = Pub(uuid=new_uuid(), channel="news"), Waiter()
    session.publish(message, waiter)
    session.receive(nack(message))
    assert isinstance(waiter.outcome, Nacked)


def test_a_forgotten_request_is_not_settled(session):
    message, waiter = Pub(uuid=new_uuid(), channel="news"), Waiter()
    session.publish(message, waiter)
    session.forget(message.uuid)
    session.forget(message.uuid)
    session.receive(ack(message))
    session.end(ConnectionClosed(1000))
    assert waiter.outcomes == []


# Subscriptions


def test_events_come_from_the_first_after_subscribing_to_the_last_before_unsubscribing(session):
    session.receive(event("news", "too early"))
    message, sink, waiter, is_sent = subscribe(session)
    assert is_sent
    session.receive(event("news", "before the ack"))
    session.receive(ack(message))
    assert waiter.outcome is None
    session.receive(event("news", "after"))
    session.receive(event("other", "elsewhere"))
    unsb, left, is_sent = unsubscribe(session, sink)
    assert is_sent
    session.receive(event("news", "too late"))
    session.receive(ack(unsb))
    assert left.outcome is None
    assert sink.args == [b'"before the ack"', b'"after"']
    assert sink.ends == ["1000 unsubscribed"]


def test_a_channel_and_a_pattern_are_two_subscriptions(session):
    _, by_name, _, _ = subscribe(session, "news.*")
    _, by_pattern, _, is_sent = subscribe(session, "news.*", pattern=True)
    assert is_sent
    session.receive(event("news.*", 1))
    session.receive(event("news.today", 2, pattern="news.*"))
    assert (by_name.args, by_pattern.args) == ([b"1"], [b"2"])


def test_two_subscriptions_to_a_channel_are_one_for_the_server(session):
    message, first, _, _ = subscribe(session)
    _, second, waiter, is_sent = subscribe(session)
    assert not is_sent
    assert waiter.outcomes == []
    session.receive(ack(message))
    assert waiter.outcome is None
    _, third, waiter, is_sent = subscribe(session)
    assert not is_sent
    assert waiter.outcome is None
    session.receive(event("news", 1))
    for sink, last in ((second, False), (first, False), (third, True)):
        assert sink.args == [b"1"]
        assert unsubscribe(session, sink)[2] is last


def test_all_subscriptions_to_a_channel_end_together(session):
    _, first, _, _ = subscribe(session)
    _, second, _, _ = subscribe(session)
    _, _, is_sent = unsubscribe(session, None)
    assert is_sent
    assert first.ends == second.ends == ["1000 unsubscribed"]


def test_ending_what_does_not_exist_is_no_error(session):
    _, waiter, is_sent = unsubscribe(session, None)
    assert not is_sent
    assert waiter.outcome is None
    subscribe(session)
    _, waiter, is_sent = unsubscribe(session, Sink())
    assert not is_sent
    assert waiter.outcome is None


def test_a_refused_subscription_is_refused_for_all_who_wait_for_it(session):
    message, _, first, _ = subscribe(session)
    _, _, second, _ = subscribe(session)
    session.receive(nack(message, 429))
    assert [w.outcome.code for w in (first, second)] == [429, 429]
    assert subscribe(session)[3], "the next one has to be sent again"


def test_a_late_answer_does_not_touch_the_next_subscription(session):
    first, sink, first_waiter, _ = subscribe(session)
    unsubscribe(session, sink)
    second, sink, second_waiter, is_sent = subscribe(session)
    assert is_sent
    session.receive(nack(first))
    assert isinstance(first_waiter.outcome, Nacked)
    session.receive(ack(second))
    assert second_waiter.outcome is None
    session.receive(event("news", 1))
    assert sink.args == [b"1"]


# The end, and what is wrong


def test_the_end_settles_everything_once(session):
    _, called = start_call(session)
    published = Waiter()
    session.publish(Pub(uuid=new_uuid(), channel="news"), published)
    _, first, subscribed, _ = subscribe(session)
    _, second, joined, _ = subscribe(session)
    session.end(ConnectionClosed(1006, "lost"))
    session.end(ConnectionClosed(1000, "closed"))
    assert session.expire(1e9) == []
    for waiter in (called, published, subscribed, joined):
        assert isinstance(waiter.outcome, ConnectionClosed)
        assert str(waiter.outcome) == "1006 lost"
    assert called.outcome is not published.outcome
    assert first.ends == second.ends == ["1006 lost"]
    assert str(session.ended) == "1006 lost"


def test_nothing_begins_after_the_end(session):
    session.end(ConnectionClosed(1006, "lost"))
    for begin in (
        start_call,
        subscribe,
        lambda s: unsubscribe(s, None),
        lambda s: s.publish(Pub(uuid=new_uuid(), channel="news"), Waiter()),
    ):
        with pytest.raises(ConnectionClosed, match="1006 lost"):
            begin(session)


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"meta":{"type":10,"uuid":"x"},"payload":{}}', text(CALL, uri="test.echo"), text(256, uri="test.echo")],
)
def test_what_no_server_sends_is_an_error(session, text):
    with pytest.raises(InvalidMessage):
        session.receive(text)


def test_answers_to_unknown_requests_are_no_error(session):
    unknown = Call(uuid=new_uuid(), uri="test.echo")
    for answer in (ack(unknown), nack(unknown), res(unknown, 1)):
        session.receive(answer)


# Results


def result(args, failed=None):
    return result_value(Res(for_="", uri="f", args=args, failed=failed))


LOOKS_FAILED = b'{"error":{"message":"no such user","type":"LookupError"}}'


@pytest.mark.parametrize(
    "args", [b"null", b"[]", b'{"error":null}', b'{"error":{"message":1}}', b'{"error":{"message":"x"},"more":1}']
)
def test_a_result_is_a_value(args):
    assert result(args) == result(args, failed=False) == json.loads(args)


def test_a_result_that_says_it_is_one_is_one_whatever_it_looks_like():
    assert result(LOOKS_FAILED, failed=False) == json.loads(LOOKS_FAILED)


@pytest.mark.parametrize("failed", [None, True])
def test_an_error_result_is_raised(failed):
    with pytest.raises(CallFailed, match="no such user") as caught:
        result(LOOKS_FAILED, failed)
    assert caught.value.type == "LookupError"
    with pytest.raises(CallFailed) as caught:
        result(b'{"error":{"message":"no"}}', failed)
    assert (caught.value.message, caught.value.type, caught.value.code, caught.value.data) == ("no", "", None, None)
    with pytest.raises(CallFailed) as caught:
        result(b'{"error":{"message":"no","code":402,"data":{"need":3}}}', failed)
    assert (caught.value.code, caught.value.data) == (402, {"need": 3})


def test_an_error_of_another_make_is_raised_if_it_says_that_it_is_one():
    with pytest.raises(CallFailed, match="quota") as caught:
        result(b'{"quota":3}', failed=True)
    assert caught.value.data == {"quota": 3}


def test_a_result_without_a_python_value_is_an_error():
    with pytest.raises(InvalidValue):
        result(b"9" * 10_000)


def test_an_ack_that_comes_too_late_for_one_still_confirms_the_others(session):
    message, _, _, _ = subscribe(session)
    _, _, second, is_sent = subscribe(session)
    assert not is_sent
    session.forget(message.uuid)
    session.receive(ack(message))
    assert second.outcome is None


# Lost connections


def test_what_is_under_way_when_a_connection_is_lost_fails_and_is_over(session):
    call, waiter = Call(uuid=new_uuid(), uri="f"), Waiter()
    session.call(call, 5.0, waiter)
    _, sink, subscribed, _ = subscribe(session)
    lost = ConnectionClosed(1006, "gone")
    session.lose(lost)
    assert (waiter.outcome.code, subscribed.outcome.code) == (1006, 1006)
    assert session.next_deadline() is None
    with pytest.raises(ConnectionClosed, match="1006 gone"):
        session.call(Call(uuid=new_uuid(), uri="f"), 5.0, Waiter())
    # It was never confirmed: whoever asked for it knows that he has none.
    assert session.resume() == []
    assert (sink.args, sink.ends) == ([], [])


def test_subscriptions_are_made_again_and_tell_of_the_gap(session):
    message, sink, _, _ = subscribe(session)
    session.receive(ack(message))
    session.lose(ConnectionClosed(1006, "gone"))
    (again,) = session.resume()
    assert (again.channel, again.pattern, again.uuid != message.uuid) == ("news", False, True)
    assert sink.gaps == 0
    session.receive(ack(again))
    assert (sink.gaps, sink.ends) == (1, [])


def test_a_subscription_that_is_refused_anew_ends(session):
    message, sink, _, _ = subscribe(session)
    session.receive(ack(message))
    session.lose(ConnectionClosed(1006, "gone"))
    (again,) = session.resume()
    session.receive(nack(again, 403, "no"))
    assert sink.ends == ["403 no"]
    assert session.resume() == []


def test_losing_it_twice_before_a_confirmation_keeps_the_subscription(session):
    message, sink, _, _ = subscribe(session)
    session.receive(ack(message))
    for _ in range(2):
        session.lose(ConnectionClosed(1006, "gone"))
        (again,) = session.resume()
    session.receive(ack(again))
    assert sink.gaps == 1


def test_who_leaves_while_it_is_lost_is_out(session):
    message, sink, _, _ = subscribe(session)
    session.receive(ack(message))
    session.lose(ConnectionClosed(1006, "gone"))
    _, waiter, is_sent = unsubscribe(session, sink)
    assert (waiter.outcome, is_sent) == (None, False)
    assert sink.ends == ["1000 unsubscribed"]
    assert session.resume() == []
