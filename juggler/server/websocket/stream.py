"""A server's websocket on a gevent socket: receiving, sending, timekeeping, closing.

Everything is sent through one `Output`, which never switches greenlets. Sends and closes may therefore come from
anywhere, callbacks of gevent's hub included, and frames never interleave.
"""

from __future__ import annotations

from collections.abc import Callable
from select import POLLIN
from socket import SHUT_WR
from typing import Any, Protocol

import gevent
from gevent import monkey
from gevent.event import Event

from juggler.errors import CloseCode, ConnectionClosed
from juggler.process.output import Output, take_over
from juggler.process.spare_greenlets import SpareGreenlets
from juggler.server.websocket.backlog import COUNTED_FROM, Backlog
from juggler.server.websocket.deflate import Agreement, MessageDeflater, MessageInflater, SharedText
from juggler.server.websocket.frames import PING_FRAME, WHOLE_TEXT, close_frame, frame
from juggler.server.websocket.parser import Parser
from juggler.server.websocket.websocket_options import DEFAULT, WebSocketOptions

FRAMES_PER_TURN = 64
_DISCARD_BYTES = 65536
_LINGER_BYTES = 4 * 1024 * 1024  # read from the peer after the websocket has been closed
_MIN_BYTES_PER_SECOND = 1024  # of a message that takes longer than `message_timeout`
_poll = monkey.get_original("select", "poll")
_NOTHING: list[str] = []  # shared by all idle websockets; never filled
_NEXT_TURN = 1e-9  # sleep(0) may let greenlets alternate for long before gevent looks at sockets again
_READ = 1  # libev's EV_READ


class Receiver(Protocol):
    """Receives what a websocket delivers, see `WebSocket.deliver`. Its methods may block."""

    def on_text(self, text: str) -> None:
        """Receive a text message."""

    def on_end(self) -> None:
        """The websocket is closing or closed. Nothing follows."""


class _Woken(Exception):
    """Thrown into the greenlet that waits for the socket, to make it check the state again."""


