"""loadtest.audit.accounts: each broken promise is found, and nothing else. It shares no code with juggler."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from loadtest.audit.accounts import ACK, CALL, EVNT, HORIZON, NACK, PUB, RES, SLACK, SUB, UNSB, Accounts
from loadtest.disturbances import Disturbances

ROOT = Path(__file__).parents[2]
ON = "c"
INDEPENDENT = (
    "loadtest/audit/accounts.py",
    "loadtest/audit/client.py",
    "loadtest/audit/calls.py",
    "loadtest/audit/call_client.py",
    "loadtest/raw_connection.py",
    "loadtest/frames.py",
    "loadtest/disturbances.py",
    # A counter with examples, which knows nothing of messages; the book of juggler.locust has the same.
    "juggler/locust/violations.py",
)


class Bench:
    """Accounts with a publisher and subscribers, whose requests get names in place of UUIDs."""

    def __init__(self, subscribers=1, disturbances=None):
        self.accounts = Accounts(disturbances, max_latency=5.0)
        self.publisher = self.accounts.connected(0.0)
        self.subscribers = [self.accounts.connected(0.0) for _ in range(subscribers)]
        for number in self.subscribers:
            self.request(f"sub {number}", SUB, 1.0, connection=number, channel=ON)
            self.answer(f"sub {number}", 1.1, connection=number)

    def request(self, name, type, now, connection=None, expected=Accounts.ANY, **payload):
        return self.accounts.sent(connection or self.publisher, name, type, payload, now, expected)

    def receive(self, type, now, connection=None, **payload):
        text = json.dumps({"meta": {"type": type, "uuid": "x"}, "payload": payload}).encode()
        return self.accounts.received(connection or self.publisher, text, now)

    def answer(self, name, now, code=None, connection=None):
        how = {"for": name} if code is None else {"for": name, "code": code}
        return self.receive(ACK if code is None else NACK, now, connection, **how)

    def publish(self, name, now=2.0, code=None, **options):
        self.request(name, PUB, now, channel=ON, args=name, **options)
        self.answer(name, now + 0.1, code)

    def deliver(self, *names, now=2.2, to=None, channel=ON):
        for name in names:
            event = {"for": name, "channel": channel, "args": name}
            self.receive(EVNT, now, to or self.subscribers[0], **event)

    def call(self, name, now=2.0, code=None, **options):
        self.request(name, CALL, now, uri="f", **options)
        self.answer(name, now + 0.1, code)

    def result(self, name, now=2.2, args=None, connection=None):
        self.receive(RES, now, connection, **{"for": name, "uri": "f", "args": args})

    def found(self, now=100.0):
        self.accounts.judge(now, finally_=True)
        return dict(self.accounts.violations.counts)


@pytest.fixture
def bench():
    return Bench()


def test_all_promises_kept(bench):
    bench.publish("a")
    assert not bench.accounts.arrived(ON)
    bench.publish("b")
    bench.deliver("a", "b")
    assert bench.accounts.arrived(ON)
    bench.publish("refused", code=503)
    bench.publish("unknown", code=504)
    bench.call("right", expected=[1])
    assert bench.accounts.unanswered() == 1
    bench.result("right", args=[1])
    bench.call("refused call", code=503)
    assert (bench.accounts.unanswered(), bench.accounts.arrived(ON)) == (0, True)
    assert bench.found() == {}
    assert (bench.accounts.deliveries, bench.accounts.results) == (2, 1)


# Events


def test_drop(bench):
    for name in "abc":
        bench.publish(name)
    bench.deliver("a", "c")
    assert bench.found() == {"an event was missed": 1}


def test_drop_of_the_last(bench):
    for name in "ab":
        bench.publish(name)
    bench.deliver("a")
    assert not bench.accounts.arrived(ON)
    assert bench.found() == {"an event was missed": 1}


def test_double(bench):
    for name in "ab":
        bench.publish(name)
    bench.deliver("a", "a", "b", "a")
    assert bench.found() == {"an event was received twice": 2}


def test_swap(bench):
    for name in "abcd":
        bench.publish(name)
    bench.deliver("a", "c", "b", "d")
    assert bench.found() == {"an event out of order": 1}


def test_publishers_have_no_common_order(bench):
    other = bench.accounts.connected(0.0)
    bench.publish("a")
    bench.request("b", PUB, 2.5, connection=other, channel=ON, args="b")
    bench.answer("b", 2.6, connection=other)
    bench.deliver("b", "a")
    assert bench.found() == {}


def test_delay(bench):
    bench.publish("a")
    bench.publish("b")
    bench.deliver("a", now=6.9)
    bench.deliver("b", now=7.1)
    assert bench.found() == {"a late event": 1}


def test_misroute():
    bench = Bench(subscribers=2)
    stranger = bench.accounts.connected(0.0)
    bench.publish("a")
    bench.deliver("a")
    bench.deliver("a", to=stranger)
    assert bench.found() == {"an event without a subscription": 1, "an event was missed": 1}


def test_other_content(bench):
    bench.publish("a")
    event = {"for": "a", "channel": ON, "args": "b"}
    bench.receive(EVNT, 2.2, bench.subscribers[0], **event)
    bench.deliver("never")
    assert bench.found() == {"an event that differs from its publication": 1, "an event that was not published": 1}


@pytest.mark.parametrize(("code", "expected"), [(503, {"a refused publication took effect": 1}), (504, {})])
def test_an_event_that_was_refused(bench, code, expected):
    bench.publish("a", code=code)
    bench.deliver("a", now=3.0)
    assert bench.found() == expected
    assert bench.accounts.after_nack == 1


@pytest.mark.parametrize(
    ("unsubscribed", "delivered", "expected"),
    [
        (1.5, True, {"an event without a subscription": 1}),
        (1.5, False, {}),
        (2.1, True, {}),
        (2.1, False, {}),
        (2.2 + SLACK, False, {"an event was missed": 1}),
        (2.2 + SLACK, True, {}),
    ],
)
def test_unsubscribing(bench, unsubscribed, delivered, expected):
    bench.request("unsb", UNSB, unsubscribed, connection=bench.subscribers[0], channel=ON)
    bench.answer("unsb", unsubscribed + 0.1, connection=bench.subscribers[0])
    bench.publish("a")
    if delivered:
        bench.deliver("a")
    assert bench.found() == expected


def test_a_second_subscription(bench):
    subscriber = bench.subscribers[0]
    bench.request("unsb", UNSB, 1.2, connection=subscriber, channel=ON)
    bench.answer("unsb", 1.3, connection=subscriber)
    bench.publish("between", 1.4)
    bench.request("sub", SUB, 6.0, connection=subscriber, channel=ON)
    assert bench.accounts.heard(subscriber, ON) is None
    bench.answer("sub", 6.1, connection=subscriber)
    assert bench.accounts.heard(subscriber, ON) == 6.1
    bench.publish("after", 7.0)
    assert bench.found() == {"an event was missed": 1}


def test_a_refused_subscription(bench):
    bench.request("sub", SUB, 1.0, channel=ON)
    bench.answer("sub", 1.1, 503)
    bench.publish("a")
    bench.deliver("a")
    assert bench.accounts.arrived(ON)
    assert bench.found() == {}


def test_a_closed_connection_is_owed_nothing(bench):
    bench.accounts.closed(bench.subscribers[0], 1.5, None)
    bench.publish("a")
    assert bench.accounts.arrived(ON)
    assert bench.found() == {}


def test_gaps_are_counted(bench):
    bench.receive(EVNT, 2.0, **{"for": "x", "channel": "juggler.gap", "args": {"gaps": 1}})
    assert (bench.accounts.gaps, bench.found()) == (1, {})


# Requests


@pytest.mark.parametrize(
    ("responses", "expected"),
    [
        ([], {"a request without ACK or NACK": 1}),
        (["ack"], {"an acknowledged call without a result": 1}),
        (["ack", "result", "result"], {"a second result": 1}),
        (["result", "ack"], {"a result before its ACK": 1}),
        (["ack", "ack", "result"], {"a second ACK or NACK": 1}),
        (["ack", "nack", "result"], {"a second ACK or NACK": 1}),
        (["nack", "result"], {"a refused call has a result": 1}),
        (["unknown", "result"], {}),
        (["ack", "wrong result"], {"a wrong result": 1}),
        (["ack", "late result"], {"a late result": 1}),
    ],
)
def test_responses_to_a_call(bench, responses, expected):
    bench.request("c", CALL, 2.0, expected=1, uri="f")
    actions = {
        "ack": lambda: bench.answer("c", 2.1),
        "nack": lambda: bench.answer("c", 2.1, 503),
        "unknown": lambda: bench.answer("c", 2.1, 504),
        "result": lambda: bench.result("c", args=1),
        "wrong result": lambda: bench.result("c", args=2),
        "late result": lambda: bench.result("c", now=7.1, args=1),
    }
    for each in responses:
        actions[each]()
    assert bench.found() == expected


@pytest.mark.parametrize(("until", "expected"), [(1.5, {"a callee was gone without a failure": 1}), (2.5, {})])
def test_a_killed_callee_ends_its_calls(until, expected):
    disturbances = Disturbances()
    disturbances.begin(1.0)
    disturbances.end(until)
    bench = Bench(disturbances=disturbances)
    bench.call("c", now=2.0, expected=1)
    bench.receive(RES, 4.0, **{"for": "c", "failed": True, "args": {"error": {"type": "CalleeGone"}}})
    assert bench.found() == expected
    assert bench.accounts.gone == 1


def test_responses_at_another_client(bench):
    bench.call("c")
    bench.result("c", connection=bench.subscribers[0])
    assert bench.found() == {
        "a response at another client than its request's": 1,
        "an acknowledged call without a result": 1,
    }


def test_a_response_to_nothing(bench):
    bench.result("never")
    assert bench.found() == {"a response to an unknown request": 1}


def test_a_lost_connection(bench):
    made = bench.request("c", CALL, 2.0, uri="f")
    bench.accounts.closed(bench.publisher, 3.0, 1006)
    assert made.dropped
    assert bench.accounts.unanswered() == 0
    assert bench.found() == {"a connection was lost": 1}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (1001, {"a call in flight when the server went away": 1}),
        (4408, {"a connection was lost": 1}),
        (None, {"an acknowledged call without a result": 1}),
    ],
)
def test_a_closed_connection_with_a_call_in_flight(bench, code, expected):
    bench.call("complete", 2.0)
    bench.result("complete", 2.2)
    bench.call("refused", 2.0, code=503)
    bench.call("in flight", 2.0)
    bench.accounts.closed(bench.publisher, 3.0, code)
    assert bench.found() == expected


def test_a_call_that_was_overdue_when_its_connection_was_lost(bench):
    bench.call("overdue", 2.0)
    bench.call("in flight", 7.0)
    bench.accounts.closed(bench.publisher, 7.5, 1006)
    assert bench.found() == {"a connection was lost": 1, "an acknowledged call without a result": 1}


# Failures


def test_failures_excuse_losses_and_nothing_else():
    disturbances = Disturbances()
    bench = Bench(subscribers=2, disturbances=disturbances)
    disturbances.begin(2.05)
    for name in "ab":
        bench.publish(name)
    bench.call("lost")
    bench.deliver("b", "a", "a", now=9.0)
    bench.accounts.closed(bench.subscribers[1], 9.5, 1006)
    disturbances.end(10.0)
    assert bench.found() == {"an event out of order": 1, "an event was received twice": 1}


def test_what_follows_the_recovery_is_not_excused():
    disturbances = Disturbances()
    bench = Bench(disturbances=disturbances)
    disturbances.begin(1.5)
    disturbances.end(1.9)
    bench.publish("a")
    bench.call("c")
    assert bench.found() == {"an event was missed": 1, "an acknowledged call without a result": 1}


# Long runs


def test_what_is_old_is_judged_and_dropped(bench):
    bench.publish("a", 2.0)
    bench.publish("b", 2.0 + HORIZON)
    bench.accounts.judge(3.0 + HORIZON)
    assert dict(bench.accounts.violations.counts) == {"an event was missed": 1}
    bench.deliver("b", now=3.0 + HORIZON)
    bench.accounts.judge(3.0 + 2 * HORIZON)
    assert bench.found() == {"an event was missed": 1}


def test_wide_bursts_with_a_single_loss():
    bench = Bench(subscribers=50)
    names = [f"{number}" for number in range(200)]
    for name in names:
        bench.publish(name)
    for subscriber in bench.subscribers:
        lost = "100" if subscriber == bench.subscribers[7] else None
        bench.deliver(*(name for name in names if name != lost), to=subscriber)
    assert bench.accounts.deliveries == 50 * 200 - 1
    assert bench.found() == {"an event was missed": 1}


@pytest.mark.parametrize("name", INDEPENDENT)
def test_no_code_of_juggler(name):
    tree = ast.parse((ROOT / name).read_text())
    imported = {
        each
        for node in ast.walk(tree)
        for each in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    own = {each.removesuffix(".py").replace("/", ".") for each in INDEPENDENT}
    others = imported - own
    assert not [
        each for each in others if each.partition(".")[0] in ("juggler", "callee", "loadtest", "tests", "websockets")
    ]
