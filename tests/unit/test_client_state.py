"""The state of a client, without a websocket or a clock: literal JSON in, texts and outcomes out."""

from __future__ import annotations

import json
from collections import deque
from itertools import count, repeat

import pytest

from juggler.client.bookkeeping import PendingRequest, Requests
from juggler.client.events import EventQueue
from juggler.client.reconnect import Reconnect
from juggler.client.renewal import LEAST, LONGEST_PAUSE, Renewal
from juggler.client.state import ClientState, State
from juggler.errors import (
    CallFailed,
    Cancelled,
    ConfigError,
    ConnectionClosed,
    Expired,
    HandshakeRefused,
    InvalidMessage,
    InvalidValue,
    Nacked,
    NotSupported,
)
from juggler.protocol.messages import Call, Res, Wlcm
from juggler.protocol.results import result_value

CALL, PUB, SUB, UNSB, NACK, ACK, RES, EVNT = 1, 2, 3, 4, 7, 8, 9, 10
AUTH, ENDS = 19, 34
CONN = "00000000-0000-4000-8000-000000000030"

_numbers = count()


def new_uuid():
    return f"00000000-0000-4000-8000-{next(_numbers):012}"


def new_state(*, reconnect=True, reconnect_timeout=None, follow_gaps=False):
    policy = Reconnect(reconnect, reconnect_timeout, lambda first, longest: repeat(first))
    return ClientState(
        call_timeout=60.0, reconnect=policy, renewal=new_renewal(), new_uuid=new_uuid, follow_gaps=follow_gaps
    )


def new_renewal():
    return Renewal(lambda first, longest: repeat(first), lambda low, high: high)


def new_pending(callbacks=None):
    return PendingRequest(deque() if callbacks is None else callbacks, lambda: None)


@pytest.fixture
def state():
    state = new_state()
    assert state.on_connected(0.0) == []
    return state


def text(type, **payload):
    payload = {name.removesuffix("_"): value for name, value in payload.items()}
    return json.dumps({"meta": {"type": type, "uuid": new_uuid()}, "payload": payload})


class Request:
    """A request as its sender sees it: ``sent`` is the message, ``None`` if there was none to send."""

    def __init__(self, state, begin):
        self.pending = new_pending(state.callbacks)
        sent = begin(self.pending)
        sent = sent if isinstance(sent, list) else [sent]
        assert len(sent) <= 1
        self.sent = json.loads(sent[0]) if sent else None

    @property
    def is_settled(self):
        return self.pending.is_settled

    @property
    def outcome(self):
        """The outcome: the text of a result, ``None`` for an ACK, or the error."""
        assert self.is_settled
        try:
            res = self.pending.outcome()
        except Exception as error:
            return error
        return res and res.args

    def ack(self):
        return ack(self.sent)

    def nack(self, code=403, reason="no"):
        return nack(self.sent, code, reason)

    def res(self, args):
        return text(RES, for_=self.sent["meta"]["uuid"], uri=self.sent["payload"]["uri"], args=args)


def ack(request):
    return text(ACK, for_=request["meta"]["uuid"], for_type=request["meta"]["type"])


def nack(request, code=403, reason="no"):
    return text(NACK, for_=request["meta"]["uuid"], for_type=request["meta"]["type"], code=code, message=reason)


def event(channel, args, pattern=""):
    return text(EVNT, for_=new_uuid(), channel=channel, args=args, pattern=pattern)


def call(state, timeout=60.0, now=0.0):
    return Request(state, lambda pending: state.call(pending, "test.echo", b"null", timeout, now))


def publish(state):
    return Request(state, lambda pending: state.publish(pending, "news", b"null"))


class Queue(EventQueue):
    """A queue whose content can be compared."""

    def __init__(self, channel="news", pattern=False, **options):
        super().__init__(channel, pattern, **{"max_events": 1000, "when_full": "drop_oldest", **options})

    def read(self):
        """Return the published values, and the error at the end if there is one."""
        found = []
        while self.is_readable:
            try:
                found.append(self.take().args)
            except Exception as error:
                return [*found, str(error)]
        return found


