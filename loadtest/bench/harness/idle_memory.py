"""The memory that an idle connection adds to a server process."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from loadtest.children import Children
from loadtest.procfs import resident
from loadtest.raw_connection import RawConnection
from loadtest.stack import START_TIMEOUT

WARM_UP = 100
"""Connections opened before the first reading, so that one-time allocations do not count."""

BROWSER_HEADERS = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0",
    "Accept-Language": "en-US,en;q=0.5",
    "Accept-Encoding": "gzip, deflate",
}
"""A server that keeps the headers of a connection needs more memory with a browser's."""


def added_kilobytes(
    arguments: Sequence[str], count: int, requests: Sequence[bytes] = (), response: bytes = b""
) -> float:
    """Return the memory in KB that each of ``count`` connections adds to a server.

    Args:
        arguments: command line after the interpreter of a server, which prints its port and serves ``/ws``.
        count: number of connections.
        requests: frames to send on each connection, one after the response to the other.
        response: bytes that each response must contain.
    """
    with Children() as children, ExitStack() as stack:
        server = children.start("server", arguments)
        address = f"127.0.0.1:{server.hear(START_TIMEOUT)}"
        headers = {**BROWSER_HEADERS, "Origin": f"http://{address}"}

        def connect() -> None:
            connection = stack.enter_context(RawConnection(f"ws://{address}/ws"))
            connection.upgrade(headers)
            for request in requests:
                connection.send(request)
                assert response in b"".join(connection.receive())

        for _ in range(WARM_UP):
            connect()
        before = resident(server.pid)
        for _ in range(count):
            connect()
        return (resident(server.pid) - before) / count / 1024
