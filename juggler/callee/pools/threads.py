"""Functions that run in threads of the operating system: for what waits without telling gevent, and for C extensions.

A thread cannot be ended from outside, so no limits of time hold here.
"""

from __future__ import annotations

import gevent
from gevent.threadpool import ThreadPool

from juggler.callee import answer
from juggler.callee.answer import Answer
from juggler.callee.current import Call
from juggler.callee.pools import Runner
from juggler.callee.thunk import Thunk

END_TIMEOUT = 0.5


class ThreadRunner(Runner):
    """See `Runner`. Threads are made when they are needed."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPool(threads)

    def run(self, thunk: Thunk, call: Call) -> Answer:
        found: Answer | BaseException = self._pool.apply(_run, (thunk, call))
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        # It waits for threads that run a function; these end with the process.
        with gevent.Timeout(END_TIMEOUT, False):
            self._pool.kill()


def _run(thunk: Thunk, call: Call) -> Answer | BaseException:
    # gevent takes a SystemExit of a thread for one of the whole program.
    try:
        return answer.run(thunk, call)
    except BaseException as exception:
        return exception
