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
from juggler.process.forked import close_in_children
from juggler.process.logline import Line

log = logging.getLogger("juggler.callee")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Backoff, in seconds, after a process that exited before it was ready."""

EXIT_TIMEOUT = 2.0


class _Process:
    """A pool process and a connection to each of its threads."""

    def __init__(self, source: str, threads: int) -> None:
        pairs = [socket.socketpair() for _ in range(threads)]
        descriptors = [theirs.fileno() for _, theirs in pairs]
        self.connections = [Connection(self, ours) for ours, _ in pairs]
        try:
            self._popen = cooperative.Popen(
                [sys.executable, "-m", "juggler.callee.pools.child", source, *map(str, descriptors)],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
            )
        except OSError:
            for connection in self.connections:
                connection.close()
            raise
        finally:
            for _, theirs in pairs:
                theirs.close()
        # The end of the stream is not enough: a process that the function forked may keep the socket open.
        self._popen.rawlink(self._on_exit)

    def _on_exit(self, _: object) -> None:
        for connection in self.connections:
            connection.on_exit()

    @property
    def is_dead(self) -> bool:
        return self._popen.poll() is not None

    @property
    def pid(self) -> int:
        pid: int = self._popen.pid
        return pid

    def exit_status(self) -> str:
        try:
            code = self._popen.wait(timeout=EXIT_TIMEOUT)
        except cooperative.TimeoutExpired:
            return "it closed its connection"
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        self._popen.kill()
        self.close()

    def close(self) -> None:
        """Close the connections and wait for the process to exit. Kill it if it does not."""
        for connection in self.connections:
            connection.close()
        try:
            self._popen.wait(timeout=EXIT_TIMEOUT)
        except cooperative.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()


class Connection:
    """The socket to a thread of a pool process. It runs one call after the other.

    Attributes:
        process: the process.
    """

    def __init__(self, process: _Process, peer: socket.socket) -> None:
        self.process = process
        self._peer = peer
        close_in_children(peer)
        self._reader = peer.makefile("rb")

    def send(self, message: wire.Message) -> None:
        """Send a message.

        Raises:
            ProcessDied: the process has exited.
        """
        try:
            self._peer.sendall(wire.encode(message))
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
        return ProcessDied(f"the process running the function exited unexpectedly ({self.process.exit_status()})")

    def on_exit(self) -> None:
        """Make `receive` fail: the process has exited."""
        with suppress(OSError):
            self._peer.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._reader.close()
        self._peer.close()


class ProcessRunner(Runner):
    """See `Runner`. Processes start when they are first needed, and are reused."""

    def __init__(
        self,
        source: str,
        publish: PublishArgs,
        *,
        time_limit: float | None = None,
        mask: bool = False,
        threads: int = 1,
    ) -> None:
        """Create a pool without processes.

        Args:
            source: the callee as ``MODULE:OBJECT``, from which the processes import it.
            publish: publishes the events of functions.
            time_limit: maximum run time of a function, in seconds; ``None`` means no limit.
            mask: hide exceptions from callers.
            threads: number of threads per process.
        """
        self._source = source
        self._publish = publish
        self._time_limit = time_limit
        self._mask = mask
        self._threads = threads
        self._processes: set[_Process] = set()
        self._idle: list[Connection] = []
        self._pauses = pauses(FIRST_PAUSE, LONGEST_PAUSE)

    def run(self, thunk: Thunk, call: IncomingCall) -> Answer:
        connection = self._take_idle() or self._start()[0]
        limit = limit_of(thunk, call, self._time_limit)
        timeout = None if limit is None else gevent.Timeout.start_new(*limit)
        try:
            answer = self._run(connection, call)
        except BaseException:
            # The process may still run the function.
            self._processes.discard(connection.process)
            connection.process.kill()
            raise
        finally:
            if timeout is not None:
                timeout.close()
        self._idle.append(connection)
        return answer

    def _take_idle(self) -> Connection | None:
        """Return an idle connection, if there is one. Processes that exited while idle are skipped."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.process.is_dead:
                return connection
            self._processes.discard(connection.process)
            connection.process.close()
        return None

    def _run(self, connection: Connection, call: IncomingCall) -> Answer:
        # The deadline is valid in the process: `time.monotonic` is system-wide.
        connection.send(call)
        while True:
            message = connection.receive()
            if isinstance(message, wire.Publish):
                connection.send(self._published(message))
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

    def _start(self) -> list[Connection]:
        process = _Process(self._source, self._threads)
        began = time.monotonic()
        try:
            process.connections[0].receive()
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
        self._processes.add(process)
        return list(process.connections)

    def close(self) -> None:
        for process in self._processes:
            process.close()
        self._processes.clear()
        self._idle.clear()


class _RemoteTraceback(Exception):
    """A traceback from a pool process, for loggers."""

    def __str__(self) -> str:
        return f"\n{self.args[0].rstrip()}"
