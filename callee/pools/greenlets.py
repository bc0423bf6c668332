"""Functions that run in the greenlet that asks for it: the usual way."""

from __future__ import annotations

import gevent

from callee import answer
from callee.answer import Answer
from callee.current import Call
from callee.pools import Runner
from callee.pools.limits import limit_of
from callee.thunk import Thunk


class GreenletRunner(Runner):
    """See `Runner`. A function that computes and never waits cannot be ended."""

    def __init__(self, time_limit: float | None = None) -> None:
        self._time_limit = time_limit

    def run(self, thunk: Thunk, call: Call) -> Answer:
        if self._time_limit is None and thunk.deadline == "inform":
            return answer.run(thunk, call)
        limit = limit_of(thunk, call, self._time_limit)
        assert limit is not None
        timeout = gevent.Timeout.start_new(*limit)
        try:
            return answer.run(thunk, call)
        finally:
            timeout.close()
