"""Functions that run in the calling greenlet. This is the default."""

from __future__ import annotations

import gevent

from juggler.broker import IncomingCall
from juggler.callee import answer
from juggler.callee.answer import Answer
from juggler.callee.failures import Cancelled
from juggler.callee.pools import Runner, limit_of
from juggler.callee.thunk import Thunk


class GreenletRunner(Runner):
    """See `Runner`. A function that computes without ever blocking cannot be stopped."""

    def __init__(self, time_limit: float | None = None) -> None:
        self._time_limit = time_limit
        self._stoppable: dict[int, gevent.Greenlet[..., None]] = {}  # by the id of their calls

    def run(self, thunk: Thunk, call: IncomingCall) -> Answer:
        if thunk.cancel == "raise":
            return self._run_stoppable(thunk, call)
        if self._time_limit is None and thunk.deadline == "inform":
            return answer.run(thunk, call)
        return self._run_within_limit(thunk, call)

    def _run_within_limit(self, thunk: Thunk, call: IncomingCall) -> Answer:
        limit = limit_of(thunk, call, self._time_limit)
        if limit is None:
            return answer.run(thunk, call)
        timeout = gevent.Timeout.start_new(*limit)
        try:
            return answer.run(thunk, call)
        finally:
            timeout.close()

    def _run_stoppable(self, thunk: Thunk, call: IncomingCall) -> Answer:
        if call.cancelled:
            raise Cancelled
        self._stoppable[id(call)] = gevent.getcurrent()
        try:
            return self._run_within_limit(thunk, call)
        finally:
            del self._stoppable[id(call)]

    def cancel(self, thunk: Thunk, call: IncomingCall) -> None:
        if thunk.cancel == "raise":
            gevent.get_hub().loop.run_callback(self._throw, call)

    def _throw(self, call: IncomingCall) -> None:
        """Raise in the function, unless it has returned. Runs in the hub, as a `gevent.Timeout` does."""
        greenlet = self._stoppable.get(id(call))
        if greenlet is not None:
            greenlet.throw(Cancelled())