def subscribe(state, *args, **options):
    queue = Queue(*args, **options)
    return queue, Request(state, lambda pending: state.subscribe(pending, queue))


def subscribed(state, *args, **options):
    queue, request = subscribe(state, *args, **options)
    state.receive(request.ack())
    return queue


def unsubscribe(state, queue, channel="news", pattern=False):
    return Request(state, lambda pending: state.unsubscribe(pending, channel, pattern, queue))


def lose(state, now=0.0):
    """Lose the connection and connect again. Return the messages to be sent."""
    assert state.on_failure(ConnectionClosed(1006, "gone"), now) is not None
    return reconnect(state, now)


def reconnect(state, now=0.0):
    assert state.may_connect(now)
    return [json.loads(text) for text in state.on_connected(now)]


# Arguments


def test_requests_are_encoded():
    ids = iter(["u1", "u2", "u3", "u4"])
    policy = Reconnect(True, None, lambda first, longest: repeat(first))
    state = ClientState(call_timeout=1.5, reconnect=policy, renewal=new_renewal(), new_uuid=lambda: next(ids))
    state.on_connected(0.0)
    pending = new_pending(state.callbacks)
    sent = [state.call(pending, "f", b"[1]", None, 10.0)]
    assert (pending.uuid, pending.uri, pending.deadline) == ("u1", "f", 11.5)
    sent.append(state.publish(new_pending(state.callbacks), "news", b'"x"'))
    sent += state.subscribe(new_pending(state.callbacks), Queue("news.*", True))
    sent += state.unsubscribe(new_pending(state.callbacks), "news.*", True, None)
    assert [json.loads(each) for each in sent] == [
        {"meta": {"type": CALL, "uuid": "u1"}, "payload": {"uri": "f", "timeout": 1_500_000_000, "args": [1]}},
        {"meta": {"type": PUB, "uuid": "u2"}, "payload": {"channel": "news", "args": "x"}},
        {"meta": {"type": SUB, "uuid": "u3"}, "payload": {"channel": "news.*", "pattern": True}},
        {"meta": {"type": UNSB, "uuid": "u4"}, "payload": {"channel": "news.*", "pattern": True}},
    ]


@pytest.mark.parametrize("timeout", [0, -1, 86_401, float("nan")])
def test_a_timeout_out_of_range_is_refused(state, timeout):
    with pytest.raises(ValueError, match="timeout: expected more than 0 and at most 86400 seconds"):
        call(state, timeout)
    assert state.next_deadline() is None


def test_names_that_utf8_cannot_represent_are_refused(state):
    pending = new_pending(state.callbacks)
    for request in (
        lambda: state.call(pending, "\ud800", b"null", None, 0.0),
        lambda: state.publish(pending, "\ud800", b"null"),
        lambda: state.subscribe(pending, Queue("\ud800")),
        lambda: state.unsubscribe(pending, "\ud800", False, None),
    ):
        with pytest.raises(InvalidValue):
            request()


# Calls


def test_a_call_is_settled_by_its_result_and_not_by_its_ack(state):
    request = call(state)
    state.receive(request.ack())
    assert not request.is_settled
    state.receive(request.res([1, "é"]))
    assert json.loads(request.outcome) == [1, "é"]


def test_a_result_may_come_before_the_ack(state):
    request = call(state)
    state.receive(request.res(1))
    state.receive(request.ack())
    assert request.outcome == b"1"


def test_results_find_their_own_calls(state):
    first, second = call(state), call(state)
    state.receive(second.res(2))
    state.receive(first.res(1))
    assert (first.outcome, second.outcome) == (b"1", b"2")


def test_only_the_first_result_counts(state):
    request = call(state)
    state.receive(request.res(1))
    state.receive(request.res(2))
    assert request.outcome == b"1"


@pytest.mark.parametrize("acknowledged", [False, True], ids=["at once", "for a result that could not be sent"])
def test_a_nack_ends_a_call(state, acknowledged):
    request = call(state)
    if acknowledged:
        state.receive(request.ack())
    state.receive(request.nack(413, "too large"))
    assert isinstance(request.outcome, Nacked)
    assert (request.outcome.code, request.outcome.message) == (413, "too large")


