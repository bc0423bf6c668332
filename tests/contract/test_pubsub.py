"""Events reach exactly the subscribers, unchanged and in order."""

from __future__ import annotations

import pytest

from juggler.errors import BrokerError, NackCode
from juggler.process.uuids import new_uuid
from tests.contract.test_calls import TEXTS
from tests.recorders import Outcome, RecordedSubscriber

CHANNELS = ["news", "news.a", "news.b", "nws", "n[e]ws", "n*s", "ünï", "a-b", "]", "^", "x\\y", "a{b}"]
PATTERNS = {
    "*": CHANNELS,
    "news*": ["news", "news.a", "news.b"],
    "news.?": ["news.a", "news.b"],
    "n?ws": ["news"],
    "n[ea]ws": ["news"],
    "n[^e]ws": [],
    "n[^a]ws": ["news"],
    "news.[a-b]": ["news.a", "news.b"],
    "news.[b-a]": ["news.a", "news.b"],
    "news.[^a-a]": ["news.b"],
    "n\\*s": ["n*s"],
    "n\\[e\\]ws": ["n[e]ws"],
    "n[[]e]ws": ["n[e]ws"],
    "?n?": [],
    "??n??": ["ünï"],
    "ü*": ["ünï"],
    "a[-]b": ["a-b"],
    "[\\]]": ["]"],
    "[]": [],
    "[^]": ["]", "^"],
    "[\\^]": ["^"],
    "x\\\\y": ["x\\y"],
    "news.[a": ["news.a"],
    "a{*}": ["a{b}"],
    "**b": ["news.b", "a-b"],
}


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_args_arrive_byte_for_byte(pubsub, peer, subscribe, publish, text):
    subscriber = subscribe(pubsub, "news")
    pub = new_uuid()
    publish(peer, "news", text, pub)
    assert subscriber.wait(1) == [("news", "", text)]
    assert subscriber.events[0].uuid == pub


def test_events_arrive_in_order_and_from_the_same_broker_too(pubsub, peer, subscribe, publish):
    subscriber = subscribe(pubsub, "news")
    for number in range(50):
        publish(pubsub, "news", b"%d" % number)
    assert [args for _, _, args in subscriber.wait(50)] == [b"%d" % number for number in range(50)]


@pytest.mark.parametrize("channel", ["juggler.gap", "juggler:control", "__redis__:invalidate"])
def test_no_pattern_matches_a_reserved_channel(pubsub, peer, subscribe, publish, channel):
    by_name, by_pattern = subscribe(pubsub, channel), subscribe(pubsub, "*", pattern=True)
    publish(peer, channel, b"1")
    publish(peer, "news", b"2")
    assert by_pattern.wait(1) == [("news", "*", b"2")]
    assert by_name.wait(1) == [(channel, "", b"1")]


def test_publishing_without_subscribers_succeeds(pubsub, publish):
    publish(pubsub, "news")


def test_an_event_names_its_pattern(pubsub, peer, subscribe, publish):
    subscriber = subscribe(pubsub, "news.*", pattern=True)
    publish(peer, "news.a", b"1")
    publish(peer, "new", b"2")
    publish(peer, "news.b", b"3")
    assert subscriber.wait(2) == [("news.a", "news.*", b"1"), ("news.b", "news.*", b"3")]


def test_patterns_match_as_in_redis(pubsub, peer, subscribe, publish):
    subscribers = {pattern: subscribe(pubsub, pattern, pattern=True) for pattern in PATTERNS}
    last = subscribe(pubsub, "last")
    for channel in CHANNELS:
        publish(peer, channel)
    publish(peer, "last")
    last.wait(1)
    matched = {
        pattern: [channel for channel, _, _ in subscriber.seen if channel != "last"]
        for pattern, subscriber in subscribers.items()
    }
    assert matched == PATTERNS


def test_a_channel_and_a_matching_pattern_give_both_events(pubsub, peer, subscribe, publish):
    subscriber = subscribe(pubsub, "news")
    subscribe(pubsub, "n*", True, subscriber)
    subscribe(pubsub, "ne*", True, subscriber)
    publish(peer, "news")
    assert sorted(pattern for _, pattern, _ in subscriber.wait(3)) == ["", "n*", "ne*"]


def test_a_channel_named_like_a_pattern_is_a_channel(pubsub, peer, subscribe, publish):
    literal, pattern = subscribe(pubsub, "n*"), subscribe(pubsub, "n*", pattern=True)
    publish(peer, "news")
    publish(peer, "n*")
    assert [channel for channel, _, _ in pattern.wait(2)] == ["news", "n*"]
    assert literal.wait(1) == [("n*", "", b"null")]


def test_all_subscribers_get_the_same_object(pubsub, peer, subscribe, publish):
    one, two = subscribe(pubsub, "news"), subscribe(pubsub, "news")
    publish(peer, "news")
    one.wait(1)
    two.wait(1)
    assert one.events[0] is two.events[0]


def test_subscribing_twice_gives_one_event_and_one_unsubscription_ends_it(pubsub, peer, subscribe, publish):
    subscriber = subscribe(pubsub, "news")
    subscribe(pubsub, "news", False, subscriber)
    last = subscribe(pubsub, "last")
    publish(peer, "news", b"1")
    publish(peer, "last")
    last.wait(1)
    unsubscribe(pubsub, "news", False, subscriber)
    publish(peer, "news", b"2")
    publish(peer, "last")
    last.wait(2)
    assert subscriber.seen == [("news", "", b"1")]


def test_the_first_to_unsubscribe_does_not_cut_off_the_second(pubsub, peer, subscribe, publish):
    one, two = subscribe(pubsub, "news"), subscribe(pubsub, "news")
    unsubscribe(pubsub, "news", False, one)
    publish(peer, "news")
    assert two.wait(1) == [("news", "", b"null")]
    assert one.seen == []


