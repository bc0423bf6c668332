"""Several processes of one callee: started, watched, replaced when they die, and renewed at SIGHUP without a gap.

The supervisor itself serves nothing and imports nothing of the user's. Everything it waits for goes through one
selector: signals, what its processes tell, their ends, changed files.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from types import FrameType

from juggler.callee.command_options import Options, shortened
from juggler.callee.health import HealthServer, Status, check_file, touch
from juggler.callee.metric_names import summary
from juggler.callee.supervisor_messages import CONTROL_VARIABLE, STOP, Lines, Report, Serving, serving_line
from juggler.errors import ConfigError
from juggler.process import logs
from juggler.process.metrics import Snapshot, merge

log = logging.getLogger("juggler.callee")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a process that has died is replaced: they double from the first, until one has lived for a while."""

A_WHILE = 10.0
LAST_WORDS = 5.0
"""Seconds beyond the grace time that a process has to end in before it is killed."""

SILENCE = 10.0
"""Seconds after which a process that says nothing counts as not well."""

POLL = 0.5
USAGE = 2


class _Child:
    """A process, and what it has told."""

    def __init__(self, command: Sequence[str]) -> None:
        self.peer, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603
                command,
                env={**os.environ, CONTROL_VARIABLE: str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # A Ctrl-C in the terminal is for the supervisor.
                start_new_session=True,
            )
        self.peer.setblocking(False)
        self.began = time.monotonic()
        self.heard = self.began
        self.serving: Serving | None = None
        self.unwell = ""
        self.snapshot = Snapshot()
        self.kill_at: float | None = None
        self.is_drained = False
        self._lines = Lines()

    def read(self) -> bool:
        """Take what it has told. Return False when there will be nothing more."""
        try:
            data = self.peer.recv(65536)
        except BlockingIOError:
            self.is_drained = True
            return True
        except OSError:
            return False
        self.is_drained = False
        self.heard = time.monotonic()
        for message in self._lines.feed(data):
            if isinstance(message, Serving):
                self.serving = message
            else:
                self._on_report(message)
        return bool(data)

    def _on_report(self, report: Report) -> None:
        self.unwell, self.snapshot = report.unwell, report.snapshot

    def stop(self, grace: float) -> None:
        """Tell it to end. Idempotent."""
        if self.kill_at is None:
            self.kill_at = time.monotonic() + grace + LAST_WORDS
            with suppress(OSError):  # it may have ended by itself
                self.peer.sendall(STOP)

    def health(self) -> str:
        """Return why it does not consume; empty when it does."""
        if self.serving is None:
            return f"process {self.process.pid} is starting"
        silence = time.monotonic() - self.heard
        if silence > SILENCE:
            return f"process {self.process.pid} has said nothing for {silence:.0f} s"
        return f"process {self.process.pid}: {self.unwell}" if self.unwell else ""


