"""A blocking websocket: a socket around the sans-I/O protocol of ``websockets``.

Many threads or greenlets may send, one receives. The reader never blocks on a peer that does not read: while another
thread writes, that thread also writes the reader's pongs and close frames.

TLS is handled here and not with the server's code, which depends on gevent: this module runs on plain threads, too.
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

from juggler.client.forks import forked
from juggler.client.opening import OFFERED, as_error, expects_welcome, short
from juggler.client.reconnect import end_of
from juggler.errors import CloseCode, ConnectionClosed, InvalidMessage
from juggler.process.fork_hooks import register

RECEIVE_SIZE = 65536
LONGEST_TICK = 5.0
"""Maximum number of seconds between two checks whether a ping is due."""


class Transport:
    """One connection.

    Attributes:
        ended: why the connection has closed, ``None`` while it is open.
        welcome: the first message of a server that speaks juggler.1, ``None`` from others.
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
            headers: additional headers for the upgrade.
            timeout: seconds for connecting and upgrading, for each write, and for the close handshake.
            max_size: maximum size of an incoming message in bytes. ``None``: unlimited.
            ping_interval: seconds of silence before a ping. ``None``: no pings.
            ping_timeout: seconds to wait for any data after a ping. ``None``: unlimited.
            ssl_context: TLS context for ``wss://``. ``None``: that of the system.

        Raises:
            ConfigError: the URL is invalid.
            HandshakeRefused: the server answered with an HTTP error.
            ConnectionClosed: the server is unreachable, or does not speak juggler.
        """
        self.ended: ConnectionClosed | None = None
        self.welcome: str | None = None
        self._timeout = timeout
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._protocol_lock = threading.Lock()
        self._writing = threading.Lock()  # guards writes to the socket; acquired before the other one
        # Two threads must not use one OpenSSL connection concurrently. Greenlets never do.
        self._tls: threading.Lock | None = None
        self._close_by: float | None = None
        self._heard = time.monotonic()
        self._pinged_at: float | None = None
        self._unwritten = False
        self._fragments: list[bytes] = []
        ticks = [LONGEST_TICK, timeout, *(each for each in (ping_interval, ping_timeout) if each is not None)]
        self._tick = max(0.01, min(ticks))
        self._messages: deque[bytes | None] = deque()  # None: a binary message
        try:
            self._open(url, headers, max_size, ssl_context)
        except Exception as error:
            raise as_error(error, url) from error

    def _open(self, url: str, headers: Mapping[str, str], max_size: int | None, context: ssl.SSLContext | None) -> None:
        uri = parse_uri(url)
        self._protocol = ClientProtocol(uri, subprotocols=OFFERED, max_size=max_size)
        deadline = time.monotonic() + self._timeout
        self._socket: Any = socket.create_connection((uri.host, uri.port), timeout=self._timeout)
        register(self)
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
            self._receive_by(deadline)
            failure = self._protocol.handshake_exc
            if failure is not None:
                raise failure
        has_welcome = expects_welcome(self._protocol.subprotocol, url)
        # The server's answer may be followed by messages, or by a close frame.
        self._take_events()
        self._write(deadline)
        while has_welcome and not self._messages:
            if self._protocol.close_rcvd is not None or self._protocol.state is CLOSED:
                raise self._end()
            self._receive_by(deadline)
            self._take_events()
            self._write(deadline)
        if has_welcome:
            try:
                self.welcome = self._take_message()
            except InvalidMessage as error:
                raise ConnectionClosed(CloseCode.UNSUPPORTED_DATA, str(error)) from None

    def _receive_by(self, deadline: float) -> None:
        self._socket.settimeout(max(0.001, deadline - time.monotonic()))
        data = self._socket.recv(RECEIVE_SIZE)
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()

    # Sending

    def send(self, message: bytes, *, is_binary: bool = False) -> None:
        """Send a text message in UTF-8, or a binary one.

        Raises:
            ConnectionClosed: the connection has closed, or the message could not be written in time.
        """
        deadline = time.monotonic() + self._timeout
        if not self._writing.acquire(timeout=self._timeout):
            raise self._fail("a message could not be written in time")
        try:
            with self._protocol_lock:
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
        """Write what the protocol has to send, unless another thread is writing: it then writes this as well."""
        while self._unwritten and self._writing.acquire(blocking=False):
            try:
                self._write(time.monotonic() + self._timeout)
            finally:
                self._writing.release()

    def _write(self, deadline: float) -> None:
        """Write what the protocol has to send. The caller holds ``_writing``."""
        with self._protocol_lock:
            self._unwritten = False
            chunks = self._protocol.data_to_send()
        try:
            for chunk in chunks:
                self._write_chunk(chunk, deadline)
        except ConnectionClosed:
            raise
        except BaseException:
            # Part of a frame was written: the peer would read what follows as the rest of it.
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
        if not chunk:  # the protocol's mark for the end of the stream
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
        """Read or write under the TLS lock, and wait for the socket without it.

        Raises:
            TimeoutError: the socket was not ready within a tick.
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

    # Receiving, in one thread

    def receive(self) -> str:
        """Wait for the next message.

        Raises:
            ConnectionClosed: the connection has closed.
            InvalidMessage: the message is binary, or not UTF-8.
        """
        while not self._messages:
            self._receive_some()
        return self._take_message()

    def _take_message(self) -> str:
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
            self._check_peer()
            return
        except OSError as error:
            raise self._fail(str(error)) from error
        self._heard = time.monotonic()
        self._pinged_at = None
        with self._protocol_lock:
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

    def _check_peer(self) -> None:
        now = time.monotonic()
        if self._pinged_at is not None:
            if self._ping_timeout is not None and now - self._pinged_at >= self._ping_timeout:
                raise self._fail(f"no answer to a ping for {self._ping_timeout:g} s")
        elif self._ping_interval is not None and now - self._heard >= self._ping_interval:
            self._pinged_at = now
            with self._protocol_lock, suppress(WebsocketClosed):
                if self._protocol.state is OPEN:
                    self._protocol.send_ping(b"")
                    self._unwritten = True
            self._flush()

    # Closing

    def begin_close(self, code: int, reason: str) -> None:
        """Send a close frame without waiting for the answer, which the reader receives. Never fails. Idempotent."""
        with self._protocol_lock:
            if self._protocol.state is OPEN:
                self._protocol.send_close(code, short(reason))
                self._unwritten = True
                self._close_by = time.monotonic() + self._timeout
        with suppress(ConnectionClosed):
            self._flush()

    def abort(self, reason: ConnectionClosed | None = None) -> None:
        """Close the connection at once: reads and writes fail with ``reason``, or with an earlier one. Idempotent."""
        lost = reason or ConnectionClosed(CloseCode.ABNORMAL, "the connection was lost: aborted by this client")
        self.ended = self.ended or lost
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def release(self, reason: ConnectionClosed | None = None) -> None:
        """Abort the connection and free the socket. Called by the reader when it has finished. Idempotent."""
        self.abort(reason)
        self._socket.close()

    def on_fork(self) -> None:
        """Free the copy of the socket in a child process; the connection stays that of the parent."""
        self._protocol_lock, self._writing = threading.Lock(), threading.Lock()
        self._tls = self._tls and threading.Lock()
        self.ended = self.ended or forked()
        self._socket.close()

    def _fail(self, reason: str) -> ConnectionClosed:
        if self.ended is None:
            self.ended = ConnectionClosed(CloseCode.ABNORMAL, f"the connection was lost: {reason}")
        self.abort()
        return self._end()

    def _end(self) -> ConnectionClosed:
        """Return why the connection has closed, as a new exception for each caller."""
        if self.ended is None:
            self.ended = end_of(self._protocol.close_rcvd, self._protocol.close_sent)
        return ConnectionClosed(self.ended.code, self.ended.reason)
