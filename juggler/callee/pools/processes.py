"""Functions that run in processes: those that compute. Each process runs one call, and is killed to stop it."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import time
from contextlib import suppress

import gevent
import msgspec
from gevent import socket
from gevent import subprocess as cooperative
from gevent.event import Event
from gevent.lock import BoundedSemaphore

from juggler.broker import IncomingCall, PublishArgs
from juggler.callee.answer import Answer
from juggler.callee.failures import Cancelled, DeadlineExceeded, ProcessDied
from juggler.callee.pools import Runner, limit_of, wire
from juggler.callee.thunk import Thunk
from juggler.callee.wear import UNLIMITED, WearLimits
from juggler.errors import BrokerError
from juggler.process.backoff import pauses
from juggler.process.forked import close_in_children
from juggler.process.logline import Line
from juggler.process.process_memory import resident

log = logging.getLogger("juggler.callee")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Backoff, in seconds, after a process that exited before it was ready."""

EXIT_TIMEOUT = 2.0

STOP_TIMEOUT = 1.0
"""Seconds in which a function must end after `callee.Cancelled` was raised in it, or its process is killed."""


class _Process:
    """A pool process and a connection to each of its threads.

    Attributes:
        connections: the connections.
        limits: limits after which it is replaced.
        calls: calls that it has run.
        recycling: whether a replacement starts or has started.
        busy: connections that run a call, once the process is retired; before that ``None``.
        drained: set when a retired process runs no call any more.
    """

    def __init__(self, source: str, threads: int, limits: WearLimits) -> None:
        self.limits = limits
        self.calls = 0
        self.recycling = False
        self.busy: int | None = None
        self.drained = Event()
        pairs = [socket.socketpair() for _ in range(1 + threads)]
        descriptors = [theirs.fileno() for _, theirs in pairs]
        self._control = pairs[0][0]
        self._control.setblocking(False)
        close_in_children(self._control)
        self.connections = [Connection(self, ours) for ours, _ in pairs[1:]]
        try:
            self._popen = cooperative.Popen(
                [sys.executable, "-m", "juggler.callee.pools.child", source, *map(str, descriptors)],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
            )
        except OSError:
            self._close_connections()
            raise
        finally:
            for _, theirs in pairs:
                theirs.close()
        # The end of the stream is not enough: a process that the function forked may keep the socket open.
        self._popen.rawlink(self._on_exit)

    def _on_exit(self, _: object) -> None:
        for connection in self.connections:
            connection.on_exit()
        self.drained.set()

    @property
    def is_dead(self) -> bool:
        return self._popen.poll() is not None

    @property
    def pid(self) -> int:
        pid: int = self._popen.pid
        return pid

    def worn(self) -> str | None:
        """Return why it is to be replaced; ``None`` if it is not."""
        return self.limits.reason(self.calls, resident(self.pid) if self.limits.memory else None)

    def exit_status(self) -> str:
        try:
            code = self._popen.wait(timeout=EXIT_TIMEOUT)
        except cooperative.TimeoutExpired:
            return "it closed its connection"
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def cancel(self, call_id: str, stop: bool) -> None:
        """Notify the process of a cancelled call. One that does not read its notifications misses some."""
        with suppress(OSError):
            self._control.send(wire.encode(wire.Cancel(call_id, stop)))

    def end(self) -> None:
        """Kill the process. Those who wait for it notice."""
        self._popen.kill()

    def kill(self) -> None:
        """Kill the process and `close`."""
        self._popen.kill()
        self.close()

    def _close_connections(self) -> None:
        self._control.close()
        for connection in self.connections:
            connection.close()

    def close(self) -> None:
        """Close the connections and wait for the process to exit. Kill it if it does not."""
        self._close_connections()
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
        limits: WearLimits = UNLIMITED,
    ) -> None:
        """Create a pool without processes.

        Args:
            source: the callee as ``MODULE:OBJECT``, from which the processes import it.
            publish: publishes the events of functions.
            time_limit: maximum run time of a function, in seconds; ``None`` means no limit.
            mask: hide exceptions from callers.
            threads: number of threads per process.
            limits: limits after which a process is replaced.
        """
        self._source = source
        self._publish = publish
        self._time_limit = time_limit
        self._mask = mask
        self._threads = threads
        self._limits = limits
        self._recycling_one = BoundedSemaphore(1)
        self._recyclers: set[gevent.Greenlet[..., None]] = set()
        self._processes: set[_Process] = set()
        self._idle: list[Connection] = []
        self._running: dict[int, Connection] = {}  # by the id of their calls
        self._pauses = pauses(FIRST_PAUSE, LONGEST_PAUSE)

    def run(self, thunk: Thunk, call: IncomingCall) -> Answer:
        connection = self._take_idle() or self._start()[0]
        self._check_wanted(connection, call)
        limit = limit_of(thunk, call, self._time_limit)
        timeout = None if limit is None else gevent.Timeout.start_new(*limit)
        try:
            answer = self._run(connection, call)
        except BaseException as exception:
            # The process may still run the function.
            self._processes.discard(connection.process)
            connection.process.kill()
            if isinstance(exception, ProcessDied) and call.cancelled and thunk.cancel == "raise":
                raise Cancelled from None
            raise
        finally:
            if timeout is not None:
                timeout.close()
        self._put_idle(connection)
        return answer

    def _check_wanted(self, connection: Connection, call: IncomingCall) -> None:
        """Raise `Cancelled` if the call was cancelled while its process started, and keep the connection."""
        if call.cancelled:
            self._put_idle(connection)
            raise Cancelled

    def _put_idle(self, connection: Connection) -> None:
        """Make a connection available to the next call, unless its process is retired."""
        process = connection.process
        process.calls += 1
        if process.busy is not None:
            process.busy -= 1
            if not process.busy:
                process.drained.set()
            return
        self._idle.append(connection)
        if self._limits and not process.recycling and (reason := process.worn()):
            log.info(Line("pool: recycling a process", pid=process.pid, reason=reason))
            process.recycling = True
            greenlet = gevent.Greenlet(self._recycle, process)
            greenlet.name = "callee-pool-recycle"
            self._recyclers.add(greenlet)
            greenlet.rawlink(self._recyclers.discard)
            greenlet.start()

    def _recycle(self, worn: _Process) -> None:
        """Start a process, then stop the worn one when it has completed its calls. That one serves until then."""
        try:
            with self._recycling_one:
                fresh = self._start()
        except ProcessDied:
            worn.recycling = False  # its next call tries again
            return
        if worn in self._processes and not worn.is_dead:
            idle = [connection for connection in self._idle if connection.process is worn]
            worn.busy = len(worn.connections) - len(idle)
            self._idle = [connection for connection in self._idle if connection.process is not worn] + fresh
            if worn.busy:
                worn.drained.wait()
        else:
            # It has exited or was killed: calls start a process themselves.
            worn = fresh[0].process
        self._processes.discard(worn)
        worn.close()

    def _take_idle(self) -> Connection | None:
        """Return an idle connection, if there is one. Processes that exited while idle are skipped."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.process.is_dead:
                return connection
            self._processes.discard(connection.process)
            connection.process.close()
        return None

    def cancel(self, thunk: Thunk, call: IncomingCall) -> None:
        connection = self._running.get(id(call))
        if connection is None:
            return  # its process is being started, or it is answered
        connection.process.cancel(call.msg_uuid, thunk.cancel == "raise")
        if thunk.cancel == "raise":
            gevent.spawn_later(STOP_TIMEOUT, self._end_if_running, call)

    def _end_if_running(self, call: IncomingCall) -> None:
        connection = self._running.get(id(call))
        if connection is not None:
            log.info(Line("pool: replacing a process", pid=connection.process.pid, reason="cancelled call goes on"))
            connection.process.end()

    def _run(self, connection: Connection, call: IncomingCall) -> Answer:
        self._running[id(call)] = connection
        try:
            return self._exchange(connection, call)
        finally:
            del self._running[id(call)]

    def _exchange(self, connection: Connection, call: IncomingCall) -> Answer:
        # The deadline is valid in the process: `time.monotonic` is system-wide.
        connection.send(msgspec.structs.replace(call, sender=None))
        while True:
            message = connection.receive()
            if isinstance(message, wire.Publish):
                connection.send(self._published(message))
            elif isinstance(message, wire.Part):
                taken = _take(call, message)
                if not message.is_progress:
                    connection.send(taken)
            elif isinstance(message, wire.Done):
                return Answer(message.args, message.failed)
            elif isinstance(message, wire.Raised):
                return self._failed(call, message)

    def _published(self, message: wire.Publish) -> wire.Published:
        try:
            self._publish(message.channel, message.args, message.trace)
        except BrokerError as error:
            return wire.Published(error.code, error.reason)
        except RuntimeError as error:
            return wire.Published(BrokerError.code, str(error))
        return wire.Published()

    def _failed(self, call: IncomingCall, raised: wire.Raised) -> Answer:
        call.span = raised.span
        log.log(
            logging.INFO if raised.for_caller or raised.is_stop else logging.ERROR,
            Line("call: failed", uri=call.uri, call=call.msg_uuid, error=raised.message),
            exc_info=None if raised.for_caller or raised.is_stop else _RemoteTraceback(raised.traceback),
            extra=call.log_fields,
        )
        hidden = self._mask and not raised.for_caller
        return Answer(raised.masked if hidden else raised.args, True)

    def _start(self) -> list[Connection]:
        limits = self._limits.jittered(random.random())  # noqa: S311
        process = _Process(self._source, self._threads, limits)
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
        gevent.killall(list(self._recyclers))
        for process in self._processes:
            process.close()
        self._processes.clear()
        self._idle.clear()


def _take(call: IncomingCall, part: wire.Part) -> wire.Taken:
    assert call.sender is not None
    try:
        call.sender(part.args, part.is_progress)
    except Cancelled:
        return wire.Taken(cancelled=True)
    except DeadlineExceeded:
        return wire.Taken(expired=True)
    return wire.Taken()


class _RemoteTraceback(Exception):
    """A traceback from a pool process, for loggers."""

    def __str__(self) -> str:
        return f"\n{self.args[0].rstrip()}"
