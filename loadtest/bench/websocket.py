"""The websocket layer, compared with stock gevent-websocket: ``python -m loadtest.bench.websocket [DIVISOR]``.

Times are medians of many rounds, of the server's side alone: the peer works outside the measured time. Memory is the
resident memory of a server process per idle connection over TCP. A divisor reduces the number of rounds.
"""

from __future__ import annotations

from juggler.process.patching import patch_all

patch_all()

import contextlib  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from types import SimpleNamespace  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from gevent import socket  # noqa: E402
from gevent.pywsgi import WSGIServer  # noqa: E402
from geventwebsocket.handler import WebSocketHandler as StockHandler  # noqa: E402
from geventwebsocket.websocket import MSG_ALREADY_CLOSED, Stream  # noqa: E402
from geventwebsocket.websocket import WebSocket as StockWebSocket  # noqa: E402
from websockets.frames import Frame, Opcode  # noqa: E402

from juggler.process.spare_greenlets import SpareGreenlets  # noqa: E402
from juggler.server.websocket import WebSocket, WebSocketHandler, text_frame  # noqa: E402
from loadtest.bench.harness.idle_memory import added_kilobytes  # noqa: E402
from loadtest.bench.harness.programs import emit  # noqa: E402

SMALL = b"x" * 150
LARGE = b"x" * 65536
PEERS = 500
IDLE = 2000
NEXT_TURN = 1e-9


def client_frame(payload: bytes) -> bytes:
    return Frame(Opcode.TEXT, payload).serialize(mask=True)


def unix_pair() -> tuple[Any, Any]:
    return _widened(*socket.socketpair())


def tcp_pair() -> tuple[Any, Any]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    for sock in (server, client):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _widened(server, client)


def _widened(*sockets: Any) -> Any:
    for sock in sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    return sockets


class Juggler:
    """juggler's websocket on one end of a pair of sockets."""

    name = "juggler"

    def __init__(self, sock: Any) -> None:
        self._websocket = WebSocket(sock)
        self.receive = self._websocket.receive
        self.send = self._websocket.send
        self.send_frame = self._websocket.send_frame
        self.end = self._websocket.abort


class Stock:
    """gevent-websocket on one end of a pair of sockets."""

    name = "gevent-websocket"

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        handler = SimpleNamespace(rfile=sock.makefile("rb", -1), socket=sock, logger=SimpleNamespace(debug=str))
        self._websocket = StockWebSocket({}, Stream(handler), handler)
        self.receive = self._websocket.receive
        self.send = self._send

    def _send(self, payload: bytes) -> None:
        self._websocket.send(payload, binary=False)

    # It cannot reuse a frame.
    def send_frame(self, frame: bytes) -> None:
        self._websocket.send(SMALL, binary=False)

    def end(self) -> None:
        with contextlib.suppress(Exception):
            self._websocket.close()
        self._sock.close()


Kind = type[Juggler] | type[Stock]


