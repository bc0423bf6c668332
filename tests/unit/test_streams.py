"""Calls that asked for parts: credit is never withdrawn, and what a program may ask for."""

from __future__ import annotations

import pytest

from juggler.broker.streams import Streams
from juggler.protocol.codec import StoredParts
from juggler.protocol.messages import MAX_WINDOW, check_parts
from tests.recorders import RecordedCall


def test_credit_is_never_withdrawn():
    pending, streams = RecordedCall(), Streams()
    pending.call_id = "1"
    streams.add(pending, 10.0, StoredParts("all", 4), 100.0)
    stream = streams.stream_of(pending)
    assert [stream.grant(until) for until in (3, 9, 5, 10)] == [4, 9, 9, 10]


@pytest.mark.parametrize("window", [1, MAX_WINDOW])
def test_windows(window):
    check_parts("all", window)
    check_parts("latest", window)


@pytest.mark.parametrize(
    ("mode", "window", "error"),
    [
        ("some", 1, "mode: expected 'all' or 'latest', got 'some'"),
        ("all", 0, "window: expected 1 to 1024, got 0"),
        ("all", MAX_WINDOW + 1, "window: expected 1 to 1024, got 1025"),
        ("all", True, "window: expected 1 to 1024, got True"),
        ("all", 1.5, "window: expected 1 to 1024, got 1.5"),
        ("all", "8", "window: expected 1 to 1024, got '8'"),
    ],
)
def test_windows_that_are_refused(mode, window, error):
    with pytest.raises(ValueError, match=f"^{error}$"):
        check_parts(mode, window)
