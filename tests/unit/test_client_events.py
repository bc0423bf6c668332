"""The bounded queue of a subscription."""

from __future__ import annotations

import pytest

from juggler.client.events import EventQueue
from juggler.errors import ConnectionClosed, InvalidValue, Nacked
from juggler.protocol.messages import Evnt


def queue(max_events=2, when_full="drop_oldest"):
    return EventQueue("news", False, max_events, when_full)


def put(queue, *args):
    return [queue.on_event(Evnt(for_="u", channel="news", args=b"%d" % n)) for n in args]


def take(queue, number):
    return [queue.take().args for _ in range(number)]


@pytest.mark.parametrize(("when_full", "kept"), [("drop_oldest", [2, 3]), ("drop_newest", [0, 1])])
def test_a_full_queue_drops_and_counts(when_full, kept):
    events = queue(when_full=when_full)
    assert put(events, 0, 1, 2, 3) == [True] * 4
    assert (take(events, 2), events.dropped, events.is_readable) == (kept, 2, False)


def test_a_full_queue_may_end():
    events = queue(when_full="end")
    assert put(events, 0, 1, 2, 3) == [True, True, False, True]
    assert (take(events, 2), events.dropped) == ([0, 1], 1)
    with pytest.raises(ConnectionClosed, match="4429 2 events wait to be read"):
        events.take()


def test_the_first_reason_to_end_counts_and_comes_after_the_events():
    events = queue()
    put(events, 1)
    events.on_end(ConnectionClosed(1000, "unsubscribed"))
    events.on_end(ConnectionClosed(1006, "gone"))
    assert take(events, 1) == [1]
    raised = []
    for _ in range(2):
        with pytest.raises(ConnectionClosed, match="1000 unsubscribed") as caught:
            events.take()
        raised.append(caught.value)
    assert raised[0] is not raised[1]


def test_other_errors_are_raised_as_they_are():
    events = queue()
    events.on_end(error := Nacked(403, "no"))
    with pytest.raises(Nacked) as caught:
        events.take()
    assert caught.value is error


def test_the_value_of_an_event_is_decoded_on_access():
    events = queue()
    events.on_event(Evnt(for_="u", channel="news.a", pattern="news.*", args=b"9" * 10_000))
    event = events.take()
    assert (event.channel, event.pattern, event.uuid, event.json) == ("news.a", "news.*", "u", b"9" * 10_000)
    with pytest.raises(InvalidValue):
        _ = event.args


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_events": 0}, "max_events: expected at least 1, got 0"),
        ({"when_full": "explode"}, "when_full: expected one of drop_oldest, drop_newest, end, got 'explode'"),
    ],
)
def test_arguments_out_of_range_are_refused(options, error):
    with pytest.raises(ValueError, match=error):
        queue(**options)