class WebSocket:
    """One connection to a client. One greenlet receives, or `deliver` is used; any number may send and close.

    Its owner calls `finish` once `receive` has raised; `WebSocketHandler` does. `tick` is called by a `Sweeper`.

    Args:
        sock: a connected gevent socket, plain or TLS. Its connection is owned by the websocket from now on, see
            `take_over`.
        options: limits.
        initial: bytes that were already read from the socket.
        deflate: the compression agreed on, see `negotiate`. None: no compression.

    Attributes:
        options: limits.
        close_code: close code, set when closing begins; 1006 when the connection was lost.
        close_reason: close reason.
        closed: whether the socket is closed.
        delivers: whether `deliver` was called.
        on_closed: called once when the socket is closed; ``None`` for nothing. It must not block.
        backlog: where queued bytes are counted, with those of other websockets; ``None`` for nowhere.
    """

    __slots__ = (
        "__weakref__",
        "_closed_event",
        "_deflater",
        "_greenlets",
        "_heard",
        "_heard_at",
        "_hub",
        "_lost",
        "_messaged",
        "_messaged_at",
        "_output",
        "_parser",
        "_partial",
        "_pinged_at",
        "_readable",
        "_reading",
        "_ready",
        "_receiver",
        "_stalled_at",
        "backlog",
        "close_code",
        "close_reason",
        "closed",
        "on_closed",
        "options",
    )

    def __init__(
        self, sock: Any, options: WebSocketOptions = DEFAULT, initial: bytes = b"", deflate: Agreement | None = None
    ) -> None:
        self.options = options
        self._hub = gevent.get_hub()
        self._output = Output(take_over(sock), self._lose)
        self._readable = self._hub.loop.io(self._output.socket.fileno(), _READ)
        self._receiver: Receiver | None = None
        self._greenlets: SpareGreenlets | None = None
        self._reading = False  # a greenlet delivers, or is about to
        inflater = None if deflate is None else MessageInflater(deflate.options, options.read_limit)
        self._parser = Parser(options, inflater)
        self._deflater = None if deflate is None else MessageDeflater(deflate.options)
        if initial:
            self._parser.feed(initial)
        self._ready = _NOTHING  # messages, newest first
        self.close_code: int | None = None
        self.close_reason = ""
        self.closed = False
        self.on_closed: Callable[[], object] | None = None
        self.backlog: Backlog | None = None
        self._lost = False
        self._closed_event: Event | None = None
        # For `tick`. Messages only set flags, so that none costs a look at the clock.
        self._heard = True
        self._heard_at = 0.0
        self._messaged = True
        self._messaged_at = 0.0
        self._partial: tuple[float, int] | None = None  # time, and bytes that had arrived of an incomplete message
        self._pinged_at: float | None = None
        self._stalled_at: float | None = None

    @property
    def queued_bytes(self) -> int:
        """Bytes waiting to be sent."""
        return self._output.queued

    @property
    def delivers(self) -> bool:
        return self._greenlets is not None

    # Receiving

    def receive(self) -> str:
        """Wait for the next text message.

        Raises:
            ConnectionClosed: the websocket is closing or closed; every time with the same code and reason. After
                `close`, messages that have already arrived are dropped.
        """
        return (self._ready or self._receive_more()).pop()

    def _receive_more(self) -> list[str]:
        self._ready = _NOTHING
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
                    messages.reverse()
                    self._ready = messages
                    return messages
        raise ConnectionClosed(self.close_code or CloseCode.ABNORMAL, self.close_reason)

    def deliver(self, receiver: Receiver, greenlets: SpareGreenlets) -> None:
        """Deliver messages to a receiver instead of to `receive`, and call `finish` at the end.

        While nothing arrives, the websocket needs no greenlet, which saves 8 KB.

        Args:
            receiver: receives the messages, one after another.
            greenlets: greenlets in which its methods are called.
        """
        self._receiver = receiver
        self._greenlets = greenlets
        if self._parser.pending or self.close_code is not None:
            self._deliver_soon()
        else:
            self._readable.start(self._on_readable)

    def _deliver_soon(self) -> None:
        assert self._greenlets is not None
        self._reading = True
        self._readable.stop()
        self._greenlets.run_soon(self._deliver)

    def _on_readable(self) -> None:
        assert self._greenlets is not None
        self._reading = True
        self._greenlets.run(self._deliver)
        if self._reading and self._receiver is not None:  # the receiver has blocked
            self._readable.stop()

    def _deliver(self) -> None:
        """Deliver what has arrived. If the websocket is closing, finish it."""
        try:
            if self.close_code is None and self._receiver is not None:
                self._deliver_to(self._receiver)
        except BaseException as error:
            self.close(CloseCode.GOING_AWAY if isinstance(error, gevent.GreenletExit) else CloseCode.INTERNAL_ERROR)
            raise
        finally:
            if self.close_code is None:
                self._reading = False
                if not self._readable.active:
                    self._readable.start(self._on_readable)
            else:
                self._end_delivery()

    def _deliver_to(self, receiver: Receiver) -> None:
        parser = self._parser
        if not parser.pending:
            self._receive_available()
        while True:
            for text in self._parse():
                if self.close_code is not None:
                    return
                receiver.on_text(text)
            if not parser.pending:
                break
            gevent.sleep(_NEXT_TURN)
        if parser.end is not None and self.close_code is None:
            self._end(parser.end.code, parser.end.reason, parser.end.answer)

    def _end_delivery(self) -> None:
        receiver, self._receiver = self._receiver, None
        self._readable.stop()
        try:
            if receiver is not None:
                receiver.on_end()
        finally:
            self.finish()

    def _parse(self) -> list[str]:
        parser = self._parser
        messages = parser.parse(FRAMES_PER_TURN)
        if parser.replies:
            self.send_frame(parser.replies)
            parser.replies = b""
        if messages:
            self._messaged = True
        return messages

    def _read(self) -> int:
        """Wait for bytes and feed the parser. Return their number."""
        try:
            self._hub.wait(self._readable)
        except _Woken:
            return 0
        return self._receive_available()

    def _receive_available(self) -> int:
        """Feed the parser with what has arrived. Return the number of bytes."""
        parser = self._parser
        try:
            data = self._output.socket.recv(parser.read_size)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._lose(error)
            return 0
        if not data:
            self._lose("the peer closed the connection without a close frame")
            return 0
        self._heard = True
        parser.feed(data)
        return len(data)

    # Sending

    def send(self, payload: bytes, extra: int = 0) -> bool:
        """Send a text message. Never blocks, and does not raise when the connection is lost.

        Frames after the first in one turn of gevent's loop are joined and sent at its end.

        Args:
            payload: the text in UTF-8.
            extra: bytes added to `WebSocketOptions.queue_limit` for this message, for example for responses.

        Returns:
            False when the websocket is closing or closed; the message is then dropped.
        """
        if self._deflater is None:
            taken = self.send_frame(frame(WHOLE_TEXT, payload), extra)
        else:
            taken = self.close_code is None and self.send_frame(self._deflater.text_frame(payload), extra)
        if self._output.queued > COUNTED_FROM and self.backlog is not None:
            self.backlog.add(self, len(payload))
        return taken

    def send_shared(self, text: SharedText) -> bool:
        """Send a text that other peers get too, compressed once for all. Otherwise as `send`."""
        # As `send_frame`, without the cost of a call for each subscriber of an event.
        if self.close_code is not None:
            return False
        frame = text.plain if self._deflater is None else text.deflated(self._deflater)
        output = self._output
        if output.queued and not self._has_room(len(frame), 0):
            return False
        output.send(frame)
        return self.close_code is None

    def send_frame(self, frame: bytes, extra: int = 0) -> bool:
        """Send a frame made with `text_frame`, once for many peers. Otherwise as `send`."""
        if self.close_code is not None:
            return False
        output = self._output
        if output.queued and not self._has_room(len(frame), extra):
            return False
        output.send(frame)
        return self.close_code is None

    def _has_room(self, size: int, extra: int) -> bool:
        limit, output = self.options.queue_limit, self._output
        if limit is not None and output.queued + size > limit + extra and not output.has_room(size, limit + extra):
            self.fall_behind("the peer does not read: its queue is full")
        return self.close_code is None

    def fall_behind(self, reason: str) -> None:
        """Close with 4429: the peer reads too slowly. Drop its queue, except for the block that was sent in part."""
        self._output.drop()
        self.close(CloseCode.PEER_TOO_SLOW, reason)

    # Timekeeping

    def tick(self, now: float) -> None:
        """Ping an idle peer; close when the peer is silent or does not read, see `WebSocketOptions`.

        Args:
            now: seconds on a monotonic clock. The precision of all timeouts is the time between two calls.
        """
        self._check_writing(now)
        messaged, self._messaged = self._messaged, False
        if self.close_code is None:
            self._check_messages(now, messaged)
        if self.close_code is None:
            self._check_partial(now, messaged)
        if self.close_code is None:
            self._check_silence(now)

    def _has_unread(self) -> bool:
        """Return whether the peer has sent something that has not been read yet: then this process is slow, not it."""
        poll = _poll()
        poll.register(self._output.socket.fileno(), POLLIN)
        return bool(poll.poll(0))

    def _check_writing(self, now: float) -> None:
        timeout = self.options.write_timeout
        output = self._output
        if timeout is None or not output.queued:
            self._stalled_at = None
        elif self._stalled_at is None or output.progressed:
            output.progressed = False
            self._stalled_at = now
        elif now - self._stalled_at >= timeout:
            self._stalled_at = now
            if self.close_code is None:
                self.fall_behind(f"the peer did not read for {timeout:g} s")
            else:
                self.abort()

    def _check_messages(self, now: float, messaged: bool) -> None:
        timeout = self.options.read_timeout
        if timeout is None:
            return
        if messaged:
            self._messaged_at = now
        elif now - self._messaged_at >= timeout and not self._has_unread():
            self.close(CloseCode.PEER_SILENT, f"no message within {timeout:g} s")

    def _check_partial(self, now: float, messaged: bool) -> None:
        timeout = self.options.message_timeout
        received = self._parser.received
        if timeout is None or received is None:
            self._partial = None
        elif self._partial is None or messaged:
            self._partial = now, received
        elif now - self._partial[0] >= timeout:
            advanced = received - self._partial[1] >= timeout * _MIN_BYTES_PER_SECOND
            if advanced or self._has_unread():
                self._partial = now, received
            else:
                self.close(CloseCode.PEER_SILENT, f"the message did not arrive within {timeout:g} s")

    def _check_silence(self, now: float) -> None:
        options = self.options
        if self._heard:
            self._heard = False
            self._heard_at = now
            self._pinged_at = None
        elif self._pinged_at is not None:
            overdue = options.ping_timeout is not None and now - self._pinged_at >= options.ping_timeout
            if overdue and not self._has_unread():
                self.close(CloseCode.PEER_SILENT, f"no answer to a ping within {options.ping_timeout:g} s")
        elif options.ping_interval is not None and now - self._heard_at >= options.ping_interval:
            self._pinged_at = now
            self.send_frame(PING_FRAME)

    # Closing

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Start the closing handshake, after what is queued. Never blocks. The first code and reason win.

        Args:
            code: close code that may be sent.
            reason: text for people, truncated to 123 bytes in the close frame.

        Raises:
            ValueError: the code must not be sent (RFC 6455 §7.4).
        """
        answer = close_frame(code, reason)
        if self.close_code is None:
            self._end(code, reason, answer)

    def _end(self, code: int, reason: str, answer: bytes) -> None:
        self.close_code = code
        self.close_reason = reason
        self._output.send(answer)
        self._stop_receiving()

    def _lose(self, reason: str | OSError) -> None:
        """The connection is lost."""
        self._lost = True
        if self.close_code is None:
            self.close_code = CloseCode.ABNORMAL
            self.close_reason = str(reason)
        self._output.close()
        self._stop_receiving()

    def _stop_receiving(self) -> None:
        """Wake the greenlet that receives, or start one that ends the delivery."""
        self._ready = _NOTHING
        if self._receiver is None:
            self._hub.cancel_wait(self._readable, _Woken())
        elif not self._reading:
            self._deliver_soon()

    def finish(self) -> None:
        """Complete the closing handshake and close the socket, within `close_timeout`. `receive` must not be called.

        Closes with 1000 unless already closing. What is queued is sent, then the peer's close frame and its end of the
        connection are awaited, so that the peer reads the close frame instead of a reset.
        """
        self.close()
        try:
            gevent.sleep(0)  # let a greenlet in `receive` raise first
            with gevent.Timeout(self.options.close_timeout, False):
                if not self._lost:
                    self._linger()
        finally:
            self.abort()

    def abort(self) -> None:
        """Close the socket now. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._lose("the connection was aborted")
        if self._receiver is not None:
            self._readable.stop()
        self._hub.cancel_waits_close_and_then((self._readable,), _Woken(), self._output.socket.close)
        if self._closed_event is not None:
            self._closed_event.set()
        if self.on_closed is not None:
            self.on_closed()

    def _linger(self) -> None:
        budget = _LINGER_BYTES
        parser = self._parser
        while parser.end is None and budget > 0 and not self._lost:
            if parser.pending:
                gevent.sleep(_NEXT_TURN)
            else:
                budget -= self._read()
            parser.parse(FRAMES_PER_TURN)
            parser.replies = b""
        try:
            self._output.drain()
            self._output.socket.shutdown(SHUT_WR)
            while budget > 0 and not self._lost:
                budget -= self._discard()
        except OSError:
            pass  # reset by the peer

    def _discard(self) -> int:
        """Wait for bytes and drop them. Return their number, or the whole budget at the end of the connection."""
        try:
            self._hub.wait(self._readable)
            return len(self._output.socket.recv(_DISCARD_BYTES)) or _LINGER_BYTES
        except (_Woken, BlockingIOError):
            return 0

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Wait until the socket is closed.

        Args:
            timeout: seconds to wait; None means no limit.

        Returns:
            Whether it is closed.
        """
        if self.closed:
            return True
        if self._closed_event is None:
            self._closed_event = Event()
        return bool(self._closed_event.wait(timeout))
