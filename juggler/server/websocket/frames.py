"""Frames as bytes (RFC 6455 §5): what is sent, and what close frames say.

PURE: no I/O, no clock. Everything that writes a frame's bytes must live here and only here.
"""

from __future__ import annotations

from struct import Struct

from juggler.errors import CloseCode

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN = 0x80
RSV1 = 0x40
MAX_CONTROL_BYTES = 125  # §5.5

PING_FRAME = bytes((FIN | PING, 0))

_HEAD_7 = tuple(tuple(bytes((first, length)) for length in range(126)) for first in range(256))
_pack_16 = Struct(">BBH").pack
_pack_64 = Struct(">BBQ").pack
_pack_code = Struct(">H").pack

# §7.4.1 and the IANA registry; 1004 is reserved, 1005, 1006 and 1015 must not be sent.
_REGISTERED_CODES = frozenset((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014))


class Violation(Exception):
    """The peer broke the rules, or a limit. Not seen outside of this package.

    Attributes:
        code: the close code that tells him.
        reason: what was wrong.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def frame(first: int, payload: bytes) -> bytes:
    """Return an unmasked frame.

    Args:
        first: its first byte: opcode, FIN and reserved bits.
        payload: its payload.
    """
    length = len(payload)
    if length < 126:
        return _HEAD_7[first][length] + payload
    if length < 65536:
        return _pack_16(first, 126, length) + payload
    return _pack_64(first, 127, length) + payload


def text_frame(payload: bytes) -> bytes:
    """Return a whole text message as one frame, ready for any number of `WebSocket.send_frame`.

    Args:
        payload: UTF-8, which is not checked.
    """
    return frame(FIN | TEXT, payload)


def binary_frame(payload: bytes) -> bytes:
    """Return a whole binary message as one frame, for `WebSocket.send_frame`."""
    return frame(FIN | BINARY, payload)


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a close frame. A reason of more than 123 bytes is cut between two characters.

    Raises:
        ValueError: the code may not be sent.
    """
    if not may_be_sent(code):
        raise ValueError(f"close code: expected one that may be sent (RFC 6455 §7.4), got {code!r}")
    text = reason.encode("utf-8", "replace")[: MAX_CONTROL_BYTES - 2].decode("utf-8", "ignore")
    return frame(FIN | CLOSE, _pack_code(code) + text.encode())


def may_be_sent(code: int) -> bool:
    """Return whether a close frame may carry the code."""
    return code in _REGISTERED_CODES or 3000 <= code <= 4999


def parse_close(payload: bytes) -> tuple[int, str]:
    """Return code and reason of a close frame's payload; code 1005 when there is none.

    Raises:
        Violation: the payload is malformed.
    """
    if not payload:
        return CloseCode.NO_STATUS, ""
    code = int.from_bytes(payload[:2], "big")
    if len(payload) < 2 or not may_be_sent(code):
        raise Violation(CloseCode.PROTOCOL_ERROR, "invalid close code")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise Violation(CloseCode.INVALID_UTF8, "close reason is not UTF-8") from None
