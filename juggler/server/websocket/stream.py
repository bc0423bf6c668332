"""A websocket on a gevent socket, as a server has it: reading, one way out, closing.

Rule: whatever is sent goes through `WebSocket._output`, and nothing there ever switches to another greenlet. So sends
and closes may come from anywhere, callbacks in gevent's hub included, and frames never interleave.
"""

from __future__ import annotations

from socket import SHUT_WR
from typing import Any

import gevent
from gevent.event import Event
from gevent.ssl import SSLSocket

from juggler.errors import CloseCode, ConnectionClosed
from juggler.server.websocket.deflate import Agreement, MessageDeflater, MessageInflater, SharedText
from juggler.server.websocket.frames import close_frame, text_frame
from juggler.server.websocket.options import DEFAULT, WebSocketOptions
from juggler.server.websocket.parser import Parser
from juggler.server.websocket.tls import TlsSocket

FRAMES_PER_TURN = 64
_BLOCK_BYTES = 256 * 1024
_DISCARD_BYTES = 65536
_LINGER_BYTES = 4 * 1024 * 1024  # read from a peer that has been told that it is over
_NEXT_TURN = 1e-9  # sleep(0) may let greenlets alternate for long before gevent looks at sockets again


class _Woken(Exception):
    """Thrown into a greenlet that waits for the socket: look again whether there is anything to wait for."""


