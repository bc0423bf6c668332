"""The limits of a websocket, in one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, fields

_KIB = 1024
_MIB = 1024 * _KIB


@dataclass(frozen=True, kw_only=True)
class DeflateOptions:
    """How permessage-deflate (RFC 7692) is negotiated and used.

    The defaults keep nothing between messages: an idle connection costs no more memory than without compression, and
    one compressed frame serves all peers. Keeping the context compresses small messages better, for 10 to 300 KB a
    connection.

    Attributes:
        server_no_context_takeover: whether each message that is sent is compressed on its own.
        client_no_context_takeover: whether the client is told to compress each message on its own.
        server_max_window_bits: window of messages sent, as a power of two, 9 to 15; the client may ask for less.
        client_max_window_bits: window of messages received, 8 to 15, where the client lets us choose.
        threshold: messages of fewer bytes are sent as they are; in bytes.
        level: effort of compression, 1 to 9.
        memory_level: memory for compression, 1 to 9.
    """

    server_no_context_takeover: bool = True
    client_no_context_takeover: bool = True
    server_max_window_bits: int = 12
    client_max_window_bits: int = 12
    threshold: int = 1024
    level: int = 3
    memory_level: int = 5

    def __post_init__(self) -> None:
        _check_range("server_max_window_bits", self.server_max_window_bits, 9, 15)
        _check_range("client_max_window_bits", self.client_max_window_bits, 8, 15)
        _check_range("level", self.level, 1, 9)
        _check_range("memory_level", self.memory_level, 1, 9)
        if self.threshold < 0:
            raise ValueError(f"threshold: expected bytes, 0 or more, got {self.threshold!r}")


def _check_range(name: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise ValueError(f"{name}: expected {lowest} to {highest}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class WebSocketOptions:
    """Limits of a websocket. ``None`` means no limit, wherever it is allowed.

    Attributes:
        read_limit: size of a message, in bytes, over all its fragments and after decompression. A frame is judged by
            the length that it declares, before its payload is read. Over it: close code 1009.
        max_fragments: number of frames that a message may consist of. Over it: 1009.
        queue_limit: bytes that wait for a peer that does not read. A frame that does not fit any more ends the
            connection with 4429 (`CloseCode.PEER_TOO_SLOW`). A frame of any size is taken when nothing waits.
        read_timeout: seconds during which the peer sends no whole message, whatever pings it answers. Then: 4408. For
            clients that have to show that they are there; those that only listen would be lost. Needs a `Sweeper`.
        write_timeout: seconds during which bytes wait and the peer takes none. Then: 4429. Needs a `Sweeper`.
        ping_interval: seconds of silence after which the peer is pinged; ``None``: never. Needs a `Sweeper`.
        ping_timeout: seconds that a pinged peer may stay silent. Then: 4408 (`CloseCode.PEER_SILENT`).
        close_timeout: seconds that the close handshake may take, what waits to be sent and the peer's answer
            included. Then the socket is closed all the same.
        binary: whether binary messages are allowed. If not, one ends the connection with 1003 at its first header.
        deflate: permessage-deflate; ``None``: not offered.
    """

    read_limit: int | None = 1 * _MIB
    max_fragments: int | None = 1024
    queue_limit: int | None = 1 * _MIB
    read_timeout: float | None = None
    write_timeout: float | None = 10.0
    ping_interval: float | None = 25.0
    ping_timeout: float | None = 10.0
    close_timeout: float | None = 5.0
    binary: bool = False
    deflate: DeflateOptions | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("binary", "deflate") or value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ValueError(f"{field.name}: expected a number over 0, or None for no limit, got {value!r}")


DEFAULT = WebSocketOptions()
"""Safe for strangers."""
