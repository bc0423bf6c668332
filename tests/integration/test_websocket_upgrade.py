"""Upgrades under pywsgi and gunicorn's handler, over TCP, TLS and UNIX sockets."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gunicorn.config
import gunicorn.glogging
import pytest
from gevent import socket
from gevent.event import Event
from gevent.pool import Pool
from gevent.pywsgi import WSGIServer
from gunicorn.workers.ggevent import PyWSGIHandler
from websockets.sync.client import connect as connect_client

from juggler.errors import ConnectionClosed, HandshakeRefused
from juggler.process.spare_greenlets import SpareGreenlets
from juggler.server.websocket import DeflateOptions, HttpPool, SharedText, WebSocketHandler, WebSocketOptions
from loadtest.bench.websocket import Echo
from tests.rawframes import CLOSE, TEXT, client, close, close_of, parse, texts
from tests.support import eventually

REQUEST = (
    b"GET /chat?room=1 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nUser-Agent: test\r\n"
    b"Cookie: secret\r\n\r\n"
)
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 §1.3
PLAIN = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
OPTIONS = WebSocketOptions(close_timeout=0.5)

Application = Callable[[dict[str, Any], Any], list[bytes]]
Serve = Callable[..., Any]


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    websocket = environ["juggler.upgrade"](options=OPTIONS)
    with contextlib.suppress(ConnectionClosed):
        while True:
            websocket.send(websocket.receive().encode())
    return []


def delivered_echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    websocket = environ["juggler.upgrade"](options=OPTIONS)
    websocket.deliver(Echo(websocket), SpareGreenlets("test"))
    return []


class Running:
    """A server and its log."""

    def __init__(self, listener: Any, application: Application, **options: Any) -> None:
        self.log = io.StringIO()
        self.errors = io.StringIO()
        options = {"handler_class": WebSocketHandler, "log": self.log, "error_log": self.errors, **options}
        self.server = WSGIServer(listener, application, **options)
        self.server.start()

    def connect(self) -> Any:
        return socket.create_connection(("127.0.0.1", self.server.server_port), timeout=30)

    def open(self) -> Any:
        """Return a connected client that has received the 101."""
        sock = self.connect()
        sock.sendall(REQUEST)
        assert read_head(sock).startswith(b"HTTP/1.1 101 ")
        return sock

    def logged(self) -> list[str]:
        eventually(self.log.getvalue)
        return self.log.getvalue().splitlines()


@pytest.fixture
def serve() -> Iterator[Serve]:
    with contextlib.ExitStack() as stack:

        def serve(application: Application = echo, listener: Any = ("127.0.0.1", 0), **options: Any) -> Running:
            running = Running(listener, application, **options)
            stack.callback(running.server.stop, 0.2)
            return running

        yield serve


def read_head(sock: Any) -> bytes:
    """Read a response up to its body."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, f"the connection ended after {head!r}"
        head += byte
    return head


def read_all(sock: Any) -> bytes:
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


# The response


def test_the_request_is_answered_with_101(serve):
    def application(environ, start_response):
        headers = [("Sec-WebSocket-Protocol", "juggler.0"), ("X-More", "than one")]
        environ["juggler.upgrade"](headers, OPTIONS).close(4000)
        return []

    with serve(application).connect() as sock:
        sock.sendall(REQUEST)
        status, *headers = read_head(sock).split(b"\r\n")[:-2]
        assert status == b"HTTP/1.1 101 Switching Protocols"
        assert headers == [
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Accept: " + ACCEPT,
            b"Sec-WebSocket-Protocol: juggler.0",
            b"X-More: than one",
        ]
        sock.sendall(close(4000))
        assert close_of(parse(read_all(sock))) == (4000, "")


def test_an_application_may_answer_otherwise(serve):
    def application(environ, start_response):
        if environ["PATH_INFO"] == "/chat":
            assert callable(environ["juggler.upgrade"])
            start_response("403 Forbidden", [("Content-Length", "2")])
            return [b"no"]
        assert "juggler.upgrade" not in environ
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    running = serve(application)
    with running.connect() as sock:
        for request, status, body in [(PLAIN, b"200", b"ok"), (REQUEST, b"403", b"no"), (PLAIN, b"200", b"ok")]:
            sock.sendall(request)
            assert read_head(sock).startswith(b"HTTP/1.1 " + status)
            assert sock.recv(2) == body
    assert [line.split('" ')[1].split()[0] for line in running.logged()] == ["200", "403", "200"]


