"""Where functions run: greenlets, threads or processes. One module for each kind, with the interface of `Runner`."""

from __future__ import annotations

from abc import ABC, abstractmethod

from juggler.broker import IncomingCall
from juggler.callee.answer import Answer
from juggler.callee.failures import DeadlineExceeded, TimeIsUp, TimeLimitExceeded
from juggler.callee.thunk import Thunk


class Runner(ABC):
    """Runs functions. Greenlets may share it."""

    @abstractmethod
    def run(self, thunk: Thunk, call: IncomingCall) -> Answer:
        """Run a function and return its answer. Blocks the calling greenlet; killing that greenlet stops the function.

        Raises:
            callee.errors.TimeIsUp: the function was stopped at its deadline or time limit.
            BaseException: any exception of the function.
        """

    def cancel(self, thunk: Thunk, call: IncomingCall) -> None:  # noqa: B027  # functions in greenlets share the call
        """React to the cancel of a call that runs, or is about to. `IncomingCall.cancelled` is set. Never blocks."""

    def close(self) -> None:  # noqa: B027  # not every kind holds resources
        """Release threads or processes. Idempotent."""


def limit_of(thunk: Thunk, call: IncomingCall, time_limit: float | None) -> tuple[float, TimeIsUp] | None:
    """Return the seconds after which to stop a call, and the exception to raise; ``None`` if it has no limit.

    Args:
        thunk: the function.
        call: its call.
        time_limit: maximum run time of any function, in seconds; ``None`` means no limit.
    """
    left = call.time_left() if thunk.deadline == "enforce" else None
    if left is not None and (time_limit is None or left <= time_limit):
        return left, DeadlineExceeded()
    if time_limit is not None:
        return time_limit, TimeLimitExceeded(f"the function exceeded its time limit of {time_limit:g} s")
    return None
