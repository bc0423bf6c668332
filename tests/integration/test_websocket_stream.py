"""A websocket on a pair of sockets, with a client that reads and writes bytes."""

from __future__ import annotations

import contextlib
import gc
import random
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import socket

from juggler.errors import CloseCode, ConnectionClosed
from juggler.server.websocket import WebSocket, WebSocketOptions, text_frame
from tests.rawframes import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    Frame,
    client,
    close,
    close_of,
    head,
    parse,
    texts,
)
from tests.support import eventually

QUICK = WebSocketOptions(close_timeout=0.2)


class Client:
    """The peer of a websocket; it sends and receives raw frames."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock

    def send(self, *frames: bytes) -> None:
        self.sock.sendall(b"".join(frames))

    def read(self, count: int) -> list[Frame]:
        """Read until ``count`` frames have arrived."""
        data = b""
        with gevent.Timeout(30):
            while True:
                data += self.sock.recv(65536)
                with contextlib.suppress(AssertionError, IndexError):
                    frames = parse(data)
                    if len(frames) >= count:
                        return frames

    def read_all(self) -> list[Frame]:
        """Read until the connection closes. A reset raises."""
        data = bytearray()
        with gevent.Timeout(30):
            while piece := self.sock.recv(1 << 20):
                data += piece
        return parse(bytes(data))


Connect = Callable[..., tuple[WebSocket, Client]]


def unix_pair() -> tuple[Any, Any]:
    return socket.socketpair()


def tcp_pair() -> tuple[Any, Any]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        peer = socket.create_connection(listener.getsockname())
        sock, _ = listener.accept()
    return sock, peer


@pytest.fixture
def connect() -> Iterator[Connect]:
    with contextlib.ExitStack() as stack:

        def connect(
            options: WebSocketOptions = QUICK, initial: bytes = b"", pair: Callable[[], tuple[Any, Any]] = unix_pair
        ) -> tuple[WebSocket, Client]:
            sock, peer = pair()
            websocket = WebSocket(sock, options, initial)
            stack.callback(websocket.abort)
            stack.callback(peer.close)
            return websocket, Client(peer)

        yield connect


def receive_all(websocket: WebSocket) -> tuple[list[str], ConnectionClosed]:
    """Receive until the websocket closes, then finish it, as an application does."""
    messages: list[str] = []
    with pytest.raises(ConnectionClosed) as caught:
        messages.extend(iter(websocket.receive, None))
    gevent.spawn(websocket.finish)
    return messages, caught.value


# Receiving


def test_messages_arrive_whole(connect):
    websocket, peer = connect()
    peer.send(client(TEXT, b"one"), client(TEXT, b"tw", fin=False))
    assert websocket.receive() == "one"
    receiver = gevent.spawn(websocket.receive)
    peer.send(client(PING), client(CONTINUATION, b"o"))
    assert receiver.get(timeout=30) == "two"


def test_bytes_that_were_read_with_the_request_come_first(connect):
    websocket, peer = connect(initial=client(TEXT, b"one") + client(TEXT, b"two")[:4])
    peer.send(client(TEXT, b"two")[4:])
    assert [websocket.receive(), websocket.receive()] == ["one", "two"]


def test_pings_are_answered_in_order_and_pongs_ignored(connect):
    websocket, peer = connect()
    peer.send(*[client(PING, str(n).encode()) for n in range(200)], client(PONG, b"x"), client(PING), close(1000))
    receive_all(websocket)
    frames = peer.read_all()
    assert frames[:-1] == [Frame(True, 0, PONG, str(n).encode()) for n in range(200)] + [Frame(True, 0, PONG, b"")]
    assert close_of(frames) == (1000, "")


# Closing


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (head(TEXT, 3, masked=0) + b"abc", 1002),
        (client(TEXT, rsv=4), 1002),
        (client(0x3), 1002),
        (client(PING, fin=False), 1002),
        (head(PING, 126) + MASK, 1002),
        (client(CONTINUATION, b"x"), 1002),
        (head(TEXT, 5, width=16) + MASK, 1002),
        (head(TEXT, 5, width=64) + MASK, 1002),
        (head(TEXT, 1 << 63), 1002),
        (client(CLOSE, b"x"), 1002),
        (close(1005), 1002),
        (close(1000, b"\xff"), 1007),
        (client(BINARY, b"x"), 1003),
        (head(BINARY, 1 << 20), 1003),
        (client(TEXT, b"\xff"), 1007),
        (client(TEXT, b"\xff", fin=False), 1007),
        (head(TEXT, 100) + MASK + client(TEXT, b"\xc0" * 9)[6:], 1007),
        (client(TEXT, b"\xe2\x98"), 1007),
        (head(TEXT, (1 << 20) + 1), 1009),
        (client(TEXT, b"x", fin=False) + head(CONTINUATION, 1 << 20), 1009),
        (client(TEXT, fin=False) + client(CONTINUATION, fin=False) * 1024, 1009),
    ],
)
@pytest.mark.parametrize("pair", [unix_pair, tcp_pair])
def test_a_violation_is_answered_with_a_close_frame(connect, sent, code, pair):
    websocket, peer = connect(pair=pair)
    peer.send(client(TEXT, b"fine"), sent, client(TEXT, b"never seen"), b"x" * 100_000)
    messages, ended = receive_all(websocket)
    assert messages == ["fine"]
    frames = peer.read_all()  # a reset would raise
    peer.sock.close()
    assert close_of(frames) == (code, ended.reason)
    assert len(frames) == 1
    assert (ended.code, websocket.close_code, websocket.close_reason) == (code, code, ended.reason)
    assert websocket.wait_closed(5)


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "leaving"), (3000, ""), (4999, "ö" * 60)])
def test_the_peer_closes(connect, code, reason):
    websocket, peer = connect()
    peer.send(client(TEXT, b"last"), close(code, reason.encode()), client(TEXT, b"never seen"))
    messages, ended = receive_all(websocket)
    assert messages == ["last"]
    assert (ended.code, ended.reason) == (code, reason)
    assert close_of(peer.read_all()) == (code, reason)
    peer.sock.close()
    assert websocket.wait_closed(5)
    assert not websocket.send(b"late")


def test_a_close_frame_waits_its_turn_behind_messages(connect):
    websocket, peer = connect()
    peer.send(client(TEXT, b"question"), close(1000))
    assert websocket.receive() == "question"
    assert websocket.send(b"answer")
    receive_all(websocket)
    frames = peer.read_all()
    assert texts(frames) == ["answer"]
    assert close_of(frames) == (1000, "")


def test_the_peer_closes_without_a_code(connect):
    websocket, peer = connect()
    peer.send(client(CLOSE))
    _, ended = receive_all(websocket)
    assert (ended.code, ended.reason) == (1005, "")
    assert peer.read_all() == [Frame(True, 0, CLOSE, b"")]


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4400])
def test_the_server_closes(connect, code):
    websocket, peer = connect()
    receiver = gevent.spawn(receive_all, websocket)
    websocket.send(b"last")
    websocket.close(code, "that is all")
    messages, ended = receiver.get(timeout=30)
    assert messages == []
    assert (ended.code, ended.reason) == (code, "that is all")
    frames = peer.read(2)
    assert texts(frames) == ["last"]
    assert close_of(frames) == (code, "that is all")
    assert not websocket.closed
    peer.send(client(TEXT, b"not seen"), client(PING), close(code))
    assert peer.read_all() == []
    peer.sock.close()
    assert websocket.wait_closed(5)


def test_messages_that_have_arrived_are_dropped_on_close(connect):
    websocket, peer = connect()
    peer.send(client(TEXT, b"one") + client(TEXT, b"two"))
    assert websocket.receive() == "one"
    websocket.close()
    assert receive_all(websocket)[0] == []


def test_the_first_code_wins(connect):
    websocket, peer = connect()
    websocket.close(4000, "first")
    websocket.close(4001, "second")
    peer.send(close(4002, b"third"))
    for _ in range(3):
        _, ended = receive_all(websocket)
        assert (ended.code, ended.reason) == (4000, "first")
    assert close_of(peer.read_all()) == (4000, "first")
    assert (websocket.close_code, websocket.close_reason) == (4000, "first")


def test_closing_with_a_code_that_must_not_be_sent(connect):
    websocket, _ = connect()
    with pytest.raises(ValueError, match="1006"):
        websocket.close(1006)
    assert websocket.send(b"still open")


def test_a_lost_connection(connect):
    websocket, peer = connect()
    peer.send(client(TEXT, b"last"), client(TEXT, b"half")[:3])
    peer.sock.close()
    messages, ended = receive_all(websocket)
    assert messages == ["last"]
    assert ended.code == CloseCode.ABNORMAL
    assert websocket.wait_closed(5)


def test_sending_to_a_peer_that_is_gone(connect):
    websocket, peer = connect()
    peer.sock.close()
    while websocket.send(b"x"):
        gevent.sleep(0.001)
    _, ended = receive_all(websocket)
    assert ended.code == CloseCode.ABNORMAL
    websocket.close()
    assert not websocket.send(b"x")


def test_a_reset_connection(connect):
    websocket, peer = connect(pair=tcp_pair)
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.sock.close()
    _, ended = receive_all(websocket)
    assert ended.code == CloseCode.ABNORMAL
    assert ended.reason


def test_the_queue_is_sent_before_the_close_frame(connect):
    websocket, peer = connect(WebSocketOptions(queue_limit=None))
    sent = [f"{n} " * 10_000 for n in range(40)]
    for text in sent:
        assert websocket.send(text.encode())
    websocket.close(1001)
    assert websocket.queued_bytes > 0
    ender = gevent.spawn(websocket.finish)
    peer.send(close(1001))
    frames = peer.read_all()
    assert texts(frames) == sent
    assert close_of(frames) == (1001, "")
    peer.sock.close()
    ender.join(5)
    assert websocket.closed
    assert websocket.queued_bytes == 0


def test_a_peer_that_does_not_answer_the_close_frame_times_out(connect):
    websocket, peer = connect(WebSocketOptions(close_timeout=0.05))
    websocket.finish()
    assert websocket.closed
    assert close_of(peer.read_all()) == (1000, "")


def test_a_peer_that_does_not_read_the_close_frame_times_out(connect):
    websocket, _ = connect(WebSocketOptions(close_timeout=0.05, queue_limit=None))
    websocket.send(b"x" * 5_000_000)
    websocket.finish()
    assert websocket.closed
    assert websocket.queued_bytes == 0


def test_a_peer_that_never_stops_sending_is_cut_off(connect):
    websocket, peer = connect(WebSocketOptions(close_timeout=None))
    websocket.close()
    ender = gevent.spawn(websocket.finish)
    with gevent.Timeout(30), pytest.raises((BrokenPipeError, ConnectionResetError)):
        peer.send(client(TEXT, b"x" * 100_000) * 1000)
    ender.join(5)
    assert websocket.closed


def test_a_receiver_is_notified_before_the_socket_closes(connect):
    websocket, peer = connect()
    receiver = gevent.spawn(receive_all, websocket)
    gevent.sleep(0.001)
    peer.send(client(TEXT, b"x"))
    websocket.close(4000)
    websocket.finish()
    _, ended = receiver.get(timeout=30)
    assert ended.code == 4000


def test_waiting_for_the_end(connect):
    websocket, peer = connect()
    assert not websocket.wait_closed(0.001)
    waiters = [gevent.spawn(websocket.wait_closed, 5) for _ in range(3)]
    peer.sock.close()
    receive_all(websocket)
    assert [waiter.get() for waiter in waiters] == [True] * 3
    assert websocket.wait_closed()


def test_aborting(connect):
    websocket, peer = connect()
    receiver = gevent.spawn(receive_all, websocket)
    gevent.idle()
    websocket.abort()
    websocket.abort()
    _, ended = receiver.get(timeout=30)
    assert ended.code == CloseCode.ABNORMAL
    assert peer.read_all() == []
    assert websocket.wait_closed(0)


@pytest.mark.parametrize("answered", [True, False])
def test_aborting_what_lingers(connect, answered):
    websocket, peer = connect(WebSocketOptions(close_timeout=None))
    websocket.close()
    ender = gevent.spawn(websocket.finish)
    peer.read(1)
    if answered:
        peer.send(close(1000))
        assert peer.read_all() == []
    websocket.abort()
    ender.get(timeout=30)
    assert websocket.wait_closed(0)


# Sending


def test_the_first_frame_is_sent_at_once(connect):
    websocket, peer = connect()
    gevent.sleep(0.001)
    websocket.send("naïve".encode())
    assert texts(parse(peer.sock.recv(100))) == ["naïve"]


def test_frames_of_one_turn_are_joined(connect):
    websocket, peer = connect()
    gevent.sleep(0.001)
    for n in range(10):
        assert websocket.send(str(n).encode())
    assert len(parse(peer.sock.recv(1000))) == 1
    gevent.sleep(0.001)
    assert texts(parse(peer.sock.recv(1000))) == [str(n) for n in range(1, 10)]
    assert websocket.queued_bytes == 0


def test_a_frame_for_many(connect):
    frame = text_frame(b"all of you")
    pairs = [connect() for _ in range(10)]
    assert all(websocket.send_frame(frame) for websocket, _ in pairs)
    assert [texts(peer.read(1)) for _, peer in pairs] == [["all of you"]] * 10


def test_sending_from_the_hub_never_switches(connect):
    """gevent forbids waiting in a callback of the loop."""
    websocket, peer = connect(WebSocketOptions(queue_limit=300_000, close_timeout=0.1))
    results = []

    def send() -> None:
        results.extend([websocket.send(b"x" * 50_000) for _ in range(20)])
        websocket.close(1001)

    gevent.get_hub().loop.run_callback(send)
    eventually(lambda: results)
    assert results[0]
    assert not results[-1]
    assert websocket.close_code == CloseCode.PEER_TOO_SLOW
    ender = gevent.spawn(websocket.finish)
    assert close_of(peer.read_all())[0] == CloseCode.PEER_TOO_SLOW
    ender.join(5)


@pytest.mark.parametrize("pair", [unix_pair, tcp_pair])
def test_writers_never_interleave(connect, pair):
    websocket, peer = connect(WebSocketOptions(queue_limit=None), pair=pair)
    rng = random.Random(7)
    sizes = [[rng.choice((1, 200, 5000, 70_000)) for _ in range(20)] for _ in range(20)]

    def write(number: int) -> None:
        for size in sizes[number]:
            assert websocket.send(f"{number}:".encode() + b"x" * size)
            gevent.sleep(rng.choice((0, 0, 0.001)))

    def read_slowly() -> list[Frame]:
        data = bytearray()
        while piece := peer.sock.recv(rng.randint(1, 50_000)):
            data += piece
            gevent.sleep(0)
        return parse(bytes(data))

    reader = gevent.spawn(read_slowly)
    peer.send(*[client(PING, str(n).encode()) for n in range(100)])
    receiver = gevent.spawn(receive_all, websocket)
    gevent.joinall([gevent.spawn(write, number) for number in range(20)], raise_error=True)
    websocket.close()
    peer.send(close(1000))
    frames = reader.get(timeout=10)
    receiver.join(5)
    assert close_of(frames) == (1000, "")
    for number in range(20):
        mine = [text for text in texts(frames) if text.startswith(f"{number}:")]
        assert mine == [f"{number}:" + "x" * size for size in sizes[number]]
    assert [frame.payload for frame in frames if frame.opcode == PONG] == [str(n).encode() for n in range(100)]


def test_what_the_socket_does_not_take_follows_when_it_does(connect):
    websocket, peer = connect(WebSocketOptions(queue_limit=None))
    websocket.send(b"x" * 3_000_000)
    assert websocket.queued_bytes > 0
    assert len(peer.read(1)[0].payload) == 3_000_000
    assert websocket.queued_bytes == 0
    websocket.send(b"again")
    assert texts(peer.read(1)) == ["again"]


def test_a_long_queue_of_small_frames_stays_in_order(connect):
    websocket, peer = connect(WebSocketOptions(queue_limit=None, close_timeout=None))
    sent = [str(n) for n in range(200_000)]
    for text in sent:
        websocket.send(text.encode())
    websocket.close()
    gevent.spawn(websocket.finish)
    peer.send(close(1000))
    assert texts(peer.read_all()) == sent


def test_nothing_follows_half_a_frame(connect):
    websocket, peer = connect(WebSocketOptions(queue_limit=None))
    websocket.send(b"x" * 3_000_000)
    gevent.sleep(0.001)
    websocket.abort()
    assert not websocket.send(b"y")
    assert websocket.close_code == CloseCode.ABNORMAL
    assert b"y" not in peer.sock.recv(5_000_000)


# A peer that does not read


def fill(websocket: WebSocket) -> None:
    """Send until the peer's buffers are full and bytes are queued."""
    while not websocket.queued_bytes:
        websocket.send(b"x" * 10_000)
        gevent.sleep(0.001)


