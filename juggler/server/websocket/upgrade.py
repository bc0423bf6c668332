"""Upgrade an HTTP request that pywsgi, or gunicorn's pywsgi worker, has read to a `WebSocket`.

The application decides: it calls ``environ["juggler.upgrade"]``, or responds as usual.

Only this file uses gevent-websocket, and only for compatibility: programs that look for its handler class or for
``environ["wsgi.websocket"]`` find them. Of its code, only ``start_response`` runs, which does nothing here. Its
handshake and framing are not used. They have no size limit, spend 0.1 µs of blocking Python per byte, never send close
codes, and interleave the frames of concurrent senders. A message of 150 bytes costs 17 µs there and 0.9 µs here, one of
64 KB 5400 µs and 15 µs.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BufferedReader
from socket import AF_INET, AF_INET6, IPPROTO_TCP, TCP_NODELAY
from typing import Any

import gevent
from gevent import Greenlet, GreenletExit
from gevent.pool import Pool
from gevent.ssl import SSLWantReadError
from geventwebsocket.handler import WebSocketHandler as StockHandler

from juggler.errors import CloseCode
from juggler.server.websocket.deflate import negotiate
from juggler.server.websocket.handshake import accept_token, websocket_key
from juggler.server.websocket.requests import BoundedRequestHandler
from juggler.server.websocket.stream import WebSocket
from juggler.server.websocket.websocket_options import DEFAULT, WebSocketOptions

UPGRADE = "juggler.upgrade"
LOCAL_NAME = "juggler.local_name"
"""Key in the environ of an upgrade request: the name of its socket, a tuple or the path of a UNIX socket."""

# What access logs, gunicorn's included, need of the request when the connection has closed.
_LOGGED = (
    "REMOTE_ADDR",
    "REQUEST_METHOD",
    "PATH_INFO",
    "QUERY_STRING",
    "RAW_URI",
    "SERVER_PROTOCOL",
    "HTTP_REFERER",
    "HTTP_USER_AGENT",
    "HTTP_AUTHORIZATION",
)


class HttpPool(Pool):  # type: ignore[misc]
    """Pool of a `gevent.pywsgi.WSGIServer` whose size bounds its connections, websockets without a greenlet included.

    Choose a size above the number of websockets that your servers admit. The rest serves HTTP requests. `join`, and
    thus ``WSGIServer.stop``, waits for websockets, too, but nothing here closes them.

    Args:
        size: maximum number of connections.

    Attributes:
        websockets: open websockets without a greenlet.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.websockets = 0
        self._kept: set[Greenlet] = set()  # greenlets whose slots pass to their websockets
        self._on_closed = self._forget_websocket  # one object for all websockets

    def keep_slot(self, websocket: WebSocket) -> None:
        """Keep the slot of this greenlet, once it completes, until its websocket is closed."""
        if not websocket.closed:
            websocket.on_closed = self._on_closed
            self.websockets += 1
            self._kept.add(gevent.getcurrent())

    def free_count(self) -> int:
        free: int = self._semaphore.counter
        return free

    def __bool__(self) -> bool:
        return len(self) > 0 or self.websockets > 0

    def _discard(self, greenlet: Greenlet) -> None:
        self.greenlets.discard(greenlet)
        self.dying.discard(greenlet)
        if greenlet in self._kept:
            self._kept.discard(greenlet)
        else:
            self._semaphore.release()
        self._wake_joiners()

    def _forget_websocket(self) -> None:
        self.websockets -= 1
        self._semaphore.release()
        self._wake_joiners()

    def _wake_joiners(self) -> None:
        if not self:
            self._empty_event.set()