def test_a_call_expires_at_its_deadline_and_not_before(state):
    request = call(state, timeout=4.0, now=1.0)
    assert state.next_deadline() == request.pending.deadline == 5.0
    assert state.expire(4.9) == []
    (exp,) = state.expire(5.0)
    assert (exp.for_, exp.uri, exp.args, exp.type) == (request.pending.uuid, "test.echo", b"null", 256)
    assert isinstance(request.outcome, Expired)
    assert str(request.outcome) == "no result of test.echo within 4 s"
    assert state.next_deadline() is None


def test_a_result_after_the_deadline_is_dropped(state):
    request = call(state, timeout=5.0)
    state.expire(6.0)
    state.receive(request.res(1))
    assert isinstance(request.outcome, Expired)


def test_an_answered_call_does_not_expire(state):
    request = call(state, timeout=5.0)
    state.receive(request.res(1))
    assert state.next_deadline() is None
    assert state.expire(6.0) == []
    assert request.outcome == b"1"


def test_answered_calls_are_not_remembered_until_their_deadline():
    requests = Requests()
    unanswered, waiter = Call(uuid=new_uuid(), uri="f", timeout=1.0), new_pending()
    requests.add_call(unanswered, waiter, 1.0)
    for _ in range(10_000):
        answered = Call(uuid=new_uuid(), uri="f", timeout=60.0)
        requests.add_call(answered, new_pending(), 60.0)
        requests.on_res(Res(for_=answered.uuid, uri="f"))
    assert len(requests.deadlines) < 100
    assert requests.expire(1.0) == [unanswered]
    with pytest.raises(Expired):
        waiter.outcome()


def test_a_cancelled_call_is_settled_and_its_result_dropped(state):
    request = call(state)
    state.cancel(request.pending)
    state.receive(request.res(1))
    assert isinstance(request.outcome, Cancelled)
    assert str(request.outcome) == "the call of test.echo was cancelled; its function may still run"
    assert state.next_deadline() is None
    state.cancel(request.pending)


def test_a_settled_call_wakes_those_who_wait(state):
    woken = []
    pending = PendingRequest(state.callbacks, lambda: woken.append(pending.outcome().args))
    state.receive(Request(state, lambda _: state.call(pending, "f", b"null", None, 0.0)).res(1))
    assert woken == [b"1"]


def test_callbacks_of_a_settled_call_are_due(state):
    request, seen = call(state), []
    request.pending.on_settled.append(seen.append)
    assert not state.callbacks
    state.receive(request.res(1))
    (callback,) = state.callbacks
    assert (callback.name, callback.about, seen) == ("on_done", "test.echo", [])
    callback.run()
    assert seen == [request.pending]


# Publications


def test_a_publication_is_settled_by_its_ack(state):
    request = publish(state)
    state.receive(request.ack())
    state.receive(request.nack())
    assert request.outcome is None


def test_a_publication_is_settled_by_its_nack(state):
    request = publish(state)
    state.receive(request.nack())
    assert isinstance(request.outcome, Nacked)


def test_a_publication_has_no_result(state):
    request = publish(state)
    state.receive(text(RES, for_=request.pending.uuid, uri="f", args=1))
    assert not request.is_settled


def test_a_forgotten_request_is_not_settled(state):
    request = publish(state)
    assert str(request.pending.unacknowledged(0.2)) == "no acknowledgement of PUB within 0.2 s"
    state.forget(request.pending)
    state.forget(request.pending)
    state.receive(request.ack())
    state.close(ConnectionClosed(1000))
    assert not request.is_settled


# Subscriptions


def test_events_come_from_the_first_after_subscribing_to_the_last_before_unsubscribing(state):
    state.receive(event("news", "too early"))
    queue, request = subscribe(state)
    state.receive(event("news", "before the ack"))
    state.receive(request.ack())
    assert request.outcome is None
    state.receive(event("news", "after"))
    state.receive(event("other", "elsewhere"))
    left = unsubscribe(state, queue)
    state.receive(event("news", "too late"))
    state.receive(left.ack())
    assert left.outcome is None
    assert queue.read() == ["before the ack", "after", "1000 unsubscribed"]


