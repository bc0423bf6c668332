"""Runs several worker processes of one callee: replaces those that exit, and reloads without a gap at SIGHUP.

The supervisor takes no calls and imports nothing of the user's. Its decisions are made by `juggler.callee.fleet`. This
module waits for signals, messages, exits and changed files with one selector, and carries the decisions out.

Why not a library: at SIGHUP, gunicorn's arbiter stops the old workers without waiting until the new ones serve, and it
stops altogether if these cannot import their code. honcho stops all processes when one exits. circus spaces restarts by
time, not by readiness, and needs pyzmq and tornado.
"""

from __future__ import annotations

import logging
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from types import FrameType

from juggler.callee.command_options import CONTROL_VARIABLE, Options
from juggler.callee.fleet import Abort, Action, Fleet, Kill, Log, Retire, Say, Spawn, Stop
from juggler.callee.health import Status, check_file, touch
from juggler.callee.metric_names import summary
from juggler.callee.supervisor_messages import RETIRE, STOP, Lines, Report, Serving
from juggler.errors import ConfigError
from juggler.process import logs
from juggler.process.backoff import pauses
from juggler.process.hangup import Hangup

log = logging.getLogger("juggler.callee")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Backoff, in seconds, before a process that exited is replaced."""

POLL = 0.5
TOUCH_PERIOD = 1.0
JOIN_TIMEOUT = 5.0


class _Process:
    """A worker process and the socket to it.

    Attributes:
        is_open: whether more messages may come.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.peer, theirs = socket.socketpair()
        with theirs:
            self.popen = subprocess.Popen(  # noqa: S603
                command,
                env={**os.environ, CONTROL_VARIABLE: str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # A Ctrl-C in the terminal is for the supervisor.
                start_new_session=True,
            )
        self.peer.setblocking(False)
        self.is_open = True
        self._lines = Lines()

    def read(self) -> list[Serving | Report]:
        """Return the messages that have arrived."""
        messages: list[Serving | Report] = []
        while True:
            try:
                data = self.peer.recv(65536)
            except BlockingIOError:
                return messages
            except OSError:
                data = b""
            if not data:
                self.is_open = False
                return messages
            messages += self._lines.feed(data)


class Supervisor:
    """Runs the processes of a `Fleet`, from `run` until a signal stops it."""

    def __init__(self, options: Options, arguments: Sequence[str], say: Callable[[str], None]) -> None:
        """Create a supervisor; `run` starts the processes.

        Args:
            options: options of the command.
            arguments: arguments of the command, passed on to the processes.
            say: receives a line when all processes serve, and one when they have stopped.
        """
        self._options = options
        self._command = [sys.executable, "-m", "juggler.callee.cli", *arguments]
        self._say = say
        backoff = partial(pauses, FIRST_PAUSE, LONGEST_PAUSE)
        self._fleet = Fleet(options.processes, options.grace, backoff, options.wear, random.random)
        self._processes: dict[int, _Process] = {}
        self._selector = selectors.DefaultSelector()
        self._signals: list[int] = []
        self._hangup = Hangup()
        self._hung_up = False
        self._changes = threading.Event()
        self._wake_reader, self._wake_writer = os.pipe()

    def run(self) -> int:
        """Run until all processes have exited. Return the exit code.

        Raises:
            ConfigError: the health file cannot be written, or the address for health checks is not available.
        """
        logs.configure(self._options.log_level, self._options.log_format)
        check_file(self._options.health_file)
        with ExitStack() as stack:
            stack.callback(self._close)
            if self._options.listen is not None:
                from juggler.callee.health_server import HealthServer

                stack.callback(HealthServer(self._options.listen, self._status).close)
            self._take_signals()
            if self._options.reload:
                self._watch_files(stack)
            self._fleet.start(time.monotonic())
            self._loop()
        self._say(f"stopped: {summary(self._fleet.snapshot())}")
        return self._fleet.exit_code

    def _close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._selector.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)

    def _status(self) -> Status:
        return Status(self._fleet.unhealthy_reason(time.monotonic()), self._fleet.snapshot())

    # Events

    def _loop(self) -> None:
        self._carry_out()
        touched = 0.0
        while not self._fleet.is_done:
            for key, _ in self._selector.select(POLL):
                if key.data is None:
                    os.read(self._wake_reader, 4096)
                else:
                    self._read(key.data)
            self._on_signals()
            self._on_changes()
            self._on_exits()
            now = time.monotonic()
            self._fleet.tick(now)
            self._carry_out()
            if now - touched >= TOUCH_PERIOD:
                touched = now
                touch(self._options.health_file, self._status())

    def _take_signals(self) -> None:
        os.set_blocking(self._wake_writer, False)
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ, None)

        def note(signum: int, frame: FrameType | None) -> None:
            self._signals.append(signum)

        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(each, note)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only wakes the selector

    def _on_signals(self) -> None:
        while self._signals:
            signum = self._signals.pop(0)
            if signum != signal.SIGHUP:
                self._fleet.stop(signum, time.monotonic())
            elif not self._hangup.has_closed():
                self._fleet.reload(time.monotonic())
            elif not self._hung_up:
                # A second one, as terminals send it, is no reason to stop at once.
                self._hung_up = True
                self._fleet.stop(signum, time.monotonic())
            self._carry_out()

    def _watch_files(self, stack: ExitStack) -> None:
        try:
            import watchfiles
        except ImportError:
            raise ConfigError("--reload needs watchfiles: pip install 'juggler[reload]'") from None
        stop = threading.Event()

        def watch() -> None:
            # The user's module is imported from here. watchfiles skips virtual environments and caches.
            for _ in watchfiles.watch(os.getcwd(), watch_filter=watchfiles.PythonFilter(), stop_event=stop):
                self._changes.set()
                os.write(self._wake_writer, b"\0")

        thread = threading.Thread(target=watch, name="callee-reload", daemon=True)
        thread.start()
        stack.callback(thread.join, JOIN_TIMEOUT)
        stack.callback(stop.set)

    def _on_changes(self) -> None:
        if self._changes.is_set():
            self._changes.clear()
            self._fleet.reload(time.monotonic())
            self._carry_out()

    def _read(self, number: int) -> None:
        process = self._processes[number]
        messages = process.read()
        if messages:
            self._fleet.received(number, messages, time.monotonic())
        if not process.is_open:
            self._selector.unregister(process.peer)

    def _on_exits(self) -> None:
        codes = {number: process.popen.poll() for number, process in self._processes.items()}
        exited = {number: code for number, code in codes.items() if code is not None}
        for number in exited:
            if self._processes[number].is_open:
                self._read(number)
            process = self._processes.pop(number)
            if process.is_open:
                # A process that it has forked may hold the socket open.
                self._selector.unregister(process.peer)
            process.peer.close()
        self._fleet.exited(exited, time.monotonic())

    # Actions

    def _carry_out(self) -> None:
        """Carry out the fleet's decisions, including those that follow from them."""
        while actions := self._fleet.take_actions():
            for action in actions:
                self._act(action)

    def _act(self, action: Action) -> None:
        match action:
            case Spawn(number):
                self._spawn(number)
            case Stop(number):
                self._send(number, STOP)
            case Retire(number):
                self._send(number, RETIRE)
            case Kill(number):
                self._processes[number].popen.kill()
            case Abort(signum):
                self._abort(signum)
            case Say(text):
                self._say(text)
            case Log(level, line):
                (log.error if level == "error" else log.info)(line)

    def _send(self, number: int, command: bytes) -> None:
        # The process may not have been started, or have exited.
        with suppress(KeyError, OSError):
            self._processes[number].peer.sendall(command)

    def _spawn(self, number: int) -> None:
        try:
            process = _Process(self._command)
        except OSError as error:
            self._fleet.spawn_failed(number, error, time.monotonic())
            return
        self._processes[number] = process
        self._selector.register(process.peer, selectors.EVENT_READ, number)
        self._fleet.spawned(number, process.popen.pid)

    def _abort(self, signum: int) -> None:
        for process in self._processes.values():
            process.popen.kill()
        for process in self._processes.values():
            process.popen.wait()
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
