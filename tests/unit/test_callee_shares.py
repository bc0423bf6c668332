"""Shares: how many calls of one connection may run while others call."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from juggler.broker import IncomingCall
from juggler.callee.shares import MEMORY, Shares


def call(client: bytes) -> IncomingCall:
    return IncomingCall("conn", "msg", "uri", b"null", 0.0, client=client)


CLIENTS = st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=60)


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
    running = [call(client) for client in (b"a", b"a", b"b")]
    assert shares.chosen([b"a", b"a", b"b", b"c", b"b", b"c", b"c", b"c"], running) == [3, 2, 5, 0, 4, 6]
    assert shares.held_back
    assert shares.chosen([], running) == []


def test_nothing_is_held_back_of_connections_below_the_limit():
    shares = Shares(2)
    assert shares.chosen([b"a", b"b", b"a"], []) == [0, 1, 2]
    assert not shares.held_back


@pytest.mark.parametrize(
    ("calls", "now", "are_shared"),
    [
        ([], 0, False),
        ([(b"a", 0), (b"a", 1)], 1, False),
        ([(b"a", 0), (b"b", 1)], 1, True),
        ([(b"a", 0), (b"b", 1)], MEMORY - 1, True),
        ([(b"a", 0), (b"b", 1), (b"b", 50)], MEMORY, False),
        ([(b"a", 0), (b"b", 1), (b"a", 50)], MEMORY, True),
        ([(b"a", 0), (b"b", 1), (b"a", 50)], MEMORY + 1, False),
        ([(b"a", 0), (b"b", MEMORY)], MEMORY, False),
    ],
)
def test_workers_are_shared_while_two_connections_have_called_recently(calls, now, are_shared):
    shares = Shares(1)
    for client, at in calls:
        shares.note([call(client)], at)
    assert shares.are_shared(now) is are_shared
    assert shares.are_in_use(now) is bool(calls)
