"""How long a call may run, and the exception that stops it."""

from __future__ import annotations

from juggler.broker import IncomingCall
from juggler.callee.failures import DeadlineExceeded, TimeIsUp, TimeLimitExceeded
from juggler.callee.thunk import Thunk


def limit_of(thunk: Thunk, call: IncomingCall, time_limit: float | None) -> tuple[float, TimeIsUp] | None:
    """Return the seconds after which to stop a call, and the exception to raise; ``None`` if it has no limit.

    Args:
        thunk: the function.
        call: its call.
        time_limit: maximum run time of any function, in seconds; ``None`` means no limit.
    """
    left = call.time_left() if thunk.deadline == "enforce" else None
    if left is not None and (time_limit is None or left <= time_limit):
        return left, DeadlineExceeded("the call was abandoned: its deadline has passed")
    if time_limit is not None:
        return time_limit, TimeLimitExceeded(f"the function exceeded its time limit of {time_limit:g} s")
    return None
