"""Clients that send garbage, stay silent, read slowly or flood. Each finishes in seconds, whatever the server does."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import gevent
from websockets.frames import Frame, Opcode

from juggler.client import Client
from juggler.errors import JugglerError
from juggler.protocol.messages import MessageType
from loadtest.raw_connection import RawConnection, request

LONGEST = 6.0
"""Timeout of a client in seconds."""

LARGE = "x" * 100_000
CHANNEL = "abuse"


def garbage(url: str) -> None:
    """Send bytes that are no HTTP."""
    with RawConnection(url, timeout=LONGEST) as connection:
        connection.send(random.randbytes(2000) + b"\r\n\r\n")
        connection.socket.recv(1000)


def garbage_frames(url: str) -> None:
    """Send bytes that are no frames."""
    with RawConnection(url, timeout=LONGEST) as connection:
        connection.upgrade()
        connection.send(random.randbytes(2000))
        _read(connection)


def garbage_messages(url: str) -> None:
    """Send malformed messages."""
    some = (b"{", b"[]", b'{"meta":{"type":99,"uuid":"x"},"payload":{}}', b"\xff\xfe", b"x" * 2_000_000)
    with RawConnection(url, timeout=LONGEST) as connection:
        connection.upgrade()
        connection.send(Frame(Opcode.TEXT, random.choice(some)).serialize(mask=True))
        _read(connection)


def half_a_request(url: str) -> None:
    """Disconnect in the middle of an HTTP request."""
    with RawConnection(url, timeout=LONGEST) as connection:
        connection.send(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgr")
        gevent.sleep(random.uniform(0.5, 3))
        _reset(connection.socket)


def half_open(url: str) -> None:
    """Stay silent, and do not answer pings, until the server closes the connection."""
    with RawConnection(url, timeout=LONGEST) as connection:
        connection.upgrade()
        connection.send(request(MessageType.SUB, channel=CHANNEL))
        gevent.sleep(LONGEST - 1)
        _reset(connection.socket)


def slow_reader(url: str) -> None:
    """Subscribe to more events than it reads."""
    with RawConnection(url, timeout=LONGEST) as connection, Client(url, reconnect=False) as publisher:
        connection.upgrade()
        connection.send(request(MessageType.SUB, channel=CHANNEL))
        deadline = time.monotonic() + LONGEST / 2
        for _ in range(100):
            if time.monotonic() > deadline:
                break
            publisher.publish(CHANNEL, LARGE)
            gevent.sleep(0.02)
        _reset(connection.socket)


def flood_of_calls(url: str) -> None:
    """Send many calls, read nothing, and disconnect."""
    with RawConnection(url, timeout=LONGEST / 2) as connection:
        connection.upgrade()
        for _ in range(20):
            timeout = 2_000_000_000
            some = [request(MessageType.CALL, uri="test.echo", args=1, timeout=timeout) for _ in range(50)]
            connection.send(b"".join(some))
            gevent.sleep(0.02)
        _reset(connection.socket)


def flood_of_pings(url: str) -> None:
    """Send many pings, and read nothing."""
    with RawConnection(url, timeout=LONGEST / 2) as connection:
        connection.upgrade()
        ping = Frame(Opcode.PING, b"x" * 100).serialize(mask=True) * 200
        for _ in range(20):
            connection.send(ping)
            gevent.sleep(0.02)
        _reset(connection.socket)


# The slowest one first.
KINDS: tuple[Callable[[str], None], ...] = (
    half_open,
    garbage,
    garbage_frames,
    garbage_messages,
    half_a_request,
    slow_reader,
    flood_of_calls,
    flood_of_pings,
)


class AbusiveClients:
    """Clients of each kind in turn, some of them concurrently, from construction until `stop`.

    Attributes:
        done: number of clients by kind.
    """

    def __init__(self, url: str, pause: float = 0.4) -> None:
        self.done: Counter[str] = Counter()
        self._url = url
        self._pause = pause
        self._stopping = False
        self._starter = gevent.spawn(self._run)

    def stop(self) -> None:
        """Start no more clients, and wait for those that run."""
        self._stopping = True
        self._starter.join(3 * LONGEST)
        self._starter.kill()

    def _run(self) -> None:
        started = []
        while not self._stopping:
            kind = KINDS[len(started) % len(KINDS)]
            started.append(gevent.spawn(self._one, kind))
            gevent.sleep(self._pause)
        gevent.joinall(started, timeout=2 * LONGEST)
        gevent.killall(started)

    def _one(self, kind: Callable[[str], None]) -> None:
        # The tests of the server judge its responses, not the soak.
        with suppress(OSError, JugglerError), gevent.Timeout(2 * LONGEST, False):
            kind(self._url)
        self.done[kind.__name__] += 1


def _read(connection: RawConnection) -> None:
    """Read until the server closes the connection."""
    while connection.close_code is None:
        connection.receive()


def _reset(sock: socket.socket) -> None:
    """Make close reset the connection."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
