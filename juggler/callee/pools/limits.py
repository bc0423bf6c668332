"""How long a call may run, and what ends it."""

from __future__ import annotations

from juggler.callee.current import Call
from juggler.callee.failures import DeadlineExceeded, TimeIsUp, TimeLimitExceeded
from juggler.callee.thunk import Thunk


def limit_of(thunk: Thunk, call: Call, time_limit: float | None) -> tuple[float, TimeIsUp] | None:
    """Return after how many seconds a call is to be ended, and with what; ``None`` when it may run on.

    Args:
        thunk: the function.
        call: its call.
        time_limit: the longest that any function may run, in seconds; ``None`` means no limit.
    """
    left = call.time_left() if thunk.deadline == "enforce" else None
    if left is not None and (time_limit is None or left <= time_limit):
        return left, DeadlineExceeded("nobody waits for the result any more")
    if time_limit is not None:
        return time_limit, TimeLimitExceeded(f"the function ran longer than its limit of {time_limit:g} s")
    return None