def test_a_pattern_outlives_the_channel_of_the_same_name(pubsub, peer, subscribe, publish):
    subscriber = subscribe(pubsub, "news")
    subscribe(pubsub, "news", True, subscriber)
    unsubscribe(pubsub, "news", False, subscriber)
    publish(peer, "news")
    assert subscriber.wait(1) == [("news", "news", b"null")]


def test_unsubscribing_what_was_not_subscribed_is_no_error(pubsub, peer, subscribe, publish):
    other = subscribe(pubsub, "news")
    unsubscribe(pubsub, "news", False, RecordedSubscriber())
    unsubscribe(pubsub, "other", True, other)
    publish(peer, "news")
    other.wait(1)


def test_no_event_comes_after_unsubscribe_was_called(pubsub, peer, subscribe, publish):
    subscriber, last = subscribe(pubsub, "news"), subscribe(pubsub, "last")
    done = Outcome()
    pubsub.unsubscribe("news", False, subscriber, done)
    publish(peer, "news")
    publish(peer, "last")
    last.wait(1)
    assert done.wait() is None
    assert subscriber.seen == []


def test_an_event_in_flight_does_not_come_after_unsubscribe_was_called(pubsub, peer, subscribe, publish):
    subscriber, last = subscribe(pubsub, "news"), subscribe(pubsub, "last")
    publish(peer, "news")
    pubsub.unsubscribe("news", False, subscriber, Outcome())
    seen = list(subscriber.seen)
    publish(peer, "last")
    last.wait(1)
    assert subscriber.seen == seen


def test_each_publication_after_a_confirmed_subscription_is_delivered(pubsub, peer, subscribe, publish):
    for number in range(30):
        subscriber = subscribe(pubsub, f"news.{number % 3}")
        publish(peer, f"news.{number % 3}")
        subscriber.wait(1)
        unsubscribe(pubsub, f"news.{number % 3}", False, subscriber)


def test_the_last_of_quick_changes_counts(pubsub, peer, subscribe, publish):
    in_the_end, out_in_the_end = RecordedSubscriber(), RecordedSubscriber()
    outcomes = [Outcome() for _ in range(7)]
    for done in outcomes[:3]:
        pubsub.subscribe("a", False, in_the_end, done)
    pubsub.unsubscribe("a", False, in_the_end, outcomes[3])
    pubsub.subscribe("a", False, in_the_end, outcomes[4])
    pubsub.subscribe("b", False, out_in_the_end, outcomes[5])
    pubsub.unsubscribe("b", False, out_in_the_end, outcomes[6])
    assert outcomes[4].wait() is None
    assert outcomes[6].wait() is None
    for done in outcomes:
        done.wait()
    publish(peer, "b")
    publish(peer, "a")
    assert in_the_end.wait(1) == [("a", "", b"null")]
    assert out_in_the_end.seen == []


def test_a_forgotten_subscriber_gets_nothing_more(pubsub, peer, subscribe, publish):
    gone, stays = subscribe(pubsub, "news"), subscribe(pubsub, "news")
    subscribe(pubsub, "n*", True, gone)
    pubsub.unsubscribe_all(gone)
    pubsub.unsubscribe_all(gone)
    pubsub.unsubscribe_all(RecordedSubscriber())
    publish(peer, "news")
    stays.wait(1)
    assert gone.seen == []


@pytest.mark.parametrize("channel", ["", "\ud800", "c" * 8193])
def test_invalid_channels_are_refused(pubsub, channel):
    outcomes = [Outcome(), Outcome(), Outcome()]
    pubsub.publish(channel, new_uuid(), b"null", outcomes[0])
    pubsub.subscribe(channel, False, RecordedSubscriber(), outcomes[1])
    pubsub.subscribe(channel, True, RecordedSubscriber(), outcomes[2])
    for done in outcomes:
        error = done.wait()
        assert isinstance(error, BrokerError)
        assert error.code == NackCode.BAD_REQUEST


def unsubscribe(broker, channel, pattern, subscriber):
    done = Outcome()
    broker.unsubscribe(channel, pattern, subscriber, done)
    assert done.wait() is None


def test_distinct_patterns_are_bounded(make_broker, subscribe):
    broker = make_broker(pattern_capacity=2)
    one, two = RecordedSubscriber(), RecordedSubscriber()
    for subscriber in (one, two):
        for pattern in ("a*", "b*"):
            subscribe(broker, pattern, True, subscriber)
    subscribe(broker, "c*", False, one)
    assert (broker.subscription_count(one), broker.pattern_count(one)) == (3, 2)
    assert sorted(broker.subscriptions_of(one)) == [("a*", True), ("b*", True), ("c*", False)]
    refused = Outcome()
    broker.subscribe("c*", True, one, refused)
    assert (refused.wait().code, broker.pattern_count(one)) == (429, 2)
    broker.unsubscribe("a*", True, one, Outcome())
    broker.subscribe("c*", True, one, again := Outcome())
    assert again.wait().code == 429
    broker.unsubscribe_all(two)
    subscribe(broker, "c*", True, one)
    for subscriber in (one, two):
        broker.unsubscribe_all(subscriber)


@pytest.mark.parametrize("trace", ["", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"])
def test_the_trace_of_an_event_arrives_with_it(pubsub, subscribe, trace):
    subscribers = [subscribe(pubsub, "news"), subscribe(pubsub, "new*", True)]
    done = Outcome()
    pubsub.publish("news", new_uuid(), b"1", done, trace)
    assert done.wait() is None
    for subscriber in subscribers:
        subscriber.wait(1)
        (event,) = subscriber.events
        assert (event.trace, event.args) == (trace, b"1")
