"""Websockets that deliver: an idle connection has no greenlet, and one that is busy has its own."""

from __future__ import annotations

import gc
import struct
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

import gevent
import pytest
from gevent import socket
from gevent.event import Event
from gevent.pywsgi import WSGIServer

from juggler.broker.memory import MemoryBroker
from juggler.process.uuids import new_uuid
from juggler.protocol.messages import Call, MessageType
from juggler.server import Server
from juggler.server.connection import Connection, State
from juggler.server.processing import chain
from juggler.server.websocket import HttpPool, WebSocket, WebSocketHandler
from juggler.wsgi import Application
from tests.rawframes import TEXT, client, close
from tests.stack import Wire, running_server, serving
from tests.support import eventually

CALL, SUB, PUB, ACK, RES, EVNT, WLCM = (
    getattr(MessageType, name) for name in ("CALL", "SUB", "PUB", "ACK", "RES", "EVNT", "WLCM")
)


UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: juggler.0\r\n\r\n"
)


def open_objects() -> int:
    return sum(type(each) in {Connection, WebSocket, WebSocketHandler} for each in gc.get_objects())


@contextmanager
def pooled_server(size, **options):
    broker = MemoryBroker()
    server = Server(caller_broker=broker, pubsub_broker=broker, **options)
    pool = HttpPool(size)
    http = WSGIServer(("127.0.0.1", 0), Application(server), handler_class=WebSocketHandler, log=None, spawn=pool)
    http.start()
    try:
        yield server, http, pool
    finally:
        http.stop(0)
        server.close()
        broker.close()


def do_nothing(next_handler):
    return lambda ctx, connection, message: next_handler(ctx, connection, message)


@pytest.mark.parametrize("options", [{}, {"handler": chain(do_nothing)}], ids=["standard handler", "own handler"])
def test_idle_connections_have_no_greenlets(options):
    with ExitStack() as stack:
        running = stack.enter_context(running_server(**options))
        stack.enter_context(serving(running.broker, ["u"], lambda call: call.args))
        wires = [stack.enter_context(Wire(running.url)) for _ in range(20)]
        for number, wire in enumerate(wires):
            assert wire.request(SUB, channel="c")["meta"]["type"] == ACK
            assert wire.request(CALL, uri="u", args=number)["meta"]["type"] == ACK
            assert wire.receive()["payload"]["args"] == number
        assert wires[0].request(PUB, channel="c")["meta"]["type"] in {ACK, EVNT}
        assert len(running.server.connections) == 20
        figures = running.server.snapshot()
        assert figures.gauges["juggler_connection_greenlets_active"][""] == 0
        assert 0 < figures.counters["juggler_connection_greenlets"][""] <= 5
        handlers = [each for each in gc.get_objects() if type(each) is WebSocketHandler]
        assert handlers == []


def test_a_handler_that_blocks_holds_up_its_own_connection_only():
    go, entered = Event(), []

    def block(next_handler):
        def handler(ctx, connection, message):
            if isinstance(message, Call) and message.uri == "slow":
                entered.append(connection)
                go.wait()
            next_handler(ctx, connection, message)

        return handler

    with ExitStack() as stack:
        running = stack.enter_context(running_server(handler=chain(block)))
        stack.enter_context(serving(running.broker, ["slow", "quick"], lambda call: call.args))
        slow = [stack.enter_context(Wire(running.url)) for _ in range(3)]
        for wire in slow:
            wire.send(CALL, uri="slow", args="slow")
            wire.send(CALL, uri="quick", args="after")  # waits for its turn
        eventually(lambda: len(entered) == 3)
        quick = stack.enter_context(Wire(running.url))
        assert quick.request(CALL, uri="quick", args=1)["meta"]["type"] == ACK
        assert quick.receive()["payload"]["args"] == 1
        assert len(set(entered)) == 3
        go.set()
        for wire in slow:
            messages = [wire.receive() for _ in range(4)]
            assert [m["payload"]["args"] for m in messages if m["meta"]["type"] == RES] == ["slow", "after"]


def test_context_variables_of_handlers_are_not_those_of_another_connection():
    user, seen = ContextVar("user", default="nobody"), []

    def remember(next_handler):
        def handler(ctx, connection, message):
            seen.append(user.get())
            user.set(connection.uuid)
            next_handler(ctx, connection, message)

        return handler

    with running_server(handler=chain(remember)) as running:
        for _ in range(3):
            with Wire(running.url) as wire:
                wire.request(SUB, channel="c")
    assert set(seen) == {"nobody"}


def test_a_client_that_leaves_ends_its_connection():
    ended = []
    with running_server(on_state=lambda connection, state: ended.append(state.value)) as running:
        with Wire(running.url) as wire:
            wire.request(SUB, channel="c")
            assert ended == ["accepting", "connected"]
        eventually(lambda: not running.server.connections)
        assert ended == ["accepting", "connected", "closed"]
        wire = Wire(running.url)
        wire.request(SUB, channel="c")
        wire.websocket.socket.close()  # without a close frame
        eventually(lambda: not running.server.connections)
    assert running.server.metrics.closes == {1000: 1, 1006: 1}


@pytest.mark.parametrize("how", ["exit", "raise", "kill"])
def test_a_handler_that_ends_its_greenlet_ends_its_connection_only(how):
    def fail(next_handler):
        def handler(ctx, connection, message):
            if isinstance(message, Call):
                if how == "kill":
                    gevent.getcurrent().kill()
                raise SystemExit(3) if how == "exit" else ValueError("bug")
            next_handler(ctx, connection, message)

        return handler

    with running_server(handler=chain(fail)) as running, Wire(running.url) as other:
        other.request(SUB, channel="c")
        for _ in range(2):
            with Wire(running.url) as wire:
                wire.send(CALL, uri="u")
                assert wire.closed()[0] == (1001 if how == "kill" else 1011)
        assert other.request(SUB, channel="d")["meta"]["type"] == ACK


