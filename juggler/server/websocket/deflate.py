"""Negotiate permessage-deflate (RFC 7692), and compress and decompress messages.

PURE: no I/O, no clock. Nothing is decompressed beyond the read limit.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Any, NamedTuple

from juggler.errors import CloseCode
from juggler.server.websocket.frames import FIN, RSV1, TEXT, Violation, frame, text_frame
from juggler.server.websocket.websocket_options import DeflateOptions

_TAIL = b"\x00\x00\xff\xff"  # §7.2.1: the end of each message, which is not sent
_WINDOW_BITS = {str(bits): bits for bits in range(8, 16)}


class Agreement(NamedTuple):
    """The parameters that client and server have agreed on.

    Attributes:
        header: the server's ``Sec-WebSocket-Extensions``.
        options: the agreed parameters, with the server's other settings.
    """

    header: str
    options: DeflateOptions


@lru_cache(maxsize=128)  # browsers of one kind make the same offer, and share the result
def negotiate(offers: str, options: DeflateOptions) -> Agreement | None:
    """Accept the first acceptable offer (§7.1). Return None if there is none.

    Args:
        offers: the client's ``Sec-WebSocket-Extensions``.
        options: the server's settings.
    """
    for offer in offers.split(","):
        name, *parameters = (part.strip() for part in offer.split(";"))
        if name == "permessage-deflate":
            agreement = _accept(parameters, options)
            if agreement is not None:
                return agreement
    return None


def _accept(parameters: list[str], options: DeflateOptions) -> Agreement | None:
    offered = _parse(parameters)
    if offered is None:
        return None
    server_bits = min(options.server_max_window_bits, offered.get("server_max_window_bits", 15))
    if server_bits < 9:
        return None  # zlib does not compress with a window of 2**8
    client_bits = 15  # without the parameter, the client may use any window
    if "client_max_window_bits" in offered:
        client_bits = min(options.client_max_window_bits, offered["client_max_window_bits"])
    agreed = DeflateOptions(
        server_no_context_takeover=options.server_no_context_takeover or "server_no_context_takeover" in offered,
        client_no_context_takeover=options.client_no_context_takeover or "client_no_context_takeover" in offered,
        server_max_window_bits=server_bits,
        client_max_window_bits=client_bits,
        threshold=options.threshold,
        level=options.level,
        memory_level=options.memory_level,
    )
    header = ["permessage-deflate"]
    header += [name for name in ("server_no_context_takeover", "client_no_context_takeover") if getattr(agreed, name)]
    if "server_max_window_bits" in offered or server_bits < 15:
        header.append(f"server_max_window_bits={server_bits}")
    if "client_max_window_bits" in offered:
        header.append(f"client_max_window_bits={client_bits}")
    return Agreement("; ".join(header), agreed)


def _parse(parameters: list[str]) -> dict[str, int] | None:
    """Return the parameters of an offer, or None if it must be declined (§7.1)."""
    parsed: dict[str, int] = {}
    for parameter in parameters:
        name, has_value, value = (part.strip() for part in parameter.partition("="))
        value = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
        if name in parsed:
            return None
        if name in ("server_no_context_takeover", "client_no_context_takeover") and not has_value:
            parsed[name] = 1
        elif name in ("server_max_window_bits", "client_max_window_bits") and value in _WINDOW_BITS:
            parsed[name] = _WINDOW_BITS[value]
        elif name == "client_max_window_bits" and not has_value:
            parsed[name] = 15
        else:
            return None
    return parsed


class MessageInflater:
    """Decompresses the messages of one peer.

    Args:
        options: the agreed parameters.
        read_limit: maximum decompressed size of a message in bytes; None means no limit.
    """

    __slots__ = ("_bits", "_decompressor", "_keep", "_limit", "_produced")

    def __init__(self, options: DeflateOptions, read_limit: int | None) -> None:
        self._bits = -options.client_max_window_bits
        self._keep = not options.client_no_context_takeover
        self._limit = read_limit
        self._produced = 0
        self._decompressor: Any = None

    def inflate(self, data: bytes, final: bool) -> bytes:
        """Decompress ``data``; ``final`` marks the end of the message.

        Raises:
            Violation: the message is over the limit, or the data is not valid.
        """
        if self._decompressor is None:
            self._decompressor = zlib.decompressobj(self._bits)
        try:
            inflated = self._decompress(data + _TAIL if final else data)
        except zlib.error:
            raise _invalid() from None
        if final:
            self._produced = 0
            if not self._keep or self._decompressor.eof:
                self._decompressor = None
        return inflated

    def _decompress(self, data: bytes) -> bytes:
        decompressor = self._decompressor
        if self._limit is None:
            inflated: bytes = decompressor.decompress(data)
        else:
            room = self._limit - self._produced
            inflated = decompressor.decompress(data, room + 1)
            if len(inflated) > room:
                raise Violation(CloseCode.TOO_BIG, f"message is over {self._limit} bytes")
        self._produced += len(inflated)
        # A final block may end the message (§7.2.3.4), padded with a byte for the tail that was not sent.
        if len(decompressor.unused_data) > len(_TAIL) + 1:
            raise _invalid()
        return inflated


def _invalid() -> Violation:
    return Violation(CloseCode.PROTOCOL_ERROR, "invalid compressed data")


class MessageDeflater:
    """Compresses messages for one peer.

    Args:
        options: the agreed parameters.
    """

    __slots__ = ("_compressor", "options")

    def __init__(self, options: DeflateOptions) -> None:
        self.options = options
        self._compressor: Any = None

    def text_frame(self, payload: bytes) -> bytes:
        """Return a text message as one frame, compressed if that makes it shorter."""
        options = self.options
        if options.server_no_context_takeover or len(payload) < options.threshold:
            return deflated_text_frame(payload, options)
        if self._compressor is None:
            self._compressor = _compressor(options)
        return frame(FIN | RSV1 | TEXT, _compress(self._compressor, payload))

    def forget(self) -> None:
        """Drop the context, because the peer has received a message that was compressed elsewhere.

        Messages compressed from now on refer to nothing before, wherever that is in the peer's window.
        """
        self._compressor = None


def _compressor(options: DeflateOptions) -> Any:
    return zlib.compressobj(options.level, zlib.DEFLATED, -options.server_max_window_bits, options.memory_level)


def _compress(compressor: Any, payload: bytes) -> bytes:
    compressed: bytes = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return compressed[: -len(_TAIL)]


def deflated_text_frame(payload: bytes, options: DeflateOptions) -> bytes:
    """Return a text message as one frame, compressed on its own, or uncompressed if that is shorter."""
    if len(payload) < options.threshold:
        return text_frame(payload)
    compressed = _compress(_compressor(options), payload)
    return frame(FIN | RSV1 | TEXT, compressed) if len(compressed) < len(payload) else text_frame(payload)


class SharedText:
    """A text for many peers, framed once and compressed once, for `WebSocket.send_shared`.

    Args:
        payload: the text in UTF-8.

    Attributes:
        plain: the frame for peers without compression.
    """

    __slots__ = ("_deflated", "_payload", "plain")

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self.plain = text_frame(payload)
        self._deflated: dict[int, bytes] = {}  # by window size, the only parameter in which peers differ

    def deflated(self, deflater: MessageDeflater) -> bytes:
        """Return the frame for a peer with compression, given its deflater."""
        bits = deflater.options.server_max_window_bits
        shared = self._deflated.get(bits)
        if shared is None:
            shared = self._deflated[bits] = deflated_text_frame(self._payload, deflater.options)
        deflater.forget()
        return shared
