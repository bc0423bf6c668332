"""Limits on reading a request and its body, which pywsgi lacks, and readable responses to malformed requests."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from errno import ECONNRESET
from typing import Any, NamedTuple

import gevent
from gevent.pywsgi import Input, WSGIHandler
from gevent.ssl import SSLError

from juggler.errors import HandshakeRefused
from juggler.process.logline import Line
from juggler.protocol.headers import tokens
from juggler.server.websocket.request_syntax import check_header_line, check_headers, parse_request_line

log = logging.getLogger("juggler.websocket")

BIND = "juggler.bind"
"""Key in the environ: the address that the server listens on."""

_ANSWERS = {
    "400": ("400 Bad Request", "expected an HTTP/1.1 request"),
    "408": ("408 Request Timeout", "the request did not arrive in time"),
    "414": ("414 URI Too Long", "the request line is too long"),
}
_TOO_LARGE = "413 Content Too Large"
_CLOSING = [("Connection", "close"), ("Content-Type", "text/plain")]

_NEXT_TURN = 1e-9  # sleep(0) may let greenlets alternate for long before gevent looks at sockets again
_BLOCK_BYTES = 64 * 1024  # read or sent without letting other greenlets run
_READS_PER_TURN = 256  # a body in chunks of one byte is read byte by byte
_DISCARD_BYTES = 64 * 1024
_DISCARD_SECONDS = 2.0


class _BodyError(OSError):
    """The body is too long, too slow or incomplete.

    Attributes:
        refusal: the response.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.refusal = HandshakeRefused(status, reason)


class _Answer(NamedTuple):
    """pywsgi's result for a request that cannot be processed: the status and the whole response."""

    status: str
    response: bytes


