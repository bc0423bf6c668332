"""`Stream`: the parts of a result, without a client, a server or Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event

from juggler.broker import IncomingCall
from juggler.callee.parts import check_wanted
from juggler.callee.testing.outcome import Outcome
from juggler.errors import Cancelled, Expired, JugglerError
from juggler.protocol.codec import StoredParts, decode_args

if TYPE_CHECKING:
    from typing_extensions import Self

_UNLIMITED = 2**31
_KILL_TIMEOUT = 1.0


class Stream:
    """A call whose result is read in parts: an iterator of them, and a context manager that cancels the call.

    The function runs in a greenlet, and only while the reader waits: it stops at each part until the next one is read.
    """

    def __init__(
        self, call: IncomingCall, timeout: float, run: Callable[[], Outcome], cancel: Callable[[], None]
    ) -> None:
        """Created by `Caller.stream`. The function starts when the first part is read.

        Args:
            call: the call. It is made to ask for parts.
            timeout: seconds for each part and the result.
            run: runs the function to its end.
            cancel: cancels the call.
        """
        call.parts = StoredParts("all", _UNLIMITED)
        call.sender = self._send
        self.uri = call.uri
        self._call = call
        self._cancel = cancel
        self._timeout = timeout
        self._part: bytes | None = None
        self._failure: JugglerError | None = None
        self._wanted, self._changed = Event(), Event()
        self._greenlet: gevent.Greenlet[..., Outcome] = gevent.Greenlet(run)
        self._greenlet.rawlink(lambda _: self._changed.set())

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Let the function run up to its next part, and return this part. After the last one, stop.

        Raises:
            juggler.errors.CallFailed: the function failed, after the parts before.
            juggler.errors.Expired: there was no part within the timeout.
            juggler.errors.Cancelled: the stream was closed.
        """
        part = self._next()
        if part is None:
            self._value()
            raise StopIteration
        return decode_args(part)

    def result(self) -> Any:
        """Drop the parts that were not read, and return the result. Errors as in iteration."""
        while self._next() is not None:
            pass
        return self._value()

    def close(self) -> None:
        """Cancel the call unless it has completed, and wait for the function to end.

        A function that goes on for the timeout of the call, or has let it expire, is killed.
        """
        is_running = self._greenlet.started
        if self._failure is None and not self._greenlet.ready():
            self._failure = Cancelled(f"the call of {self.uri} was cancelled")
            self._cancel()
            if is_running:
                self._resume()
                self._greenlet.join(self._timeout)
        if is_running:
            self._greenlet.kill(timeout=_KILL_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _value(self) -> Any:
        return self._greenlet.get().value()

    def _next(self) -> bytes | None:
        if self._failure is not None:
            raise self._failure
        if self._greenlet.ready():
            return None
        self._resume()
        self._changed.wait(self._timeout)
        part, self._part = self._part, None
        if part is None and (not self._greenlet.ready() or self._call.deadline <= time.monotonic()):
            self._failure = Expired(f"no result of {self.uri} within {self._timeout:g} s")
            raise self._failure
        return part

    def _resume(self) -> None:
        """Start the function, or let it go on from its part. The timeout counts from part to part."""
        self._call.deadline = time.monotonic() + self._timeout
        self._changed.clear()
        if self._greenlet.started:
            self._wanted.set()
        else:
            self._greenlet.start()

    def _send(self, text: bytes, is_progress: bool) -> None:
        check_wanted(self._call)
        if self._failure is not None:
            return  # closed, and the function ignores cancels
        self._wanted.clear()
        self._part = text
        self._changed.set()
        self._wanted.wait()
        check_wanted(self._call)
