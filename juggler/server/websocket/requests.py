"""Bounds on reading a request, which pywsgi does not have, and readable answers to what is no request."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import gevent
from gevent.pywsgi import WSGIHandler

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
    """Reads lines from a file, up to a number of bytes in all."""

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
    """pywsgi's handler, for strangers. Subclass it to set other bounds.

    Attributes:
        request_timeout: seconds until a request and its headers have to be here, from when the connection is made, or
            from the end of the previous response. Then: 408, or just the end where no request had begun. ``None``: no
            limit.
        max_header_size: bytes of all headers together. Over it: 431. The request line may have 8 KiB, else 414.
    """

    request_timeout: float | None = 10.0
    max_header_size = 16 * 1024

    requestline: str
    _timer: gevent.Timeout | None = None

    def handle(self) -> None:
        with suppress(ConnectionError):  # from the refusal of an invalid request, when its sender is gone
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
        # The request is here; what the application does with it may take its time.
        self._stop_timer()
        environ: dict[str, Any] = super().get_environ()
        return environ

    def log_error(self, msg: str, *args: object) -> None:
        # pywsgi tells of what is no request here: the client's fault, and nothing to wake anybody for.
        log.info(msg, *args)

    def _handle_client_error(self, ex: Exception) -> tuple[str, bytes] | None:
        # pywsgi prints a traceback for what its parser did not expect; anybody may send that.
        if isinstance(ex, ConnectionError):
            return None
        known = ex if isinstance(ex, (OSError, ValueError)) else ValueError(str(ex))
        answer: tuple[str, bytes] = super()._handle_client_error(known)
        return ("431", b"") if isinstance(ex, _HeadersTooLarge) else answer


def _readable(result: tuple[str, bytes]) -> tuple[str, bytes]:
    """Return an answer of pywsgi's own with a body that says what is wrong."""
    status, _ = result
    line, reason = _ANSWERS[status]
    body = f"{reason}\n"
    head = f"HTTP/1.1 {line}\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
    return status, (head + body).encode()
