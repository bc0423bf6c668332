"""Number of users over the time of a test, for the load shapes. PURE."""

from __future__ import annotations

import math

STEPS = 5


def steps(second: float, users: int, run_time: float, count: int = STEPS) -> int | None:
    """Return a number of users that grows to ``users`` in equal steps; None when the test is over."""
    if second >= run_time:
        return None
    step = min(count, int(second / run_time * count) + 1)
    return math.ceil(users * step / count)


def spike(second: float, users: int, run_time: float, base: float = 0.1) -> int | None:
    """Return all users in the middle third of the test and few before and after; None when the test is over.

    Args:
        second: seconds since the start.
        users: largest number of users.
        run_time: duration of the test in seconds.
        base: share of the users outside the spike.
    """
    if second >= run_time:
        return None
    is_spike = run_time / 3 <= second < run_time * 2 / 3
    return users if is_spike else max(1, math.ceil(users * base))
