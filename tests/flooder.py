"""A client of bad manners, in a process of its own: ``python -m tests.flooder PORT KIND CONNECTIONS MANNER``.

Sends the same bytes for ever over each connection, and reads what comes back if its manner is ``reads``. Ends when its
standard input does.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys

from tests.rawframes import CONTINUATION, PING, PONG, TEXT, client

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
FLOODS = {
    "pings": client(PING) * 5000,
    "long pings": client(PING, b"x" * 125) * 500,
    "pongs": client(PONG) * 5000,
    "texts": client(TEXT, b"x") * 5000,
    "fragments": client(TEXT, fin=False) + client(CONTINUATION, b"x", fin=False) * 1000 + client(CONTINUATION),
    "large": client(TEXT, b"x" * 1_000_000),
    "requests": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000,
    "small chunks": b"1\r\nx\r\n" * 10_000,
    "large chunks": b"10000\r\n" + b"x" * 65536 + b"\r\n",
}
STARTS = {
    "requests": b"",
    **dict.fromkeys(
        ("small chunks", "large chunks"), b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    ),
}
"""What is sent once on a connection that stays HTTP."""


def opened(port: int, kind: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    if kind in STARTS:
        sock.sendall(STARTS[kind])
        sock.setblocking(False)
        return sock
    sock.sendall(REQUEST)
    while b"\r\n\r\n" not in sock.recv(4096):
        pass
    sock.setblocking(False)
    return sock


def flood(port: int, kind: str, connections: int, reads: bool) -> None:
    data = memoryview(FLOODS[kind])
    left = {opened(port, kind): data for _ in range(connections)}
    print("flooding", flush=True)
    while True:
        readable, writable, _ = select.select([sys.stdin, *(left if reads else ())], left, [])
        if sys.stdin in readable:
            return
        for sock in readable:
            with contextlib.suppress(OSError):
                sock.recv(1 << 20)
        for sock in writable:
            try:
                left[sock] = left[sock][sock.send(left[sock]) :] or data
            except OSError:
                sock.close()
                del left[sock]
                left[opened(port, kind)] = data


if __name__ == "__main__":
    flood(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "reads")
