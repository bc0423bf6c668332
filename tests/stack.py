"""A server in this process, and a client that sends literal JSON: for tests of the protocol."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import gevent
import pytest
from gevent.pywsgi import WSGIServer
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed as WebsocketClosed
from websockets.protocol import State
from websockets.sync.client import ClientConnection, connect
from websockets.uri import parse_uri

from juggler.broker import CallConsumer
from juggler.broker.memory import MemoryBroker
from juggler.errors import BrokerUnavailable
from juggler.process.uuids import new_uuid
from juggler.protocol.messages import MessageType
from juggler.server import Server
from juggler.server.websocket import WebSocketHandler
from juggler.wsgi import Application

WAIT = 20.0


class Running:
    """A running server, its broker and its URL."""

    def __init__(self, server: Server, broker: Any, url: str) -> None:
        self.server = server
        self.broker = broker
        self.url = url


@contextmanager
def running_server(
    broker: Any = None, *, application: dict[str, Any] | None = None, bind: str = "127.0.0.1", **options: Any
) -> Iterator[Running]:
    """Run a server on a free port of loopback.

    Args:
        broker: its broker; default: a new broker in memory.
        application: options of the WSGI application.
        bind: host to listen on.
        options: options of the server.
    """
    broker = broker or MemoryBroker(blocking_timeout=0.1)
    server = Server(caller_broker=broker, pubsub_broker=broker, **options)
    http = WSGIServer((bind, 0), Application(server, **application or {}), handler_class=WebSocketHandler, log=None)
    http.start()
    try:
        yield Running(server, broker, f"ws://127.0.0.1:{http.server_port}/ws")
    finally:
        http.close()
        server.shut_down(grace=WAIT, spread=0)
        http.stop(timeout=1)
        broker.close()


class Wire:
    """A websocket client that sends and receives juggler.0 as literal JSON."""

    def __init__(self, url: str, **options: Any) -> None:
        options.setdefault("subprotocols", ["juggler.0"])
        # An unlimited queue: when reading pauses, the library closes sockets that gevent's selector still uses.
        self._manager = connect(url, ping_interval=None, max_size=None, max_queue=None, proxy=None, **options)
        self.websocket: ClientConnection = self._manager.__enter__()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._manager.__exit__(*exc_info)

    def send(self, type: MessageType | int, **payload: Any) -> str:
        uuid = new_uuid()
        self.websocket.send(json.dumps({"meta": {"type": int(type), "uuid": uuid}, "payload": payload}))
        return uuid

    def receive(self, timeout: float = WAIT) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.websocket.recv(timeout=timeout))
        return message

    def request(self, type: MessageType | int, **payload: Any) -> dict[str, Any]:
        """Send a request and return its response, which must be the next message."""
        uuid = self.send(type, **payload)
        answer = self.receive()
        assert answer["payload"]["for"] == uuid
        return answer

    def closed(self) -> tuple[int, str]:
        """Wait until the server closes the connection, and return its code and reason."""
        with pytest.raises(WebsocketClosed) as end:  # noqa: PT012
            while True:
                self.websocket.recv(timeout=WAIT)
        assert end.value.rcvd is not None, "the connection was lost without a close frame"
        return end.value.rcvd.code, end.value.rcvd.reason


class Wire1(Wire):
    """Speaks juggler.1 and has read the WLCM."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **{"subprotocols": ["juggler.1", "juggler.0"], **options})
        self.welcome = self.receive()
        assert self.welcome["meta"]["type"] == MessageType.WLCM


@contextmanager
def lazy_subscriber(url: str, channel: str) -> Iterator[socket.socket]:
    """Subscribe, check the ACK, and read nothing afterwards."""
    protocol = ClientProtocol(parse_uri(url), subprotocols=["juggler.0"])
    host, port = urlsplit(url).hostname, urlsplit(url).port
    with socket.create_connection((host, port)) as sock:
        protocol.send_request(protocol.connect())
        sock.sendall(b"".join(protocol.data_to_send()))
        while protocol.state is not State.OPEN:
            protocol.receive_data(sock.recv(4096))
        protocol.send_text(
            json.dumps({"meta": {"type": 3, "uuid": new_uuid()}, "payload": {"channel": channel}}).encode()
        )
        sock.sendall(b"".join(protocol.data_to_send()))
        assert b'"type":8' in sock.recv(4096)
        yield sock


@contextmanager
def serving(broker: Any, uris: list[str], answer: Callable[[Any], bytes]) -> Iterator[CallConsumer]:
    """Answer calls to some URIs with the result of ``answer(call)``; yield the consumer."""
    consumer = broker.calls(uris)

    def loop() -> None:
        while True:
            try:
                for call in consumer.pop(10):
                    broker.result(call, answer(call), lambda error: None)
            except BrokerUnavailable:
                gevent.sleep(0.02)

    greenlet = gevent.spawn(loop)
    try:
        yield consumer
    finally:
        greenlet.kill()
        consumer.close()