def test_a_handler_that_ends_its_greenlet_at_a_response_ends_its_connection():
    def fail(next_handler):
        def handler(ctx, connection, message):
            if message.type == EVNT:
                raise gevent.GreenletExit
            next_handler(ctx, connection, message)

        return handler

    with running_server(handler=chain(fail)) as running, Wire(running.url) as wire:
        wire.request(SUB, channel="c")
        running.server.publish("c", 1)
        assert wire.closed()[0] == 1001
        eventually(lambda: not running.server.connections)


def test_a_greenlet_that_is_killed_while_it_closes_a_websocket_closes_its_socket():
    closing = []

    def close(next_handler):
        def handler(ctx, connection, message):
            gevent.getcurrent().kill(block=False)
            connection.close()
            closing.append(connection)

        return handler

    with running_server(handler=chain(close)) as running, Wire(running.url) as wire:
        wire.send(SUB, channel="c")
        assert eventually(lambda: closing)[0].wait_closed(5)


@pytest.mark.parametrize("error", [gevent.Timeout, gevent.GreenletExit, SystemExit, ValueError])
def test_an_on_state_that_fails_keeps_no_connection(error):
    def on_state(connection, state):
        if state is State.CLOSED:
            raise error

    with running_server(on_state=on_state) as running:
        with Wire(running.url) as wire:
            wire.request(SUB, channel="c")
        eventually(lambda: not running.server.connections)


@pytest.mark.parametrize("action", ["close", "abort", "leave", "reset"])
@pytest.mark.parametrize("phase", ["idle", "welcome blocks", "handler blocks", "response blocks", "data is queued"])
def test_nothing_is_left_of_a_connection(phase, action):
    blocks = {"welcome blocks": WLCM, "handler blocks": SUB, "response blocks": EVNT}.get(phase)
    go, entered, states = Event(), [], []

    def block(next_handler):
        def handler(ctx, connection, message):
            if message.type == blocks:
                entered.append(message.type)
                go.wait()
            next_handler(ctx, connection, message)

        return handler

    subscription = b'{"meta":{"type":%d,"uuid":"%s"},"payload":{"channel":"c"}}' % (SUB, new_uuid().encode())
    gc.collect()
    gc.disable()
    before = open_objects()
    options = {"handler": chain(block), "on_state": lambda connection, state: states.append(state)}
    try:
        with pooled_server(10, **options) as (server, http, pool):
            with socket.create_connection(("127.0.0.1", http.server_port)) as sock:
                sock.sendall(UPGRADE.replace(b"juggler.0", b"juggler.1"))
                eventually(lambda: server.connections)
                connection = next(iter(server.connections))
                if phase in {"handler blocks", "response blocks"}:
                    sock.sendall(client(TEXT, subscription))
                if phase == "response blocks":
                    while b'"type":8' not in sock.recv(4096):
                        pass
                    server.publish("c", 1)
                if phase == "data is queued":
                    connection.websocket.send(bytes(8_000_000), extra=8_000_000)
                    assert connection.websocket.queued_bytes
                eventually(lambda: len(entered) == (blocks is not None))
                if action == "close":
                    connection.close()
                elif action == "abort":
                    connection.websocket.abort()
                elif action == "reset":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            go.set()
            eventually(lambda: pool.free_count() == 10 and not server.connections)
            assert states == [State.ACCEPTING, State.CONNECTED, State.CLOSED]
            del connection
            eventually(lambda: open_objects() == before)
    finally:
        gc.enable()


def test_websockets_count_in_the_pool_of_the_http_server():
    broker = MemoryBroker()
    server = Server(caller_broker=broker, pubsub_broker=broker)
    pool = HttpPool(3)
    stops = []

    class Counting(WSGIServer):
        def stop_accepting(self):
            stops.append(1)
            super().stop_accepting()

    http = Counting(("127.0.0.1", 0), Application(server), handler_class=WebSocketHandler, log=None, spawn=pool)
    http.start()
    url = f"ws://127.0.0.1:{http.server_port}/ws"
    try:
        with ExitStack() as stack:
            first, second = (stack.enter_context(Wire(url)) for _ in range(2))
            eventually(lambda: pool.free_count() == 1)
            assert len(pool) == 0
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", http.server_port)))
            eventually(lambda: pool.full())
            waiting = stack.enter_context(socket.create_connection(("127.0.0.1", http.server_port)))
            waiting.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            waiting.settimeout(0.1)
            with pytest.raises(TimeoutError):
                waiting.recv(100)
            assert len(stops) < 10, "it polls"
            idle.close()
            waiting.settimeout(20)
            assert waiting.recv(100).startswith(b"HTTP/1.1 200 OK")
            assert first.request(SUB, channel="c")["meta"]["type"] == ACK
            assert second.request(SUB, channel="c")["meta"]["type"] == ACK
        eventually(lambda: pool.free_count() == 3)
        assert pool.websockets == 0

        with socket.create_connection(("127.0.0.1", http.server_port)) as sock:
            sock.sendall(UPGRADE)
            eventually(lambda: server.connections)
            (connection,) = server.connections
            connection.close()
            gevent.spawn_later(0.05, sock.sendall, close(1000))
            http.stop(20)
            assert connection.websocket.closed
        assert not pool
    finally:
        http.stop(0)
        server.close()
        broker.close()
