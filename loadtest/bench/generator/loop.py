"""The event loop and the websockets of the generator, on epoll and bare sockets."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from typing import Protocol

from loadtest.bench.generator.wire import CLOSE, HANDSHAKE, PING, client_frame, split

HOST = "127.0.0.1"
CONNECT_TIMEOUT = 10.0
RECEIVE_BYTES = 1 << 14
"""Every receive allocates this much; with 256 KB, the C library would map and unmap memory each time."""
PONG = 0x8A


class Lost(Exception):
    """The server did something that invalidates the measurement."""


class Owner(Protocol):
    """Receives the events of connections."""

    def on_open(self, connection: Connection) -> None:
        """The handshake has completed."""

    def on_texts(self, connection: Connection, texts: list[bytes]) -> None:
        """Messages have arrived."""

    def on_closed(self, connection: Connection, reason: str) -> None:
        """The connection has closed."""


class Loop:
    """Calls the handlers of ready file descriptors until `stop`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._over = False

    def add(self, fd: int, handler: Callable[[int], None]) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, select.EPOLLIN)

    def also_writable(self, fd: int, wanted: bool) -> None:
        """Call the handler also when the descriptor is writable, or no longer."""
        self._epoll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if wanted else 0))

    def remove(self, fd: int) -> None:
        self._epoll.unregister(fd)
        del self._handlers[fd]

    def stop(self) -> None:
        self._over = True

    def run(self) -> None:
        poll, handlers = self._epoll.poll, self._handlers
        while not self._over:
            for fd, events in poll():
                # A descriptor closed in this turn may still be in the list.
                if (handler := handlers.get(fd)) is not None:
                    handler(events)


class Lines:
    """Reads lines from a file descriptor, and passes them on."""

    def __init__(self, loop: Loop, fd: int, on_line: Callable[[str], None], on_end: Callable[[], None]) -> None:
        self._fd, self._on_line, self._on_end = fd, on_line, on_end
        self._rest = b""
        loop.add(fd, self._on_ready)

    def _on_ready(self, events: int) -> None:
        data = os.read(self._fd, 1 << 16)
        if not data:
            self._on_end()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._on_line(line.decode())


class Connection:
    """A websocket, opened on construction, that reports to its owner.

    Attributes:
        number: identifies it to the owner.
        began_ns: start of the owner's current operation.
    """

    __slots__ = ("_loop", "_owner", "_reason", "_rest", "_sock", "_unsent", "_upgraded", "began_ns", "number")

    def __init__(self, loop: Loop, owner: Owner, port: int, path: str, subprotocol: str, number: int) -> None:
        self.number = number
        self.began_ns = 0
        self._loop, self._owner = loop, owner
        self._rest = self._unsent = b""
        self._upgraded = False
        self._reason = ""
        # On loopback this returns at once, unless the server's backlog is full.
        self._sock = socket.create_connection((HOST, port), CONNECT_TIMEOUT)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.setblocking(False)
        loop.add(self._sock.fileno(), self._on_ready)
        self.send(HANDSHAKE % (path.encode(), subprotocol.encode()))

    def send(self, data: bytes) -> None:
        """Send frames, later if the socket is not writable."""
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._close(error.strerror or str(error))
            return
        if sent < len(data):
            self._unsent = data[sent:]
            self._loop.also_writable(self._sock.fileno(), True)

    def _on_ready(self, events: int) -> None:
        if events & select.EPOLLOUT:
            data, self._unsent = self._unsent, b""
            self._loop.also_writable(self._sock.fileno(), False)
            self.send(data)
        if events & ~select.EPOLLOUT:
            self._receive()

    def _receive(self) -> None:
        try:
            data = self._sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._close(error.strerror or str(error))
            return
        if not data:
            self._close("")
            return
        if self._rest:
            data = self._rest + data
        if self._upgraded:
            self._take(data)
        else:
            self._upgrade(data)

    def _upgrade(self, data: bytes) -> None:
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            self._rest = data
            return
        status = head.partition(b"\r\n")[0]
        if b" 101 " not in status + b" ":
            raise Lost(f"the server refused a connection: {status.decode(errors='replace')}")
        self._upgraded = True
        self._rest = b""
        self._owner.on_open(self)
        # Servers that speak first may do so in the same packet.
        if rest:
            self._take(rest)

    def _take(self, data: bytes) -> None:
        texts, others, self._rest = split(data)
        if others:
            self._control(others)
        if texts:
            self._owner.on_texts(self, texts)

    def _control(self, frames: list[tuple[int, bytes]]) -> None:
        for first, payload in frames:
            if first == PING:
                self.send(client_frame(payload, PONG))
            elif first == CLOSE:
                self._reason = f"{int.from_bytes(payload[:2], 'big')} {payload[2:].decode(errors='replace')}".strip()

    def _close(self, reason: str) -> None:
        self._loop.remove(self._sock.fileno())
        self._sock.close()
        self._owner.on_closed(self, self._reason or reason)
