"""Limits on reading a request and its body, which pywsgi lacks, and readable responses to malformed requests."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from errno import ECONNRESET
from typing import Any

import gevent
from gevent.pywsgi import Input, WSGIHandler

from juggler.process.logline import Line

log = logging.getLogger("juggler.websocket")

_ANSWERS = {
    "400": ("400 Bad Request", "expected an HTTP/1.1 request"),
    "408": ("408 Request Timeout", "the request did not arrive in time"),
    "413": ("413 Content Too Large", "the body is too long"),
    "414": ("414 URI Too Long", "the request line is too long"),
    "431": ("431 Request Header Fields Too Large", "the headers are too long"),
}


_CLOSING = [("Connection", "close"), ("Content-Type", "text/plain")]

_NEXT_TURN = 1e-9  # sleep(0) may let greenlets alternate for long before gevent looks at sockets again
_BLOCK_BYTES = 64 * 1024  # read or sent without letting other greenlets run
_READS_PER_TURN = 256  # a body in chunks of one byte is read byte by byte
_DISCARD_BYTES = 64 * 1024
_DISCARD_SECONDS = 2.0


class _HeadersTooLarge(ValueError):
    pass


class _BodyTooLarge(ValueError):
    pass


_STATUSES = {_HeadersTooLarge: "431", _BodyTooLarge: "413"}


class _BodyError(OSError):
    """The body is too long, too slow or incomplete.

    Attributes:
        answer: key in `_ANSWERS`.
    """

    def __init__(self, answer: str, reason: str) -> None:
        super().__init__(reason)
        self.answer = answer


class _Limited:
    """Reads lines from a file, up to a total number of bytes."""

    __slots__ = ("_file", "_left")

    def __init__(self, file: Any, limit: int) -> None:
        self._file = file
        self._left = limit

    def readline(self, size: int) -> bytes:
        line: bytes = self._file.readline(min(size, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise _HeadersTooLarge("the headers are too long")
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
            raise _BodyError("413", "the body is too long")
        data: bytes = reader(min(size, self.left))
        if not data:
            raise _BodyError("400", "the connection was closed within the body")
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
            raise _BodyError("408", "the body did not arrive in time") from None
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
        return _readable(result) if isinstance(result, tuple) else result

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def MessageClass(self, rfile: Any, *args: Any) -> Any:  # noqa: N802  # pywsgi's name
        return super().MessageClass(_Limited(rfile, self.max_header_size), *args)

    def get_environ(self) -> dict[str, Any]:
        # The request has arrived; the application may take longer.
        self._stop_timer()
        environ: dict[str, Any] = super().get_environ()
        body = self.wsgi_input
        if body.content_length or body.chunked_input:
            self.wsgi_input = _Body(body, self.max_body_size, self.body_timeout)
            environ["wsgi.input"] = self.wsgi_input
            environ["wsgi.input_terminated"] = True
        return environ

    def read_request(self, raw_requestline: str) -> bool:
        complete: bool = super().read_request(raw_requestline)
        if (self.content_length or 0) > self.max_body_size:
            raise _BodyTooLarge("the body is too long")
        return complete

    def handle_one_response(self) -> None:
        super().handle_one_response()
        if getattr(self.wsgi_input, "failed", False):
            self.close_connection = True

    def handle_error(self, t: Any, v: Any, tb: Any) -> None:
        # A body that cannot be read is the client's error, without a traceback.
        if not isinstance(v, _BodyError):
            super().handle_error(t, v, tb)
            return
        self.log_error("%s", v)
        self.close_connection = True
        if not self.headers_sent:
            line, reason = _ANSWERS[v.answer]
            text = f"{reason}\n".encode()
            with suppress(OSError):
                self.start_response(line, [*_CLOSING, ("Content-Length", str(len(text)))])
                self.write(text)

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

    def log_error(self, msg: str, *args: object) -> None:
        # pywsgi reports invalid requests here, which any client can cause.
        log.info(Line("http: invalid request", error=msg % args if args else msg))

    def _handle_client_error(self, ex: Exception) -> tuple[str, bytes] | None:
        # pywsgi prints a traceback for errors that its parser does not expect, which any client can cause.
        if isinstance(ex, ConnectionError):
            return None
        known = ex if isinstance(ex, (OSError, ValueError)) else ValueError(str(ex))
        answer: tuple[str, bytes] = super()._handle_client_error(known)
        status = next((status for kind, status in _STATUSES.items() if isinstance(ex, kind)), None)
        return answer if status is None else (status, b"")


def _does_not_read() -> OSError:
    return ConnectionResetError(ECONNRESET, "the client does not read")


def _readable(result: tuple[str, bytes]) -> tuple[str, bytes]:
    """Return a response of pywsgi's own with a body that explains the error."""
    status, _ = result
    line, reason = _ANSWERS[status]
    body = f"{reason}\n"
    head = f"HTTP/1.1 {line}\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
    return status, (head + body).encode()
