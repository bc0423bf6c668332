"""Functions that run in the greenlet that asks for it: the usual way."""

from __future__ import annotations

import gevent

from juggler.callee import answer
from juggler.callee.answer import Answer
from juggler.callee.current import Call
from juggler.callee.pools import Runner
from juggler.callee.pools.limits import limit_of
from juggler.callee.thunk import Thunk


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
