"""A network between juggler and Redis that loses packets or breaks at a chosen byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import gevent
from gevent import socket
from gevent.server import StreamServer

HOST = "127.0.0.1"


class _Direction:
    """One direction of a connection. While the network is down, bytes stay with their sender, as in TCP."""

    def __init__(self, network: Network, source: socket.socket, target: socket.socket) -> None:
        self._network = network
        self._source = source
        self._target = target
        self._unsent = b""
        self._has_ended = False

    def run(self) -> None:
        try:
            while data := self._source.recv(65536):
                self._unsent += data
                self.flush()
        except OSError:
            # A reset: the sender's kernel forgets what was not delivered.
            self._unsent = b""
        self._has_ended = True
        self.flush()

    def flush(self) -> None:
        """Deliver what the sender has sent, unless the network is down."""
        if self._network.is_down:
            return
        data, self._unsent = self._unsent, b""
        if self._has_ended and self._source.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            data = b""  # a reset after the end
        with suppress(OSError):
            self._target.sendall(data)
            if self._has_ended:
                self._target.shutdown(socket.SHUT_RDWR)


class Network:
    """Forwards connections to a Redis.

    Attributes:
        url: URL of the Redis through it.
        is_down: whether packets are lost.
        cut_at: called with the bytes for Redis; a number of bytes after which to cut the connection, or None.
    """

    def __init__(self, port: int, listener: StreamServer) -> None:
        self.url = f"redis://{HOST}:{listener.server_port}"
        self.is_down = False
        self.cut_at: Callable[[bytes], int | None] = lambda data: None
        self._directions: list[_Direction] = []
        self._sockets: set[socket.socket] = set()
        self._port = port

    def heal(self) -> None:
        """Deliver packets again, and those that were sent in the meantime, unless their connection was reset."""
        self.is_down = False
        for each in self._directions:
            each.flush()

    def serve(self, near: socket.socket) -> None:
        """Forward a connection until both sides have closed it."""
        with near, suppress(OSError), socket.create_connection((HOST, self._port)) as far:
            self._sockets |= {near, far}
            up, down = _Direction(self, _Cutting(near, self), far), _Direction(self, far, near)
            self._directions += [up, down]
            back = gevent.spawn(down.run)
            up.run()
            back.join()
            self._directions = [each for each in self._directions if each not in (up, down)]
            self._sockets -= {near, far}

    def close(self) -> None:
        """End all connections."""
        self.heal()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class _Cutting:
    """A socket whose connection breaks after a byte that `Network.cut_at` chooses."""

    def __init__(self, sock: socket.socket, network: Network) -> None:
        self._socket = sock
        self._network = network
        self._is_cut = False

    def getsockopt(self, *name: int) -> int:
        return int(self._socket.getsockopt(*name))

    def recv(self, size: int) -> bytes:
        if self._is_cut:
            return b""
        data = self._socket.recv(size)
        at = self._network.cut_at(data)
        if at is not None:
            self._is_cut = True
            return data[:at]
        return data


@contextmanager
def network(port: int) -> Iterator[Network]:
    """Run a network to a Redis on a port of loopback."""
    listener = StreamServer((HOST, 0), lambda near, _: made.serve(near))
    listener.start()
    made = Network(port, listener)
    try:
        yield made
    finally:
        made.close()
        listener.stop(timeout=1)