def test_a_channel_and_a_pattern_are_two_subscriptions(state):
    by_name = subscribed(state, "news.*")
    by_pattern = subscribed(state, "news.*", True)
    state.receive(event("news.*", 1))
    state.receive(event("news.today", 2, pattern="news.*"))
    assert (by_name.read(), by_pattern.read()) == ([1], [2])


def test_two_subscriptions_to_a_channel_are_one_for_the_server(state):
    first, request = subscribe(state)
    second, joined = subscribe(state)
    assert joined.sent is None
    assert not joined.is_settled
    state.receive(request.ack())
    assert joined.outcome is None
    third, late = subscribe(state)
    assert (late.sent, late.outcome) == (None, None)
    state.receive(event("news", 1))
    for queue, is_last in ((second, False), (first, False), (third, True)):
        assert queue.read() == [1]
        assert (unsubscribe(state, queue).sent is not None) is is_last


def test_all_subscriptions_to_a_channel_end_together(state):
    first, _ = subscribe(state)
    second, _ = subscribe(state)
    assert unsubscribe(state, None).sent is not None
    assert first.read() == second.read() == ["1000 unsubscribed"]


def test_ending_what_does_not_exist_is_no_error(state):
    for queue in (None, Queue()):
        request = unsubscribe(state, queue)
        assert (request.sent, request.outcome) == (None, None)
        subscribe(state)


def test_a_refused_subscription_is_refused_for_all_who_wait_for_it(state):
    _, first = subscribe(state)
    _, second = subscribe(state)
    state.receive(first.nack(429))
    assert [request.outcome.code for request in (first, second)] == [429, 429]
    assert subscribe(state)[1].sent, "the next one has to be sent again"


def test_a_late_answer_does_not_touch_the_next_subscription(state):
    queue, first = subscribe(state)
    unsubscribe(state, queue)
    queue, second = subscribe(state)
    assert second.sent is not None
    state.receive(first.nack())
    assert isinstance(first.outcome, Nacked)
    state.receive(second.ack())
    assert second.outcome is None
    state.receive(event("news", 1))
    assert queue.read() == [1]


def test_an_ack_that_comes_too_late_for_one_still_confirms_the_others(state):
    _, first = subscribe(state)
    _, second = subscribe(state)
    state.forget(first.pending)
    state.receive(first.ack())
    assert second.outcome is None


def test_a_full_queue_that_has_ended_is_unsubscribed(state):
    queue = subscribed(state, max_events=2, when_full="end")
    for n in range(2):
        state.receive(event("news", n))
    assert not state.has_overfull
    state.receive(event("news", 2))
    state.receive(event("news", 3))
    assert state.has_overfull
    (unsb,) = state.drop_overfull()
    assert json.loads(unsb)["payload"] == {"channel": "news", "pattern": False}
    assert (state.has_overfull, state.drop_overfull()) == (False, [])
    state.receive(ack(json.loads(unsb)))
    assert (queue.read(), queue.dropped) == ([0, 1, "4429 2 events wait to be read"], 1)
    assert subscribe(state)[1].sent is not None


def test_a_full_queue_leaves_the_others_of_its_channel_alone(state):
    subscribed(state, max_events=1, when_full="end")
    other, _ = subscribe(state)
    for n in range(2):
        state.receive(event("news", n))
    assert state.drop_overfull() == []
    assert other.read() == [0, 1]


# Subscriptions that the server ends


def ends(channel, pattern=False, code=403, message="no longer allowed"):
    return text(ENDS, channel=channel, pattern=pattern, code=code, message=message)


