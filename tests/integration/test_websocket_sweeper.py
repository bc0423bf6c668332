"""Timekeeping of websockets: the tests call the sweeper with the time."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent import socket

from juggler.errors import CloseCode
from juggler.server.websocket import Sweeper, WebSocket, WebSocketOptions
from tests.rawframes import CLOSE, PING, PONG, TEXT, client, close_of, head, parse
from tests.support import available, eventually

OPTIONS = WebSocketOptions(ping_interval=25, ping_timeout=10, write_timeout=10, close_timeout=0.05)


@pytest.fixture
def sweeper() -> Iterator[Sweeper]:
    sweeper = Sweeper(period=1000)
    yield sweeper
    sweeper.close()


@pytest.fixture
def connect(sweeper: Sweeper) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:

        def connect(options: WebSocketOptions = OPTIONS) -> tuple[WebSocket, Any]:
            sock, peer = socket.socketpair()
            websocket = WebSocket(sock, options)
            stack.callback(websocket.abort)
            stack.callback(peer.close)
            sweeper.add(websocket)
            return websocket, peer

        yield connect


def read(peer: Any) -> list[int]:
    """Return the opcodes of the frames that have arrived."""
    gevent.sleep(0.001)
    return [frame.opcode for frame in parse(available(peer))]


def say(websocket: WebSocket, peer: Any, data: bytes) -> None:
    peer.sendall(data)
    with gevent.Timeout(0.01, False):
        websocket.receive()


def test_an_idle_peer_is_pinged_once(sweeper, connect):
    _, peer = connect()
    for now in (100, 101, 124):
        sweeper.sweep(now)
    assert read(peer) == []
    for now in (125, 126, 134):
        sweeper.sweep(now)
    assert read(peer) == [PING]


@pytest.mark.parametrize("answer", [client(PONG), client(TEXT, b"x"), head(TEXT, 100)])
def test_a_peer_that_sends_anything_is_alive(sweeper, connect, answer):
    websocket, peer = connect()
    for now in (100, 125):
        sweeper.sweep(now)
    say(websocket, peer, answer)
    for now in (134, 136, 158):
        sweeper.sweep(now)
    assert read(peer) == [PING]
    assert websocket.close_code is None
    sweeper.sweep(160)
    assert read(peer) == [PING]


def test_a_peer_that_speaks_is_not_pinged(sweeper, connect):
    websocket, peer = connect()
    for now in range(100, 300, 20):
        say(websocket, peer, client(TEXT, b"x"))
        sweeper.sweep(now)
    assert read(peer) == []


def test_a_silent_peer_is_closed(sweeper, connect):
    websocket, peer = connect()
    for now in (100, 125, 134):
        sweeper.sweep(now)
    assert websocket.close_code is None
    sweeper.sweep(135)
    assert websocket.close_code == CloseCode.PEER_SILENT
    assert read(peer) == [PING, CLOSE]


def test_half_a_frame_and_then_silence(sweeper, connect):
    websocket, peer = connect()
    say(websocket, peer, head(TEXT, 1000) + b"1234half of it")
    for now in (100, 125, 135):
        sweeper.sweep(now)
    assert websocket.close_code == CloseCode.PEER_SILENT


@pytest.mark.parametrize("begin", [head(TEXT, 1000), head(TEXT, 60_000), head(TEXT, 10, fin=False), b"\x81", b"\x89"])
def test_half_a_frame_that_drips_in(sweeper, connect, begin):
    websocket, peer = connect()
    say(websocket, peer, begin)
    for now in range(100, 131):
        assert websocket.close_code is None
        say(websocket, peer, b"x" if len(begin) > 2 and now < 107 else b"")
        sweeper.sweep(now)
    assert websocket.close_code == CloseCode.PEER_SILENT
    assert websocket.close_reason == "the message did not arrive within 30 s"


def test_a_large_message_may_take_long(sweeper, connect):
    websocket, peer = connect()
    say(websocket, peer, head(TEXT, 1_000_000) + b"\0\0\0\0")
    for now in range(100, 200):
        sweeper.sweep(now)
        say(websocket, peer, b"x" * 2000)
    assert websocket.close_code is None


def test_half_a_frame_between_complete_messages(sweeper, connect):
    websocket, peer = connect()
    frame = client(TEXT, b"hello")
    peer.sendall(frame[:3])
    for now in range(100, 200):
        say(websocket, peer, frame[3:] + frame[:3])
        sweeper.sweep(now)
    assert websocket.close_code is None


@pytest.mark.parametrize("limit", ["ping_timeout", "read_timeout", "message_timeout"])
def test_a_peer_whose_bytes_are_not_read_yet_is_not_silent(sweeper, connect, limit):
    options = {"ping_interval": 25, "ping_timeout": None, "message_timeout": None, limit: 10}
    websocket, peer = connect(WebSocketOptions(**options))
    say(websocket, peer, head(TEXT, 1000))
    for now in (100, 125) if limit == "ping_timeout" else (124, 125):
        sweeper.sweep(now)
    peer.sendall(b"x" * 500)  # this process is too busy to read
    for now in (135, 145, 155, 165):
        sweeper.sweep(now)
        assert websocket.close_code is None
    say(websocket, peer, b"")
    for now in range(175, 300, 10):
        sweeper.sweep(now)
    assert websocket.close_code == CloseCode.PEER_SILENT


def test_time_in_which_the_process_was_stopped_does_not_count(connect):
    times = iter([0.0, 1.0, 2.0, 100.0, 200.0, 201.0])
    ticks: list[float] = []

    class Ticking:
        closed = False

        def tick(self, now: float) -> None:
            ticks.append(now)

    stopped = Sweeper(period=0.001, clock=lambda: next(times, 201.0) / 1000)
    stopped.add(Ticking())
    eventually(lambda: len(ticks) >= 5)
    stopped.close()
    assert [round(1000 * tick) for tick in ticks[:5]] == [1, 2, 4, 6, 7]


def test_a_waiting_reader_is_notified(sweeper, connect):
    websocket, _ = connect()
    receiver = gevent.spawn(websocket.receive)
    receiver.catching = True
    gevent.sleep(0)
    for now in (100, 125, 135):
        sweeper.sweep(now)
    receiver.join(5)
    assert receiver.exception.code == CloseCode.PEER_SILENT


@pytest.mark.parametrize("name", ["ping_interval", "ping_timeout", "write_timeout"])
def test_what_is_not_limited_is_not_ended(sweeper, connect, name):
    websocket, peer = connect(WebSocketOptions(queue_limit=None, **{name: None}))
    if name == "write_timeout":
        fill(websocket)
    for now in range(100, 1000, 50):
        sweeper.sweep(now)
        if name == "write_timeout":
            say(websocket, peer, client(PONG))
    assert websocket.close_code is None
    if name != "write_timeout":
        assert (PING in read(peer)) == (name == "ping_timeout")


def fill(websocket: WebSocket) -> None:
    while not websocket.queued_bytes:
        websocket.send(b"x" * 100_000)
        gevent.sleep(0)


def test_a_peer_that_does_not_read_is_closed(sweeper, connect):
    websocket, peer = connect()
    fill(websocket)
    for now in (100, 109):
        sweeper.sweep(now)
        say(websocket, peer, client(PONG))
    assert websocket.close_code is None
    sweeper.sweep(110)
    assert websocket.close_code == CloseCode.PEER_TOO_SLOW
    websocket.finish()
    data = b""
    while piece := peer.recv(1 << 20):
        data += piece
    assert not data.endswith(b"x" * 100_000)  # it was dropped


def test_a_peer_that_reads_slowly_is_let_live(sweeper, connect):
    websocket, peer = connect()
    fill(websocket)
    for now in range(100, 300, 9):
        sweeper.sweep(now)
        say(websocket, peer, client(PONG))
        before = websocket.queued_bytes
        while websocket.queued_bytes == before:
            peer.recv(10_000)
            gevent.sleep(0)
        fill(websocket)
    assert websocket.close_code is None


def test_a_closing_that_stalls_is_cut_off(sweeper, connect):
    websocket, _ = connect()
    fill(websocket)
    websocket.close(1001)
    for now in (100, 109):
        sweeper.sweep(now)
    assert not websocket.closed
    sweeper.sweep(110)
    assert websocket.closed
    assert websocket.close_code == 1001


def test_closed_websockets_are_discarded(sweeper, connect):
    websocket, _ = connect()
    other, _ = connect()
    assert len(sweeper) == 2
    websocket.abort()
    sweeper.sweep(100)
    assert len(sweeper) == 1
    sweeper.discard(other)
    sweeper.discard(other)
    assert len(sweeper) == 0


def test_others_run_while_many_are_swept(sweeper, connect):
    for _ in range(600):
        connect()
    turns = []

    def count() -> None:
        while True:
            turns.append(1)
            gevent.sleep(1e-9)

    counter = gevent.spawn(count)
    sweeper.sweep(100)
    counter.kill()
    assert len(turns) >= 2


def test_it_runs_by_itself_while_there_is_something_to_look_after(connect):
    sock, peer = socket.socketpair()
    websocket = WebSocket(sock, WebSocketOptions(ping_interval=0.01, ping_timeout=0.01))
    sweeper = Sweeper(period=0.002)
    assert not sweepers()
    for _ in range(2):
        sweeper.add(websocket)
        (greenlet,) = sweepers()
        sweeper.discard(websocket)
        greenlet.join(5)
        assert not sweepers()
    sweeper.add(websocket)
    eventually(lambda: websocket.close_code == CloseCode.PEER_SILENT)
    assert read(peer)[0] == PING
    websocket.abort()
    eventually(lambda: not sweepers())
    peer.close()
    sweeper.close()


def sweepers() -> list[gevent.Greenlet]:
    """Return the greenlets of sweepers that are alive."""
    alive = [each for each in gc.get_objects() if issubclass(type(each), gevent.Greenlet) and not each.dead]
    return [each for each in alive if each.name == "websocket-sweeper"]


def test_a_period_that_is_none():
    with pytest.raises(ValueError, match="period"):
        Sweeper(period=0)


def test_the_close_frame_has_the_reason(sweeper, connect):
    websocket, peer = connect()
    for now in (100, 125, 135):
        sweeper.sweep(now)
    websocket.finish()
    data = b""
    while piece := peer.recv(1000):
        data += piece
    assert close_of(parse(data)) == (CloseCode.PEER_SILENT, "no answer to a ping within 10 s")


def test_a_read_timeout_closes_peers_that_send_no_messages(sweeper, connect):
    websocket, peer = connect(WebSocketOptions(read_timeout=30, ping_interval=25, close_timeout=0.05))
    sweeper.sweep(100)
    say(websocket, peer, client(TEXT, b"x"))
    for now in (125, 150):
        sweeper.sweep(now)
        say(websocket, peer, client(PONG))
    sweeper.sweep(154)
    assert websocket.close_code is None
    sweeper.sweep(155)
    assert websocket.close_code == CloseCode.PEER_SILENT
    assert websocket.close_reason == "no message within 30 s"