def test_a_connection_that_was_kept_alive_can_be_upgraded(serve):
    def application(environ, start_response):
        if "juggler.upgrade" in environ:
            return echo(environ, start_response)
        start_response("200 OK", [("Content-Length", "0")])
        return []

    with serve(application).connect() as sock:
        sock.sendall(PLAIN)
        read_head(sock)
        sock.sendall(REQUEST)
        assert ACCEPT in read_head(sock)
        sock.sendall(client(TEXT, b"hi") + close(1000))
        assert texts(parse(read_all(sock))) == ["hi"]


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"GET", b"POST", "405"),
        (b"HTTP/1.1", b"HTTP/1.0", "426"),
        (b"keep-alive, Upgrade", b"keep-alive", "426"),
        (b"Version: 13", b"Version: 12", "426"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"short", "400"),
        (b"Cookie: secret", b"Content-Length: 5", "400"),
    ],
)
def test_a_malformed_request_is_refused(serve, old, new, status):
    def application(environ, start_response):
        try:
            return environ["juggler.upgrade"]() and []
        except HandshakeRefused as error:
            start_response(error.status, [("Content-Length", "0"), ("Connection", "close")])
            return []

    with serve(application).connect() as sock:
        sock.sendall(REQUEST.replace(old, new) + b"abcde")
        assert read_head(sock).split()[1] == status.encode()


def test_headers_cannot_be_injected(serve):
    def application(environ, start_response):
        with pytest.raises(ValueError, match="newline"):
            environ["juggler.upgrade"]([("X-Name", "value\r\nX-Other: value")])
        return echo(environ, start_response)

    with serve(application).connect() as sock:
        sock.sendall(REQUEST)
        assert b"X-" not in read_head(sock)
        sock.sendall(close(1000))
        assert close_of(parse(read_all(sock))) == (1000, "")


# Invalid requests


class Impatient(WebSocketHandler):
    request_timeout = 0.05
    max_header_size = 1000


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: local", "408", "did not arrive in time"),
        (b"GET / HTTP/1.1\r\n" + b"X: 123456\r\n" * 100, "431", "headers are too long"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 2000, "431", "headers are too long"),
        (b"GET /" + b"x" * 10_000, "414", "request line is too long"),
        (b"\x16\x03\x01 garbage\r\n\r\n", "400", "expected an HTTP/1.1 request"),
    ],
)
def test_what_is_no_request_gets_a_readable_answer_and_is_closed(serve, sent, status, reason):
    running = serve(handler_class=Impatient)
    with running.connect() as sock:
        sock.sendall(sent)
        answer = read_all(sock).decode()
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert reason in answer
    assert "Traceback" not in running.errors.getvalue()


@pytest.mark.parametrize("sent", [b"", b"GE", PLAIN])
def test_a_client_that_sends_no_request_times_out(serve, sent):
    def application(environ, start_response):
        # Longer than the request timeout, which ends when the request has arrived.
        gevent.sleep(0.1)
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    running = serve(application, handler_class=Impatient)
    with running.connect() as sock:
        sock.sendall(sent)
        assert read_all(sock).endswith(b"ok") == (len(sent) > 2)
    assert len(running.log.getvalue().splitlines()) == (len(sent) > 2)


def test_the_time_for_the_request_is_not_the_websockets(serve):
    with serve(handler_class=Impatient).open() as sock:
        gevent.sleep(0.1)
        sock.sendall(client(TEXT, b"still here") + close(1000))
        assert texts(parse(read_all(sock))) == ["still here"]