def test_a_subscription_that_the_server_ends_has_its_error_and_is_not_re_established(state):
    first, (second, _) = subscribed(state), subscribe(state)
    by_pattern = subscribed(state, "news", True)
    state.receive(event("news", 1))
    state.receive(ends("news"))
    state.receive(event("news", 2))
    assert first.read() == second.read() == [1, "403 no longer allowed"]
    assert by_pattern.read() == []
    assert [each["payload"] for each in lose(state)] == [{"channel": "news", "pattern": True}]
    assert unsubscribe(state, first).sent is None
    assert subscribe(state)[1].sent, "it may be tried again"


def test_the_end_of_an_earlier_subscription_does_not_touch_the_next_one(state):
    first = subscribed(state)
    unsubscribe(state, first)
    second, request = subscribe(state)
    state.receive(ends("news"))
    state.receive(request.ack())
    state.receive(event("news", 1))
    assert (first.read(), second.read()) == (["1000 unsubscribed"], [1])
    state.receive(ends("elsewhere"))


# Tokens


def authenticate(state, token="t"):
    return Request(state, lambda pending: state.authenticate(pending, token))


def test_a_token_is_renewed_in_time_on_each_connection():
    state = new_state()
    state.on_connected(100.0, Wlcm(conn=CONN, ttl=1000))
    assert state.renewal.due == 100.0 + 800
    request = authenticate(state)
    assert (request.sent["meta"]["type"], request.sent["payload"]) == (AUTH, {"token": "t"})
    state.receive(text(ACK, for_=request.pending.uuid, for_type=AUTH, ttl=60), 900.0)
    assert (request.outcome, state.renewal.due) == (None, 900.0 + 48)
    state.receive(text(ACK, for_=publish(state).pending.uuid, for_type=PUB), 901.0)
    assert state.renewal.due == 948.0
    assert state.on_failure(ConnectionClosed(4401, "expired"), 950.0) is not None
    assert state.renewal.due is None
    state.renewal.on_failure(951.0)
    assert state.renewal.due is None
    with pytest.raises(ConnectionClosed):
        authenticate(state)
    state.on_connected(960.0, Wlcm(conn=CONN, ttl=20))
    assert state.renewal.due == 960.0 + 15, "some seconds before"
    state.receive(text(ACK, for_=authenticate(state).pending.uuid, for_type=AUTH), 970.0)
    assert state.renewal.due is None, "it does not expire any more"
    state.on_connected(980.0, Wlcm(conn=CONN, ttl=1))
    assert state.renewal.due == 980.5
    state.close(ConnectionClosed(1000, ""))
    assert state.renewal.due is None
    state = new_state()
    state.on_connected(0.0, Wlcm(conn=CONN))
    assert state.renewal.due is None


def test_a_renewal_that_fails_is_retried_and_never_at_once():
    pauses = []

    def new_pauses(first, longest):
        pauses.append((first, longest))
        return iter([first, 2 * first])

    renewal = Renewal(new_pauses, lambda low, high: low)
    renewal.on_ttl(100, 0.0)
    assert renewal.due == pytest.approx(72)
    renewal.on_failure(73.0)
    renewal.on_failure(75.0)
    assert renewal.due == 77.0
    renewal.on_ttl(0, 80.0)
    assert renewal.due == 80 + 0.9 * LEAST
    renewal.on_ttl(3, 80.0)
    assert pauses == [(1.0, LONGEST_PAUSE), (1.0, LONGEST_PAUSE), (LEAST, LONGEST_PAUSE), (0.3, LONGEST_PAUSE)]


def test_a_refused_token_leaves_the_client_as_it_is(state):
    request = authenticate(state)
    state.receive(request.nack(401, "not valid"))
    assert (request.outcome.code, request.outcome.message) == (401, "not valid")
    assert state.is_connected


@pytest.mark.parametrize("token", ["", 5, b"t", "a b", "a\nb", "é"])
def test_what_cannot_be_sent_is_no_token_and_is_not_repeated(state, token):
    with pytest.raises(ConfigError, match="token: expected") as error:
        authenticate(state, token)
    assert not token or str(token) not in str(error.value)


# Closing, and invalid messages


