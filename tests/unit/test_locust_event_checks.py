"""juggler.locust.event_checks through the book: subscribers receive each event once, and no one else does."""

from __future__ import annotations

import pytest

from juggler.locust.book import Book
from juggler.locust.event_checks import FOREIGN_AGE, HORIZON, SLACK
from juggler.process.uuids import new_uuid
from juggler.protocol.messages import Ends, Evnt, Pub, Sub, Unsb, ack, nack
from loadtest.disturbances import Disturbances

PUBLISHER, LISTENER = 1, 2


@pytest.fixture
def disturbances():
    return Disturbances()


@pytest.fixture
def book(disturbances):
    book = Book(disturbances.overlap)
    assert [book.connected(0.0), book.connected(0.0)] == [PUBLISHER, LISTENER]
    return book


def do(book, connection, message, asked, answered, answer=ack):
    book.sent(connection, message, asked)
    if answered is not None:
        book.received(connection, answer(message), answered)
    return message


def subscribe(book, asked=1.0, answered=1.1, channel="news", pattern=False, answer=ack):
    return do(book, LISTENER, Sub(uuid=new_uuid(), channel=channel, is_pattern=pattern), asked, answered, answer)


def unsubscribe(book, asked, answered, channel="news", pattern=False):
    return do(book, LISTENER, Unsb(uuid=new_uuid(), channel=channel, is_pattern=pattern), asked, answered)


def publish(book, asked=2.0, answered=2.1, answer=ack, channel="news"):
    return do(book, PUBLISHER, Pub(uuid=new_uuid(), channel=channel), asked, answered, answer)


def deliver(book, publication, pattern="", connection=LISTENER, now=3.0, channel=None):
    event = Evnt(for_=publication.uuid, channel=channel or publication.channel, pattern=pattern)
    book.received(connection, event, now)


def judged(book):
    """Violations, and events received, due, uncertain."""
    book.finish(100.0)
    return dict(book.violations.counts), (book.tally.events, book.tally.due, book.tally.uncertain)


def test_a_received_event(book):
    subscribe(book)
    publication = publish(book)
    assert book.missing() == 1
    deliver(book, publication)
    assert book.missing() == 0
    assert judged(book) == ({}, (1, 1, 0))


def test_a_missed_event(book):
    subscribe(book)
    publish(book)
    violations, counts = judged(book)
    assert violations == {"an event was missed": 1}
    assert counts == (0, 0, 0)


def test_an_event_received_twice(book):
    subscribe(book)
    publication = publish(book)
    deliver(book, publication)
    deliver(book, publication)
    assert judged(book)[0]["an event was received twice"] == 1


def test_an_event_without_a_subscription(book):
    deliver(book, publish(book))
    assert judged(book)[0]["an event without a subscription"] == 1


def test_an_event_at_another_connection(book):
    subscribe(book)
    publication = publish(book)
    deliver(book, publication)
    deliver(book, publication, connection=PUBLISHER)
    assert judged(book)[0]["an event without a subscription"] == 1


def test_an_event_on_another_channel(book):
    subscribe(book)
    deliver(book, publish(book), channel="olds")
    assert "an event on another channel than its publication's" in judged(book)[0]


def test_a_subscription_and_a_pattern_that_matches_get_one_each(book):
    subscribe(book)
    subscribe(book, channel="n*", pattern=True)
    subscribe(book, channel="m*", pattern=True)
    publication = publish(book)
    assert book.missing() == 2
    deliver(book, publication)
    assert book.missing() == 1
    deliver(book, publication, pattern="n*")
    assert judged(book) == ({}, (2, 2, 0))


def test_a_pattern_that_does_not_match_gets_nothing(book):
    subscribe(book, channel="m*", pattern=True)
    deliver(book, publish(book), pattern="m*")
    assert "an event without a subscription" in judged(book)[0]


def test_published_long_before_the_subscription_was_asked_for(book):
    publication = publish(book, 0.1, 0.9)
    subscribe(book, 1.0 + SLACK, 1.1 + SLACK)
    assert book.missing() == 0
    deliver(book, publication)
    assert "an event without a subscription" in judged(book)[0]


@pytest.mark.parametrize("comes", [True, False])
@pytest.mark.parametrize(("asked", "answered"), [(0.9, 1.5), (1.05, 1.5), (0.5, None), (0.1, 0.9)])
def test_published_while_subscribing_is_uncertain(book, asked, answered, comes):
    subscribe(book, 1.0, 1.1)
    publication = publish(book, asked, answered)
    if comes:
        deliver(book, publication)
    violations, counts = judged(book)
    violations.pop("a request without ACK or NACK", None)
    assert not [violation for violation in violations if "event" in violation]
    assert counts == (int(comes), 0, 1)


