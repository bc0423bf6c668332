"""Processes of a benchmark: started, spoken to with a deadline, and never left behind.

Each is the leader of a session, so that it ends together with what it has started itself.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress

from juggler.process.guard import ProcessGuard
from loadtest.bench.errors import BenchError

STOP_TIMEOUT = 5.0
LAST_LINES = 3


class Child:
    """A process that reads lines and prints lines.

    Attributes:
        name: for people.
        pid: its process id.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        cwd: str | None = None,
        pass_fds: Sequence[int] = (),
        stop_signal: int = signal.SIGTERM,
        errors_to_stdout: bool = False,
    ) -> None:
        """Start Python with ``arguments``. Use `Children.start`, which also ends it."""
        self.name = name
        self._stop_signal = stop_signal
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by stop
        self._read = b""
        self._last: deque[str] = deque(maxlen=LAST_LINES if errors_to_stdout else 0)
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, **(environment or {})},
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if errors_to_stdout else self._errors,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def tell(self, line: str) -> None:
        """Send it a line."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise BenchError(self._ended()) from None

    def hear(self, timeout: float) -> str | None:
        """Return the next line that it prints, ``None`` when it has ended well.

        Raises:
            BenchError: there is none in time, or it has failed.
        """
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._read:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise BenchError(f"the {self.name} said nothing for {timeout:g} s{self._said()}")
            data = os.read(self._process.stdout.fileno(), 1 << 20)
            if not data:
                if self._process.wait(max(left, 1.0)):
                    raise BenchError(self._ended())
                return None
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        self._last.append(line.decode(errors="replace"))
        return line.decode(errors="replace")

    def check(self) -> None:
        """See that it still runs.

        Raises:
            BenchError: it does not.
        """
        if self._process.poll() is not None:
            raise BenchError(self._ended())

    def ask_to_stop(self) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(self._stop_signal)

    def stop(self) -> None:
        """Wait until it ends, and end it if it does not. Idempotent."""
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            # Before it is waited for: until then nobody else can have its number, nor that of its session.
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def _ended(self) -> str:
        try:
            code: int | None = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            code = None
        how = "stopped listening" if code is None else f"ended with status {code}"
        return f"the {self.name} {how}{self._said()}"

    def _said(self) -> str:
        self._errors.seek(0)
        lines = [*self._last, *self._errors.read().decode(errors="replace").splitlines()][-LAST_LINES:]
        return ": " + "\n".join(lines) if lines else ""


class Children:
    """Processes that end together, those started last first; with ``with``."""

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._guard = ProcessGuard()

    def __enter__(self) -> Children:  # noqa: PYI034 (typing.Self is of Python 3.11)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self, name: str, arguments: Sequence[str], **options: object) -> Child:
        """Start Python with ``arguments``; options are those of `Child`."""
        child = Child(name, arguments, **options)  # type: ignore[arg-type]
        self._children.append(child)
        self._guard.add(child.pid)
        return child

    def check(self) -> None:
        """See that all still run.

        Raises:
            BenchError: one has ended by itself.
        """
        for child in self._children:
            child.check()

    def stop(self) -> None:
        """End them all. Idempotent."""
        # The guard first: it must not kill a process id that is no longer our child's.
        self._guard.close()
        for child in reversed(self._children):
            child.ask_to_stop()
        for child in reversed(self._children):
            child.stop()
        self._children.clear()