class WebSocketHandler(BoundedRequestHandler, StockHandler):  # type: ignore[misc]
    """pywsgi's handler for applications that upgrade requests themselves.

    Use it as ``WSGIServer(..., handler_class=WebSocketHandler)``, or mix it in before gunicorn's ``PyWSGIHandler``.
    For a request with ``Upgrade: websocket``, ``environ["juggler.upgrade"]`` is `upgrade`. The application calls it,
    serves the websocket in the same greenlet until it is closed, or calls its `deliver`, and returns ``[]``.
    """

    application: Any
    content_length: int | None
    server: Any
    socket: Any

    _websocket: WebSocket | None = None

    def run_application(self) -> None:
        if "websocket" in self.environ.get("HTTP_UPGRADE", "").lower():
            self.environ[UPGRADE] = self.upgrade
            self.environ[LOCAL_NAME] = self.socket.getsockname()
        try:
            super(StockHandler, self).run_application()
        except GreenletExit:
            self._abort()
            raise
        except (Exception, SystemExit) as error:
            if self._websocket is not None:
                self._websocket.close(CloseCode.INTERNAL_ERROR)
            if isinstance(error, SystemExit):
                # gevent would exit the process, and close the connections of all other clients.
                raise RuntimeError(f"the application called sys.exit({error.code!r})") from error
            raise
        finally:
            self.environ.pop(UPGRADE, None)
            self._finish()

    def _abort(self) -> None:
        """Close at once, because the server is being killed."""
        if self._websocket is not None:
            self._websocket.close(CloseCode.GOING_AWAY)
            self._websocket.abort()

    def _finish(self) -> None:
        websocket, self._websocket = self._websocket, None
        if websocket is not None:
            self.environ.pop("wsgi.websocket", None)
            if websocket.delivers:
                self.socket = None  # so that pywsgi does not close it
                if isinstance(self.server.pool, HttpPool):
                    self.server.pool.keep_slot(websocket)
            else:
                websocket.finish()

    def upgrade(self, headers: Sequence[tuple[str, str]] = (), options: WebSocketOptions = DEFAULT) -> WebSocket:
        """Respond with 101 and return the websocket. Call it once, instead of ``start_response``.

        Only what access logs need is left in the environ.

        Args:
            headers: additional response headers, for example the subprotocol.
            options: limits of the websocket.

        Raises:
            HandshakeRefused: the request is not a valid opening handshake (RFC 6455 §4.2.1).
            OSError: the connection is lost.
        """
        key = websocket_key(self.environ)
        agreement = None
        if options.deflate is not None:
            agreement = negotiate(self.environ.get("HTTP_SEC_WEBSOCKET_EXTENSIONS", ""), options.deflate)
        if agreement is not None:
            headers = [*headers, ("Sec-WebSocket-Extensions", agreement.header)]
        self._answer(key, headers)
        sock = self.socket
        if sock.family in (AF_INET, AF_INET6):
            sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        initial = _take_buffered(sock, self.rfile)
        self._websocket = WebSocket(sock, options, initial, agreement)
        self._forget_request()
        self.environ["wsgi.websocket"] = self._websocket
        return self._websocket

    def _answer(self, key: str, headers: Sequence[tuple[str, str]]) -> None:
        answer = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept_token(key))]
        self.start_response("101 Switching Protocols", [*answer, *headers])
        self.close_connection = True
        self.provided_date = True  # prevents a Date header
        self.write(b"")

    def _forget_request(self) -> None:
        """Free what an open websocket does not need, mainly the buffer of `rfile`."""
        kept = {name: self.environ[name] for name in _LOGGED if name in self.environ}
        self.environ.clear()
        self.environ.update(kept)
        self.__dict__.pop("rfile").close()
        self.wsgi_input.rfile = None
        self.__dict__.pop("headers", None)
        self.response_headers: list[tuple[bytes, bytes]] = []
        self.application = None
        self.content_length = 0

    def log_request(self) -> None:
        # gevent-websocket skips upgrades and has its own logger; the access log is for all requests.
        super(StockHandler, self).log_request()


def _take_buffered(sock: Any, rfile: BufferedReader) -> bytes:
    """Return the bytes that were read from the socket beyond the request, without waiting for more."""
    timeout = sock.gettimeout()
    sock.setblocking(False)
    try:
        taken = rfile.peek()
        while pending := getattr(sock, "pending", int)():  # bytes of a TLS record that no poll sees
            taken += sock.recv(pending)
        return taken
    except SSLWantReadError:
        return b""
    finally:
        sock.settimeout(timeout)
