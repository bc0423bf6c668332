"""A pool process: imports the callee and runs calls in one or several threads until its worker exits.

`juggler.callee.pools.processes` starts it as ``python -m juggler.callee.pools.child MODULE:OBJECT FD…``, with a socket
for control messages and one for each thread. It is not monkey-patched: it has no greenlets.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader
from types import FrameType

from juggler.broker import IncomingCall
from juggler.callee import answer
from juggler.callee.call_spans import traced
from juggler.callee.failures import Cancelled, DeadlineExceeded, TimeIsUp
from juggler.callee.parts import PROGRESS_INTERVAL
from juggler.callee.pools import wire
from juggler.callee.registry import load_callee
from juggler.callee.thunk import Thunk
from juggler.errors import BrokerError, BrokerUnavailable, ConfigError
from juggler.process.forked import close_in_children

SIGNALS = (signal.SIGINT, signal.SIGTERM)

STOP = signal.SIGURG
"""Interrupts the main thread when the call that it runs is cancelled. Programs hardly use it, and it is ignored by
default."""

MAX_HEARD = 100
"""Maximum number of remembered cancels: those of calls that have been sent and not yet received."""


class Child:
    """The loop of a thread: runs one call after the other.

    Attributes:
        call: the call in progress.
    """

    def __init__(self, thunks: Mapping[str, Thunk], peer: socket.socket, heard: deque[str]) -> None:
        """Run the calls that ``peer`` sends; ``heard`` are the calls that were cancelled last."""
        self._thunks = thunks
        self._heard = heard
        self._peer = peer
        self._reader: BufferedReader = peer.makefile("rb")
        self._publishing = threading.Lock()
        self.call: IncomingCall | None = None
        self._stopping = False
        self._may_stop = True
        self._progress = Progress(self._send_progress)

    def run(self) -> None:
        """Run calls until the worker closes the connection."""
        while isinstance(call := wire.receive(self._reader.read), IncomingCall):
            call.publisher = self._publish
            if call.parts is not None:
                call.sender = self._send_part
            answered = wire.encode(self._run(call))
            # A thread that the function started may be publishing; from now on it cannot.
            with self._publishing:
                call.publisher = _refuse
                call.sender = None
                self._progress.clear()
                self._peer.sendall(answered)

    def run_or_exit(self) -> None:
        """Run calls. Exit the process if the connection is lost: the worker has exited."""
        try:
            self.run()
        except OSError:
            os._exit(1)

    def _run(self, call: IncomingCall) -> wire.Message:
        self.call = call
        try:
            try:
                # The cancel has overtaken the call.
                if call.msg_uuid in self._heard:
                    raise Cancelled
                done = answer.run(self._thunks[call.uri], call)
            finally:
                self.call = None
        except BaseException as error:
            return wire.Raised(
                answer.error(error).args,
                answer.error(error, call.msg_uuid, mask=True).args,
                answer.is_for_caller(error),
                isinstance(error, TimeIsUp),
                _encodable(answer.text_of(error)),
                _encodable("".join(traceback.format_exception(answer.without_library_frames(error)))),
                call.span,
            )
        return wire.Done(done.args, done.failed)

    def cancel(self, message: wire.Cancel) -> bool:
        """Mark the call in progress as cancelled, if it is the one. Return whether to interrupt its function."""
        call = self.call
        if call is None or call.msg_uuid != message.call_id:
            return False
        self._stopping = message.stop
        call.cancelled = True
        return message.stop

    def on_stop(self) -> None:
        """Raise in the function, in the main thread. It may have returned in the meantime."""
        if self._stopping and self._may_stop and self.call is not None and self.call.cancelled:
            self._stopping = False
            raise Cancelled

    @contextmanager
    def _unstoppable(self) -> Iterator[None]:
        """Raise only after the body, which must not be interrupted."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._may_stop = False
        try:
            yield
        finally:
            self._may_stop = True
        self.on_stop()

    def _publish(self, channel: str, args: bytes, trace: str) -> None:
        with self._unstoppable(), self._publishing:
            self._peer.sendall(wire.encode(wire.Publish(channel, args, trace)))
            reply = wire.receive(self._reader.read)
        if not isinstance(reply, wire.Published):
            raise BrokerUnavailable("the worker has exited")
        if reply.code is not None:
            raise BrokerError(reply.reason, reply.code)

    def _send_part(self, text: bytes, is_progress: bool) -> None:
        if is_progress:
            self._progress.put(text)
            return
        with self._unstoppable(), self._publishing:
            self._peer.sendall(wire.encode(wire.Part(text)))
            reply = wire.receive(self._reader.read)
        if not isinstance(reply, wire.Taken):
            raise BrokerUnavailable("the worker has exited")
        if reply.cancelled:
            raise Cancelled
        if reply.expired:
            raise DeadlineExceeded

    def _send_progress(self, take: Callable[[], bytes | None]) -> None:
        with self._unstoppable(), self._publishing:
            text = take()
            if text is not None:
                self._peer.sendall(wire.encode(wire.Part(text, is_progress=True)))


