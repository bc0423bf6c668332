"""Fairness: the latency of one client while others, in a process of their own, misbehave."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from gevent import socket
from gevent.pool import Pool
from gevent.pywsgi import WSGIServer

from juggler.errors import ConnectionClosed
from juggler.server.websocket import WebSocketHandler, WebSocketOptions
from tests.flooder import REQUEST, STARTS
from tests.rawframes import TEXT, client

pytestmark = pytest.mark.alone

OPTIONS = WebSocketOptions(queue_limit=200_000, close_timeout=0.2)
ROUND_TRIPS = 300


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    if "juggler.upgrade" not in environ:
        environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]
    websocket = environ["juggler.upgrade"](options=OPTIONS)
    with contextlib.suppress(ConnectionClosed):
        while True:
            websocket.send(websocket.receive().encode())
    return []


@pytest.fixture
def port() -> Iterator[int]:
    server = WSGIServer(("127.0.0.1", 0), echo, log=None, handler_class=WebSocketHandler, spawn=Pool())
    server.start()
    yield server.server_port
    server.stop(timeout=0.1)


@contextlib.contextmanager
def flood(port: int, kind: str, connections: int, manner: str) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.flooder", str(port), kind, str(connections), manner]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"flooding\n"
            yield
        finally:
            process.kill()


@contextlib.contextmanager
def opened(port: int) -> Iterator[Any]:
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(REQUEST)
        while b"\r\n\r\n" not in sock.recv(4096):
            pass
        yield sock


def p99_of_round_trips(sock: Any) -> float:
    """Return the 99th percentile of echo latencies in seconds."""
    times = []
    for _ in range(ROUND_TRIPS):
        started = time.perf_counter()
        sock.sendall(client(TEXT, b"hello"))
        assert sock.recv(100) == b"\x81\x05hello"
        times.append(time.perf_counter() - started)
    return sorted(times)[ROUND_TRIPS * 99 // 100]


@pytest.mark.parametrize("manner", ["reads", "does not read"])
@pytest.mark.parametrize("kind", ["pings", "long pings", "pongs", "texts", "fragments", "large", *STARTS])
def test_a_flood_delays_others_little(port, kind, manner):
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with flood(port, kind, 3, manner), opened(port) as sock:
        # A machine that is busy with something else only adds to the times.
        assert any(p99_of_round_trips(sock) < 0.020 for _ in range(3))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 64 * 1024


def test_a_flood_ends_with_its_connection(port):
    with opened(port) as sock:
        with flood(port, "texts", 20, "does not read"):
            p99_of_round_trips(sock)
        sock.sendall(client(TEXT, b"hello"))
        assert sock.recv(100) == b"\x81\x05hello"
