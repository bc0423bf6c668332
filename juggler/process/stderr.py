"""Standard error that never blocks, even if it is a pipe or a socket whose reader is stuck.

Text is written at once, as usual. What the reader has left no room for is queued, and written by a thread that exists
until the queue is empty. Terminals and files are left alone.
"""

from __future__ import annotations

import atexit
import io
import os
import select
import stat
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

from gevent.monkey import get_original

from juggler.process.fork_hooks import register

MAX_QUEUED = 1024 * 1024
"""Maximum bytes of text that wait for the reader. Further lines are dropped until all of them are written."""

EXIT_TIME = 1.0
"""Seconds without progress after which a process that exits drops what is queued."""

_AT_ONCE = 64 * 1024  # bytes

# Of the operating system, also after gevent's monkey-patching.
_new_lock, _start_thread = get_original("_thread", ["RLock", "start_new_thread"])
_sleep, _clock = get_original("time", ["sleep", "monotonic"])


def unblock() -> None:
    """Replace ``sys.stderr`` if writing to it may block. Idempotent."""
    stream = sys.stderr
    try:
        descriptor = stream.fileno()
        mode = os.fstat(descriptor).st_mode
    except (AttributeError, OSError, ValueError):
        return  # it is closed, or not one of the system
    if _output_of(stream) is None and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        attempt = socket_writer(descriptor) if stat.S_ISSOCK(mode) else pipe_writer(descriptor)
        output = Output(stream, attempt)
        atexit.register(output.finish)
        sys.stderr = io.TextIOWrapper(output, stream.encoding, stream.errors, line_buffering=True)


def describe_dropped(describe: Callable[[int], str]) -> None:
    """Set the function that returns the line to write after lines were dropped; its argument is their number."""
    output = _output_of(sys.stderr)
    if output is not None:
        output.describe = describe


def _output_of(stream: TextIO) -> Output | None:
    buffer = getattr(stream, "buffer", None)
    return buffer if isinstance(buffer, Output) else None


def pipe_writer(descriptor: int) -> Callable[[bytes], int]:
    """Return a function that writes what a pipe has room for.

    Other processes share the pipe: it must stay blocking for them. A second descriptor of its own has another mode.
    """
    try:
        own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return lambda data: 0  # no such file system, or the pipe is one of another user: the thread writes all
    return lambda data: os.write(own, data)


def socket_writer(descriptor: int) -> Callable[[bytes], int]:
    kind = get_original("socket", "socket")
    own = kind(fileno=os.dup(descriptor))
    return lambda data: int(own.send(data, get_original("socket", "MSG_DONTWAIT")))


def _wait_for_room(descriptor: int) -> None:
    poll = get_original("select", "poll")()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()


class Output(io.RawIOBase):
    """Takes all bytes at once. Threads may share it.

    Attributes:
        describe: returns the line to write after lines were dropped.
        is_draining: whether the thread writes, and text has to be queued.
    """

    def __init__(self, stream: TextIO, attempt: Callable[[bytes], int]) -> None:
        """Create an output.

        Args:
            stream: pipe or socket, which the thread writes to.
            attempt: writes a part of the bytes without blocking, returns how many, or raises ``BlockingIOError``.
        """
        self.describe: Callable[[int], str] = "juggler: {} lines of the log dropped, their reader was too slow\n".format
        self._descriptor = stream.fileno()
        self._stream = stream  # closes the descriptor when it is freed
        self._attempt = attempt
        self._lock: Any = _new_lock()
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self.is_draining = False
        register(self)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, data: Any) -> int:
        text = bytes(data)
        with self._lock:
            if self.is_draining:
                self._put(text)
            else:
                left = text[self._write_some(text) :]
                if left:
                    self._put(left)
                    self._drain_later()
        return len(text)

    def on_fork(self) -> None:
        """Leave the queue to the parent. The thread does not exist in a child."""
        self._lock = _new_lock()
        self._queue.clear()
        self._size = self._dropped = 0
        self.is_draining = False

    def finish(self) -> None:
        """Wait while queued text is being written."""
        size, deadline = self._size, _clock() + EXIT_TIME
        while self.is_draining and _clock() < deadline:
            _sleep(0.005)
            if self._size != size:
                size, deadline = self._size, _clock() + EXIT_TIME

    def _write_some(self, text: bytes) -> int:
        try:
            return self._attempt(text)
        except BlockingIOError:
            return 0
        except OSError:
            return len(text)  # nothing reads it any more

    def _put(self, text: bytes) -> None:
        if self._dropped or (self._queue and self._size + len(text) > MAX_QUEUED):
            self._dropped += text.count(b"\n")
        else:
            self._queue.append(text)
            self._size += len(text)

    def _drain_later(self) -> None:
        self.is_draining = True
        try:
            _start_thread(self._drain, ())
        except RuntimeError:  # the interpreter exits
            self.on_fork()

    def _drain(self) -> None:
        """Write what is queued, then how many lines were dropped. Runs in the thread."""
        while text := self._take():
            try:
                count = os.write(self._descriptor, text)
            except BlockingIOError:  # another process has made it non-blocking
                _wait_for_room(self._descriptor)
                count = 0
            except OSError:
                count = len(text)
            with self._lock:
                self._size -= count
                if count < len(text):
                    self._queue.appendleft(text[count:])

    def _take(self) -> bytes:
        """Remove and return the next bytes of the queue; none if it is empty, which ends the thread."""
        with self._lock:
            if not self._queue and self._dropped:
                dropped, self._dropped = self._dropped, 0
                with suppress(Exception):
                    self._put(self.describe(dropped).encode(errors="replace"))
            taken, size = [], 0
            while self._queue and size < _AT_ONCE:
                taken.append(self._queue.popleft())
                size += len(taken[-1])
            self.is_draining = bool(taken)
            return b"".join(taken)