# RFC 9112


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"Host: localhost\r\n", b"", "400"),
        (b"Host: localhost\r\n", b"Host: localhost\r\nHost: localhost\r\n", "400"),
        (b"Host: localhost", b"Host: local host", "400"),
        (b"Host: localhost", b"Host: user@localhost", "400"),
        (b"Host: localhost", b"Host : localhost", "400"),
        (b"Host: localhost", b"Host: localhost\r\n folded", "400"),
        (b"Host: localhost", b"Host: localhost\r\nno colon", "400"),
        (b"Host: localhost", b"Host: localhost\r\nX: a\rY: b", "400"),
        (b"Host: localhost", b"Host: localhost\r\nX: a\x00", "400"),
        *(
            (b"Host: localhost", b"Host: localhost\r\nContent-Length: " + length, "400")
            for length in (b"0_0", b"+1", b"-1", b"1, 1", b"0x1", b"1.0", b"", b"1\r\nContent-Length: 1", b"9" * 5000)
        ),
        (b"Host: localhost", b"Host: localhost\r\nTransfer-Encoding: gzip", "501"),
        (b"Host: localhost", b"Host: localhost\r\nTransfer-Encoding: chunked, gzip", "501"),
        (b"Host: localhost", b"Host: localhost\r\nTransfer-Encoding: xchunked", "501"),
        (b"Host: localhost", b"Host: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 5", "400"),
        (b" HTTP/1.1", b" HTTP/1.0\r\nTransfer-Encoding: chunked", "400"),
        (b" HTTP/1.1", b"", "400"),
        (b" HTTP/1.1", b" HTTP/1.+1", "400"),
        (b" HTTP/1.1", b" HTTP/2.0", "400"),
        (b"GET / ", b"GET  / ", "400"),
        (b"GET /", b"GET chat", "400"),
        (b"GET /", b"GET *", "400"),
        (b"GET /", b"GET localhost:80", "400"),
        (b"GET /", b"GET http:///", "400"),
        (b"GET /", b"GET http://user@localhost/", "400"),
        (b"GET /", b"G(T /", "400"),
    ],
)
def test_what_rfc_9112_forbids_is_refused(serve, old, new, status):
    running = serve(unread_body)
    with running.connect() as sock:
        assert old in PLAIN
        sock.sendall(PLAIN.replace(old, new) + PLAIN)
        answer = read_all(sock).decode()
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert sum(line.startswith("HTTP/1.1 ") for line in answer.splitlines()) == 1  # the second is not read
    assert "Traceback" not in running.errors.getvalue()


@pytest.mark.parametrize(
    ("request_line", "host", "path", "query"),
    [
        (b"GET / HTTP/1.1", "localhost", "/", ""),
        (b"\r\nGET /chat HTTP/1.1", "localhost", "/chat", ""),
        (b"GET http://example.com/chat?room=1 HTTP/1.1", "example.com", "/chat", "room=1"),
        (b"GET HTTPS://[::1]:8000 HTTP/1.1", "[::1]:8000", "/", ""),
        (b"GET http://example.com?room=/ HTTP/1.1", "example.com", "/", "room=/"),
        (b"OPTIONS * HTTP/1.1", "localhost", "*", ""),
        (b"GET //example.com/ HTTP/1.1", "localhost", "//example.com/", ""),
    ],
)
def test_targets_of_each_form(serve, request_line, host, path, query):
    def application(environ, start_response):
        body = repr([environ["HTTP_HOST"], environ["PATH_INFO"], environ["QUERY_STRING"]]).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    with serve(application).connect() as sock:
        sock.sendall(request_line + b"\r\nHost: localhost\r\nConnection: TE, Close\r\n\r\n")
        assert read_all(sock).endswith(repr([host, path, query]).encode())


def test_http_1_0_needs_no_host(serve):
    with serve(unread_body).connect() as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert read_all(sock).endswith(b"ok")


@pytest.mark.parametrize("has_length", [True, False])
def test_head_is_answered_without_a_body(serve, has_length):
    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", "2")] if has_length else [])
        yield b"o"
        yield b"k"

    with serve(application).connect() as sock:
        sock.sendall(PLAIN.replace(b"GET", b"HEAD") + PLAIN)
        head, _, rest = read_head(sock).partition(b"\r\n")
        assert head == b"HTTP/1.1 200 OK"
        assert (b"Content-Length: 2" in rest) == has_length
        assert read_head(sock).startswith(b"HTTP/1.1 200 ")
        assert sock.recv(1)[:1] in b"o1"


# Bodies


class SmallBodies(WebSocketHandler):
    max_body_size = 1000
    body_timeout = 0.2
    response_timeout = 0.2


CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


def post(length: int, body: bytes = b"", headers: bytes = b"") -> bytes:
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\n%bContent-Length: %d\r\n\r\n"
    return head % (headers, length) + body


