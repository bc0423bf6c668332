"""Functions that run in operating system threads: those that block without gevent's knowledge, such as C extensions.

A thread cannot be stopped from outside, so neither deadlines nor time limits are enforced.
"""

from __future__ import annotations

import gevent
from gevent.threadpool import ThreadPool

from juggler.broker import IncomingCall
from juggler.callee import answer
from juggler.callee.answer import Answer
from juggler.callee.pools import Runner
from juggler.callee.thunk import Thunk

CLOSE_TIMEOUT = 0.5


class ThreadRunner(Runner):
    """See `Runner`. Threads start when they are first needed."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPool(threads)

    def run(self, thunk: Thunk, call: IncomingCall) -> Answer:
        found: Answer | BaseException = self._pool.apply(_run, (thunk, call))
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        # kill() waits for threads that still run a function; the process does not, and its exit stops them.
        with gevent.Timeout(CLOSE_TIMEOUT, False):
            self._pool.kill()


def _run(thunk: Thunk, call: IncomingCall) -> Answer | BaseException:
    # gevent would stop the whole program at a SystemExit in a thread.
    try:
        return answer.run(thunk, call)
    except BaseException as exception:
        return exception
