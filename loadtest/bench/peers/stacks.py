"""The peers: what each of them needs, and how it is started."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from juggler.process.embedded import HOST, free_port
from loadtest.bench.harness.measured_stack import CALLEE, REDIS, SERVER, Measured, allow_connections
from loadtest.children import Child, Children
from loadtest.stack import START_TIMEOUT, Stack

URI = "test.echo"
IN_FLIGHT = (1, 10)
"""Calls in flight on each connection."""
SBIN = "/usr/sbin:/usr/local/sbin"
PROGRAMS = "loadtest.bench.peers"
NATS_CONFIG = """
host: {host}
port: {port}
websocket {{ host: {host}, port: {websocket_port}, no_tls: true }}
"""


class PeerStack(Measured):
    """Processes of a peer; a context manager that stops them.

    Attributes:
        name: name in tables.
        install: command that installs it.
        fans_out: whether it publishes events.
    """

    name = ""
    install = ""
    fans_out = True
    commands: Sequence[str] = ()
    modules: Sequence[str] = ()

    def __init__(self, connections: int) -> None:
        """Start the processes, which accept this many connections.

        Raises:
            LoadTestError: a process did not start, or the system does not allow that many open files.
        """
        allow_connections(connections)
        self.pids = {}
        with ExitStack() as stack:
            self.children = stack.enter_context(Children())
            self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="juggler-bench-")))
            self.start(stack)
            self._stack = stack.pop_all()

    def __enter__(self) -> PeerStack:  # noqa: PYI034 (typing.Self is of Python 3.11)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @classmethod
    def is_installed(cls) -> bool:
        """Return whether its commands and modules are there."""
        return all(map(path_of, cls.commands)) and all(map(find_spec, cls.modules))

    def start(self, stack: ExitStack) -> None:
        """Start the processes, and enter other context managers on ``stack``; set ``port`` and ``pids``."""
        raise NotImplementedError

    def start_program(self, name: str, *arguments: object) -> Child:
        """Start ``loadtest.bench.peers.<name>``, and wait until it prints "ready"."""
        child = self.children.start(name, ["-m", f"{PROGRAMS}.{name}", *map(str, arguments)])
        child.hear_match("^ready$", START_TIMEOUT)
        return child


class Nats(PeerStack):
    """A NATS server for websockets, and a responder with nats-py on TCP."""

    name = "NATS"
    install = "apt-get install nats-server; pip install 'juggler[peers]'"
    commands = ("nats-server",)
    modules = ("nats",)
    protocol = "nats"
    path = "/"

    def start(self, stack: ExitStack) -> None:
        tcp_port, self.port = free_port(), free_port()
        config = self.directory / "nats.conf"
        config.write_text(NATS_CONFIG.format(host=HOST, port=tcp_port, websocket_port=self.port))
        server = self.children.start(
            "NATS server", ["--config", str(config)], program=path_of("nats-server"), output="merged"
        )
        server.hear_match("Server is ready", START_TIMEOUT)
        responder = self.start_program("nats_responder", f"nats://{HOST}:{tcp_port}", URI)
        self.pids = {SERVER: server.pid, CALLEE: responder.pid}


class SocketIo(PeerStack):
    """A server with python-socketio on gevent, which answers calls itself: a call is an event with an ack."""

    name = "Socket.IO"
    install = "pip install 'juggler[peers]'"
    modules = ("socketio",)
    protocol = "socketio"
    path = "/socket.io/?EIO=4&transport=websocket"

    def start(self, stack: ExitStack) -> None:
        self.port = free_port()
        self.pids = {SERVER: self.start_program("socketio_server", self.port, URI).pid}


class BrpopWorker(PeerStack):
    """A Redis and a worker with redis-py, without websockets: the load is on Redis, a connection for each call."""

    name = "BRPOP"
    install = "pip install redis"
    fans_out = False
    modules = ("redis",)
    protocol = "redis"

    def __init__(self, connections: int) -> None:
        super().__init__(connections * max(IN_FLIGHT))

    def start(self, stack: ExitStack) -> None:
        redis = stack.enter_context(Stack())
        self.port = redis.redis_port
        self.pids = {REDIS: redis.redis.pid, CALLEE: self.start_program("brpop_worker", self.port).pid}


PEERS: dict[str, type[PeerStack]] = {"nats": Nats, "socketio": SocketIo, "brpop": BrpopWorker}


def path_of(command: str) -> str | None:
    """Return the path of a command; Debian installs servers where users do not search for them."""
    return shutil.which(command) or shutil.which(command, path=SBIN)
