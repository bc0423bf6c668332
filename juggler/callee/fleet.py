"""The decisions of a supervisor: which worker processes to start, stop, kill and replace. PURE.

`Fleet` receives events as method calls and returns decisions as actions. `juggler.callee.supervisor` carries them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Literal

from msgspec import Struct, field

from juggler.callee.command_options import shortened
from juggler.callee.supervisor_messages import Report, Serving, serving_line
from juggler.callee.wear import UNLIMITED, WearLimits
from juggler.process.logline import Line
from juggler.process.metrics import Snapshot, merge

STABLE_AFTER = 10.0
"""Run time, in seconds, after which the exit of a process resets the backoff."""

KILL_AFTER = 5.0
"""Seconds beyond the graceful shutdown timeout after which a process is killed."""

SILENCE = 10.0
"""Seconds without a report after which a process is unhealthy."""

STUCK_AFTER = 60.0
"""Seconds without a report after which a process that is retired is killed."""

USAGE = 2
"""Exit code of a process that cannot serve with its options."""


class Spawn(Struct, frozen=True):
    """Start a process, then call `Fleet.spawned` or `Fleet.spawn_failed`."""

    number: int


class Stop(Struct, frozen=True):
    """Ask a process to shut down gracefully."""

    number: int


class Retire(Struct, frozen=True):
    """Ask a process to complete its calls in flight, however long they take, and exit."""

    number: int


class Kill(Struct, frozen=True):
    """Kill a process."""

    number: int


class Abort(Struct, frozen=True):
    """Kill all processes, then exit by this signal."""

    signum: int


class Say(Struct, frozen=True):
    """Print a line for the user."""

    text: str


class Log(Struct, frozen=True):
    """Write a log line."""

    level: Literal["info", "error"]
    line: Line


Action = Spawn | Stop | Retire | Kill | Abort | Say | Log


class _Process(Struct):
    """A process and its last report. ``kill_at`` is set once it has been asked to stop."""

    number: int
    started: float
    last_report: float
    limits: WearLimits
    pid: int = 0
    serving: Serving | None = None
    unhealthy_reason: str | None = None
    snapshot: Snapshot = field(default_factory=Snapshot)
    calls: int = 0
    memory: int | None = None
    kill_at: float | None = None

    def why_unhealthy(self, now: float) -> str | None:
        silence = now - self.last_report
        if self.serving is None:
            reason: str | None = "starting"
        elif silence > SILENCE:
            reason = f"no report for {silence:.0f} s"
        else:
            reason = self.unhealthy_reason
        return f"process {self.pid}: {reason}" if reason else None


_Group = dict[int, _Process]


class Fleet:
    """The state of all worker processes, by number. Processes that exit are replaced with exponential backoff.

    A reload starts a second generation. The first one stops when all processes of the second serve. If one of them
    exits before that, the reload fails and the first generation keeps serving.

    A process beyond its limits is recycled: it is retired when a replacement serves. One process at a time is replaced,
    and at most as many are retired as there are processes.

    Every event takes ``now``, a monotonic time in seconds. Collect the decisions with `take_actions` after each event.

    Attributes:
        exit_code: exit code for the supervisor, valid when `is_done`.
    """

    def __init__(
        self,
        processes: int,
        grace: float,
        backoff: Callable[[], Iterator[float]],
        limits: WearLimits = UNLIMITED,
        random: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Create a fleet without processes.

        Args:
            processes: number of processes to keep running.
            grace: graceful shutdown timeout, in seconds.
            backoff: returns the pauses before the first, second, … restart in a row, in seconds.
            limits: limits after which a process is recycled.
            random: returns a random number from 0 to 1.
        """
        self.exit_code = 0
        self._count = processes
        self._grace = grace
        self._backoff = backoff
        self._pauses = backoff()
        self._limits = limits
        self._random = random
        self._last_number = 0
        self._current: _Group = {}
        self._next: _Group = {}
        self._stopping_ones: _Group = {}
        self._replacement: _Group = {}
        self._worn = 0
        self._recycle_at = 0.0
        self._recycle_pauses = backoff()
        self._retiring: _Group = {}
        self._retired = Snapshot()
        self._start_at: list[float] = []
        self._actions: list[Action] = []
        self._introduced = False
        self._reload_again = False
        self._stopping = False

    # State

    @property
    def is_done(self) -> bool:
        """Whether all processes have exited and none will be started."""
        return not (self._all() or self._start_at)

    def take_actions(self) -> list[Action]:
        """Return the decisions since the last call, in the order in which they are to be carried out."""
        actions, self._actions = self._actions, []
        return actions

    def unhealthy_reason(self, now: float) -> str | None:
        """Return why a process does not take calls; ``None`` if all do."""
        if self._stopping:
            return "stopping"
        current = list(self._current.values())
        if not current:
            return "no process is running"
        return "; ".join(filter(None, (process.why_unhealthy(now) for process in current))) or None

    def snapshot(self) -> Snapshot:
        """Return the metrics of all processes, including those that have exited."""
        return merge([self._retired, *(process.snapshot for process in self._all().values())])

    # Events

    def start(self, now: float) -> None:
        """Start the processes."""
        for _ in range(self._count):
            self._spawn(self._current, now)

    def spawned(self, number: int, pid: int) -> None:
        """Handle a `Spawn` that succeeded."""
        self._all()[number].pid = pid

    def spawn_failed(self, number: int, error: OSError, now: float) -> None:
        """Handle a `Spawn` that failed."""
        self._log("error", "supervisor: cannot start a process", error=error)
        if self._current.pop(number, None):
            self._start_at.append(now + next(self._pauses))
        elif self._next.pop(number, None):
            self._fail_reload(now)
        elif self._replacement.pop(number, None):
            self._recycle_at = now + next(self._recycle_pauses)
        else:
            del self._stopping_ones[number]

    def received(self, number: int, messages: list[Serving | Report], now: float) -> None:
        """Handle messages from a process."""
        process = self._all()[number]
        process.last_report = now
        for message in messages:
            if isinstance(message, Serving):
                process.serving = message
            else:
                process.unhealthy_reason, process.snapshot = message.unhealthy_reason, message.snapshot
                process.calls, process.memory = message.calls, message.memory

    def exited(self, codes: Mapping[int, int], now: float) -> None:
        """Handle the exit of processes.

        Args:
            codes: exit codes by number, negative for signals. Processes that exit together have to be passed together.
            now: the current time.
        """
        groups = (self._current, self._next, self._replacement, self._stopping_ones, self._retiring)
        exited = [[group.pop(number) for number in codes if number in group] for group in groups]
        current, new, replacements, stopping, retired = exited
        for process in chain.from_iterable(exited):
            last = process.snapshot
            counts = Snapshot(counters=last.counters, calls=last.calls, waits=last.waits)
            self._retired = merge([self._retired, counts])
        for process in (*stopping, *retired):
            self._on_exit_while_stopping(process, codes[process.number])
        for process in replacements:
            self._on_exit_of_replacement(process, codes[process.number], now)
        for process in current:
            self._on_exit_of_current(process, codes[process.number], now)
        for process in new:
            status = _status(codes[process.number])
            self._log(
                "error", "supervisor: reload failed, the old processes keep serving", pid=process.pid, status=status
            )
        if new:
            self._fail_reload(now)

    def stop(self, signum: int, now: float) -> None:
        """Handle a signal to stop: the first one shuts down gracefully, the second one at once."""
        if self._stopping:
            self._actions.append(Abort(signum))
        else:
            self._stop_all(now)

    def reload(self, now: float) -> None:
        """Replace all processes by new ones, which run the current code."""
        if self._stopping:
            return
        if self._next:
            # They may have imported the code before it changed again.
            self._reload_again = True
            return
        self._log("info", "supervisor: reloading")
        self._stop_group(self._replacement, now)
        for _ in range(self._count):
            self._spawn(self._next, now)

    def tick(self, now: float) -> None:
        """Handle time and what the other events have changed. To be called after them, and every second."""
        self._on_ready(now)
        due = sum(at <= now for at in self._start_at)
        self._start_at = [at for at in self._start_at if at > now]
        for _ in range(due):
            self._spawn(self._current, now)
        for process in self._stopping_ones.values():
            if process.kill_at is not None and process.kill_at <= now:
                self._log("error", "supervisor: process killed, it did not stop in time", pid=process.pid)
                self._actions.append(Kill(process.number))
                process.kill_at = now + KILL_AFTER
        for process in self._retiring.values():
            if now - process.last_report > STUCK_AFTER:
                self._log("error", "supervisor: process killed, it is stuck", pid=process.pid)
                self._actions.append(Kill(process.number))
                process.last_report = now
        self._recycle(now)

    # Decisions

    def _all(self) -> _Group:
        return {**self._current, **self._next, **self._replacement, **self._stopping_ones, **self._retiring}

    def _log(self, level: Literal["info", "error"], event: str, **fields: object) -> None:
        self._actions.append(Log(level, Line(event, **fields)))

    def _spawn(self, group: _Group, now: float) -> None:
        self._last_number += 1
        limits = self._limits.jittered(self._random())
        group[self._last_number] = _Process(self._last_number, now, now, limits)
        self._actions.append(Spawn(self._last_number))

    def _stop_group(self, group: _Group, now: float) -> None:
        for process in group.values():
            process.kill_at = now + self._grace + KILL_AFTER
            self._actions.append(Stop(process.number))
        self._stopping_ones.update(group)
        group.clear()

    def _stop_all(self, now: float) -> None:
        self._stopping = True
        self._start_at.clear()
        self._stop_group(self._current, now)
        for group in (self._next, self._replacement, self._retiring):
            self._stop_group(group, now)

    def _recycle(self, now: float) -> None:
        """Start a replacement for the first process that is beyond its limits."""
        if self._stopping or self._next or self._replacement or now < self._recycle_at:
            return
        if len(self._retiring) >= self._count:
            return
        for process in self._current.values():
            if reason := process.limits.reason(process.calls, process.memory):
                self._log("info", "supervisor: recycling a process", pid=process.pid, reason=reason)
                self._worn = process.number
                self._spawn(self._replacement, now)
                return

    def _replace(self) -> _Process | None:
        """Put the replacement in the place of the worn process, and return that if it has not exited."""
        worn = self._current.pop(self._worn, None)
        self._current.update(self._replacement)
        self._replacement.clear()
        return worn

    def _on_exit_of_replacement(self, process: _Process, code: int, now: float) -> None:
        pause = next(self._recycle_pauses)
        self._recycle_at = now + pause
        self._log(
            "error",
            "supervisor: recycling failed, the old process keeps serving",
            pid=process.pid,
            status=_status(code),
            retry_in=pause,
        )

    def _on_exit_while_stopping(self, process: _Process, code: int) -> None:
        if process.serving is None:
            return  # it has printed why it could not start
        if code == 1 and self._stopping:
            self.exit_code = 1
        elif code not in (0, 1):
            status = _status(code)
            self._log("error", "supervisor: process exited while it was stopping", pid=process.pid, status=status)
            self.exit_code = self.exit_code or 1

    def _on_exit_of_current(self, process: _Process, code: int, now: float) -> None:
        if self._stopping:
            return
        if code == USAGE and not self._introduced:
            # It has printed why. The other processes would fail for the same reason.
            self.exit_code = USAGE
            self._stop_all(now)
            return
        status = _status(code)
        if process.number == self._worn and self._replacement:
            self._log("error", "supervisor: process exited", pid=process.pid, status=status)
            self._replace()
            return
        if now - process.started >= STABLE_AFTER:
            self._pauses = self._backoff()
        pause = next(self._pauses)
        self._start_at.append(now + pause)
        self._log("error", "supervisor: process exited", pid=process.pid, status=status, restart_in=pause)

    def _on_ready(self, now: float) -> None:
        if not self._introduced and self._current:
            serving = [process.serving for process in self._current.values()]
            if first := serving[0] if all(serving) else None:
                self._introduced = True
                self._actions.append(Say(serving_line(first, self._count, shortened(first.uris))))
        if any(process.serving for process in self._replacement.values()):
            self._recycle_pauses = self._backoff()
            if worn := self._replace():
                self._retiring[worn.number] = worn
                self._actions.append(Retire(worn.number))
        if self._next and all(process.serving for process in self._next.values()):
            self._log("info", "supervisor: new processes serve, stopping the old ones")
            self._stop_group(self._current, now)
            self._current, self._next = self._next, self._current
            self._start_at.clear()
            self._repeat_reload(now)

    def _fail_reload(self, now: float) -> None:
        self._stop_group(self._next, now)
        self._repeat_reload(now)

    def _repeat_reload(self, now: float) -> None:
        asked, self._reload_again = self._reload_again, False
        if asked:
            self.reload(now)


def _status(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