@contextlib.contextmanager
def connected(kind: Kind, pair: Callable[[], tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    server, client = pair()
    end = kind(server)
    try:
        yield end, client
    finally:
        end.end()
        client.close()


def timed(rounds: int, count: int, prepare: Callable[[], object], run: Callable[[], object]) -> float:
    """Return the median duration of ``run`` divided by ``count``, in microseconds."""
    times = []
    for _ in range(rounds):
        prepare()
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times) / count * 1e6


def receiving(kind: Kind, pair: Callable[[], tuple[Any, Any]], payload: bytes, count: int, rounds: int) -> float:
    """Receive ``count`` texts that have already arrived."""
    with connected(kind, pair) as (end, client):
        frames = client_frame(payload) * count
        receive = end.receive

        def run() -> None:
            for _ in range(count):
                receive()

        return timed(rounds, count, lambda: client.sendall(frames), run)


def sending(kind: Kind, pair: Callable[[], tuple[Any, Any]], count: int, rounds: int) -> float:
    """Send ``count`` small texts in one turn of the event loop, and let it write them."""
    with connected(kind, pair) as (end, client):
        send = end.send

        def run() -> None:
            for _ in range(count):
                send(SMALL)
            if count > 1:
                gevent.sleep(NEXT_TURN)

        def prepare() -> None:
            gevent.sleep(NEXT_TURN)
            _read_available(client)

        return timed(rounds, count, prepare, run)


def _read_available(client: Any) -> None:
    client.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while client.recv(1 << 20):
            pass
    client.setblocking(True)


def delivering(kind: Kind, pair: Callable[[], tuple[Any, Any]], rounds: int) -> float:
    """Send one text to many peers."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(connected(kind, pair)) for _ in range(PEERS)]

        def prepare() -> None:
            gevent.sleep(NEXT_TURN)
            for _, client in peers:
                _read_available(client)

        def run() -> None:
            frame = text_frame(SMALL)
            for end, _ in peers:
                end.send_frame(frame)

        return timed(rounds, PEERS, prepare, run)


def idle_kilobytes(kind: Kind, count: int = IDLE) -> float:
    """Return the memory in KB that each of ``count`` idle connections over TCP adds to a server process."""
    command = ["-m", "loadtest.bench.websocket", "--serve", kind.name]
    return added_kilobytes(command, count, [client_frame(SMALL)], response=SMALL)


def serve(name: str) -> None:
    """Run an echo server until SIGTERM."""
    if name == Juggler.name:
        server = WSGIServer(("127.0.0.1", 0), echo, log=None, handler_class=WebSocketHandler)
    else:
        server = WSGIServer(("127.0.0.1", 0), stock_echo, log=None, handler_class=StockHandler)
    server.start()
    print(server.server_port, flush=True)
    gevent.wait()


class Echo:
    """Sends back each text of a websocket."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    def on_text(self, text: str) -> None:
        self._websocket.send(text.encode())

    def on_end(self) -> None:
        pass


greenlets = SpareGreenlets("echo")


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    websocket = environ["juggler.upgrade"]()
    websocket.deliver(Echo(websocket), greenlets)
    return []


def stock_echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    websocket = environ["wsgi.websocket"]
    while (message := websocket.receive()) is not None and message is not MSG_ALREADY_CLOSED:
        websocket.send(message)
    return []


def measurements(kind: Kind, divisor: int) -> Iterator[tuple[str, float]]:
    def rounds(most: int) -> int:
        return max(1, most // (divisor if kind is Juggler else 10 * divisor))

    idle = max(1, IDLE // divisor)
    for where, pair in (("socketpair", unix_pair), ("TCP", tcp_pair)):
        yield f"receive 150 B, alone, {where}: µs", receiving(kind, pair, SMALL, 1, rounds(5000))
        yield f"receive 150 B, 300 at once, {where}: µs", receiving(kind, pair, SMALL, 300, rounds(300))
        yield f"receive 64 KB, {where}: µs", receiving(kind, pair, LARGE, 2, rounds(300))
        yield f"send 150 B, alone, {where}: µs", sending(kind, pair, 1, rounds(5000))
        yield f"send 150 B, 10 in a turn, {where}: µs", sending(kind, pair, 10, rounds(1000))
        yield f"deliver 150 B to {PEERS} peers, each, {where}: µs", delivering(kind, pair, rounds(30))
    yield f"idle connection ({idle:,} connections), TCP: KB", idle_kilobytes(kind, idle)


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
        return
    divisor = int(sys.argv[1]) if sys.argv[1:] else 1
    for (label, juggler), (_, stock) in zip(measurements(Juggler, divisor), measurements(Stock, divisor), strict=True):
        name, _, unit = label.rpartition(": ")
        emit(name, {f"{Juggler.name} {unit}": juggler, f"{Stock.name} {unit}": stock})


if __name__ == "__main__":
    main()
