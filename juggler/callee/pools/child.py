"""A process of a pool: imports the callee, and runs one call at a time until its worker ends.

``python -m callee.pools.child FD MODULE:OBJECT``, which only `callee.pools.processes` does. Not patched: it has no
greenlets.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from io import BufferedReader
from types import FrameType

from juggler.broker import IncomingCall
from juggler.callee import answer
from juggler.callee.current import Call
from juggler.callee.failures import CallError
from juggler.callee.pools import wire
from juggler.callee.registry import Callee, load_callee
from juggler.errors import BrokerError, BrokerUnavailable, ConfigError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Child:
    """The loop of such a process."""

    def __init__(self, callee: Callee, peer: socket.socket) -> None:
        self._callee = callee
        self._peer = peer
        self._reader: BufferedReader = peer.makefile("rb")

    def run(self) -> None:
        """Run calls until the worker is gone."""
        self._peer.sendall(wire.encode(wire.Ready()))
        while isinstance(task := wire.receive(self._reader.read), wire.Task):
            self._peer.sendall(wire.encode(self._run(task)))

    def _run(self, task: wire.Task) -> wire.Message:
        deadline = time.monotonic() + task.time_left
        incoming = IncomingCall(task.conn_uuid, task.msg_uuid, task.uri, task.args, deadline, task.waited)
        try:
            done = answer.run(self._callee[task.uri], Call(incoming, self._publish))
        except BaseException as error:
            return wire.Raised(
                answer.error(error).args,
                answer.error(error, task.msg_uuid, mask=True).args,
                isinstance(error, CallError),
                _traceback(error),
            )
        return wire.Done(*done)

    def _publish(self, channel: str, args: bytes) -> None:
        self._peer.sendall(wire.encode(wire.Publish(channel, args)))
        told = wire.receive(self._reader.read)
        if not isinstance(told, wire.Published):
            raise BrokerUnavailable("the worker is gone")
        if told.code is not None:
            raise BrokerError(told.reason, told.code)


def _traceback(error: BaseException) -> str:
    text = "".join(traceback.format_exception(answer.without_our_part(error)))
    return text.encode("utf-8", "backslashreplace").decode()


def _ignore(signum: int, frame: FrameType | None) -> None:
    """Do nothing at a signal. Unlike SIG_IGN, programs that are started from here do not inherit it."""


def _default_signals() -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL)


def _end_with_worker(descriptor: int) -> None:
    """End when the worker has, even in the middle of a computation."""
    poll = select.poll()
    poll.register(descriptor, select.POLLHUP)
    while True:
        if poll.poll():
            os._exit(1)


def main() -> None:
    # The worker decides when it ends: those who stop it may signal the whole group.
    for each in SIGNALS:
        signal.signal(each, _ignore)
    os.register_at_fork(after_in_child=_default_signals)
    descriptor, name = sys.argv[1:]
    try:
        callee = load_callee(name)
    except ConfigError as error:
        sys.exit(f"juggler-callee: {error}")
    threading.Thread(target=_end_with_worker, args=(int(descriptor),), daemon=True).start()
    with socket.socket(fileno=int(descriptor)) as peer:
        peer.setblocking(True)  # gevent has made it otherwise
        try:
            Child(callee, peer).run()
        except OSError:
            os._exit(1)  # the worker is gone: nobody is to be told


if __name__ == "__main__":
    main()
