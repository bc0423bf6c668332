"""A server for tests of clients that follows a script and speaks literal JSON."""

from __future__ import annotations

import json
import re
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from websockets.exceptions import ConnectionClosed as WebsocketClosed
from websockets.sync.server import ServerConnection, serve
from websockets.utils import accept_key

from juggler.process.uuids import new_uuid

CALL, PUB, SUB, UNSB, NACK, ACK, RES, EVNT = 1, 2, 3, 4, 7, 8, 9, 10


class Peer:
    """The server's end of a connection."""

    def __init__(self, websocket: ServerConnection):
        self.websocket = websocket
        self.headers = websocket.request.headers

    def receive(self, *types: int) -> dict:
        message = json.loads(self.websocket.recv())
        assert message["meta"]["type"] in types or not types, message
        return message

    def send(self, type: int, **payload) -> None:
        payload = {key.removesuffix("_"): value for key, value in payload.items()}
        self.websocket.send(json.dumps({"meta": {"type": type, "uuid": new_uuid()}, "payload": payload}))

    def ack(self, request: dict) -> None:
        meta, payload = request["meta"], request["payload"]
        names = {name: payload[name] for name in ("uri", "channel") if name in payload}
        self.send(ACK, for_=meta["uuid"], for_type=meta["type"], **names)

    def nack(self, request: dict, code: int, message: str) -> None:
        self.send(NACK, for_=request["meta"]["uuid"], for_type=request["meta"]["type"], code=code, message=message)

    def res(self, call: dict, args) -> None:
        self.send(RES, for_=call["meta"]["uuid"], uri=call["payload"]["uri"], args=args)

    def event(self, channel: str, args, **payload) -> None:
        self.send(EVNT, for_=new_uuid(), channel=channel, args=args, **payload)

    def acknowledge(self, *types: int) -> dict:
        request = self.receive(*types)
        self.ack(request)
        return request

    def wait_closed(self) -> None:
        with pytest.raises(WebsocketClosed):
            self.websocket.recv()


SELECTORS = SimpleNamespace(DefaultSelector=selectors.PollSelector, EVENT_READ=selectors.EVENT_READ)
"""For `serve_forever`, which never closes its selector: gevent's default one would still watch what has been closed."""


@contextmanager
def serving(script: Callable[[Peer], None], subprotocols=("juggler.0",), **options) -> Iterator[str]:
    """Run the script for each connection, which closes after it. A script that fails also fails the test."""
    failures = []

    def run(websocket):
        try:
            script(Peer(websocket))
        except BaseException as failure:
            failures.append(failure)
            raise

    with (
        pytest.MonkeyPatch.context() as patch,
        serve(run, "127.0.0.1", 0, subprotocols=list(subprotocols), close_timeout=1, **options) as server,
    ):
        patch.setattr("websockets.sync.server.selectors", SELECTORS)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/ws"
        finally:
            server.shutdown()
            thread.join()
    assert not failures


@contextmanager
def raw_server(serve_one: Callable[[socket.socket], None]) -> Iterator[str]:
    """Accept one connection, answer its upgrade, and leave the rest to ``serve_one``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run():
            connection, _ = listener.accept()
            with connection:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += connection.recv(65536)
                key = re.search(rb"(?i)sec-websocket-key: (\S+)", head).group(1).decode()
                connection.sendall(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    b"Sec-WebSocket-Protocol: juggler.0\r\n"
                    b"Sec-WebSocket-Accept: " + accept_key(key).encode() + b"\r\n\r\n"
                )
                serve_one(connection)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{listener.getsockname()[1]}/ws"
        finally:
            thread.join()


def echo(peer: Peer) -> None:
    try:
        while True:
            call = peer.acknowledge(CALL)
            peer.res(call, call["payload"]["args"])
    except WebsocketClosed:
        pass
