"""Functions that run in threads: those that block without gevent's knowledge, such as C extensions.

The threads are those of one process that is not monkey-patched. gevent's locks do not work between native threads, and
asyncio, subprocess and multiprocessing need the functions that gevent replaces. A thread cannot be stopped from
outside, so neither deadlines nor time limits are enforced.
"""

from __future__ import annotations

import gevent

from juggler.broker import IncomingCall, PublishArgs
from juggler.callee.answer import Answer
from juggler.callee.failures import ProcessDied
from juggler.callee.pools.processes import Connection, ProcessRunner
from juggler.callee.thunk import Thunk
from juggler.callee.wear import UNLIMITED, WearLimits


class ThreadRunner(ProcessRunner):
    """See `Runner`. The process starts when it is first needed, and is replaced if it exits."""

    def __init__(
        self, source: str, publish: PublishArgs, *, threads: int, mask: bool = False, limits: WearLimits = UNLIMITED
    ) -> None:
        """Create a pool without a process.

        Args:
            source: the callee as ``MODULE:OBJECT``, from which the process imports it.
            publish: publishes the events of functions.
            threads: number of threads.
            mask: hide exceptions from callers.
            limits: limits after which the process is replaced.
        """
        super().__init__(source, publish, threads=threads, mask=mask, limits=limits)
        self._starting: gevent.Greenlet[..., ProcessDied | None] | None = None

    def run(self, thunk: Thunk, call: IncomingCall) -> Answer:
        connection = self._take()
        self._check_wanted(connection, call)
        # If this greenlet is killed, the thread still runs the function: the connection cannot be reused.
        answer = self._run(connection, call)
        self._put_idle(connection)
        return answer

    def _take(self) -> Connection:
        while (connection := self._take_idle()) is None:
            starting = self._starting
            if starting is None or starting.ready():
                starting = self._starting = gevent.spawn(self._try_start)
            if error := starting.get():
                raise error
        return connection

    def _try_start(self) -> ProcessDied | None:
        try:
            self._idle += self._start()
        except ProcessDied as error:
            return error
        return None

    def close(self) -> None:
        if self._starting is not None:
            self._starting.kill()
        super().close()
