"""A client with accounts: it sends requests on a raw websocket, and enters all it sends and receives. Needs gevent."""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from typing import Any

import gevent

from loadtest.audit.accounts import CALL, PUB, SUB, UNSB, Accounts, Request
from loadtest.frames import CLOSE, frame
from loadtest.raw_connection import ABNORMAL, RawConnection, request

TIMEOUT = 15.0
SILENCE = 60.0
"""Seconds without a byte, pings included, after which a connection counts as lost."""

NORMAL = (1000).to_bytes(2, "big")


class AuditClient:
    """A connection, and a greenlet that reads it.

    Attributes:
        url: URL of the server.
        number: number of the connection in the accounts.
        code: close code of the server, 1006 for a lost connection; None while it is open.
    """

    def __init__(self, url: str, accounts: Accounts, pause: float = 0.0) -> None:
        """Connect.

        Args:
            url: URL of the server.
            accounts: accounts of the process.
            pause: seconds between two reads, so that one takes many messages: for many subscribers in one process.

        Raises:
            OSError: the server refused it, or cannot be reached.
        """
        self.url = url
        self.code: int | None = None
        self._accounts = accounts
        self._pause = pause
        self._closing = False
        self._connection = RawConnection(url, buffer=None, timeout=TIMEOUT)
        try:
            self._connection.upgrade()
        except BaseException:
            self._connection.socket.close()
            raise
        self._connection.socket.settimeout(SILENCE)
        self.number = accounts.connected(time.monotonic())
        self._reader = gevent.spawn(self._read)

    def __enter__(self) -> AuditClient:  # noqa: PYI034 (typing.Self is of Python 3.11)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # Requests: they return at once, `wait` waits for the response

    def subscribe(self, channel: str) -> Request:
        return self.send(SUB, channel=channel)

    def unsubscribe(self, channel: str) -> Request:
        return self.send(UNSB, channel=channel)

    def publish(self, channel: str, args: Any = None) -> Request:
        return self.send(PUB, channel=channel, args=args)

    def call(self, uri: str, args: Any, timeout: float, expected: Any = Accounts.ANY, duration: float = 0.0) -> Request:
        """Call a function.

        Args:
            uri: URI of the function.
            args: its argument.
            timeout: timeout in seconds.
            expected: result that it must have.
            duration: seconds that the function takes.
        """
        made = self.send(CALL, expected, uri=uri, args=args, timeout=int(timeout * 1e9))
        made.duration = duration
        return made

    def send(self, type: int, expected: Any = Accounts.ANY, /, **payload: Any) -> Request:
        """Send a request. If the connection is lost, the accounts say so."""
        key = str(uuid.uuid4())
        made = self._accounts.sent(self.number, key, type, payload, time.monotonic(), expected)
        if self.code is not None:
            made.dropped = True
            return made
        with suppress(OSError):
            self._connection.send(request(type, uuid_=key, **payload))
        return made

    def wait(self, *requests: Request, result: bool = False, timeout: float = TIMEOUT) -> bool:
        """Wait until all requests have an ACK or NACK, or their connection is lost. Return whether it is so.

        Args:
            requests: requests of any client.
            result: also wait for the results of acknowledged calls.
            timeout: seconds to wait.
        """
        deadline = time.monotonic() + timeout
        for each in requests:
            while not (each.dropped or (each.is_complete if result else each.answered is not None)):
                if time.monotonic() > deadline:
                    return False
                gevent.sleep(0.002)
        return True

    # Connection

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Wait until the connection is closed. Return whether it is."""
        self._reader.join(timeout)
        return self._reader.dead

    def close(self) -> None:
        """Close the connection, and wait for the server. Idempotent."""
        if not self._closing:
            self._closing = True
            with suppress(OSError):
                self._connection.send(frame(CLOSE, NORMAL, masked=True))
        self._reader.join(TIMEOUT)
        self._reader.kill()

    def _read(self) -> None:
        receive, received, number = self._connection.receive, self._accounts.received, self.number
        try:
            while self._connection.close_code is None:
                texts = receive()
                now = time.monotonic()
                for text in texts:
                    received(number, text, now)
                if self._pause:
                    gevent.sleep(self._pause)
        except OSError:
            pass
        finally:
            self.code = self._connection.close_code or ABNORMAL
            self._accounts.closed(number, time.monotonic(), None if self._closing else self.code)
            self._connection.socket.close()
