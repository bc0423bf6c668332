"""A client under juggler.1 with accounts of its calls, on a raw websocket. Needs gevent."""

from __future__ import annotations

import json
import time
import uuid
from contextlib import suppress
from typing import Any

import gevent

from loadtest.audit.calls import PART, Call, CallAccounts
from loadtest.frames import CLOSE, frame
from loadtest.raw_connection import ABNORMAL, RawConnection, request

CALL, CNCL, CRDT, WLCM = 1, 16, 17, 32
TIMEOUT = 15.0
SILENCE = 60.0
NORMAL = (1000).to_bytes(2, "big")
WINDOW = 1024
SUBPROTOCOL = {"Sec-WebSocket-Protocol": "juggler.1"}


class CallClient:
    """A connection, and a greenlet that reads it.

    Attributes:
        number: number of the connection in the accounts.
        id: identifier of the connection at the server; empty before its first message.
        code: close code of the server, 1006 for a lost connection; None while it is open.
    """

    def __init__(self, url: str, accounts: CallAccounts) -> None:
        """Connect.

        Raises:
            OSError: the server refused it, or cannot be reached.
        """
        self.code: int | None = None
        self.id = ""
        self._accounts = accounts
        self._closing = False
        self._connection = RawConnection(url, buffer=None, timeout=TIMEOUT)
        try:
            self._connection.upgrade(SUBPROTOCOL)
        except BaseException:
            self._connection.socket.close()
            raise
        self._connection.socket.settimeout(SILENCE)
        self.number = accounts.connected(time.monotonic())
        self._reader = gevent.spawn(self._read)

    def call(self, uri: str, name: str, seconds: float, timeout: float, parts: bool = False) -> tuple[str, Call]:
        """Call a function of `loadtest.soak.desk`; return the UUID and the call."""
        key = str(uuid.uuid4())
        wish: dict[str, Any] = {"parts": {"mode": "all", "window": WINDOW}} if parts else {}
        call = self._accounts.sent(self.number, key, name, timeout, time.monotonic())
        self._send(CALL, key, uri=uri, args=[name, seconds], timeout=int(timeout * 1e9), **wish)
        return key, call

    def cancel(self, key: str, call: Call, wait: bool) -> None:
        """Cancel a call of this client."""
        own = str(uuid.uuid4())
        self._accounts.cancelling(own, call, wait, time.monotonic())
        self._send(CNCL, own, **{"for": key, "wait": wait})

    def close(self) -> None:
        """Close the connection, and wait for the server. Idempotent."""
        if not self._closing:
            self._closing = True
            if self.code is None:
                self._accounts.closed(self.number, time.monotonic(), None)
            with suppress(OSError):
                self._connection.send(frame(CLOSE, NORMAL, masked=True))
        self._reader.join(TIMEOUT)
        self._reader.kill()

    def _send(self, type: int, key: str, **payload: Any) -> None:
        with suppress(OSError):  # the reader notices
            self._connection.send(request(type, uuid_=key, **payload))

    def _read(self) -> None:
        try:
            while self._connection.close_code is None:
                for text in self._connection.receive():
                    if not self._closing:
                        self._on_message(json.loads(text))
        except OSError:
            pass
        finally:
            self.code = self._connection.close_code or ABNORMAL
            if not self._closing:
                self._accounts.closed(self.number, time.monotonic(), self.code)
            self._connection.socket.close()

    def _on_message(self, message: dict[str, Any]) -> None:
        if message["meta"]["type"] == WLCM:
            self.id = message["payload"]["conn"]
        call = self._accounts.received(self.number, message, time.monotonic())
        if call and message["meta"]["type"] == PART and call.parts % (WINDOW // 2) == 0:
            self._send(CRDT, str(uuid.uuid4()), **{"for": message["payload"]["for"], "until": call.parts + WINDOW})
