"""Turns an HTTP request that pywsgi, or gunicorn's pywsgi worker, has read into a `WebSocket`.

The application decides: it finds ``environ["juggler.upgrade"]`` and calls it, or answers as usual. Everything that
touches gevent-websocket must live here and only here.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BufferedReader
from socket import AF_INET, AF_INET6, IPPROTO_TCP, TCP_NODELAY
from typing import Any

from gevent import GreenletExit
from gevent.ssl import SSLWantReadError
from geventwebsocket.handler import WebSocketHandler as StockHandler

from juggler.errors import CloseCode
from juggler.server.websocket.deflate import negotiate
from juggler.server.websocket.handshake import accept_token, websocket_key
from juggler.server.websocket.limits import DEFAULT, WebSocketOptions
from juggler.server.websocket.requests import BoundedRequestHandler
from juggler.server.websocket.stream import WebSocket

UPGRADE = "juggler.upgrade"

# What access logs, gunicorn's included, want to know of the request when the connection has ended.
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


class WebSocketHandler(BoundedRequestHandler, StockHandler):  # type: ignore[misc]
    """pywsgi's handler for a server whose application upgrades requests itself.

    Use it as ``WSGIServer(..., handler_class=WebSocketHandler)``, or mix it in before gunicorn's ``PyWSGIHandler``.
    A request with ``Upgrade: websocket`` has `upgrade` under ``environ["juggler.upgrade"]``. The application calls it,
    serves the websocket it returns in the same greenlet until it has ended, and returns ``[]``.
    """

    _websocket: WebSocket | None = None

    def run_application(self) -> None:
        if "websocket" in self.environ.get("HTTP_UPGRADE", "").lower():
            self.environ[UPGRADE] = self.upgrade
        try:
            super(StockHandler, self).run_application()
        except GreenletExit:
            self._abort()
            raise
        except Exception:
            if self._websocket is not None:
                self._websocket.close(CloseCode.INTERNAL_ERROR)
            raise
        finally:
            self.environ.pop(UPGRADE, None)
            self._finish()

    def _abort(self) -> None:
        """The server is being killed: there is no time for the peer's answer."""
        if self._websocket is not None:
            self._websocket.close(CloseCode.GOING_AWAY)
            self._websocket.abort()

    def _finish(self) -> None:
        websocket, self._websocket = self._websocket, None
        if websocket is not None:
            self.environ.pop("wsgi.websocket", None)
            websocket.finish()

    def upgrade(self, headers: Sequence[tuple[str, str]] = (), options: WebSocketOptions = DEFAULT) -> WebSocket:
        """Answer the request with 101 and return its websocket. To be called once, instead of ``start_response``.

        The environ is emptied but for what access logs need.

        Args:
            headers: further headers of the answer, the subprotocol's for instance.
            options: limits of the websocket.

        Raises:
            HandshakeRefused: the request is no valid one for a websocket (RFC 6455 §4.2.1).
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
        self._forget_request()
        self._websocket = WebSocket(sock, options, initial, agreement)
        self.environ["wsgi.websocket"] = self._websocket
        return self._websocket

    def _answer(self, key: str, headers: Sequence[tuple[str, str]]) -> None:
        answer = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept_token(key))]
        self.start_response("101 Switching Protocols", [*answer, *headers])
        self.close_connection = True
        self.provided_date = True  # as a reason to add none
        self.write(b"")

    def _forget_request(self) -> None:
        """Let go of what an open websocket does not need: most of it is the buffer of `rfile`."""
        kept = {name: self.environ[name] for name in _LOGGED if name in self.environ}
        self.environ.clear()
        self.environ.update(kept)
        self.__dict__.pop("rfile").close()
        self.wsgi_input.rfile = None
        self.__dict__.pop("headers", None)
        self.response_headers: list[tuple[bytes, bytes]] = []

    def log_request(self) -> None:
        # gevent-websocket logs to a logger of its own, and no upgrades; the access log is for all requests.
        super(StockHandler, self).log_request()


def _take_buffered(sock: Any, rfile: BufferedReader) -> bytes:
    """Return the bytes that were read from the socket beyond the request, without waiting for any."""
    timeout = sock.gettimeout()
    sock.setblocking(False)
    try:
        taken = rfile.peek()
        while pending := getattr(sock, "pending", int)():  # bytes of a TLS record, which no poll would see
            taken += sock.recv(pending)
        return taken
    except SSLWantReadError:
        return b""
    finally:
        sock.settimeout(timeout)
