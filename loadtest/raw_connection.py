"""A websocket client under full control of the caller: it may read slowly or never, and send invalid data.

Works with and without gevent's monkey-patching.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from juggler.client.opening import SUBPROTOCOL
from juggler.process.uuids import new_uuid
from juggler.protocol.messages import MessageType

SMALL_BUFFER = 16 * 1024


def request(type: MessageType, **payload: Any) -> bytes:
    """Return the frame of a request."""
    text = json.dumps({"meta": {"type": type, "uuid": new_uuid()}, "payload": payload}).encode()
    return Frame(Opcode.TEXT, text).serialize(mask=True)


class RawConnection:
    """A connection to a server.

    Args:
        url: URL of the server.
        buffer: size of the socket's receive buffer in bytes; the system has a minimum.
        timeout: seconds for each operation.

    Raises:
        OSError: the server cannot be reached in time.
    """

    def __init__(self, url: str, *, buffer: int = SMALL_BUFFER, timeout: float = 10.0) -> None:
        uri = parse_uri(url)
        self._protocol = ClientProtocol(uri, subprotocols=[SUBPROTOCOL], max_size=None)
        self.socket = socket.socket()
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            self.socket.settimeout(timeout)
            self.socket.connect((uri.host, uri.port))
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> RawConnection:  # noqa: PYI034 (typing.Self is of Python 3.11)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.socket.close()

    def upgrade(self, headers: Mapping[str, str] | None = None) -> None:
        """Perform the websocket handshake, with additional headers.

        Raises:
            OSError: the server refused it.
        """
        opening = self._protocol.connect()
        opening.headers.update(headers or {})
        self._protocol.send_request(opening)
        self._flush()
        while self._protocol.state is State.CONNECTING:
            self._receive()
            if self._protocol.handshake_exc is not None:
                raise OSError(str(self._protocol.handshake_exc))

    def send(self, data: bytes) -> None:
        """Send bytes.

        Raises:
            OSError: they could not be sent in time.
        """
        self.socket.sendall(data)

    def receive(self) -> list[bytes]:
        """Receive bytes, answer pings, and return the text messages.

        Raises:
            TimeoutError: nothing was received in time.
            OSError: the connection is closed.
        """
        self._receive()
        self._flush()
        frames = [event for event in self._protocol.events_received() if isinstance(event, Frame)]
        return [bytes(frame.data) for frame in frames if frame.opcode is Opcode.TEXT]

    @property
    def close_code(self) -> int | None:
        """Close code of the server, 1006 for a lost connection, None while it is open."""
        if self._protocol.close_rcvd is not None:
            return self._protocol.close_rcvd.code
        return 1006 if self._protocol.state is State.CLOSED else None

    def _receive(self) -> None:
        if self._protocol.state is State.CLOSED:
            raise ConnectionResetError("the connection is closed")
        data = self.socket.recv(65536)
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()

    def _flush(self) -> None:
        for chunk in self._protocol.data_to_send():
            if chunk:
                self.socket.sendall(chunk)
