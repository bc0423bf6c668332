"""Limits on reading a request, which pywsgi lacks, and readable responses to malformed requests."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import gevent
from gevent.pywsgi import WSGIHandler

from juggler.process.logline import Line

log = logging.getLogger("juggler.websocket")

_ANSWERS = {
    "400": ("400 Bad Request", "expected an HTTP/1.1 request"),
    "408": ("408 Request Timeout", "the request did not arrive in time"),
    "414": ("414 URI Too Long", "the request line is too long"),
    "431": ("431 Request Header Fields Too Large", "the headers are too long"),
}


class _HeadersTooLarge(ValueError):
    pass


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


class BoundedRequestHandler(WSGIHandler):  # type: ignore[misc]
    """pywsgi's handler, for untrusted clients. Subclass it to set other limits.

    Attributes:
        request_timeout: seconds from the connection, or from the previous response, until the request and its headers
            have arrived; None means no limit. Then the response is 408, or none if no request has begun. Default: 10.
        max_header_size: bytes of all headers together; beyond it, the response is 431. Default: 16 KiB. The request
            line may have 8 KiB; beyond it, the response is 414.
    """

    request_timeout: float | None = 10.0
    max_header_size = 16 * 1024

    requestline: str
    _timer: gevent.Timeout | None = None

    def handle(self) -> None:
        with suppress(ConnectionError):  # the sender of an invalid request has gone
            super().handle()

    def handle_one_request(self) -> Any:
        self.requestline = ""
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
        return environ

    def log_error(self, msg: str, *args: object) -> None:
        # pywsgi reports invalid requests here, which any client can cause.
        log.info(Line("http: invalid request", error=msg % args if args else msg))

    def _handle_client_error(self, ex: Exception) -> tuple[str, bytes] | None:
        # pywsgi prints a traceback for errors that its parser does not expect, which any client can cause.
        if isinstance(ex, ConnectionError):
            return None
        known = ex if isinstance(ex, (OSError, ValueError)) else ValueError(str(ex))
        answer: tuple[str, bytes] = super()._handle_client_error(known)
        return ("431", b"") if isinstance(ex, _HeadersTooLarge) else answer


def _readable(result: tuple[str, bytes]) -> tuple[str, bytes]:
    """Return a response of pywsgi's own with a body that explains the error."""
    status, _ = result
    line, reason = _ANSWERS[status]
    body = f"{reason}\n"
    head = f"HTTP/1.1 {line}\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
    return status, (head + body).encode()
