"""Non-blocking output to a socket, plain or TLS, shared by websockets and links to Redis.

Chunks handed in during one turn of gevent's loop are joined into one send. What the socket does not take is sent when
it becomes writable. Except for `Output.drain`, nothing here blocks or switches greenlets, so callbacks of gevent's hub
may call it, and chunks never interleave.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent
from gevent import monkey
from gevent.event import Event
from gevent.ssl import SSLSocket, SSLWantReadError, SSLWantWriteError

_BLOCK_BYTES = 256 * 1024  # joined into one send: enough to keep the socket busy
_WRITE = 2  # libev's EV_WRITE
_PlainSocket = monkey.get_original("socket", "SocketType")


class TlsSocket:
    """A TLS socket with the non-blocking methods of a plain one: they raise `BlockingIOError`.

    Args:
        sock: the gevent socket, which becomes non-blocking.
        keep_open: whether the connection stays open when the gevent socket is closed, until `close`.
    """

    __slots__ = ("_keeper", "_sock")

    def __init__(self, sock: SSLSocket, keep_open: bool = False) -> None:
        sock.setblocking(False)
        self._sock = sock
        # A socket is not closed before the files on it are.
        self._keeper = sock.makefile("rb", buffering=0) if keep_open else None

    def fileno(self) -> int:
        fileno: int = self._sock.fileno()
        return fileno

    def recv(self, size: int) -> bytes:
        """Receive at most ``size`` bytes: at least 16 KB, one record, or the rest stays where no poll sees it."""
        try:
            data: bytes = self._sock.recv(size)
        except (SSLWantReadError, SSLWantWriteError):
            raise BlockingIOError from None
        return data

    def send(self, data: bytes | memoryview) -> int:
        """Send and return the number of bytes taken, possibly 0. The rest must be sent again unchanged."""
        sent: int = self._sock.send(data)
        return sent

    def shutdown(self, how: int) -> None:
        """Send close_notify, then shut the connection down."""
        with suppress(OSError, ValueError):  # usually because the peer's close_notify has not arrived yet
            self._sock.unwrap()
        self._sock.shutdown(how)

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()
        if self._keeper is not None:
            self._keeper.close()


def nonblocking(sock: Any) -> Any:
    """Return the non-blocking ``recv``, ``send`` and ``shutdown`` of a gevent socket, plain or TLS.

    A TLS socket itself becomes non-blocking. To read, wait for `readable`.
    """
    if isinstance(sock, SSLSocket):
        return TlsSocket(sock)
    return sock._sock  # noqa: SLF001  # gevent's own methods wait, and cost 0.3 µs more


def take_over(sock: Any) -> Any:
    """Return a non-blocking socket that owns the connection of a gevent socket: closing the latter does not close it.

    A plain gevent socket is detached and unusable afterwards. Its replacement needs 0.8 KB less.
    """
    if isinstance(sock, SSLSocket):
        return TlsSocket(sock, keep_open=True)
    plain = _PlainSocket(sock.family, sock.type, sock.proto, sock.detach())
    plain.setblocking(False)
    return plain


def readable(sock: Any) -> Any:
    """Return the watcher to ``hub.wait`` for before reading. Closing the socket wakes the waiting greenlet."""
    return sock._read_event  # noqa: SLF001  # a watcher of its own would cost 200 bytes


class Output:
    """The write path of one socket.

    Attributes:
        socket: the socket.
        queued: bytes waiting to be sent. The owner checks it against its limit, see `has_room`.
        progressed: set whenever the socket takes bytes; for the owner to clear.
    """

    __slots__ = (
        "_before_block",
        "_busy",
        "_chunks",
        "_drained",
        "_joins",
        "_loop",
        "_on_lost",
        "_rest",
        "_turn",
        "_writable",
        "progressed",
        "queued",
        "socket",
    )

    def __init__(
        self, sock: Any, on_lost: Callable[[OSError], object], before_block: Callable[[], object] | None = None
    ) -> None:
        """Make the output of a socket.

        Args:
            sock: a connected socket, as returned by `nonblocking` or `take_over`. The owner closes it, after `close`.
            on_lost: called once when sending fails, after `close`. It must not block.
            before_block: called before queued chunks are joined. It may `put` more, and must not block.
        """
        self.socket = sock
        self.queued = 0
        self.progressed = False
        self._on_lost: Callable[[OSError], object] | None = on_lost
        self._before_block = before_block
        self._loop = gevent.get_hub().loop
        self._chunks: list[bytes] | None = None  # idle outputs are many, and need no list
        self._rest: memoryview | None = None  # of a block that was sent in part
        self._busy = False  # something is queued, and a callback or the watcher will send it
        self._turn = -1
        self._joins = False  # the last turn that had chunks had several
        self._writable: Any = None
        self._drained: Event | None = None

    def send(self, chunk: bytes) -> None:
        """Send a chunk at the end of this turn of the loop, joined with all others.

        The first one of a turn is sent at once, which costs less, unless the last turn that had any had several.
        """
        turn = self._loop.iteration  # constant with libuv, where all chunks are joined
        if turn != self._turn and not self._busy:
            self._turn = turn
            if not self._joins:
                # As `_write`, without the cost of a call.
                try:
                    sent = self.socket.send(chunk)
                except OSError as error:
                    sent = self._on_error(error)
                if sent == len(chunk):
                    self.progressed = True
                else:
                    self._keep(chunk, sent)
                    if self.queued:
                        self._busy = True
                        self._await_writable()
                return
            self._joins = False  # unless another one follows
        else:
            self._joins = True
        # As `put`, without the cost of a call.
        if self._chunks is None:
            self._chunks = [chunk]
        else:
            self._chunks.append(chunk)
        self.queued += len(chunk)
        if not self._busy:
            self._busy = True
            self._loop.run_callback(self.flush)

    def put(self, chunk: bytes) -> None:
        """Queue a chunk, to be sent with all others at the end of this turn of the loop."""
        if self._chunks is None:
            self._chunks = [chunk]
        else:
            self._chunks.append(chunk)
        self.queued += len(chunk)
        if not self._busy:
            self._busy = True
            self._loop.run_callback(self.flush)

    def flush(self) -> None:
        """Send a block of what is queued now, unless the socket is known to take nothing."""
        if self._writable is None or not self._writable.active:
            self._write_block()
            if self.queued:
                self._await_writable()
            else:
                self._idle()

    def has_room(self, size: int, limit: int) -> bool:
        """Return whether ``size`` more bytes fit in the limit, sending some of the queue if they would not.

        With an empty queue, any size fits.
        """
        if self.queued and self.queued + size > limit:
            if self._writable is None or not self._writable.active:
                self._write_block()
            return not self.queued or self.queued + size <= limit
        return True

    def drain(self) -> None:
        """Block until everything is sent, or sending has failed, or `close` is called."""
        self.flush()
        if self.queued:
            self._drained = Event()
            self._drained.wait()

    def drop(self) -> None:
        """Drop what is queued, except for the rest of a block that was sent in part."""
        self._chunks = None
        self.queued = 0 if self._rest is None else len(self._rest)

    def close(self) -> None:
        """Drop everything and send nothing more. Idempotent; to be called before the socket is closed."""
        self._on_lost = None
        self._chunks = None
        self._rest = None
        self.queued = 0
        if self._writable is not None:
            self._writable.close()
            self._writable = None
        self._idle()

    def _write(self, data: bytes | memoryview) -> None:
        """Send what the socket takes now and keep the rest."""
        try:
            sent = self.socket.send(data)
        except OSError as error:
            sent = self._on_error(error)
        if sent == len(data):
            self.progressed = True
        else:
            self._keep(data, sent)

    def _on_error(self, error: OSError) -> int:
        """Return how much was sent: nothing."""
        if not isinstance(error, BlockingIOError):
            self._lose(error)
        return 0

    def _keep(self, data: bytes | memoryview, sent: int) -> None:
        if self._on_lost is None:
            return  # closed
        if sent:
            self.progressed = True
        self._rest = memoryview(data)[sent:]
        self.queued += len(self._rest)

    def _write_block(self) -> None:
        block: bytes | memoryview | None = self._rest
        if block is None:
            if self._chunks is None:
                return
            if self._before_block is not None:
                self._before_block()
            block = self._take_block(self._chunks)
        self._rest = None
        self.queued -= len(block)
        self._write(block)

    def _take_block(self, chunks: list[bytes]) -> bytes:
        """Take chunks off the queue and join them: all of them, or enough to keep the socket busy."""
        if self.queued <= _BLOCK_BYTES:
            self._chunks = None
        else:
            size = count = 0
            while size < _BLOCK_BYTES and count < len(chunks):
                size += len(chunks[count])
                count += 1
            chunks, self._chunks = chunks[:count], chunks[count:] or None
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _await_writable(self) -> None:
        if self._writable is None:
            self._writable = self._loop.io(self.socket.fileno(), _WRITE)
        self._writable.start(self._on_writable)

    def _on_writable(self) -> None:
        self._write_block()
        if not self.queued and self._writable is not None:
            self._writable.stop()
            self._idle()

    def _idle(self) -> None:
        self._busy = False
        if self._drained is not None:
            self._drained.set()

    def _lose(self, error: OSError) -> None:
        on_lost = self._on_lost
        self.close()
        if on_lost is not None:
            on_lost(error)
