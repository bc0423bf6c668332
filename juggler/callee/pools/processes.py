"""Functions that run in processes: those that compute. Each process runs one call, and is killed to stop it."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from contextlib import suppress

import gevent
from gevent import socket
from gevent import subprocess as cooperative

from juggler.broker import IncomingCall, PublishArgs
from juggler.callee.answer import Answer
from juggler.callee.failures import ProcessDied
from juggler.callee.pools import Runner, limit_of, wire
from juggler.callee.thunk import Thunk
from juggler.errors import BrokerError
from juggler.process.backoff import pauses
from juggler.process.logline import Line

log = logging.getLogger("juggler.callee")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Backoff, in seconds, after a process that exited before it was ready."""

EXIT_TIMEOUT = 2.0


class _Process:
    """A pool process and the socket to it."""

    def __init__(self, source: str) -> None:
        self.peer, theirs = socket.socketpair()
        with theirs:
            self._process = cooperative.Popen(
                [sys.executable, "-m", "juggler.callee.pools.child", str(theirs.fileno()), source],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._reader = self.peer.makefile("rb")
        # The end of the stream is not enough: a process that the function forked may keep the socket open.
        self._process.rawlink(self._on_exit)

    def _on_exit(self, _: object) -> None:
        with suppress(OSError):
            self.peer.shutdown(socket.SHUT_RD)

    @property
    def is_dead(self) -> bool:
        return self._process.poll() is not None

    @property
    def pid(self) -> int:
        pid: int = self._process.pid
        return pid

    def send(self, message: wire.Message) -> None:
        """Send a message.

        Raises:
            ProcessDied: the process has exited.
        """
        try:
            self.peer.sendall(wire.encode(message))
        except OSError:
            raise self._died() from None

    def receive(self) -> wire.Message:
        """Return the next message.

        Raises:
            ProcessDied: the process has exited.
        """
        try:
            message = wire.receive(self._reader.read)
        except OSError:
            message = None
        if message is None:
            raise self._died()
        return message

    def _died(self) -> ProcessDied:
        return ProcessDied(f"the process running the function exited unexpectedly ({self._exit_status()})")

    def _exit_status(self) -> str:
        try:
            code = self._process.wait(timeout=EXIT_TIMEOUT)
        except cooperative.TimeoutExpired:
            return "it closed its connection"
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        self._process.kill()
        self.close()

    def close(self) -> None:
        """Close the connection and wait for the process to exit. Kill it if it does not."""
        self._reader.close()
        self.peer.close()
        try:
            self._process.wait(timeout=EXIT_TIMEOUT)
        except cooperative.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class ProcessRunner(Runner):
    """See `Runner`. Processes start when they are first needed, and are reused."""

    def __init__(
        self, source: str, publish: PublishArgs, *, time_limit: float | None = None, mask: bool = False
    ) -> None:
        """Create a pool without processes.

        Args:
            source: the callee as ``MODULE:OBJECT``, from which the processes import it.
            publish: publishes the events of functions.
            time_limit: maximum run time of a function, in seconds; ``None`` means no limit.
            mask: hide exceptions from callers.
        """
        self._source = source
        self._publish = publish
        self._time_limit = time_limit
        self._mask = mask
        self._idle: list[_Process] = []
        self._pauses = pauses(FIRST_PAUSE, LONGEST_PAUSE)

    def run(self, thunk: Thunk, call: IncomingCall) -> Answer:
        process = self._take()
        limit = limit_of(thunk, call, self._time_limit)
        timeout = None if limit is None else gevent.Timeout.start_new(*limit)
        try:
            answer = self._run(process, call)
        except BaseException:
            # The process may still run the function.
            process.kill()
            raise
        finally:
            if timeout is not None:
                timeout.close()
        self._idle.append(process)
        return answer

    def _take(self) -> _Process:
        """Return an idle process. Processes that exited while idle are skipped, so they cost no call."""
        while self._idle:
            process = self._idle.pop()
            if not process.is_dead:
                return process
            process.close()
        return self._start()

    def _run(self, process: _Process, call: IncomingCall) -> Answer:
        # The deadline is valid in the process: `time.monotonic` is system-wide.
        process.send(call)
        while True:
            message = process.receive()
            if isinstance(message, wire.Publish):
                process.send(self._published(message))
            elif isinstance(message, wire.Done):
                return Answer(message.args, message.failed)
            elif isinstance(message, wire.Raised):
                return self._failed(call, message)

    def _published(self, message: wire.Publish) -> wire.Published:
        try:
            self._publish(message.channel, message.args)
        except BrokerError as error:
            return wire.Published(error.code, error.reason)
        except RuntimeError as error:
            return wire.Published(BrokerError.code, str(error))
        return wire.Published()

    def _failed(self, call: IncomingCall, raised: wire.Raised) -> Answer:
        log.log(
            logging.INFO if raised.for_caller else logging.ERROR,
            Line("call: failed", uri=call.uri, call=call.msg_uuid, error=raised.message),
            exc_info=None if raised.for_caller else _RemoteTraceback(raised.traceback),
        )
        hidden = self._mask and not raised.for_caller
        return Answer(raised.masked if hidden else raised.args, True)

    def _start(self) -> _Process:
        process = _Process(self._source)
        began = time.monotonic()
        try:
            process.receive()
        except ProcessDied as error:
            process.kill()
            pause = next(self._pauses)
            log.error(Line("pool: process exited before it was ready", pid=process.pid, retry_in=pause))
            gevent.sleep(pause)
            raise ProcessDied(f"cannot start a process for the function: {error}") from None
        except BaseException:
            process.kill()
            raise
        self._pauses = pauses(FIRST_PAUSE, LONGEST_PAUSE)
        log.info(Line("pool: process ready", pid=process.pid, seconds=time.monotonic() - began))
        return process

    def close(self) -> None:
        for process in self._idle:
            process.close()
        self._idle.clear()


class _RemoteTraceback(Exception):
    """A traceback from a pool process, for loggers."""

    def __str__(self) -> str:
        return f"\n{self.args[0].rstrip()}"