def size_of_body(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    size = str(len(environ["wsgi.input"].read())).encode()
    start_response("200 OK", [("Content-Length", str(len(size)))])
    return [size]


def unread_body(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


@pytest.mark.parametrize("upgrade", [b"", b"Connection: upgrade\r\n"])
def test_a_body_within_the_limits_is_read(serve, upgrade):
    running = serve(size_of_body, handler_class=SmallBodies)
    with running.connect() as sock:
        for request, answer in [
            (post(1000, b"x" * 1000, upgrade), b"1000"),
            (CHUNKED + b"5\r\nhello\r\n6;name=value\r\n world\r\n0\r\nTrailer: x\r\n\r\n", b"11"),
            (PLAIN, b"0"),
        ]:
            sock.sendall(request)
            assert read_head(sock).startswith(b"HTTP/1.1 200 ")
            assert sock.recv(10) == answer


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (post(1001), b"413"),
        (post(1001, b"x" * 1001), b"413"),
        (CHUNKED + b"3e9\r\n" + b"x" * 1001, b"413"),
        (CHUNKED + b"1\r\nx\r\n" * 1000, b"413"),
        (CHUNKED + b"1\r\nx\r\n0\r\n" + b"Trailer: x\r\n" * 100, b"413"),
        (post(5), b"408"),
        (post(5, b"abc"), b"408"),
        (CHUNKED + b"5\r\nabc", b"408"),
        (CHUNKED + b"5", b"408"),
    ],
)
def test_a_body_beyond_the_limits_is_refused(serve, capsys, sent, status):
    running = serve(size_of_body, handler_class=SmallBodies)
    with running.connect() as sock:
        sock.sendall(sent)
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"Connection: close" in answer
    assert "Traceback" not in running.errors.getvalue() + capsys.readouterr().err


def test_a_client_that_leaves_within_its_body_logs_no_traceback(serve, capsys):
    running = serve(size_of_body)
    with running.connect() as sock:
        sock.sendall(post(5, b"abc"))
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock).startswith(b"HTTP/1.1 400 ")
    assert "Traceback" not in running.errors.getvalue() + capsys.readouterr().err


