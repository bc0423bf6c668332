"""All that a test needs, each in a process of its own, on loopback: Redis, servers, callees. Nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from juggler.process.embedded import EmbeddedRedis
from juggler.process.guard import ProcessGuard
from juggler.process.metrics.exposition import parse
from juggler.process.metrics.rates import Samples

ROOT = Path(__file__).parents[2]
START_TIMEOUT = 20.0
STOP_TIMEOUT = 12.0
KEPT_LINES = 40


class StackError(Exception):
    """A part did not start, or ended by itself. The text is one line, and what the part has said at last."""


class Part:
    """A process, running from construction.

    Attributes:
        name: what people call it.
        announced: how often it has said that it serves.
    """

    def __init__(self, name: str, arguments: list[str], environment: dict[str, str], on_end: Callable[[int], None]):
        """Start Python with these arguments, and wait until it is ready.

        Raises:
            StackError: it did not start.
        """
        self.name = name
        self._on_end = on_end
        self._said: deque[str] = deque(maxlen=KEPT_LINES)
        self._began = threading.Event()
        self.announced = 0
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A Ctrl-C in the terminal is for us; and what it starts itself is in its group.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout,), name=f"{name}-out", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def said(self) -> list[str]:
        """The last lines that it printed."""
        return list(self._said)

    def wait_ready(self, pattern: str) -> str:
        """Wait until it prints a line with this pattern, and return the match.

        Raises:
            StackError: it did not.
        """
        if not self._began.wait(START_TIMEOUT):
            raise StackError(f"the {self.name} did not start within {START_TIMEOUT:g} s{self._words()}")
        for line in self.said:
            if found := re.search(pattern, line):
                return found.group()
        raise StackError(f"the {self.name} did not start{self._words()}")

    def check(self) -> None:
        """Raise StackError when it has ended."""
        if self.process.poll() is not None:
            raise StackError(f"the {self.name} ended by itself with status {self.process.returncode}{self._words()}")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def terminate(self) -> None:
        """Ask it to end, and do not wait."""
        if self.process.poll() is None:
            self.process.terminate()

    def stop(self) -> None:
        """End one that was asked to; kill it when it does not. Idempotent."""
        if self.process.poll() is None:
            try:
                self.process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self._gone()

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self._gone()

    def _gone(self) -> None:
        self.process.wait()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # its children, if it has left any
        self._reader.join(1)
        self._on_end(self.pid)

    def _read(self, source: IO[str]) -> None:
        with source:
            for line in source:
                self._said.append(line.rstrip())
                if line.startswith(("juggler server:", "juggler-callee:", "serving")):
                    self.announced += 1
                    self._began.set()
        self._began.set()

    def _words(self) -> str:
        return ": " + " | ".join(self.said[-3:]) if self._said else ""


class Stack:
    """Redis, and what is started on it; used with ``with``, all of it ends at the end.

    Attributes:
        redis: its server.
        url: of the juggler server, once there is one.
    """

    def __init__(self, redis: Callable[[], EmbeddedRedis] = EmbeddedRedis) -> None:
        """Start Redis.

        Args:
            redis: makes the server.

        Raises:
            ConfigError: there is none to start.
        """
        self._stack = ExitStack()
        self.url = ""
        self.parts: list[Part] = []
        self._guard = ProcessGuard()
        self._stack.callback(self._guard.close)
        try:
            self.redis = self._stack.enter_context(redis())
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Stack:  # noqa: PYI034 (typing.Self is of Python 3.11)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End all, Redis last. Idempotent."""
        for part in self.parts:
            part.terminate()
        for part in self.parts:
            part.stop()
        self.parts.clear()
        self._stack.close()

    def start_server(self, *arguments: str, app: str | None = None) -> Part:
        """Start ``juggler server`` on a free port.

        Args:
            arguments: more of its options.
            app: a server of one's own, ``MODULE:OBJECT``; it finds Redis by REDIS_URL.

        Raises:
            StackError: it did not start.
        """
        own = [app] if app else []
        part = self._start("server", ["-m", "juggler.cli.main", "server", *own, "--bind", "127.0.0.1:0", *arguments])
        self.url = part.wait_ready(r"ws://\S+")
        return part

    def start_callee(self, *arguments: str, callee: str = "callee.demo:rpc") -> Part:
        """Start ``juggler-callee``.

        Raises:
            StackError: it did not start.
        """
        part = self._start("callee", ["-m", "callee.cli", callee, "--log-level", "warning", *arguments])
        part.wait_ready(r"^serving .*")
        return part

    def remove(self, part: Part) -> None:
        """Forget a part that has been killed."""
        self.parts.remove(part)

    def metrics(self) -> Samples:
        """Return the server's figures.

        Raises:
            OSError: it does not answer.
        """
        return metrics(self.url)

    def run(self, command: list[str], timeout: float) -> int:
        """Run something else beside it until that ends, and return its status.

        Raises:
            StackError: it took longer than so many seconds, and was killed.
        """
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True) as process:
            self._guard.add(process.pid)
            try:
                return process.wait(timeout)
            except subprocess.TimeoutExpired:
                raise StackError(f"{command[2]} has not ended within {timeout:g} s") from None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                self._guard.remove(process.pid)

    def check(self) -> None:
        """Raise StackError when a part has ended by itself."""
        for part in self.parts:
            part.check()

    def _start(self, name: str, arguments: list[str]) -> Part:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("JUGGLER_")}
        environment |= {"REDIS_URL": self.redis.url, "PYTHONPATH": str(ROOT)}
        part = Part(name, arguments, environment, self._guard.remove)
        self._guard.add(part.pid)
        self.parts.append(part)
        return part


def end_at_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does, so that it leaves nothing behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def metrics(url: str) -> Samples:
    """Return the figures of the server whose websocket URL this is.

    Raises:
        OSError: it does not answer.
    """
    where = url.replace("ws://", "http://", 1).rpartition("/")[0] + "/metrics"
    with urllib.request.urlopen(where, timeout=5) as answer:
        return parse(answer.read().decode())