class _Limited:
    """Reads lines of headers from a file, up to a total number of bytes, and checks them."""

    __slots__ = ("_file", "_left")

    def __init__(self, file: Any, limit: int) -> None:
        self._file = file
        self._left = limit

    def readline(self, size: int) -> bytes:
        line: bytes = self._file.readline(min(size, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise HandshakeRefused("431 Request Header Fields Too Large", "the headers are too long")
        check_header_line(line)
        return line


class _BodyFile:
    """Reads a body up to a number of bytes, letting other greenlets run in between."""

    __slots__ = ("_before_turn", "_file", "_reads", "left")

    def __init__(self, file: Any, limit: int) -> None:
        self._file = file
        self.left = limit
        self._before_turn = _BLOCK_BYTES
        self._reads = 0

    def read(self, size: int) -> bytes:
        pieces = []
        while size > 0:
            piece = self._read(self._file.read, min(size, _BLOCK_BYTES))
            pieces.append(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readline(self, size: int) -> bytes:
        return self._read(self._file.readline, min(size, _BLOCK_BYTES))

    def _read(self, reader: Any, size: int) -> bytes:
        if self.left <= 0:
            raise _BodyError(_TOO_LARGE, "the body is too long")
        data: bytes = reader(min(size, self.left))
        if not data:
            raise _BodyError("400 Bad Request", "the connection was closed within the body")
        self.left -= len(data)
        self._before_turn -= len(data)
        self._reads += 1
        if self._before_turn <= 0 or self._reads >= _READS_PER_TURN:
            self._before_turn = _BLOCK_BYTES
            self._reads = 0
            gevent.sleep(_NEXT_TURN)
        return data


class _Body(Input):  # type: ignore[misc]
    """pywsgi's body of a request, within limits.

    Args:
        body: body made by pywsgi.
        limit: maximum bytes, chunk headers included.
        timeout: seconds that all reads together may take.

    Attributes:
        failed: whether it could not be read to its end, so that no other request can follow.
    """

    __slots__ = ("_seconds", "failed")

    def __init__(self, body: Input, limit: int, timeout: float) -> None:
        file = _BodyFile(body.rfile, limit)
        super().__init__(file, body.content_length, body.socket, body.chunked_input)
        self._seconds = timeout
        self.failed = False

    def read(self, length: int | None = None) -> bytes:
        return self._within_time(super().read, length)

    def readline(self, size: int | None = None) -> bytes:
        return self._within_time(super().readline, size)

    def _within_time(self, reader: Any, size: int | None) -> bytes:
        began = time.monotonic()
        timer = gevent.Timeout.start_new(max(self._seconds, 0))
        try:
            data: bytes = reader(size)
        except gevent.Timeout as timeout:
            if timeout is not timer:
                raise
            self.failed = True
            raise _BodyError("408 Request Timeout", "the body did not arrive in time") from None
        except OSError:
            self.failed = True
            raise
        finally:
            timer.close()
            self._seconds -= time.monotonic() - began
        return data

    def _discard(self) -> None:
        if not self.failed:
            self.rfile.left = min(self.rfile.left, _DISCARD_BYTES)
            self._seconds = min(self._seconds, _DISCARD_SECONDS)
            super()._discard()


class BoundedRequestHandler(WSGIHandler):  # type: ignore[misc]
    """pywsgi's handler, for untrusted clients. Subclass it to set other limits.

    Of a body that the application does not read, at most 64 KiB are read within 2 s. Then the connection is closed.

    Attributes:
        request_timeout: seconds from the connection, or from the previous response, until the request and its headers
            have arrived; None means no limit. Then the response is 408, or none if no request has begun. Default: 10.
        max_header_size: bytes of all headers together; beyond it, the response is 431. Default: 16 KiB. The request
            line may have 8 KiB; beyond it, the response is 414.
        body_timeout: seconds that the application may spend reading a body; then the response is 408. Default: 60.
        max_body_size: bytes of a body, chunk headers included; beyond it, the response is 413. Default: 16 MiB.
        response_timeout: seconds in which a client must take 64 KiB of a response, or the connection is closed.
            Default: 30.
    """

    request_timeout: float | None = 10.0
    max_header_size = 16 * 1024
    body_timeout = 60.0
    max_body_size = 16 * 1024 * 1024
    response_timeout = 30.0

    requestline: str
    wsgi_input: Any
    headers_sent: bool
    command: str | None
    path: str
    _authority: str | None = None
    _timer: gevent.Timeout | None = None
    _first = True

    def handle(self) -> None:
        with suppress(ConnectionError):  # the sender of an invalid request has gone
            super().handle()

    def handle_one_request(self) -> Any:
        self.requestline = ""
        if self._first:
            self._first = False
        else:
            gevent.sleep(_NEXT_TURN)  # requests in a row would let no other greenlet run
        self._timer = gevent.Timeout.start_new(self.request_timeout)
        try:
            result = super().handle_one_request()
        except gevent.Timeout as timeout:
            if timeout is not self._timer:
                raise
            if not self.requestline:
                return None
            result = ("408", b"")
        finally:
            self._stop_timer()
        if type(result) is tuple:
            return _answer(*_ANSWERS[result[0]])  # pywsgi's own responses have no body
        return None if getattr(self.wsgi_input, "failed", False) else result

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def read_requestline(self) -> str:
        line: str = super().read_requestline()
        return (super().read_requestline() or line) if line == "\r\n" else line  # RFC 9112 §2.2

    def MessageClass(self, rfile: Any, *args: Any) -> Any:  # noqa: N802  # pywsgi's name
        message = super().MessageClass(_Limited(rfile, self.max_header_size), *args)
        check_headers(self.request_version == "HTTP/1.1", lambda name: message.get_all(name, []))
        return message

    def read_request(self, raw_requestline: str) -> bool:
        target, self._authority = parse_request_line(raw_requestline)
        complete: bool = super().read_request(raw_requestline)
        self.path = target
        connection = [token.lower() for token in tokens(self.headers.get("Connection"))]
        self.close_connection = "close" in connection or (
            self.request_version != "HTTP/1.1" and "keep-alive" not in connection
        )
        if (self.content_length or 0) > self.max_body_size:
            raise HandshakeRefused(_TOO_LARGE, "the body is too long")
        return complete

    def get_environ(self) -> dict[str, Any]:
        # The request has arrived; the application may take longer.
        self._stop_timer()
        environ: dict[str, Any] = super().get_environ()
        environ[BIND] = self.server.address
        if self._authority is not None:
            environ["HTTP_HOST"] = self._authority
        body = self.wsgi_input
        if body.content_length or body.chunked_input:
            self.wsgi_input = _Body(body, self.max_body_size, self.body_timeout)
            environ["wsgi.input"] = self.wsgi_input
            environ["wsgi.input_terminated"] = True
        return environ

    def handle_error(self, t: Any, v: Any, tb: Any) -> None:
        # A body that cannot be read is the client's error, without a traceback.
        if not isinstance(v, _BodyError):
            super().handle_error(t, v, tb)
            return
        self.log_error("(from %s) %s", self.client_address, v)
        self.close_connection = True
        if not self.headers_sent:
            text = f"{v.refusal.reason}\n".encode()
            with suppress(OSError):
                self.start_response(v.refusal.status, [*_CLOSING, ("Content-Length", str(len(text)))])
                self.write(text)

    def finalize_headers(self) -> None:
        super().finalize_headers()
        if self.command == "HEAD":
            self.response_use_chunked = False

    def _write(self, data: bytes) -> None:
        if self.command != "HEAD":  # RFC 9110 §9.3.2
            super()._write(data)

    def _sendall(self, data: bytes) -> None:
        for start in range(0, len(data), _BLOCK_BYTES):
            try:
                with gevent.Timeout(
                    self.response_timeout, ConnectionResetError(ECONNRESET, "the client does not read")
                ):
                    super()._sendall(data[start : start + _BLOCK_BYTES])
            except ConnectionResetError:
                self.close_connection = True
                raise
            except SSLError as error:  # the client has gone; pywsgi would print a traceback
                self.close_connection = True
                raise ConnectionResetError(ECONNRESET, str(error)) from error

    def log_error(self, msg: str, *args: object) -> None:
        # pywsgi reports invalid requests here, which any client can cause.
        log.info(Line("http: invalid request", error=msg % args if args else msg))

    def _handle_client_error(self, ex: Exception) -> tuple[str, bytes] | None:
        # pywsgi prints a traceback for errors that its parser does not expect, which any client can cause.
        if isinstance(ex, ConnectionError):
            return None
        if isinstance(ex, HandshakeRefused):
            self.log_error("(from %s) %s", self.client_address, ex.reason)
            return _answer(ex.status, ex.reason)
        known = ex if isinstance(ex, (OSError, ValueError)) else ValueError(str(ex))
        answer: tuple[str, bytes] = super()._handle_client_error(known)
        return answer


def with_limits(
    handler: type[BoundedRequestHandler], *, request_timeout: float | None, max_header_size: int
) -> type[BoundedRequestHandler]:
    """Return a subclass of a handler with other limits; they are described in `BoundedRequestHandler`."""
    limits = {"request_timeout": request_timeout, "max_header_size": max_header_size}
    return type(handler.__name__, (handler,), limits)


def _answer(status: str, reason: str) -> _Answer:
    body = f"{reason}\n"
    head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
    return _Answer(status[:3], (head + body).encode("latin-1", "replace"))