class Progress:
    """Passes on progress at intervals: the newest, and not each."""

    def __init__(self, send: Callable[[Callable[[], bytes | None]], None]) -> None:
        """Create it; ``send`` is called with a function that returns what to send, if anything."""
        self._send = send
        self._text: bytes | None = None
        self._sent_at = 0.0
        self._timer: threading.Timer | None = None

    def put(self, text: bytes) -> None:
        """Pass on ``text`` now or soon, unless it is replaced before."""
        self._text = text
        pause = self._sent_at + PROGRESS_INTERVAL - time.monotonic()
        if pause <= 0:
            self._flush()
        elif self._timer is None:
            self._timer = threading.Timer(pause, self._flush)
            self._timer.daemon = True
            self._timer.start()

    def clear(self) -> None:
        """Forget what was not passed on: the call has completed."""
        self._text = None

    def _flush(self) -> None:
        self._timer = None
        self._sent_at = time.monotonic()
        with suppress(OSError):
            self._send(self._take)

    def _take(self) -> bytes | None:
        text, self._text = self._text, None
        return text


def _refuse(channel: str, args: bytes, trace: str) -> None:
    raise RuntimeError(f"cannot publish on {channel!r}: the call has completed")


def _encodable(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot represent."""
    return text.encode("utf-8", "backslashreplace").decode()


def _ignore(signum: int, frame: FrameType | None) -> None:
    """Ignore a signal. Unlike SIG_IGN, child processes do not inherit this."""


def _default_signals() -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL)


def _control(peer: socket.socket, children: Sequence[Child], heard: deque[str]) -> None:
    """Process control messages. Exit when the worker does, even in the middle of a computation."""
    reader = peer.makefile("rb")
    with suppress(OSError):
        while isinstance(message := wire.receive(reader.read), wire.Cancel):
            heard.append(message.call_id)  # first: a call that begins now finds it, or is found
            if any(child.cancel(message) for child in children):
                signal.pthread_kill(threading.main_thread().ident or 0, STOP)
    os._exit(1)


def main() -> None:
    # The worker decides when this process exits; a signal may go to the whole process group.
    for each in SIGNALS:
        signal.signal(each, _ignore)
    os.register_at_fork(after_in_child=_default_signals)
    name, *descriptors = sys.argv[1:]
    try:
        callee = load_callee(name)
    except ConfigError as error:
        sys.exit(f"juggler-callee: {error}")
    control, *peers = [socket.socket(fileno=int(descriptor)) for descriptor in descriptors]
    for peer in (control, *peers):
        peer.setblocking(True)  # gevent made it non-blocking in the worker
        close_in_children(peer)
    thunks = {uri: traced(thunk) for uri, thunk in callee.items()}
    heard: deque[str] = deque(maxlen=MAX_HEARD)
    children = [Child(thunks, peer, heard) for peer in peers]
    signal.signal(STOP, lambda signum, frame: children[0].on_stop())
    threading.Thread(target=_control, args=(control, children, heard), daemon=True).start()
    threads = [threading.Thread(target=child.run_or_exit, daemon=True) for child in children[1:]]
    for thread in threads:
        thread.start()
    peers[0].sendall(wire.encode(wire.Ready()))
    # Asyncio and signal handlers need the main thread, so it runs calls, too.
    children[0].run_or_exit()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
