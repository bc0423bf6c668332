"""Functions that run in processes: for what computes. Each runs one call at a time, and is killed if that must end."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import gevent
from gevent import socket
from gevent import subprocess as cooperative

from juggler.callee.answer import Answer
from juggler.callee.current import Call
from juggler.callee.failures import ProcessDied
from juggler.callee.pools import Runner, wire
from juggler.callee.pools.limits import limit_of
from juggler.callee.thunk import Thunk
from juggler.errors import BrokerError

log = logging.getLogger("juggler.callee")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a process is started again that died before it was ready: they double from the first."""

END_TIMEOUT = 2.0


class _Process:
    """A process, and the socket to it."""

    def __init__(self, source: str) -> None:
        self.peer, theirs = socket.socketpair()
        with theirs:
            self._process = cooperative.Popen(
                [sys.executable, "-m", "juggler.callee.pools.child", str(theirs.fileno()), source],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._reader = self.peer.makefile("rb")
        # Not only when the socket ends: a process that it has forked may hold that open.
        self._process.rawlink(self._on_end)

    def _on_end(self, _: object) -> None:
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
        """Send a message. Raises `ProcessDied` when nobody reads it any more."""
        try:
            self.peer.sendall(wire.encode(message))
        except OSError:
            raise self._death() from None

    def receive(self) -> wire.Message:
        """Return the next message.

        Raises:
            ProcessDied: there is none.
        """
        try:
            message = wire.receive(self._reader.read)
        except OSError:
            message = None
        if message is None:
            raise self._death()
        return message

    def _death(self) -> ProcessDied:
        return ProcessDied(f"the process in which the function ran has died ({self._how_it_ended()})")

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(timeout=END_TIMEOUT)
        except cooperative.TimeoutExpired:
            return "it closed its connection"
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        self._process.kill()
        self.close()

    def close(self) -> None:
        """Let it end, and wait until it has; one that still runs a call is killed."""
        self._reader.close()
        self.peer.close()
        try:
            self._process.wait(timeout=END_TIMEOUT)
        except cooperative.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class ProcessRunner(Runner):
    """See `Runner`. Processes are started when they are needed, and kept."""

    def __init__(
        self,
        source: str,
        publish: Callable[[str, bytes], None],
        *,
        time_limit: float | None = None,
        mask: bool = False,
    ) -> None:
        """Make a runner without processes.

        Args:
            source: where the processes find the callee, as ``MODULE:OBJECT``.
            publish: publishes for them.
            time_limit: seconds after which a call is ended.
            mask: hide from callers what was raised.
        """
        self._source = source
        self._publish = publish
        self._time_limit = time_limit
        self._mask = mask
        self._idle: list[_Process] = []
        self._pause = FIRST_PAUSE

    def run(self, thunk: Thunk, call: Call) -> Answer:
        process = self._take()
        limit = limit_of(thunk, call, self._time_limit)
        timeout = None if limit is None else gevent.Timeout.start_new(*limit)
        try:
            answer = self._run(process, call)
        except BaseException:
            # Whatever it does now, nobody wants it.
            process.kill()
            raise
        finally:
            if timeout is not None:
                timeout.close()
        self._idle.append(process)
        return answer

    def _take(self) -> _Process:
        """Return a process that waits for work; one that has died while it waited costs no call."""
        while self._idle:
            process = self._idle.pop()
            if not process.is_dead:
                return process
            process.close()
        return self._start()

    def _run(self, process: _Process, call: Call) -> Answer:
        process.send(wire.Task(call.conn_uuid, call.msg_uuid, call.uri, call.args, call.time_left(), call.waited))
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

    def _failed(self, call: Call, raised: wire.Raised) -> Answer:
        if raised.for_caller:
            log.info("call %s of %r failed: %s", call.msg_uuid, call.uri, raised.args.decode())
        else:
            log.error("call %s of %r failed\n%s", call.msg_uuid, call.uri, raised.traceback.rstrip())
        hidden = self._mask and not raised.for_caller
        return Answer(raised.masked if hidden else raised.args, True)

    def _start(self) -> _Process:
        process = _Process(self._source)
        began = time.monotonic()
        try:
            process.receive()
        except ProcessDied as error:
            process.kill()
            log.error("a process of the pool died before it was ready, the next one is started in %g s", self._pause)
            gevent.sleep(self._pause)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            raise ProcessDied(f"no process could be started for the function: {error}") from None
        except BaseException:
            process.kill()
            raise
        self._pause = FIRST_PAUSE
        log.info("process %d of the pool is ready after %.2g s", process.pid, time.monotonic() - began)
        return process

    def close(self) -> None:
        for process in self._idle:
            process.close()
        self._idle.clear()