@pytest.mark.parametrize("sent", [post(5, b"hello"), CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"])
def test_a_short_body_that_is_not_read_does_not_end_the_connection(serve, sent):
    with serve(unread_body).connect() as sock:
        for _ in range(2):
            sock.sendall(sent)
            assert read_head(sock).startswith(b"HTTP/1.1 200 ")
            assert sock.recv(10) == b"ok"


@pytest.mark.parametrize(
    "sent", [post(5), post(100_000, b"x" * 99_999), CHUNKED, CHUNKED + b"1\r\nx\r\n" * 20_000, CHUNKED + b"ffffff\r\n"]
)
def test_a_body_that_is_not_read_is_not_waited_for(serve, sent):
    with serve(unread_body, spawn=Pool(1)).connect() as sock:
        began = time.monotonic()
        sock.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            assert read_all(sock).endswith(b"ok")
        assert time.monotonic() - began < 5


def test_a_client_that_does_not_read_its_response_is_disconnected(serve):
    def application(environ, start_response):
        body = b"x" * 10_000_000
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    running = serve(application, handler_class=SmallBodies)
    with running.connect() as sock:
        sock.sendall(PLAIN)
        assert running.logged()  # the request has ended, though nothing was read
        with contextlib.suppress(ConnectionResetError):
            assert len(read_all(sock)) < 10_000_000


# Bytes after the request


@pytest.mark.parametrize("size", [1, 100, 8000, 20_000, 100_000])
def test_frames_right_behind_the_request_are_not_lost(serve, size):
    with serve().connect() as sock:
        sock.sendall(REQUEST + client(TEXT, b"x" * size) + client(TEXT, b"y") + close(1000))
        read_head(sock)
        frames = parse(read_all(sock))
        assert texts(frames) == ["x" * size, "y"]
        assert close_of(frames) == (1000, "")


def test_the_upgrade_does_not_wait_for_frames(serve):
    upgraded = []

    def application(environ, start_response):
        websocket = environ["juggler.upgrade"](options=OPTIONS)
        upgraded.append(websocket)
        websocket.send(b"welcome")
        websocket.close()
        return []

    with serve(application).connect() as sock:
        sock.sendall(REQUEST)
        read_head(sock)
        sock.sendall(close(1000))
        assert texts(parse(read_all(sock))) == ["welcome"]
    assert upgraded[0].wait_closed(5)


# Memory


def test_an_open_websocket_keeps_little_of_its_request(serve):
    seen = {}

    def application(environ, start_response):
        environ["mine"] = "not kept"
        websocket = environ["juggler.upgrade"](options=OPTIONS)
        assert environ["wsgi.websocket"] is websocket
        seen.update(environ)
        with contextlib.suppress(ConnectionClosed):
            websocket.receive()
        return []

    with serve(application).open() as sock:
        sock.sendall(close(1000))
        read_all(sock)
    assert seen["PATH_INFO"] == "/chat"
    assert seen["HTTP_USER_AGENT"] == "test"
    assert not {"mine", "HTTP_COOKIE", "wsgi.input", "juggler.upgrade"} & set(seen)


def test_small_frames_are_not_delayed(serve):
    nodelay = []

    def application(environ, start_response):
        upgrade = environ["juggler.upgrade"]
        fileno = upgrade.__self__.socket.fileno()
        websocket = upgrade(options=OPTIONS)
        with socket.socket(fileno=os.dup(fileno)) as sock:
            nodelay.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        websocket.close()
        return []

    with serve(application).open() as sock:
        sock.sendall(close(1000))
        read_all(sock)
    assert nodelay[0]


def refuse(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("403 Forbidden", [("Content-Length", "0"), ("Connection", "close")])
    return []


@pytest.mark.parametrize(
    ("application", "ending"),
    [(echo, "closed"), (echo, "lost"), (delivered_echo, "closed"), (delivered_echo, "lost"), (refuse, "lost")],
)
def test_nothing_is_left_to_the_garbage_collector(serve, application, ending):
    pool = HttpPool(10)
    running = serve(application, spawn=pool)

    def connection() -> None:
        with running.connect() as sock:
            sock.sendall(REQUEST)
            read_head(sock)
            if ending == "closed":
                sock.sendall(client(TEXT, b"hello") + close(1000))
                read_all(sock)
        eventually(lambda: pool.free_count() == 10)

    connection()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            connection()
        assert gc.collect() == 0
    finally:
        gc.enable()


# Closing


def test_a_request_is_logged_once_when_its_websocket_has_ended(serve, capsys):
    running = serve(spawn=Pool())
    with running.open() as sock:
        sock.sendall(client(TEXT, b"hello"))
        sock.recv(100)
        assert not running.log.getvalue()
        sock.sendall(close(1000))
        read_all(sock)
    (line,) = running.logged()
    assert '"GET /chat?room=1 HTTP/1.1" 101 ' in line
    eventually(lambda: not running.server.pool)
    assert running.errors.getvalue() + capsys.readouterr().err == ""


def test_an_application_that_returns_closes_its_websocket(serve):
    def application(environ, start_response):
        environ["juggler.upgrade"](options=OPTIONS)
        return []

    with serve(application).open() as sock:
        assert parse(sock.recv(100))[0].opcode == CLOSE
        sock.sendall(close(1000))
        assert read_all(sock) == b""


def test_an_application_that_fails_is_an_internal_error(serve, capsys):
    def application(environ, start_response):
        environ["juggler.upgrade"](options=OPTIONS)
        raise RuntimeError("oops")

    running = serve(application)
    with running.open() as sock:
        sock.sendall(close(1000))
        assert close_of(parse(read_all(sock))) == (1011, "")
    assert " 101 " in running.logged()[0]
    assert "oops" in capsys.readouterr().err


def test_a_lost_client(serve):
    ended = []

    def application(environ, start_response):
        websocket = environ["juggler.upgrade"](options=OPTIONS)
        with pytest.raises(ConnectionClosed) as caught:
            websocket.receive()
        ended.append(caught.value.code)
        return []

    running = serve(application)
    running.open().close()
    assert eventually(lambda: ended) == [1006]
    assert " 101 " in running.logged()[0]


def test_a_stopped_server_closes_with_going_away(serve):
    running = serve(spawn=Pool())
    with running.open() as sock:
        running.server.stop(timeout=0.01)
        assert close_of(parse(read_all(sock))) == (1001, "")


# Compression


def test_compression_is_agreed_on_where_it_is_wanted(serve):
    shared = SharedText(b"the same for all " * 1000)

    def application(environ, start_response):
        websocket = environ["juggler.upgrade"](options=WebSocketOptions(deflate=DeflateOptions(), close_timeout=0.5))
        with contextlib.suppress(ConnectionClosed):
            while True:
                websocket.send(websocket.receive().encode())
                websocket.send_shared(shared)
        return []

    url = f"ws://127.0.0.1:{serve(application).server.server_port}/"
    for compression in ("deflate", None):
        with connect_client(url, compression=compression) as websocket:
            answer = websocket.response.headers.get("Sec-WebSocket-Extensions", "")
            assert answer.startswith("permessage-deflate; " if compression else "")
            assert bool(answer) == bool(compression)
            for text in ("short", "long ☃ " * 10_000, ""):
                websocket.send(text)
                assert websocket.recv(timeout=30) == text
                assert websocket.recv(timeout=30) == "the same for all " * 1000


def test_compression_is_not_offered_by_default(serve):
    with connect_client(f"ws://127.0.0.1:{serve().server.server_port}/") as websocket:
        assert "Sec-WebSocket-Extensions" not in websocket.response.headers


# Other sockets and servers


def test_a_unix_socket(serve, tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        serve(listener=listener)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            sock.sendall(REQUEST + client(TEXT, b"hello") + close(1000))
            read_head(sock)
            assert texts(parse(read_all(sock))) == ["hello"]


def test_under_gunicorn_s_handler(serve, tmp_path):
    class Handler(WebSocketHandler, PyWSGIHandler):
        pass

    config = gunicorn.config.Config()
    config.set("accesslog", str(tmp_path / "access.log"))
    running = serve(log=gunicorn.glogging.Logger(config), handler_class=Handler)
    with running.open() as sock:
        sock.sendall(client(TEXT, b"hello") + close(1000))
        assert texts(parse(read_all(sock))) == ["hello"]
    log = eventually((tmp_path / "access.log").read_text)
    assert log.startswith("127.0.0.1 - - ")
    assert '"GET /chat?room=1 HTTP/1.1" 101 ' in log
    assert log.rstrip().endswith('"-" "test"')


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a self-signed certificate for localhost."""
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    command += f" -addext subjectAltName=DNS:localhost -keyout {path} -out {path}.crt"
    subprocess.run(command.split(), check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


@pytest.fixture(params=[echo, delivered_echo])
def secure(request: pytest.FixtureRequest, serve: Serve, certificate: Path) -> Running:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return serve(request.param, ssl_context=context)


@pytest.fixture
def client_context(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


def test_tls(secure, client_context):
    url = f"wss://localhost:{secure.server.server_port}/"
    with secure.connect() as sock, connect_client(url, ssl=client_context, sock=sock, max_size=None) as websocket:
        for size in (0, 5, 16_384, 16_385, 100_000, 1_000_000):
            websocket.send("x" * size)
            assert websocket.recv(timeout=30) == "x" * size
        websocket.close(4321, "enough")
        assert websocket.close_code == 4321


@pytest.mark.parametrize("size", [10, 9000, 15_000, 40_000])
def test_frames_right_behind_the_request_are_not_lost_over_tls(secure, client_context, size):
    tcp = secure.connect()
    # A connection that closes without close_notify must raise.
    with client_context.wrap_socket(tcp, server_hostname="localhost", suppress_ragged_eofs=False) as sock:
        sock.sendall(REQUEST + client(TEXT, b"x" * size) + close(1000))
        read_head(sock)
        frames = parse(read_all(sock))
        assert texts(frames) == ["x" * size]
        assert close_of(frames) == (1000, "")


def test_a_client_that_leaves_before_the_response_over_tls_causes_no_traceback(
    serve, certificate, client_context, capsys
):
    entered, gone, lost = Event(), Event(), []

    def application(environ, start_response):
        entered.set()
        gone.wait()
        try:
            environ["juggler.upgrade"](options=OPTIONS)
        except OSError as error:
            lost.append(type(error))
            raise
        return []

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    running = serve(application, spawn=Pool(), ssl_context=context)
    with client_context.wrap_socket(running.connect(), server_hostname="localhost") as sock:
        sock.sendall(REQUEST)
        entered.wait()
    gone.set()
    eventually(lambda: not running.server.pool)
    assert lost == [ConnectionResetError]
    assert running.errors.getvalue() + capsys.readouterr().err == ""


def test_writers_never_interleave_over_tls(serve, certificate, client_context):
    count = 50

    def application(environ, start_response):
        websocket = environ["juggler.upgrade"](options=WebSocketOptions(queue_limit=None))

        def write(number: int) -> None:
            for _ in range(count):
                websocket.send(f"{number}".encode() * 3000)
                gevent.sleep(0)

        gevent.joinall([gevent.spawn(write, number) for number in range(5)])
        websocket.close()
        return []

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    running = serve(application, ssl_context=context)
    with client_context.wrap_socket(running.connect(), server_hostname="localhost") as sock:
        sock.sendall(REQUEST + close(1000))
        read_head(sock)
        data = bytearray()
        while piece := sock.recv(5000):
            data += piece
            gevent.sleep(0)
    frames = parse(bytes(data))
    assert close_of(frames) == (1000, "")
    assert sorted(texts(frames)) == sorted(str(number) * 3000 for number in range(5) for _ in range(count))
