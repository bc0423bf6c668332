"""Clients of bad manners: garbage, silence, slowness, floods. Each ends in seconds, whatever the server does."""

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
from loadtest.locust.raw import RawConnection, request

LONGEST = 4.0
"""Seconds that one may take."""

LARGE = "x" * 100_000
CHANNEL = "mischief"


def garbage(url: str) -> None:
    """Send no HTTP at all."""
    with RawConnection(url, timeout=LONGEST) as connection:
        connection.send(random.randbytes(2000) + b"\r\n\r\n")
        connection.socket.recv(1000)


def garbage_frames(url: str) -> None:
    """Send what is no frame."""
    with RawConnection(url, timeout=LONGEST) as connection:
        connection.upgrade()
        connection.send(random.randbytes(2000))
        _read(connection)


def garbage_messages(url: str) -> None:
    """Send what is no message."""
    some = (b"{", b"[]", b'{"meta":{"type":99,"uuid":"x"},"payload":{}}', b"\xff\xfe", b"x" * 2_000_000)
    with RawConnection(url, timeout=LONGEST) as connection:
        connection.upgrade()
        connection.send(Frame(Opcode.TEXT, random.choice(some)).serialize(mask=True))
        _read(connection)


def half_a_request(url: str) -> None:
    """Begin a request and end in its midst."""
    with RawConnection(url, timeout=LONGEST) as connection:
        connection.send(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgr")
        gevent.sleep(random.uniform(0.5, 3))
        _reset(connection.socket)


def half_open(url: str) -> None:
    """Be silent, and do not answer pings, until the server has had enough."""
    with RawConnection(url, timeout=LONGEST) as connection:
        connection.upgrade()
        connection.send(request(MessageType.SUB, channel=CHANNEL))
        gevent.sleep(LONGEST - 1)
        _reset(connection.socket)


def slow_reader(url: str) -> None:
    """Subscribe to more than one reads."""
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
    """Call without end, read nothing, and vanish."""
    with RawConnection(url, timeout=LONGEST / 2) as connection:
        connection.upgrade()
        for _ in range(20):
            timeout = 2_000_000_000
            some = [request(MessageType.CALL, uri="test.echo", args=1, timeout=timeout) for _ in range(50)]
            connection.send(b"".join(some))
            gevent.sleep(0.02)
        _reset(connection.socket)


def flood_of_pings(url: str) -> None:
    """Ping without end, and read nothing."""
    with RawConnection(url, timeout=LONGEST / 2) as connection:
        connection.upgrade()
        ping = Frame(Opcode.PING, b"x" * 100).serialize(mask=True) * 200
        for _ in range(20):
            connection.send(ping)
            gevent.sleep(0.02)
        _reset(connection.socket)


# The one that takes longest first.
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


class Mischief:
    """One client of each kind after the other, and some at a time, until `stop`.

    Attributes:
        done: how many there were of each kind.
    """

    def __init__(self, url: str, pause: float = 0.4) -> None:
        self.done: Counter[str] = Counter()
        self._url = url
        self._pause = pause
        self._stopping = False
        self._gang = gevent.spawn(self._run)

    def stop(self) -> None:
        """Begin no more, and wait for those that have begun."""
        self._stopping = True
        self._gang.join(3 * LONGEST)
        self._gang.kill()

    def _run(self) -> None:
        begun = []
        while not self._stopping:
            kind = KINDS[len(begun) % len(KINDS)]
            begun.append(gevent.spawn(self._one, kind))
            gevent.sleep(self._pause)
        gevent.joinall(begun, timeout=2 * LONGEST)
        gevent.killall(begun)

    def _one(self, kind: Callable[[str], None]) -> None:
        # What a server answers to this, and how, is not judged here but in the tests of the server.
        with suppress(OSError, JugglerError), gevent.Timeout(2 * LONGEST, False):
            kind(self._url)
        self.done[kind.__name__] += 1


def _read(connection: RawConnection) -> None:
    """Read until the server closes."""
    while connection.ended is None:
        connection.receive()


def _reset(sock: socket.socket) -> None:
    """Let the connection end without a goodbye."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