def test_the_queue_is_bounded(connect):
    websocket, peer = connect(WebSocketOptions(queue_limit=100_000, close_timeout=0.1))
    fill(websocket)
    while websocket.send(b"y" * 5000):
        assert websocket.queued_bytes <= 100_000
    assert websocket.close_code == CloseCode.PEER_TOO_SLOW
    assert websocket.queued_bytes < 15_000  # only the frame that was sent in part is kept
    _, ended = receive_all(websocket)
    assert ended.code == CloseCode.PEER_TOO_SLOW
    frames = peer.read_all()
    assert close_of(frames) == (CloseCode.PEER_TOO_SLOW, ended.reason)


def test_one_frame_of_any_size_is_taken_when_nothing_waits(connect):
    websocket, peer = connect(WebSocketOptions(queue_limit=1000))
    assert websocket.send(b"x" * 2_000_000)
    assert len(peer.read(1)[0].payload) == 2_000_000


def test_a_queue_over_its_limit_is_sent_before_it_is_judged(connect):
    websocket, peer = connect(WebSocketOptions(queue_limit=1000))
    for _ in range(100):
        assert websocket.send(b"x" * 600)
    assert len(peer.read(100)) == 100


def test_pings_of_a_peer_that_does_not_read_are_bounded(connect):
    websocket, peer = connect(WebSocketOptions(queue_limit=50_000, close_timeout=0.05))
    receiver = gevent.spawn(receive_all, websocket)
    pings = client(PING, b"x" * 125) * 100
    with contextlib.suppress(OSError), gevent.Timeout(30):
        while not receiver.dead:
            peer.send(pings)
            assert websocket.queued_bytes <= 60_000
    _, ended = receiver.get()
    assert ended.code == CloseCode.PEER_TOO_SLOW


# Garbage


@pytest.mark.parametrize("ending", ["peer", "we", "lost", "violation", "slow", "aborted"])
def test_nothing_is_left_to_the_garbage_collector(ending):
    def serve(websocket: WebSocket) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                websocket.receive()
        websocket.finish()

    def connection() -> None:
        sock, peer = tcp_pair()
        websocket = WebSocket(sock, WebSocketOptions(close_timeout=0.02, queue_limit=10_000))
        receiver = gevent.spawn(serve, websocket)
        peer.sendall(client(TEXT, b"hello") + client(PING))
        gevent.sleep(0.001)
        if ending == "peer":
            peer.sendall(close(1000))
        elif ending == "we":
            websocket.close()
        elif ending == "violation":
            peer.sendall(b"garbage")
        elif ending == "slow":
            while websocket.send(b"x" * 100_000):
                pass
        elif ending == "aborted":
            websocket.abort()
        if ending in ("peer", "we"):
            peer.recv(1000)
        else:
            peer.close()
        receiver.join(5)
        websocket.wait_closed(5)
        peer.close()

    connection()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            connection()
        gevent.sleep(0.01)
        assert gc.collect() == 0
    finally:
        gc.enable()
