"""A TLS socket that sends and receives without blocking, under the names that a plain raw socket has."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from gevent.ssl import SSLWantReadError, SSLWantWriteError


class TlsSocket:
    """Wraps gevent's ``SSLSocket``; raises `BlockingIOError` where a plain socket would."""

    __slots__ = ("_sock",)

    def __init__(self, sock: Any) -> None:
        sock.setblocking(False)
        self._sock = sock

    def recv(self, size: int) -> bytes:
        """Receive at most ``size`` bytes; ask for 16 KB, a whole record, or some stay where no poll sees them."""
        try:
            data: bytes = self._sock.recv(size)
        except (SSLWantReadError, SSLWantWriteError):
            raise BlockingIOError from None
        return data

    def send(self, data: bytes | memoryview) -> int:
        """Send, and return how many bytes were taken. What was not taken must be tried again as it is."""
        sent: int = self._sock.send(data)  # 0 where a plain socket would raise
        return sent

    def shutdown(self, how: int) -> None:
        """Tell the peer that nothing more comes (TLS's close_notify), then shut the connection down."""
        with suppress(OSError, ValueError):  # most often: the peer's close_notify is not here yet
            self._sock.unwrap()
        self._sock.shutdown(how)
