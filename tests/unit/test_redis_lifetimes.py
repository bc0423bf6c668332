"""When a callee process counts as gone: judged by looks at its key."""

from __future__ import annotations

import pytest

from juggler.broker.redis.lifetimes import NO_KEY, Lifetimes
from juggler.errors import BrokerUnavailable

FAILED = BrokerUnavailable("down")


def looks(*replies: tuple[float, object]) -> float | None:
    """Look at a process, with a reply at each time. Return when it has gone."""
    lifetimes = Lifetimes()
    for now, reply in replies:
        lifetimes.keep(["a"], now)
        if lifetimes.has_gone("a", reply, now):
            return now
    return None


def seconds(start: int, end: int, reply: object) -> list[tuple[float, object]]:
    return [(float(now), reply) for now in range(start, end)]


@pytest.mark.parametrize(
    ("replies", "gone"),
    [
        ([(100, 4900), *seconds(101, 110, NO_KEY)], 106),
        ([(100, 4900), (101, 3900), (102, 2900), (103, 1900), (104, 900), *seconds(105, 110, NO_KEY)], 106),
        ([(100, 400), *seconds(101, 105, NO_KEY)], 101),
        # Redis was emptied: the callee sets its key again.
        ([(100, 4900), (101, NO_KEY), (102, 4900), *seconds(103, 107, NO_KEY)], None),
        (seconds(100, 106, NO_KEY), None),
        (seconds(100, 107, NO_KEY), 106),
        # Redis was away, perhaps for longer than the key lives.
        ([(100, 4900), *seconds(101, 111, FAILED), *seconds(111, 116, NO_KEY)], None),
        ([(100, 4900), *seconds(101, 111, FAILED), *seconds(111, 118, NO_KEY)], 116),
        # This process was stopped, and Redis emptied meanwhile.
        ([(100, 4900), *seconds(120, 126, NO_KEY)], None),
        ([(100, 4900), *seconds(120, 128, NO_KEY)], 126),
        # A key without an expiry is none of a callee.
        (seconds(100, 120, -1), None),
    ],
)
def test_a_process_has_gone_when_its_key_should_have_expired(replies, gone):
    assert looks(*replies) == gone


def test_processes_that_are_not_looked_at_are_forgotten():
    lifetimes = Lifetimes()
    lifetimes.keep(["a"], 100.0)
    assert not lifetimes.has_gone("a", 100, 100.0)
    lifetimes.keep([], 101.0)
    assert not lifetimes.has_gone("a", NO_KEY, 102.0)
    lifetimes.keep(["a"], 102.0)
    assert not lifetimes.has_gone("a", NO_KEY, 102.0)
