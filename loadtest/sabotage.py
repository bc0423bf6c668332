"""A proxy that breaks a server's promises, to show that a check notices: ``python -m loadtest.sabotage KIND URL``.

It stands between clients and a server, prints its own URL, and harms one in N results (RES) and events (EVNT):

- ``drop``: it is not forwarded.
- ``double``: it is forwarded twice.
- ``swap``: a result overtakes its ACK, under juggler.0, which clients are made to use; an event is overtaken by the
  next one on its channel.
- ``delay``: it is forwarded seconds later.
- ``misroute``: it is forwarded to another client.

Everything else passes unchanged. It exits when its standard input closes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from loadtest.frames import TEXT, Frames, frame

KINDS = ("drop", "double", "swap", "delay", "misroute")
CALL, ACK, RES, EVNT = 1, 8, 9, 10
TYPES = {"RES": RES, "EVNT": EVNT}
ONE_IN = 1000
DELAY = 6.5

PATIENCE = 1.0
"""Seconds for which a message is held back that another one shall overtake."""

HEAD_END = b"\r\n\r\n"
COMPRESSION = re.compile(rb"\r\nSec-WebSocket-Extensions:[^\r]*", re.IGNORECASE)
"""Removed from requests: compressed messages cannot be read here."""
NEWER = re.compile(rb"juggler\.1, *", re.IGNORECASE)
"""Removed from requests where each result needs an ACK."""


class Client:
    """A client of the proxy, and the messages to it that others shall overtake."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._held: dict[Any, bytes] = {}

    def send(self, data: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(data)

    def hold(self, key: Any, data: bytes) -> None:
        """Keep a message until `release`, for at most `PATIENCE`."""
        self.release(key)
        self._held[key] = data
        asyncio.get_running_loop().call_later(PATIENCE, self.release, key)

    def release(self, key: Any) -> None:
        if key in self._held:
            self.send(self._held.pop(key))


class Saboteur:
    """Forwards the messages of a server, or harms them.

    Args:
        kind: one of `KINDS`.
        types: types of messages, of `TYPES`.
        one_in: number of messages of a type of which it harms one.
        delay: seconds of a delay.

    Attributes:
        clients: connected clients.
        harmed: number of harmed messages by type.
    """

    def __init__(self, kind: str, types: Sequence[str] = tuple(TYPES), one_in: int = ONE_IN, delay: float = DELAY):
        self.clients: list[Client] = []
        self.harmed: Counter[str] = Counter()
        self._kind = kind
        self._types = {TYPES[each]: each for each in types}
        self._one_in = one_in
        self._delay = delay
        self._seen: Counter[int] = Counter()

    def of_request(self, head: bytes) -> bytes:
        """Return the head of the request with which to connect to the server."""
        return NEWER.sub(b"", head) if self._kind == "swap" else head

    def forward(self, client: Client, opcode: int, payload: bytes) -> None:
        """Forward a message or control frame to a client, or harm it."""
        data = frame(opcode, payload, masked=False)
        if opcode != TEXT:
            client.send(data)
            return
        message = json.loads(payload)
        type, payload_ = message["meta"]["type"], message["payload"]
        key = payload_["channel"] if type == EVNT else payload_.get("for")  # WLCM has neither
        if self._kind == "swap" and type in (ACK, RES):
            # The ACK of a call stands for its result, which shall overtake it.
            type = RES if type == ACK and payload_["for_type"] == CALL else ACK
        if type in self._types and self._is_due(type):
            self._harm(client, key, data)
        else:
            client.send(data)
            client.release(key)

    def _is_due(self, type: int) -> bool:
        # An early one, so that a short run has one, too.
        is_due = self._seen[type] % self._one_in == self._one_in // 5
        self._seen[type] += 1
        if not is_due:
            return False
        self.harmed[self._types[type]] += 1
        return True

    def _harm(self, client: Client, key: Any, data: bytes) -> None:
        if self._kind == "double":
            client.send(data + data)
        elif self._kind == "swap":
            client.hold(key, data)
        elif self._kind == "delay":
            asyncio.get_running_loop().call_later(self._delay, client.send, data)
        elif self._kind == "misroute":
            others = [other for other in self.clients if other is not client]
            for other in others[sum(self.harmed.values()) % max(1, len(others)) :][:1]:
                other.send(data)


class Proxy:
    """Serves clients on a free port of loopback."""

    def __init__(self, saboteur: Saboteur, host: str, port: int) -> None:
        self._saboteur = saboteur
        self._server = (host, port)

    async def start(self) -> int:
        """Start to listen, and return the port."""
        listening = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1000)
        port: int = listening.sockets[0].getsockname()[1]
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Client(writer)
        self._saboteur.clients.append(client)
        with suppress(OSError, asyncio.IncompleteReadError):
            far_reader, far_writer = await asyncio.open_connection(*self._server)
            back = asyncio.ensure_future(self._copy_back(client, far_reader, writer))
            try:
                head = await reader.readuntil(HEAD_END)
                far_writer.write(self._saboteur.of_request(COMPRESSION.sub(b"", head)))
                while data := await reader.read(65536):
                    far_writer.write(data)
                    await far_writer.drain()
            finally:
                # The client has finished; the server may still answer.
                with suppress(OSError):
                    far_writer.write_eof()
                await asyncio.wait([back], timeout=DELAY)
                far_writer.close()
        self._saboteur.clients.remove(client)
        writer.close()

    async def _copy_back(self, client: Client, far: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await far.readuntil(HEAD_END)
            client.send(head)
            frames = Frames()
            is_websocket = head.startswith(b"HTTP/1.1 101 ")
            while data := await far.read(65536):
                if is_websocket:
                    for opcode, payload in frames.feed(data):
                        self._saboteur.forward(client, opcode, payload)
                else:
                    client.send(data)
                await writer.drain()
        writer.close()


async def _run(given: argparse.Namespace) -> None:
    parts = urlsplit(given.url)
    saboteur = Saboteur(given.kind, given.of, given.one_in, given.delay)
    port = await Proxy(saboteur, parts.hostname or "127.0.0.1", parts.port or 80).start()
    print(parts._replace(netloc=f"127.0.0.1:{port}").geturl(), flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, lambda: os.read(sys.stdin.fileno(), 4096) or ended.set())
    await ended.wait()


def main() -> None:
    """Run until the standard input closes."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.sabotage", description="Break a server's promises.")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("url", metavar="URL", help="URL of the server, ws://…")
    parser.add_argument("--of", choices=TYPES, nargs="+", default=list(TYPES), help="messages to harm (default: all)")
    parser.add_argument("--one-in", type=int, default=ONE_IN, help=f"harm one message in N (default: {ONE_IN})")
    parser.add_argument("--delay", type=float, default=DELAY, help=f"seconds of a delay (default: {DELAY:g})")
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