def test_closing_settles_everything_once(state):
    called, published = call(state), publish(state)
    first, subscribing = subscribe(state)
    second, joined = subscribe(state)
    state.close(ConnectionClosed(1006, "lost"))
    state.close(ConnectionClosed(1000, "closed"))
    assert state.expire(1e9) == []
    outcomes = [request.outcome for request in (called, published, subscribing, joined)]
    assert [str(outcome) for outcome in outcomes] == ["1006 lost"] * 4
    assert len({id(outcome) for outcome in outcomes}) == 4
    assert first.read() == second.read() == ["1006 lost"]
    assert (str(state.closed), state.is_connected) == ("1006 lost", False)


def requests(state):
    yield lambda: call(state)
    yield lambda: publish(state)
    yield lambda: subscribe(state)


def test_a_closed_client_refuses_requests(state):
    state.close(ConnectionClosed(1006, "lost"))
    for request in (*requests(state), lambda: unsubscribe(state, None), state.check_open):
        with pytest.raises(ConnectionClosed, match="1006 lost"):
            request()
    assert state.drop_overfull() == state.renew() == []


def test_a_client_that_is_not_connected_yet_refuses_requests():
    state = new_state()
    for request in requests(state):
        with pytest.raises(ConnectionClosed, match="1006 the client is not connected yet"):
            request()
    state.check_open()


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"meta":{"type":10,"uuid":"x"},"payload":{}}', text(CALL, uri="test.echo"), text(256, uri="test.echo")],
)
def test_what_no_server_sends_is_an_error(state, text):
    with pytest.raises(InvalidMessage):
        state.receive(text)


def test_answers_to_unknown_requests_are_no_error(state):
    request = call(state)
    for _ in range(2):
        for answer in (request.ack(), request.nack(), request.res(1)):
            state.receive(answer)


# Lost connections


def test_requests_in_flight_fail_when_the_connection_is_lost(state):
    called, (queue, subscribing) = call(state), subscribe(state)
    assert state.on_failure(ConnectionClosed(1006, "gone"), 1.0) == 0.2
    assert (called.outcome.code, subscribing.outcome.code) == (1006, 1006)
    assert state.next_deadline() is None
    assert state.status()[0] is State.DISCONNECTED
    for request in requests(state):
        with pytest.raises(ConnectionClosed, match="1006 gone"):
            request()
    # It was never confirmed, and its caller has received the error.
    assert reconnect(state) == []
    assert queue.read() == []


def test_subscriptions_are_reestablished_and_count_the_gap(state):
    seen = []
    queue = subscribed(state, gap_callback=lambda: seen.append("gap"))
    (again,) = lose(state)
    assert (again["meta"]["type"], again["payload"]) == (SUB, {"channel": "news", "pattern": False})
    assert queue.gaps == 0
    state.receive(ack(again))
    (callback,) = state.callbacks
    callback.run()
    assert (queue.gaps, seen, callback.name, callback.about) == (1, ["gap"], "on_gap", "news")


def test_a_subscription_that_cannot_be_reestablished_ends(state):
    queue = subscribed(state)
    (again,) = lose(state)
    state.receive(nack(again, 403, "no"))
    assert queue.read() == ["403 no"]
    assert lose(state) == []


def test_gaps_of_the_server_count_for_each_subscription(state):
    seen = []
    news = subscribed(state, gap_callback=lambda: seen.append("gap"))
    gaps = subscribed(state, "juggler.gap")
    state.receive(text(EVNT, for_=new_uuid(), channel="juggler.gap", args={"gaps": 1}))
    for callback in state.callbacks:
        callback.run()
    assert (news.gaps, seen, gaps.gaps) == (1, ["gap"], 1)
    assert gaps.read() == [{"gaps": 1}]


