"""Where functions run: greenlets, threads or processes. One module for each kind, with the interface of `Runner`."""

from __future__ import annotations

from abc import ABC, abstractmethod

from juggler.broker import IncomingCall
from juggler.callee.answer import Answer
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

    def close(self) -> None:  # noqa: B027  # not every kind holds resources
        """Release threads or processes. Idempotent."""
