"""`Stream`: a call of a `Backend` whose result arrives in parts, and `Keeper`: what keeps it alive."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from juggler.backend.calls import BackendCall
from juggler.backend.limits import check_process
from juggler.backend.operations import KEEP, Operations
from juggler.backend.pool import Run
from juggler.errors import JugglerError
from juggler.protocol.messages import Res
from juggler.protocol.part_streams import BlockingStream
from juggler.protocol.results import result_value

if TYPE_CHECKING:
    pass


class Stream(BlockingStream):
    """A call whose result arrives in parts: an iterator of them, and a context manager that cancels the call.

    One thread or greenlet reads. If it leaves the loop early, the end of the ``with`` block or `close` cancels the
    call; without them, dropping the last reference does.

    Raises, while it is iterated:
        CallFailed: the function failed, after the parts before; with type "CalleeGone", its process has died.
        Expired: no part arrived in time.
        Cancelled: the stream was closed.
        OutcomeUnknown: Redis was unreachable for 5 seconds.
        InvalidValue: the part has no Python value.
    """

    def __init__(self, run: Run, operations: Operations, keeper: Keeper, call: BackendCall) -> None:
        """Created by `Backend.stream`."""
        super().__init__(call.uri, call.call_id)
        self._pid = os.getpid()
        self._run = run
        self._operations = operations
        self._keeper = keeper
        self._call = call

    def next_json(self) -> bytes | None:
        text = self._next()
        if text is None:
            result_value(self._call.outcome())
        return text

    def _next(self) -> bytes | None:
        check_process(self._pid)
        text = self._run(self._operations.next_part(self._call))
        if self._call.is_settled:
            self._keeper.remove(self._call)
        else:
            self._keeper.add(self._call)
        return text

    def response(self) -> Res:
        while self._next() is not None:
            pass
        return self._call.outcome()

    def close(self) -> None:
        """Cancel the call, unless it has completed. Does not wait for the function. Idempotent."""
        check_process(self._pid)
        self._keeper.remove(self._call)
        self._run(self._operations.cancel(self._call))

    def __del__(self) -> None:
        # In a thread of its own: this one may hold the lock of the connections.
        if not self._call.is_settled and os.getpid() == self._pid:
            with suppress(RuntimeError):  # the interpreter is shutting down
                threading.Thread(target=_drop, args=(self._run, self._operations, self._keeper, self._call)).start()


def _drop(run: Run, operations: Operations, keeper: Keeper, call: BackendCall) -> None:
    """Cancel a stream that was dropped."""
    keeper.remove(call)
    with suppress(JugglerError):
        run(operations.cancel(call))


class Keeper:
    """A thread that exists while there are streams. Every `KEEP` seconds, it repeats the credit of those at rest."""

    def __init__(self, run: Run, operations: Operations) -> None:
        self._run = run
        self._operations = operations
        self.begin_process()

    def begin_process(self) -> None:
        """Start without streams: those of the parent are not read in this process."""
        self._changed = threading.Condition()
        self._calls: set[BackendCall] = set()
        self._thread: threading.Thread | None = None

    def add(self, call: BackendCall) -> None:
        """Keep a stream alive. Idempotent."""
        with self._changed:
            self._calls.add(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="juggler-backend-keeper", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Leave all streams. Idempotent."""
        with self._changed:
            self._calls.clear()
            self._changed.notify()

    def remove(self, call: BackendCall) -> None:
        """Leave a stream that has ended. Idempotent."""
        with self._changed:
            self._calls.discard(call)
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._calls, KEEP)
                calls = list(self._calls)
                if not calls:
                    self._thread = None
                    return
            for call in calls:
                with suppress(JugglerError):
                    self._run(self._operations.keep(call))
