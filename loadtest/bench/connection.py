"""Memory of an idle connection in a server without Redis: ``python -m loadtest.bench.connection [CONNECTIONS]``.

Three states: without requests, with a subscription, and with the two greenlets for results and events that a handler of
your own needs. The server is in a process of its own.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

from gevent import socket  # noqa: E402
from gevent.pywsgi import WSGIServer  # noqa: E402
from websockets.frames import Frame, Opcode  # noqa: E402

from juggler.broker.memory import MemoryBroker  # noqa: E402
from juggler.process.uuids import new_uuid  # noqa: E402
from juggler.protocol.messages import MessageType  # noqa: E402
from juggler.server import Server  # noqa: E402
from juggler.server.processing import chain, process_message  # noqa: E402
from juggler.server.websocket import WebSocketHandler  # noqa: E402
from juggler.wsgi import Application  # noqa: E402
from loadtest.bench.harness.programs import emit  # noqa: E402
from loadtest.procfs import resident  # noqa: E402

CONNECTIONS = 2000
WARM_UP = 100
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0\r\n"
    b"Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate\r\nOrigin: http://localhost\r\n"
    b"Sec-WebSocket-Protocol: juggler.0\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def request(type: MessageType, **payload: Any) -> bytes:
    text = json.dumps({"meta": {"type": type, "uuid": new_uuid()}, "payload": payload}).encode()
    return Frame(Opcode.TEXT, text).serialize(mask=True)


REQUESTS = {
    "idle": (),
    "subscribed": (request(MessageType.SUB, channel="c"),),
    "with both greenlets": (
        request(MessageType.SUB, channel="c"),
        request(MessageType.CALL, uri="nobody", timeout=1),
    ),
}


def connect(port: int, requests: tuple[bytes, ...]) -> Any:
    """Return a client socket whose requests have been acknowledged."""
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(HANDSHAKE)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += client.recv(4096)
    for each in requests:
        client.sendall(each)
        assert b'"type":8' in client.recv(4096)
    return client


def kilobytes(state: str, count: int) -> float:
    """Return the memory in KB that each of ``count`` connections in a state adds to the server."""
    command = [sys.executable, "-m", "loadtest.bench.connection", "--serve", state]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        clients: list[Any] = []
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            clients.extend(connect(port, REQUESTS[state]) for _ in range(WARM_UP))
            before = resident(server.pid)
            clients.extend(connect(port, REQUESTS[state]) for _ in range(count))
            return (resident(server.pid) - before) / count / 1024
        finally:
            server.terminate()
            for client in clients:
                client.close()


def serve(state: str) -> None:
    """Run a server until SIGTERM."""
    broker = MemoryBroker()
    # Any handler but the standard one starts the greenlets.
    handler = chain(lambda last: lambda *message: last(*message)) if "greenlets" in state else process_message
    server = Server(caller_broker=broker, pubsub_broker=broker, handler=handler, max_connections=None)
    http = WSGIServer(("127.0.0.1", 0), Application(server), handler_class=WebSocketHandler, log=None)
    http.start()
    print(http.server_port, flush=True)
    http.serve_forever()


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
        return
    count = int(sys.argv[1]) if sys.argv[1:] else CONNECTIONS
    for state in REQUESTS:
        cost = kilobytes(state, count)
        print(f"connection, {state} ({count:,} connections): {cost:.1f} KB", flush=True)
        emit(f"connection, {state}", {"server KB": cost})


if __name__ == "__main__":
    main()
