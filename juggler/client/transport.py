"""A websocket that blocks: the protocol is that of ``websockets``, without I/O; the socket is ours.

Many threads or greenlets may send, one reads. Whoever writes takes along what the reader has to say meanwhile (pongs,
the answer to a close frame), so that the reader never waits for a peer that does not read.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed as WebsocketClosed
from websockets.frames import Frame, Opcode
from websockets.protocol import CLOSED, CONNECTING, OPEN
from websockets.uri import parse_uri

from juggler.client.opening import SUBPROTOCOL, as_error, check_subprotocol, short
from juggler.client.reconnect import end_of
from juggler.errors import CloseCode, ConnectionClosed, InvalidMessage

RECEIVE_SIZE = 65536
LONGEST_TICK = 5.0
"""Seconds after which the reader looks up at the latest, to see whether a ping is due."""


class Transport:
    """A connection, from its making to its end.

    Attributes:
        ended: why it has ended; ``None`` while it is open.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        timeout: float,
        max_size: int | None,
        ping_interval: float | None,
        ping_timeout: float | None,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        """Connect, and wait for the upgrade.

        Args:
            url: ``ws://…`` or ``wss://…``.
            headers: more headers for the upgrade.
            timeout: seconds for connecting and upgrading, and for each write.
            max_size: bytes of the largest message that is accepted; ``None``: no limit.
            ping_interval: seconds of silence before a ping; ``None``: none are sent.
            ping_timeout: seconds to wait for a sign of life then; ``None``: for ever.
            ssl_context: for ``wss://``; ``None``: that of the system.

        Raises:
            ConfigError: the URL is none.
            HandshakeRefused: the server answered with an HTTP error.
            ConnectionClosed: it cannot be reached, or does not speak juggler.
        """
        self.ended: ConnectionClosed | None = None
        self._timeout = timeout
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._state = threading.Lock()  # of the protocol
        self._writing = threading.Lock()  # of the socket; taken before the other one
        # OpenSSL is not made for two threads at once; greenlets are never at once.
        self._tls: threading.Lock | None = None
        self._close_by: float | None = None
        self._heard = time.monotonic()
        self._pinged_at: float | None = None
        self._unwritten = False
        self._fragments: list[bytes] = []
        ticks = [LONGEST_TICK, timeout, *(each for each in (ping_interval, ping_timeout) if each is not None)]
        self._tick = max(0.01, min(ticks))
        self._messages: deque[bytes | None] = deque()  # None is a binary one
        try:
            self._open(url, headers, max_size, ssl_context)
        except Exception as error:
            raise as_error(error, url) from error

    def _open(self, url: str, headers: Mapping[str, str], max_size: int | None, context: ssl.SSLContext | None) -> None:
        uri = parse_uri(url)
        self._protocol = ClientProtocol(uri, subprotocols=[SUBPROTOCOL], max_size=max_size)
        deadline = time.monotonic() + self._timeout
        self._socket: Any = socket.create_connection((uri.host, uri.port), timeout=self._timeout)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            if uri.secure:
                context = context or ssl.create_default_context()
                self._socket = context.wrap_socket(self._socket, server_hostname=uri.host)
            request = self._protocol.connect()
            for name, value in headers.items():
                request.headers[name] = value
            self._protocol.send_request(request)
            self._write(deadline)
            self._upgrade(deadline, url)
        except BaseException:
            self._socket.close()
            raise
        self._socket.settimeout(self._tick)
        if uri.secure and not socket.socket.__module__.startswith("gevent"):
            self._socket.setblocking(False)
            self._tls = threading.Lock()

    def _upgrade(self, deadline: float, url: str) -> None:
        while self._protocol.state is CONNECTING:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            data = self._socket.recv(RECEIVE_SIZE)
            if data:
                self._protocol.receive_data(data)
            else:
                self._protocol.receive_eof()
            failure = self._protocol.handshake_exc
            if failure is not None:
                raise failure
        check_subprotocol(self._protocol.subprotocol, url)
        # More may have come in one go with the answer, even the end.
        self._take_events()
        self._write(deadline)

    # Sending

    def send(self, message: bytes, *, is_binary: bool = False) -> None:
        """Send a text message in UTF-8, or a binary one.

        Raises:
            ConnectionClosed: the connection has ended, or ends with this: it could not be written in time.
        """
        deadline = time.monotonic() + self._timeout
        if not self._writing.acquire(timeout=self._timeout):
            raise self._fail("a message could not be written in time")
        try:
            with self._state:
                if self._protocol.state is not OPEN:
                    raise self._end()
                if is_binary:
                    self._protocol.send_binary(message)
                else:
                    self._protocol.send_text(message)
            self._write(deadline)
        finally:
            self._writing.release()
        self._flush()

    def _flush(self) -> None:
        """Write what is there to be written, unless somebody writes already, who then takes it along."""
        while self._unwritten and self._writing.acquire(blocking=False):
            try:
                self._write(time.monotonic() + self._timeout)
            finally:
                self._writing.release()

    def _write(self, deadline: float) -> None:
        """Write all that the protocol has. Whoever calls it holds ``_writing``."""
        with self._state:
            self._unwritten = False
            chunks = self._protocol.data_to_send()
        try:
            for chunk in chunks:
                self._write_chunk(chunk, deadline)
        except ConnectionClosed:
            raise
        except BaseException:
            # A frame was cut in two: whatever followed would be taken for its rest.
            self._fail("a write was interrupted")
            raise

    def _write_chunk(self, chunk: bytes, deadline: float) -> None:
        view = memoryview(chunk)
        while view:
            try:
                view = view[self._send_some(view) :]
            except TimeoutError:
                if time.monotonic() >= deadline:
                    raise self._fail("a message could not be written in time") from None
            except OSError as error:
                raise self._fail(str(error)) from error
        if not chunk:  # the protocol says so: nothing more is to be written
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def _send_some(self, view: memoryview) -> int:
        sent: int = self._socket.send(view) if self._tls is None else self._with_tls(lambda: self._socket.send(view))
        return sent

    def _receive_data(self) -> bytes:
        receive = self._socket.recv
        data: bytes = receive(RECEIVE_SIZE) if self._tls is None else self._with_tls(lambda: receive(RECEIVE_SIZE))
        return data

    def _with_tls(self, operation: Callable[[], Any]) -> Any:
        """Do something with the socket, one thread at a time, and wait for it outside.

        Raises:
            TimeoutError: it was not ready within a tick.
        """
        assert self._tls is not None
        for _ in range(2):
            with self._tls:
                try:
                    return operation()
                except ssl.SSLWantReadError:
                    event = select.POLLIN
                except ssl.SSLWantWriteError:
                    event = select.POLLOUT
            poll = select.poll()
            poll.register(self._socket, event)
            if not poll.poll(self._tick * 1000):
                break
        raise TimeoutError

    # Receiving, by one thread

    def receive(self) -> str:
        """Wait for the next message.

        Raises:
            ConnectionClosed: the connection has ended.
            InvalidMessage: a binary message came.
        """
        while not self._messages:
            self._receive_some()
        message = self._messages.popleft()
        if message is None:
            raise InvalidMessage("expected a text message, got a binary one")
        try:
            return message.decode()
        except UnicodeDecodeError as error:
            raise InvalidMessage(f"expected UTF-8: {error}") from None

    def _receive_some(self) -> None:
        if self.ended is not None:
            raise self._end()
        if self._close_by is not None and time.monotonic() >= self._close_by:
            raise self._fail("the close handshake was not completed in time")
        try:
            data = self._receive_data()
        except TimeoutError:
            self._look_after_peer()
            return
        except OSError as error:
            raise self._fail(str(error)) from error
        self._heard = time.monotonic()
        self._pinged_at = None
        with self._state:
            if data:
                self._protocol.receive_data(data)
            else:
                self._protocol.receive_eof()
            self._take_events()
            self._unwritten = True
            if self._close_by is None and self._protocol.state is not OPEN:
                self._close_by = time.monotonic() + self._timeout
        self._flush()
        if not self._messages and self._protocol.state is CLOSED:
            raise self._end()

    def _take_events(self) -> None:
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._take_frame(event)

    def _take_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.BINARY:
            self._messages.append(None)
            return
        self._fragments.append(bytes(frame.data))
        if frame.fin:
            self._messages.append(b"".join(self._fragments))
            self._fragments.clear()

    def _look_after_peer(self) -> None:
        now = time.monotonic()
        if self._pinged_at is not None:
            if self._ping_timeout is not None and now - self._pinged_at >= self._ping_timeout:
                raise self._fail(f"no answer to a ping for {self._ping_timeout:g} s")
        elif self._ping_interval is not None and now - self._heard >= self._ping_interval:
            self._pinged_at = now
            with self._state, suppress(WebsocketClosed):
                if self._protocol.state is OPEN:
                    self._protocol.send_ping(b"")
                    self._unwritten = True
            self._flush()

    # Ending

    def begin_close(self, code: int, reason: str) -> None:
        """Send a close frame; the reader sees the end. Does not wait, nor fail. Idempotent."""
        with self._state:
            if self._protocol.state is OPEN:
                self._protocol.send_close(code, short(reason))
                self._unwritten = True
                self._close_by = time.monotonic() + self._timeout
        with suppress(ConnectionClosed):
            self._flush()

    def abort(self, reason: ConnectionClosed | None = None) -> None:
        """End the connection at once. Whoever reads or writes fails, with ``reason`` unless it had one. Idempotent."""
        lost = reason or ConnectionClosed(CloseCode.ABNORMAL, "the connection was lost: given up")
        self.ended = self.ended or lost
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def release(self, reason: ConnectionClosed | None = None) -> None:
        """Free the socket, as `abort`; the reader calls it when it reads no more. Idempotent."""
        self.abort(reason)
        self._socket.close()

    def _fail(self, reason: str) -> ConnectionClosed:
        if self.ended is None:
            self.ended = ConnectionClosed(CloseCode.ABNORMAL, f"the connection was lost: {reason}")
        self.abort()
        return self._end()

    def _end(self) -> ConnectionClosed:
        """Return why it has ended, for each who is told a new one."""
        if self.ended is None:
            self.ended = end_of(self._protocol.close_rcvd, self._protocol.close_sent)
        return ConnectionClosed(self.ended.code, self.ended.reason)
