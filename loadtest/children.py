"""Child processes with deadlines, which never outlive this process.

Each is the leader of a session, so that its own children are killed with it. Works with and without gevent's
monkey-patching.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from juggler.process.guard import ProcessGuard
from loadtest.errors import LoadTestError

STOP_TIMEOUT = 12.0
LAST_LINES = 3


class Child:
    """A process, usually Python, that reads lines on standard input and prints lines on standard output.

    Attributes:
        name: name in error messages.
        pid: process id.
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
        output: Literal["separate", "merged", "inherited"] = "separate",
        program: str = sys.executable,
    ) -> None:
        """Start Python with ``arguments``; use `Children.start`, which also stops it.

        Args:
            name: name in error messages.
            arguments: command line after the program.
            environment: added to this process's environment, without its ``JUGGLER_`` variables.
            cwd: working directory. Default: this process's.
            pass_fds: file descriptors that it inherits.
            stop_signal: asks it to exit.
            output: whether `hear` returns the lines of standard output ("separate") or of standard error too
                ("merged"); with "inherited" they go to this process's own output.
            program: path of a program other than Python.
        """
        self.name = name
        self._stop_signal = stop_signal
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by stop
        self._read = b""
        self._last: deque[str] = deque(maxlen=LAST_LINES if output == "merged" else 0)
        own = {key: value for key, value in os.environ.items() if not key.startswith("JUGGLER_")}
        inherited = output == "inherited"
        self._process = subprocess.Popen(
            [program, *arguments],
            env={**own, **(environment or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL if inherited else subprocess.PIPE,
            stdout=None if inherited else subprocess.PIPE,
            stderr=None if inherited else subprocess.STDOUT if output == "merged" else self._errors,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise LoadTestError(self._failure()) from None

    def hear(self, timeout: float) -> str | None:
        """Return the next line that it prints; ``None`` if it exited with status 0.

        Raises:
            LoadTestError: it printed nothing within ``timeout`` seconds, or failed.
        """
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._read:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise LoadTestError(f"the {self.name} printed nothing for {timeout:g} s{self._last_words()}")
            data = os.read(self._process.stdout.fileno(), 1 << 20)
            if not data:
                if self._process.wait(max(left, 1.0)):
                    raise LoadTestError(self._failure())
                return None
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        self._last.append(line.decode(errors="replace"))
        return line.decode(errors="replace")

    def hear_match(self, pattern: str, timeout: float) -> re.Match[str]:
        """Skip lines until one contains ``pattern``, and return the match.

        Raises:
            LoadTestError: no line matched within ``timeout`` seconds, or it exited.
        """
        deadline = time.monotonic() + timeout
        while (line := self.hear(max(deadline - time.monotonic(), 0.0))) is not None:
            if found := re.search(pattern, line):
                return found
        raise LoadTestError(f"the {self.name} exited before it was ready{self._last_words()}")

    def check(self) -> None:
        """Raise `LoadTestError` if it has exited."""
        if self._process.poll() is not None:
            raise LoadTestError(self._failure())

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def wait(self, timeout: float) -> int:
        """Wait until it exits, and return its status.

        Raises:
            LoadTestError: it runs for longer than ``timeout`` seconds.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LoadTestError(f"the {self.name} did not exit within {timeout:g} s") from None

    def ask_to_stop(self) -> None:
        self.signal(self._stop_signal)

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Wait until it exits, and kill its session after ``timeout`` seconds. Idempotent."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            # Before it is waited for: until then, no other process can have its id, nor that of its session.
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def _failure(self) -> str:
        try:
            how = f"exited with status {self._process.wait(1.0)}"
        except subprocess.TimeoutExpired:
            how = "stopped reading"
        return f"the {self.name} {how}{self._last_words()}"

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = [*self._last, *self._errors.read().decode(errors="replace").splitlines()][-LAST_LINES:]
        return ": " + "\n".join(lines) if lines else ""


class Children:
    """Child processes that are stopped together, also if this process is killed; a context manager."""

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._guard = ProcessGuard()

    def __enter__(self) -> Children:  # noqa: PYI034 (typing.Self is of Python 3.11)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self, name: str, arguments: Sequence[str], **options: Any) -> Child:
        """Start Python with ``arguments``; options are those of `Child`."""
        child = Child(name, arguments, **options)
        self._children.append(child)
        self._guard.add(child.pid)
        return child

    def check(self) -> None:
        """Raise `LoadTestError` if one has exited."""
        for child in self._children:
            child.check()

    def kill(self, child: Child) -> None:
        """Kill a child and its session at once."""
        child.stop(timeout=0)
        self._guard.remove(child.pid)
        self._children.remove(child)

    def stop(self) -> None:
        """Stop all, the last one first. Idempotent."""
        # The guard first: it must not kill a process id that has been reused.
        self._guard.close()
        for child in reversed(self._children):
            child.ask_to_stop()
        for child in reversed(self._children):
            child.stop()
        self._children.clear()


def exit_on_sigterm() -> None:
    """Make SIGTERM raise KeyboardInterrupt in this process, so that its children are stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
