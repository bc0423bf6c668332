"""Shares: how many calls of one connection may run while others call."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from juggler.broker import IncomingCall, client_of
from juggler.callee.shares import MEMORY, Shares


def call(client: str) -> IncomingCall:
    return IncomingCall("conn", "msg", "uri", b"null", 0.0, client=client)


def test_the_connection_is_named_in_marked_identifiers():
    assert client_of("conn", "00000001-0000-8ca1-8002-0123456789ab") == "8002-0123456789ab"
    assert client_of("other", "00000001-0001-8ca1-8002-0123456789ab") == "8002-0123456789ab"
    assert client_of("conn", "00000001-0000-4ca1-8002-0123456789ab") == "conn"
    assert client_of("conn", "00000001-0000-8001-8002-0123456789ab") == "conn"
    assert client_of("conn", "") == "conn"


CLIENTS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=60)


@given(CLIENTS, CLIENTS, st.integers(1, 30))
def test_no_connection_gets_more_than_the_limit(running, queued, limit):
    shares = Shares(limit)
    calls = [call(client) for client in running]
    left = shares.left(calls)
    most = max(Counter(running).values(), default=0)
    assert left <= limit - most
    assert left > 0 or most >= limit
    chosen = [queued[index] for index in shares.chosen(queued, calls)]
    for client, count in Counter(queued).items():
        assert Counter(chosen)[client] == min(count, max(0, limit - Counter(running)[client]))


def test_calls_of_the_connection_with_the_fewest_running_calls_come_first():
    shares = Shares(3)
    running = [call(client) for client in ("a", "a", "b")]
    assert shares.chosen(["a", "a", "b", "c", "b", "c", "c", "c"], running) == [3, 2, 5, 0, 4, 6]
    assert shares.held_back
    assert shares.chosen([], running) == []


def test_nothing_is_held_back_of_connections_below_the_limit():
    shares = Shares(2)
    assert shares.chosen(["a", "b", "a"], []) == [0, 1, 2]
    assert not shares.held_back


@pytest.mark.parametrize(
    ("calls", "now", "are_shared"),
    [
        ([], 0, False),
        ([("a", 0), ("a", 1)], 1, False),
        ([("a", 0), ("b", 1)], 1, True),
        ([("a", 0), ("b", 1)], MEMORY - 1, True),
        ([("a", 0), ("b", 1), ("b", 50)], MEMORY, False),
        ([("a", 0), ("b", 1), ("a", 50)], MEMORY, True),
        ([("a", 0), ("b", 1), ("a", 50)], MEMORY + 1, False),
        ([("a", 0), ("b", MEMORY)], MEMORY, False),
    ],
)
def test_workers_are_shared_while_two_connections_have_called_recently(calls, now, are_shared):
    shares = Shares(1)
    for client, at in calls:
        shares.note([call(client)], at)
    assert shares.are_shared(now) is are_shared
    assert shares.are_in_use(now) is bool(calls)
