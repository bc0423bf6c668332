"""Build frames and parse the payload of close frames (RFC 6455 §5).

PURE: no I/O, no clock. Only this file builds frames.
"""

from __future__ import annotations

from struct import Struct

from juggler.errors import CloseCode

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN = 0x80
RSV1 = 0x40
WHOLE_TEXT = FIN | TEXT
MAX_CONTROL_BYTES = 125  # §5.5

PING_FRAME = bytes((FIN | PING, 0))

_HEAD_7 = tuple(tuple(bytes((first, length)) for length in range(126)) for first in range(256))
_pack_16 = Struct(">BBH").pack
_pack_64 = Struct(">BBQ").pack
_pack_code = Struct(">H").pack

# §7.4.1 and the IANA registry; 1004 is reserved, 1005, 1006 and 1015 must not be sent.
_REGISTERED_CODES = frozenset((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014))


class Violation(Exception):
    """The peer violated the protocol or a limit. Internal to this package.

    Attributes:
        code: close code.
        reason: close reason.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def frame(first: int, payload: bytes) -> bytes:
    """Return an unmasked frame.

    Args:
        first: first byte: FIN, reserved bits and opcode.
        payload: payload of any size.
    """
    length = len(payload)
    if length < 126:
        return _HEAD_7[first][length] + payload
    if length < 65536:
        return _pack_16(first, 126, length) + payload
    return _pack_64(first, 127, length) + payload


def text_frame(payload: bytes) -> bytes:
    """Return a text message as one frame, for any number of `WebSocket.send_frame`.

    Args:
        payload: UTF-8, not validated.
    """
    return frame(WHOLE_TEXT, payload)


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a close frame. A reason over 123 bytes is truncated between two characters.

    Raises:
        ValueError: the code must not be sent.
    """
    if not may_be_sent(code):
        raise ValueError(f"close code: expected one that may be sent (RFC 6455 §7.4), got {code!r}")
    text = reason.encode("utf-8", "replace")[: MAX_CONTROL_BYTES - 2].decode("utf-8", "ignore")
    return frame(FIN | CLOSE, _pack_code(code) + text.encode())


def may_be_sent(code: int) -> bool:
    """Return whether a close frame may carry the code."""
    return code in _REGISTERED_CODES or 3000 <= code <= 4999


def parse_close(payload: bytes) -> tuple[int, str]:
    """Parse the payload of a close frame into code and reason. An empty payload has code 1005.

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