@pytest.mark.parametrize("comes", [True, False])
def test_published_shortly_before_unsubscribing_is_uncertain(book, comes):
    subscribe(book)
    publication = publish(book, 2.0, 2.1)
    unsubscribe(book, 2.05 + SLACK, 2.1 + SLACK)
    if comes:
        deliver(book, publication)
    assert judged(book) == ({}, (int(comes), 0, 1))


def test_published_long_before_unsubscribing_must_arrive(book):
    subscribe(book)
    publish(book, 2.0, 2.1)
    unsubscribe(book, 2.1 + SLACK, 2.2 + SLACK)
    assert judged(book)[0] == {"an event was missed": 1}


def test_published_after_unsubscribing_must_not_arrive(book):
    subscribe(book)
    unsubscribe(book, 1.5, 1.6)
    deliver(book, publish(book, 2.0, 2.1))
    assert "an event without a subscription" in judged(book)[0]


def test_published_after_the_connection_was_closed(book):
    subscribe(book)
    book.closed(LISTENER, 1.5, 1.6)
    publish(book, 2.0, 2.1)
    assert judged(book) == ({}, (0, 0, 0))


def test_published_while_the_connection_is_closed(book):
    subscribe(book)
    publication = publish(book, 2.0, 2.1)
    deliver(book, publication)
    book.closed(LISTENER, 1.5, 2.6)
    assert judged(book) == ({}, (1, 0, 1))


def test_subscribed_again(book):
    subscribe(book)
    unsubscribe(book, 1.5, 1.6)
    subscribe(book, 1.7, 1.8)
    publication = publish(book)
    deliver(book, publication)
    assert judged(book) == ({}, (1, 1, 0))


def test_the_event_of_a_refused_publication_is_uncertain(book):
    subscribe(book)
    deliver(book, publish(book, answer=lambda message: nack(message, 503, "away")))
    assert judged(book) == ({}, (1, 0, 1))


def test_a_refused_subscription_gets_nothing(book):
    subscribe(book, answer=lambda message: nack(message, 429, "too many"))
    assert book.missing() == 0
    deliver(book, publish(book))
    assert "an event without a subscription" in judged(book)[0]


def test_an_event_missed_during_a_failure_is_excused(book, disturbances):
    subscribe(book)
    disturbances.begin(2.05)
    disturbances.end(2.5)
    publish(book)
    assert book.missing() == 0
    publish(book, 4.0, 4.1)
    assert book.missing() == 1
    violations, _ = judged(book)
    assert violations == {"an event was missed": 1}
    assert book.tally.excused == 1


def test_foreign_events_are_counted_separately(book):
    subscribe(book)
    deliver(book, Pub(uuid=new_uuid(), channel="news"))
    assert judged(book) == ({}, (1, 0, 0))
    assert book.tally.foreign == 1


THIRD = 3


def foreign(channel="news"):
    return Pub(uuid=new_uuid(), channel=channel)


@pytest.fixture
def third(book):
    """A second subscriber since long ago."""
    assert book.connected(0.0) == THIRD
    for connection in (LISTENER, THIRD):
        do(book, connection, Sub(uuid=new_uuid(), channel="news"), 1.0, 1.1)
    return THIRD


def test_a_foreign_event_that_one_receives_must_reach_all(book, third):
    event, other = foreign(), foreign()
    for connection in (LISTENER, third):
        deliver(book, event, now=20.0, connection=connection)
    assert book.missing() == 0
    deliver(book, other, now=21.0)
    assert book.missing() == 1
    assert judged(book) == ({"an event was missed": 1}, (3, 0, 0))
    assert book.tally.foreign == 3


def test_a_foreign_event_received_twice(book):
    subscribe(book)
    event = foreign()
    deliver(book, event, now=20.0)
    deliver(book, event, now=20.1)
    assert judged(book)[0] == {"an event was received twice": 1}


def test_a_foreign_event_without_a_subscription(book, third):
    event = foreign()
    deliver(book, event, now=20.0)
    deliver(book, event, now=20.0, connection=third)
    deliver(book, event, now=20.0, connection=PUBLISHER)
    assert judged(book)[0] == {"an event without a subscription": 1}


