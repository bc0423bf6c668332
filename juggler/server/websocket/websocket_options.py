"""Limits of a websocket, and settings of its compression. PURE."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

_KIB = 1024
_MIB = 1024 * _KIB


@dataclass(frozen=True, kw_only=True)
class DeflateOptions:
    """Settings of permessage-deflate (RFC 7692).

    The defaults keep no context between messages: an idle connection needs no additional memory, and one compressed
    frame serves all peers. Keeping the context compresses small messages better, for 10 to 300 KB per connection.

    Attributes:
        server_no_context_takeover: whether the server compresses each message on its own. Default: True.
        client_no_context_takeover: whether the client must compress each message on its own. Default: True.
        server_max_window_bits: window of the server's messages, as a power of two, 9 to 15; the client may request
            less. Default: 12.
        client_max_window_bits: window of the client's messages, 8 to 15, if the client supports the choice.
            Default: 12.
        threshold: size in bytes below which messages are sent uncompressed. Default: 1024.
        level: compression level, 1 to 9. Default: 3.
        memory_level: memory for compression, 1 to 9. Default: 5.
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
    """Limits of a websocket. None means no limit.

    Exceeding a limit closes the connection with the close code given. Timeouts are checked by a `Sweeper`.

    Attributes:
        read_limit: maximum size of a message in bytes, over all fragments and after decompression. The declared length
            of a frame is checked before its payload is read. Default: 1 MiB. Close code: 1009.
        max_fragments: maximum frames per message. Default: ``"auto"``, see `fragment_limit`. Close code: 1009.
        queue_limit: maximum bytes queued for a peer that does not read. A single message of any size may be queued.
            Default: 1 MiB. Close code: 4429 (`CloseCode.PEER_TOO_SLOW`).
        read_timeout: seconds without a complete message from the peer, pongs not counted. Closes clients that only
            listen. Default: None. Close code: 4408 (`CloseCode.PEER_SILENT`).
        message_timeout: seconds in which a message that has begun must arrive completely, or advance by 1 KiB per
            second. Default: 30. Close code: 4408.
        write_timeout: seconds during which bytes are queued and the peer reads none. Default: 10. Close code: 4429.
        ping_interval: seconds of silence after which the peer is pinged; None means never. Default: 25.
        ping_timeout: seconds of silence after a ping. Default: 10. Close code: 4408.
        close_timeout: seconds for the closing handshake, queued output included, after which the socket is closed.
            Default: 5.
        deflate: settings of permessage-deflate; None means not offered. Default: None.
    """

    read_limit: int | None = 1 * _MIB
    max_fragments: int | Literal["auto"] | None = "auto"
    queue_limit: int | None = 1 * _MIB
    read_timeout: float | None = None
    message_timeout: float | None = 30.0
    write_timeout: float | None = 10.0
    ping_interval: float | None = 25.0
    ping_timeout: float | None = 10.0
    close_timeout: float | None = 5.0
    deflate: DeflateOptions | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "deflate" or value is None or (field.name == "max_fragments" and value == "auto"):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ValueError(f"{field.name}: expected a number over 0, or None for no limit, got {value!r}")

    @property
    def fragment_limit(self) -> int | None:
        """`max_fragments` as a number. ``"auto"`` is one frame per 2 KiB of the read limit, at least 1024.

        Clients of the Go package send frames of 4 KiB, whatever the size of the message.
        """
        if self.max_fragments != "auto":
            return self.max_fragments
        return None if self.read_limit is None else max(1024, self.read_limit // 2048)


DEFAULT = WebSocketOptions()
"""The default limits, safe for untrusted clients."""