def test_a_client_may_follow_the_gaps_of_its_server():
    state = new_state(follow_gaps=True)
    assert state.on_connected(0.0) == []

    def subscribe_to(channel):
        queue, pending = Queue(channel), new_pending()
        return queue, [json.loads(each) for each in state.subscribe(pending, queue)]

    news, (sub, gaps) = subscribe_to("news")
    assert (gaps["meta"]["type"], gaps["payload"]) == (SUB, {"channel": "juggler.gap", "pattern": False})
    for each in (sub, gaps):
        state.receive(ack(each))
    other, sent = subscribe_to("other")
    assert len(sent) == 1

    # A subscription of the user's to the same channel is neither sent nor ended on the server.
    own, sent = subscribe_to("juggler.gap")
    assert sent == []
    assert state.unsubscribe(new_pending(), "juggler.gap", False, own) == []

    state.receive(text(EVNT, for_=new_uuid(), channel="juggler.gap", args={"gaps": 7}))
    assert (news.gaps, other.gaps) == (1, 1)

    assert "juggler.gap" in [each["payload"]["channel"] for each in lose(state)]


def test_a_server_that_refuses_to_report_gaps_is_no_error():
    state = new_state(follow_gaps=True)
    state.on_connected(0.0)
    queue = Queue("news")
    sub, gaps = map(json.loads, state.subscribe(new_pending(), queue))
    state.receive(nack(gaps, 403))
    state.receive(ack(sub))
    assert [each["payload"]["channel"] for each in lose(state)] == ["news"]


def test_a_subscription_that_is_refused_for_the_time_being_is_retried(state):
    queue = subscribed(state)
    (again,) = lose(state)
    for code in (503, 429, 504):
        assert not state.begin_renewal()
        state.receive(nack(again, code))
        assert (state.begin_renewal(), state.begin_renewal()) == (True, False)
        (again,) = map(json.loads, state.renew())
    state.receive(ack(again))
    assert (queue.gaps, state.begin_renewal(), state.renew()) == (1, False, [])


def test_a_subscription_is_not_retried_twice(state):
    queue = subscribed(state)
    (again,) = lose(state)
    state.receive(nack(again, 503))
    assert state.begin_renewal()
    (again,) = lose(state)
    assert state.renew() == []
    state.receive(nack(again, 503))
    assert state.begin_renewal()
    unsubscribe(state, queue)
    assert state.renew() == []


def test_a_connection_lost_twice_before_a_confirmation_keeps_the_subscription(state):
    queue = subscribed(state)
    lose(state)
    (again,) = lose(state)
    state.receive(ack(again))
    assert queue.gaps == 1


def test_a_subscription_that_ends_meanwhile_is_not_reestablished(state):
    queue = subscribed(state)
    state.on_failure(ConnectionClosed(1006, "gone"), 0.0)
    request = unsubscribe(state, queue)
    assert (request.sent, request.outcome) == (None, None)
    assert queue.read() == ["1000 unsubscribed"]
    assert reconnect(state) == []


# Reconnecting


def test_the_state_is_reported():
    state = new_state()
    state.on_connected(0.0)
    assert state.status() == (State.CONNECTED, None)
    state.on_failure(lost := ConnectionClosed(1001, "restart"), 1.0)
    assert state.status() == (State.DISCONNECTED, lost)
    state.on_failure(HandshakeRefused("503 Service Unavailable", "starting"), 2.0)
    assert state.status() == (State.DISCONNECTED, lost)
    state.on_connected(3.0)
    assert state.is_connected
    state.close(reason := ConnectionClosed(1000, "done"))
    assert state.status() == (State.CLOSED, reason)


@pytest.mark.parametrize(
    ("error", "closed"),
    [
        (HandshakeRefused("401 Unauthorized", "who?"), "1001 401 Unauthorized: who?"),
        (ConfigError("url: no"), "1001 url: no"),
        (ConnectionClosed(1002, "not juggler"), "1002 not juggler"),
    ],
)
def test_a_lasting_failure_closes_the_client(state, error, closed):
    queue = subscribed(state)
    assert state.on_failure(ConnectionClosed(1001, "restart"), 0.0) is not None
    assert state.on_failure(error, 1.0) is None
    assert str(state.closed) == closed
    assert queue.read() == [closed]
    assert not state.may_connect(1.0)