@pytest.mark.parametrize("now", [1.2, 1.1 + FOREIGN_AGE - 0.1])
def test_a_foreign_event_shortly_after_the_subscription_may_be_missed(book, third, now):
    deliver(book, foreign(), now=now)
    assert book.missing() == 0
    assert judged(book)[0] == {}


def test_a_foreign_event_before_unsubscribing_may_be_missed(book, third):
    deliver(book, foreign(), now=20.0, connection=third)
    unsubscribe(book, 20.0 + SLACK - 0.1, 20.0 + SLACK)
    assert judged(book)[0] == {}


def test_servers_publish_to_their_own_clients(book, third):
    for connection in (LISTENER, third):
        do(book, connection, Sub(uuid=new_uuid(), channel="juggler.gap"), 1.0, 1.1)
    deliver(book, foreign("juggler.gap"), now=20.0)
    assert judged(book)[0] == {}


def test_foreign_events_are_dropped_in_time(book, third):
    deliver(book, foreign(), now=20.0)
    book.judge(20.0 + HORIZON)
    assert dict(book.violations.counts) == {"an event was missed": 1}
    assert book.missing() == 0


@pytest.mark.parametrize("own", [True, False])
def test_withheld_events_may_be_missed_but_not_received_twice(book, third, own):
    book.events.withheld.add("new*")
    events = [publish(book, 20.0, 20.1) if own else foreign() for _ in range(2)]
    deliver(book, events[0], now=20.2)
    deliver(book, events[1], now=20.3)
    assert book.missing() == 0
    deliver(book, events[1], now=20.4)
    assert judged(book)[0] == {"an event was received twice": 1}


def test_the_order_of_foreign_events_is_unknown(book):
    subscribe(book)
    first, second = foreign(), foreign()
    for event in (second, first, publish(book, 20.0, 20.1)):
        deliver(book, event, now=21.0)
    assert judged(book)[0] == {}


def test_a_cancelled_subscription_ends(book):
    subscribe(book)
    book.received(LISTENER, Ends(channel="news", code=403, message="no"), 5.0)
    publish(book, 9.0, 9.1)
    assert judged(book)[0] == {}


def test_the_time_of_sending_is_known_of_own_events(book):
    message = publish(book, 2.0)
    event = foreign()
    subscribe(book)
    deliver(book, event, now=20.0)
    assert book.events.sent_at(message.uuid) == 2.0
    assert book.events.sent_at(event.uuid) is None


def test_old_publications_and_subscriptions_are_dropped(book):
    subscribe(book)
    publish(book, 2.0, 2.1)
    book.judge(1.9 + HORIZON)
    assert not book.violations
    book.judge(2.0 + HORIZON)
    assert dict(book.violations.counts) == {"an event was missed": 1}
    assert book.missing() == 0
    unsubscribe(book, 40.0, 40.1)
    book.judge(200.0)
    assert not book.events.subscriptions


def test_events_of_a_publisher_in_another_order(book):
    subscribe(book)
    first, second = publish(book, 2.0), publish(book, 2.5)
    deliver(book, second)
    deliver(book, first)
    assert judged(book) == ({"an event out of order": 1}, (2, 2, 0))


def test_events_of_two_publishers_in_another_order(book):
    other = book.connected(0.0)
    subscribe(book)
    first = publish(book, 2.0)
    second = do(book, other, Pub(uuid=new_uuid(), channel="news"), 2.5, 2.6)
    deliver(book, second)
    deliver(book, first)
    assert judged(book) == ({}, (2, 2, 0))


@pytest.mark.parametrize(("now", "expected"), [(6.9, {}), (7.1, {"a late event": 1})])
def test_a_late_event(now, expected):
    book = Book(max_latency=5.0)
    assert [book.connected(0.0), book.connected(0.0)] == [PUBLISHER, LISTENER]
    subscribe(book)
    deliver(book, publish(book, 2.0, 6.9), now=now)
    assert judged(book)[0] == expected


def test_latency_is_unlimited_by_default_and_excused_by_a_failure(book, disturbances):
    subscribe(book)
    deliver(book, publish(book, 2.0), now=60.0)
    assert judged(book)[0] == {}
    strict = Book(disturbances.overlap, max_latency=5.0)
    assert [strict.connected(0.0), strict.connected(0.0)] == [PUBLISHER, LISTENER]
    disturbances.begin(3.0)
    subscribe(strict)
    deliver(strict, publish(strict, 2.0), now=60.0)
    assert judged(strict)[0] == {}
