"""Where functions run: in greenlets, in threads, or in processes. One kind a file, all with the same few methods."""

from __future__ import annotations

from abc import ABC, abstractmethod

from juggler.callee.answer import Answer
from juggler.callee.current import Call
from juggler.callee.thunk import Thunk


class Runner(ABC):
    """Runs thunks; greenlets share it."""

    @abstractmethod
    def run(self, thunk: Thunk, call: Call) -> Answer:
        """Run a function and return its answer. The calling greenlet waits; when it is killed, the function ends.

        Raises:
            callee.errors.TimeIsUp: it was ended, as it took too long.
            BaseException: whatever the function raises.
        """

    def close(self) -> None:  # noqa: B027  # not every kind keeps something
        """Release threads or processes. Idempotent."""
