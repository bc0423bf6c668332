"""How many users there are at a time of a test. PURE: no I/O, no clock."""

from __future__ import annotations

import math

STEPS = 5


def steps(second: float, users: int, run_time: float, count: int = STEPS) -> int | None:
    """Return the number of users that grows in equal steps, up to ``users``; None when the test is over."""
    if second >= run_time:
        return None
    step = min(count, int(second / run_time * count) + 1)
    return math.ceil(users * step / count)


def spike(second: float, users: int, run_time: float, base: float = 0.1) -> int | None:
    """Return few users, all of them in the middle third of the time, and few again; None when the test is over.

    Args:
        second: since the beginning.
        users: the most there are.
        run_time: seconds of the test.
        base: the part of them that is there before and after.
    """
    if second >= run_time:
        return None
    is_spike = run_time / 3 <= second < run_time * 2 / 3
    return users if is_spike else max(1, math.ceil(users * base))