def test_a_temporary_failure_is_followed_by_another_attempt(state):
    state.on_failure(ConnectionClosed(1001, "restart"), 0.0)
    for error in (ConnectionClosed(1006, "refused"), HandshakeRefused("503 x", "y"), KeyError("token")):
        assert state.may_connect(0.1)
        assert state.on_failure(error, 0.2) == 0.2
    assert state.closed is None


def test_a_client_that_has_tried_for_long_enough_closes():
    state = new_state(reconnect_timeout=10.0)
    state.on_connected(0.0)
    state.on_failure(ConnectionClosed(1006, "gone"), 100.0)
    assert state.may_connect(109.9)
    state.on_failure(ConnectionClosed(1006, "refused"), 109.9)
    assert not state.may_connect(110.0)
    assert str(state.closed) == "1006 refused"


def test_a_client_may_not_reconnect():
    state = new_state(reconnect=False)
    state.on_connected(0.0)
    assert state.on_failure(ConnectionClosed(1006, "gone"), 1.0) is None
    assert str(state.closed) == "1006 gone"


def test_a_closed_client_does_not_reconnect(state):
    state.close(ConnectionClosed(1000, "closed"))
    assert state.on_failure(ConnectionClosed(1006, "gone"), 1.0) is None
    assert not state.may_connect(1.0)
    assert str(state.closed) == "1000 closed"


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


# juggler.1


def wlcm(*features, **limits):
    return Wlcm(conn=new_uuid(), features=features, limits=limits)


def test_features_and_limits_are_those_of_the_connection():
    state = new_state()
    assert (state.subprotocol, state.features, state.limits) == ("juggler.0", frozenset(), {})
    state.on_connected(0.0, wlcm("cancel", "parts", max_calls=5))
    assert (state.subprotocol, state.features, state.limits) == ("juggler.1", {"cancel", "parts"}, {"max_calls": 5})
    state.on_failure(ConnectionClosed(1006, "gone"), 1.0)
    state.on_connected(2.0, wlcm("cancel"))
    assert (state.subprotocol, state.features, state.limits) == ("juggler.1", {"cancel"}, {})
    state.on_failure(ConnectionClosed(1006, "gone"), 3.0)
    state.on_connected(4.0)
    assert (state.subprotocol, state.features, state.limits) == ("juggler.0", frozenset(), {})


def test_what_a_server_does_not_support_is_an_error():
    state = new_state()
    with pytest.raises(ConnectionClosed):
        state.require("cancel")
    state.on_connected(0.0)
    with pytest.raises(NotSupported, match=r"^cancel: not supported by the server, which speaks only juggler\.0$"):
        state.require("cancel")
    state.on_failure(ConnectionClosed(1006, "gone"), 1.0)
    state.on_connected(2.0, wlcm())
    with pytest.raises(NotSupported, match=r"^cancel: not supported by the server; its features: none$"):
        state.require("cancel")
    state.on_failure(ConnectionClosed(1006, "gone"), 3.0)
    state.on_connected(4.0, wlcm("parts", "cancel"))
    state.require("cancel")
    with pytest.raises(NotSupported, match=r"^tea: .*; its features: cancel, parts$"):
        state.require("tea")


def test_a_result_without_an_ack_settles_its_call():
    state = new_state()
    state.on_connected(0.0, wlcm())
    quick, slow = call(state), call(state)
    state.receive(quick.res("now"))
    assert quick.outcome == b'"now"'
    state.receive(slow.ack())
    assert not slow.is_settled
    state.receive(slow.res("later"))
    assert slow.outcome == b'"later"'


@pytest.mark.parametrize("number", [32, 33, 34, 35, 47])
def test_other_responses_change_nothing(state, number):
    pending = call(state)
    payload = {32: {"conn": new_uuid()}, 33: {"seq": 1}, 34: {"channel": "c", "code": 403, "message": "m"}}
    state.receive(text(number, for_=pending.sent["meta"]["uuid"], **payload.get(number, {"args": 1})))
    assert not pending.is_settled
    assert (state.subprotocol, state.features) == ("juggler.0", frozenset())
    state.receive(pending.res(1))
    assert pending.outcome == b"1"
