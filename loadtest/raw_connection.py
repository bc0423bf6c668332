"""A websocket client under full control of the caller: it may read slowly or never, and send invalid data.

It shares no code with juggler, so that what it sees is judged independently. Works with and without gevent's
monkey-patching.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import threading
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from loadtest.frames import CLOSE, PING, PONG, TEXT, Frames, frame

SMALL_BUFFER = 16 * 1024
RECEIVE_SIZE = 65536
SUBPROTOCOL = "juggler.0"
ABNORMAL, NO_STATUS = 1006, 1005
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def request(type: int, *, uuid_: str = "", **payload: Any) -> bytes:
    """Return the frame of a request; its UUID is ``uuid_`` or a new one."""
    text = json.dumps({"meta": {"type": int(type), "uuid": uuid_ or str(uuid.uuid4())}, "payload": payload})
    return frame(TEXT, text.encode(), masked=True)


class RawConnection:
    """A connection to a server.

    Args:
        url: URL of the server, ``ws://…``.
        buffer: size of the socket's receive buffer in bytes; the system has a minimum. None: the system's default.
        timeout: seconds for each operation.

    Attributes:
        close_code: close code of the server, 1006 for a lost connection, None while it is open.
        socket: the socket.

    Raises:
        OSError: the server cannot be reached in time.
    """

    def __init__(self, url: str, *, buffer: int | None = SMALL_BUFFER, timeout: float | None = 10.0) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._path = parts._replace(scheme="", netloc="").geturl() or "/"
        self._frames = Frames()
        self._early = b""
        self._writing = threading.Lock()
        self.close_code: int | None = None
        self.socket = socket.socket()
        try:
            if buffer is not None:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            self.socket.settimeout(timeout)
            self.socket.connect(self._address)
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> RawConnection:  # noqa: PYI034 (typing.Self is of Python 3.11)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.socket.close()

    def fileno(self) -> int:
        """Return the socket's file descriptor, for ``select``."""
        return self.socket.fileno()

    def upgrade(self, headers: Mapping[str, str] | None = None) -> None:
        """Perform the websocket handshake, with additional headers.

        Raises:
            OSError: the server refused it, or responded with something else.
        """
        key = base64.b64encode(os.urandom(16))
        own = {
            "Host": "{}:{}".format(*self._address),
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key.decode(),
            "Sec-WebSocket-Protocol": SUBPROTOCOL,
        }
        lines = [
            f"GET {self._path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in {**own, **(headers or {})}.items()),
        ]
        self.send("\r\n".join([*lines, "", ""]).encode())
        response = b""
        while b"\r\n\r\n" not in response:
            data = self.socket.recv(RECEIVE_SIZE)
            if not data:
                raise ConnectionResetError(f"the server closed the connection during the handshake: {response!r:.200}")
            response += data
        head, _, self._early = response.partition(b"\r\n\r\n")
        accept = base64.b64encode(hashlib.sha1(key + MAGIC, usedforsecurity=False).digest())
        if not head.startswith(b"HTTP/1.1 101 ") or accept not in head:
            raise ConnectionRefusedError(
                f"the server refused the websocket: {response.decode(errors='replace')!r:.300}"
            )

    def send(self, data: bytes) -> None:
        """Send bytes; those of other threads or greenlets do not get between them.

        Raises:
            OSError: they could not be sent in time.
        """
        with self._writing:
            self.socket.sendall(data)

    def receive(self) -> list[bytes]:
        """Receive bytes, answer pings and a close frame, and return the text messages.

        Raises:
            TimeoutError: nothing was received in time.
            OSError: the connection is closed, or what was received is not a websocket's.
        """
        if self.close_code is not None:
            raise ConnectionResetError("the connection is closed")
        data, self._early = self._early or self.socket.recv(RECEIVE_SIZE), b""
        if not data:
            self.close_code = ABNORMAL
            return []
        try:
            found = self._frames.feed(data)
        except ValueError as error:
            raise ConnectionAbortedError(str(error)) from None
        texts = [payload for opcode, payload in found if opcode == TEXT]
        if len(texts) < len(found):
            self._on_control(found)
        return texts

    def _on_control(self, found: list[tuple[int, bytes]]) -> None:
        for opcode, payload in found:
            if opcode == CLOSE:
                self.close_code = int.from_bytes(payload[:2], "big") if payload else NO_STATUS
            if opcode in (PING, CLOSE):
                with suppress(OSError):  # the next read reports a lost connection
                    self.send(frame(PONG if opcode == PING else CLOSE, payload, masked=True))
