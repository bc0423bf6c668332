"""Functions that run in the calling greenlet. This is the default."""

from __future__ import annotations

import gevent

from juggler.broker import IncomingCall
from juggler.callee import answer
from juggler.callee.answer import Answer
from juggler.callee.pools import Runner, limit_of
from juggler.callee.thunk import Thunk


class GreenletRunner(Runner):
    """See `Runner`. A function that computes without ever blocking cannot be stopped."""

    def __init__(self, time_limit: float | None = None) -> None:
        self._time_limit = time_limit

    def run(self, thunk: Thunk, call: IncomingCall) -> Answer:
        if self._time_limit is None and thunk.deadline == "inform":
            return answer.run(thunk, call)
        limit = limit_of(thunk, call, self._time_limit)
        assert limit is not None
        timeout = gevent.Timeout.start_new(*limit)
        try:
            return answer.run(thunk, call)
        finally:
            timeout.close()