class Supervisor:
    """Runs the processes, from `run` until a signal ends it."""

    def __init__(self, options: Options, arguments: Sequence[str], say: Callable[[str], None]) -> None:
        """Make a supervisor that does nothing yet.

        Args:
            options: of the command.
            arguments: those of the command, for the processes.
            say: told what is served, and in the end what was done.
        """
        self._options = options
        self._command = [sys.executable, "-m", "juggler.callee.cli", *arguments]
        self._say = say
        self._selector = selectors.DefaultSelector()
        self._children: list[_Child] = []
        self._next: list[_Child] = []
        self._ending: list[_Child] = []
        self._retired = Snapshot()
        self._pause = FIRST_PAUSE
        self._start_at: list[float] = []
        self._introduced = False
        self._reload_again = False
        self._stopping = False
        self._exit_code = 0
        self._signals: list[int] = []
        self._changes = threading.Event()
        self._wake_reader, self._wake_writer = os.pipe()

    def run(self) -> int:
        """Run until all processes have ended. Return the exit code.

        Raises:
            ConfigError: the status cannot be told where it was wished.
        """
        logs.configure(self._options.log_level, self._options.log_format)
        check_file(self._options.health_file)
        with ExitStack() as stack:
            stack.callback(self.close)
            if self._options.listen is not None:
                server = HealthServer(self._options.listen, self._status)
                stack.callback(server.close)
                log.info("health and figures at http://%s:%d", *server.address)
            self._take_signals()
            if self._options.reload:
                self._watch_files(stack)
            for _ in range(self._options.processes):
                self._start_or_later()
            self._loop()
        self._say(f"stopped: {summary(self._retired)}")
        return self._exit_code

    def close(self) -> None:
        """Release what signals and processes are waited for with."""
        signal.set_wakeup_fd(-1)
        self._selector.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)

    # The loop

    def _loop(self) -> None:
        told = 0.0
        while self._children or self._next or self._ending or self._start_at:
            for key, _ in self._selector.select(POLL):
                if key.data is None:
                    os.read(self._wake_reader, 4096)
                elif not key.data.read():
                    self._selector.unregister(key.data.peer)
            self._on_signals()
            self._on_changes()
            self._on_ends()
            self._on_ready()
            self._start_due()
            self._kill_due()
            if time.monotonic() - told >= 1:
                told = time.monotonic()
                touch(self._options.health_file, self._status())

    def _take_signals(self) -> None:
        os.set_blocking(self._wake_writer, False)
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ, None)

        def note(signum: int, frame: FrameType | None) -> None:
            self._signals.append(signum)

        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(each, note)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # it only has to wake us

    def _on_signals(self) -> None:
        while self._signals:
            signum = self._signals.pop(0)
            if signum == signal.SIGHUP:
                self._reload()
            elif not self._stopping:
                self._stop()
            else:
                self._end_now(signum)

    def _end_now(self, signum: int) -> None:
        left = [*self._children, *self._next, *self._ending]
        for child in left:
            child.process.kill()
        for child in left:
            child.process.wait()
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)

    def _stop(self) -> None:
        self._stopping = True
        self._start_at.clear()
        for child in (*self._children, *self._next):
            child.stop(self._options.grace)
        self._ending += [*self._children, *self._next]
        self._children, self._next = [], []

    # Processes

    def _start(self) -> _Child | None:
        """Start a process; ``None``, and a line in the log, when the system does not let us."""
        try:
            child = _Child(self._command)
        except OSError as error:
            log.error("no process can be started now: %s", error)
            return None
        self._selector.register(child.peer, selectors.EVENT_READ, child)
        return child

    def _on_ends(self) -> None:
        # All are taken out before anything is done about one: that may move the others.
        current, new, ending = (self._take_ended(group) for group in (self._children, self._next, self._ending))
        for child in ending:
            self._on_end_of_ending(child, child.process.returncode)
        for child in current:
            self._on_end_of_current(child, child.process.returncode)
        for child in new:
            how = _how(child.process.returncode)
            log.error("process %d ended with %s: not reloaded, the old ones go on", child.process.pid, how)
        if new:
            self._give_up_next()

    def _take_ended(self, group: list[_Child]) -> list[_Child]:
        ended = [child for child in group if child.process.poll() is not None]
        for child in ended:
            self._forget(child)
            group.remove(child)
        return ended

    def _forget(self, child: _Child) -> None:
        while child.read():
            if child.is_drained:
                break
        if child.peer in [key.fileobj for key in self._selector.get_map().values()]:
            self._selector.unregister(child.peer)
        child.peer.close()
        ended = child.snapshot
        self._retired = merge([self._retired, Snapshot(counters=ended.counters, calls=ended.calls, waits=ended.waits)])

    def _on_end_of_ending(self, child: _Child, code: int) -> None:
        if child.serving is None:
            return  # it has said why it could not begin
        if code == 1 and self._stopping:
            self._exit_code = 1
        elif code not in (0, 1):
            log.error("process %d ended with %s while it was stopped", child.process.pid, _how(code))
            self._exit_code = self._exit_code or 1

    def _give_up_next(self) -> None:
        for other in self._next:
            other.stop(self._options.grace)
        self._ending += self._next
        self._next = []
        self._reload_if_asked()

    def _on_end_of_current(self, child: _Child, code: int) -> None:
        if self._stopping:
            return
        if code == USAGE and not self._introduced:
            # It has said why, and the others will, too.
            self._exit_code = USAGE
            self._stop()
            return
        if time.monotonic() - child.began >= A_WHILE:
            self._pause = FIRST_PAUSE
        log.error("process %d ended with %s; another is started in %g s", child.process.pid, _how(code), self._pause)
        self._start_later()

    def _start_later(self) -> None:
        self._start_at.append(time.monotonic() + self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _start_due(self) -> None:
        now = time.monotonic()
        due = [at for at in self._start_at if at <= now]
        self._start_at = [at for at in self._start_at if at > now]
        for _ in due:
            self._start_or_later()

    def _start_or_later(self) -> None:
        child = self._start()
        if child is None:
            self._start_later()
        else:
            self._children.append(child)

    def _kill_due(self) -> None:
        now = time.monotonic()
        for child in self._ending:
            if child.kill_at is not None and child.kill_at <= now:
                log.error("process %d has not ended in time and is killed", child.process.pid)
                child.process.kill()
                child.kill_at = now + LAST_WORDS

    def _on_ready(self) -> None:
        if not self._introduced and self._children and all(child.serving for child in self._children):
            self._introduced = True
            serving = self._children[0].serving
            assert serving is not None
            self._say(serving_line(serving, self._options.processes, shortened(serving.uris)))
        if self._next and all(child.serving for child in self._next):
            log.info("the new processes serve; the old ones end")
            for child in self._children:
                child.stop(self._options.grace)
            self._ending += self._children
            self._children, self._next = self._next, []
            self._start_at.clear()
            self._reload_if_asked()

    # Renewing them

    def _reload(self) -> None:
        if self._stopping:
            return
        if self._next:
            self._reload_again = True  # what they have imported may be old already
            return
        log.info("reloading")
        started = [self._start() for _ in range(self._options.processes)]
        self._next = [child for child in started if child is not None]
        if len(self._next) < self._options.processes:
            self._give_up_next()

    def _reload_if_asked(self) -> None:
        asked, self._reload_again = self._reload_again, False
        if asked:
            self._reload()

    def _watch_files(self, stack: ExitStack) -> None:
        try:
            import watchfiles
        except ImportError:
            raise ConfigError("--reload needs watchfiles: pip install 'juggler[reload]'") from None
        stop = threading.Event()

        def watch() -> None:
            # Where the user's module is imported from; watchfiles leaves virtual environments and caches out.
            for _ in watchfiles.watch(os.getcwd(), watch_filter=watchfiles.PythonFilter(), stop_event=stop):
                self._changes.set()
                os.write(self._wake_writer, b"\0")

        thread = threading.Thread(target=watch, name="callee-reload", daemon=True)
        thread.start()
        stack.callback(thread.join, LAST_WORDS)
        stack.callback(stop.set)

    def _on_changes(self) -> None:
        if self._changes.is_set():
            self._changes.clear()
            self._reload()

    # Telling others

    def _status(self) -> Status:
        children = list(self._children)
        reasons = ["stopping"] if self._stopping else [child.health() for child in children]
        if not children and not self._stopping:
            reasons = ["no process runs"]
        snapshots = [child.snapshot for child in (*children, *self._next, *self._ending)]
        return Status("; ".join(filter(None, reasons)), merge([self._retired, *snapshots]))


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