class WebSocket:
    """One connection to a client. One greenlet receives; any number may send and close.

    Whoever made it calls `finish` in the end, once `receive` has raised; `WebSocketHandler` does.

    Args:
        sock: a connected gevent socket, plain or TLS, which the websocket owns from now on.
        options: limits.
        initial: bytes that were already read from the socket.
        deflate: what was agreed on about compression, `negotiate`.

    Attributes:
        options: limits.
        close_code: the code with which it ended, set once the closing begins; 1006 when the connection was lost.
        close_reason: the reason that goes with it.
        closed: whether it is all over and the socket is closed.
    """

    __slots__ = (
        "__weakref__",
        "_block",
        "_closed_event",
        "_deflater",
        "_flushing",
        "_heard",
        "_heard_at",
        "_hub",
        "_lost",
        "_messaged",
        "_messaged_at",
        "_parser",
        "_pinged_at",
        "_progress",
        "_queue",
        "_queued",
        "_raw",
        "_ready",
        "_sock",
        "_stalled_at",
        "_turn",
        "_writer",
        "close_code",
        "close_reason",
        "closed",
        "options",
    )

    def __init__(
        self, sock: Any, options: WebSocketOptions = DEFAULT, initial: bytes = b"", deflate: Agreement | None = None
    ) -> None:
        self.options = options
        self._sock = sock
        self._raw = TlsSocket(sock) if isinstance(sock, SSLSocket) else sock._sock
        self._hub = sock.hub
        inflater = None if deflate is None else MessageInflater(deflate.options, options.read_limit)
        self._parser = Parser(options, inflater)
        self._deflater = None if deflate is None else MessageDeflater(deflate.options)
        if initial:
            self._parser.feed(initial)
        self._ready: list[str | bytes] = []  # newest first
        # The way out: frames that wait, and before them the rest of a block that was sent in part.
        self._queue: list[bytes] = []
        self._block: memoryview | None = None
        self._queued = 0
        self._flushing = False
        self._turn = -1
        self._writer: gevent.Greenlet | None = None
        # The end:
        self.close_code: int | None = None
        self.close_reason = ""
        self.closed = False
        self._lost = False
        self._closed_event: Event | None = None
        # For the sweeper, see `Sweeper`:
        self._heard = True
        self._heard_at = 0.0
        self._messaged = True
        self._messaged_at = 0.0
        self._pinged_at: float | None = None
        self._progress = False
        self._stalled_at: float | None = None

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait to be sent."""
        return self._queued

    # Receiving

    def receive(self) -> str | bytes:
        """Wait for the next message: ``str`` for a text, ``bytes`` for a binary one.

        Raises:
            ConnectionClosed: the websocket has ended, always with the same code and reason. One that was closed on
                this side ends at once, without its last messages.
        """
        ready = self._ready
        while not ready:
            ready = self._receive_more()
        return ready.pop()

    def _receive_more(self) -> list[str | bytes]:
        parser = self._parser
        while self.close_code is None:
            if parser.end is not None:
                self._end(parser.end.code, parser.end.reason, parser.end.answer)
                break
            if parser.pending:
                gevent.sleep(_NEXT_TURN)
            else:
                self._read()
            if self.close_code is None and parser.pending:
                messages = self._parse()
                if messages:
                    return messages
        raise ConnectionClosed(self.close_code or CloseCode.ABNORMAL, self.close_reason)

    def _parse(self) -> list[str | bytes]:
        parser = self._parser
        messages = parser.parse(FRAMES_PER_TURN)
        if parser.replies:
            self.send_frame(b"".join(parser.replies))
            parser.replies.clear()
        if messages:
            messages.reverse()
            self._ready = messages
            self._messaged = True
        return messages

    def _read(self) -> int:
        """Wait for bytes and give them to the parser. Return their number."""
        parser = self._parser
        try:
            self._hub.wait(self._sock._read_event)
            data = self._raw.recv(parser.read_size)
        except (_Woken, BlockingIOError):
            return 0
        except OSError as error:
            self._lose(str(error))
            return 0
        if not data:
            self._lose("the peer closed the connection without a close frame")
            return 0
        self._heard = True
        parser.feed(data)
        return len(data)

    # Sending

    def send(self, payload: bytes, extra: int = 0) -> bool:
        """Send a text message. Never blocks, and never raises because the peer is gone.

        Frames after the first in one turn of gevent's loop are joined, and go out when it ends.

        Args:
            payload: the text in UTF-8.
            extra: bytes by which `WebSocketOptions.queue_limit` is larger for this message, one that the peer has asked
                for, say.

        Returns:
            False when the websocket is closing or closed; the message is then dropped.
        """
        if self._deflater is None:
            return self.send_frame(text_frame(payload), extra)
        return self.close_code is None and self.send_frame(self._deflater.text_frame(payload), extra)

    def send_shared(self, text: SharedText) -> bool:
        """Send a text that other peers get too, compressed only once for all. Otherwise as `send`."""
        return self.close_code is None and self.send_frame(text.frame(self._deflater))

    def send_frame(self, frame: bytes, extra: int = 0) -> bool:
        """Send a frame made with `text_frame`, once for many peers. Otherwise as `send`."""
        if self.close_code is not None:
            return False
        if self._queued:
            limit = self.options.queue_limit
            if limit is not None and not self._has_room(frame, limit + extra):
                return False
        self._output(frame)
        return self.close_code is None

    def _output(self, frame: bytes) -> None:
        turn = self._hub.loop.iteration  # a constant with libuv: there all is joined
        if self._flushing or turn == self._turn:
            self._queue.append(frame)
            self._queued += len(frame)
            if not self._flushing:
                self._flushing = True
                self._hub.loop.run_callback(self._flush)
            return
        self._turn = turn
        sent = self._write(frame)
        if sent < len(frame) and not self._lost:
            self._block = memoryview(frame)[sent:]
            self._queued = len(self._block)
            self._flushing = True
            self._start_writer()

    def _write(self, data: bytes | memoryview) -> int:
        """Send what the socket takes now, and return how much that is."""
        try:
            sent: int = self._raw.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._lose(str(error))
            return 0
        self._progress = True
        return sent

    def _write_block(self) -> None:
        """Send a block of what waits, as far as the socket takes it; it is tried again as it was, as TLS demands."""
        if self._block is None:
            if not self._queue:
                return
            self._block = memoryview(self._take_block())
        block = self._block
        sent = self._write(block)
        if not self._lost:
            self._queued -= sent
            self._block = block[sent:] if sent < len(block) else None

    def _take_block(self) -> bytes:
        """Take frames off the queue, joined: all of them, or enough to keep the socket busy."""
        taken = self._queue
        if self._queued <= _BLOCK_BYTES:
            self._queue = []
        else:
            size = count = 0
            while size < _BLOCK_BYTES and count < len(taken):
                size += len(taken[count])
                count += 1
            taken, self._queue = taken[:count], taken[count:]
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def _flush(self) -> None:
        """Send what was queued in this turn. The rest is the writer's."""
        if self._writer is None:
            self._write_block()
            if self._queued:
                self._start_writer()
            else:
                self._flushing = False

    def _start_writer(self) -> None:
        self._writer = gevent.Greenlet(self._run_writer)
        self._writer.name = "websocket-writer"
        self._writer.start()

    def _run_writer(self) -> None:
        """Drain the queue, in a greenlet that lives while the peer reads more slowly than we send."""
        try:
            while self._queued:
                self._hub.wait(self._sock._write_event)
                self._write_block()
        except OSError:
            pass  # the socket was closed meanwhile
        finally:
            if self._queued:
                self._lose("writing was given up")  # nothing may follow half a frame
            self._writer = None
            self._flushing = False

    def _has_room(self, frame: bytes, limit: int) -> bool:
        """See that a frame can be added to what waits. If not even sending some of that helps, the peer is too slow."""
        if self._queued + len(frame) > limit:
            if self._writer is None:
                self._write_block()
            if self._queued and self._queued + len(frame) > limit:
                self.fall_behind("the peer does not read: its queue is full")
        return self.close_code is None

    def fall_behind(self, reason: str) -> None:
        """Close, because the peer is too slow, and drop what waits for it, but for the block it has begun to get."""
        self._queue.clear()
        self._queued = 0 if self._block is None else len(self._block)
        self.close(CloseCode.PEER_TOO_SLOW, reason)

    # Closing

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Start the close handshake, after what is queued. Never blocks; the first code and reason win.

        Args:
            code: close code, one that may be sent.
            reason: for people; over 123 bytes it is cut in the close frame.

        Raises:
            ValueError: the code must not be sent (RFC 6455 §7.4).
        """
        answer = close_frame(code, reason)
        if self.close_code is None:
            self._end(code, reason, answer)

    def _end(self, code: int, reason: str, answer: bytes) -> None:
        self.close_code = code
        self.close_reason = reason
        self._output(answer)
        self._stop_receiving()

    def _lose(self, reason: str) -> None:
        """The connection is gone."""
        self._lost = True
        if self.close_code is None:
            self.close_code = CloseCode.ABNORMAL
            self.close_reason = reason
        self._queue.clear()
        self._block = None
        self._queued = 0
        self._stop_receiving()

    def _stop_receiving(self) -> None:
        self._ready.clear()
        if not self.closed:
            self._hub.cancel_wait(self._sock._read_event, _Woken())

    def finish(self) -> None:
        """End the connection and close the socket, when nobody receives any more.

        Closes with 1000 unless it has ended already. What is queued goes out, the peer's close frame is awaited, then
        its end of the connection, so that it gets our close frame and no reset; all that in `close_timeout`.
        """
        self.close()
        gevent.sleep(0)  # who still waits in `receive` is told first
        try:
            with gevent.Timeout(self.options.close_timeout, False):
                if not self._lost:
                    self._linger()
        finally:
            self.abort()

    def abort(self) -> None:
        """Close the socket now. Idempotent."""
        if self.closed:
            return
        self._lose("the connection was aborted")
        self.closed = True
        self._sock.close()
        if self._closed_event is not None:
            self._closed_event.set()

    def _linger(self) -> None:
        budget = _LINGER_BYTES
        parser = self._parser
        while parser.end is None and budget > 0 and not self._lost:
            if parser.pending:
                gevent.sleep(_NEXT_TURN)
            else:
                budget -= self._read()
            parser.parse(FRAMES_PER_TURN)
            parser.replies.clear()
        self._flush()
        if self._writer is not None:
            self._writer.join()
        try:
            self._raw.shutdown(SHUT_WR)
            while budget > 0 and not self._lost:
                budget -= self._discard()
        except OSError:
            pass  # reset by the peer: it is all over as well

    def _discard(self) -> int:
        """Wait for bytes and drop them. Return their number, or more than enough at the end of the connection."""
        try:
            self._hub.wait(self._sock._read_event)
            return len(self._raw.recv(_DISCARD_BYTES)) or _LINGER_BYTES
        except (_Woken, BlockingIOError):
            return 0

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Wait until it is all over and the socket is closed.

        Args:
            timeout: how long to wait, in seconds; ``None`` for ever.

        Returns:
            Whether it is.
        """
        if self.closed:
            return True
        if self._closed_event is None:
            self._closed_event = Event()
        return bool(self._closed_event.wait(timeout))
