"""Puts one message together from the pieces in which it arrives, and finds invalid UTF-8 at its first byte.

PURE: no I/O, no clock.
"""

from __future__ import annotations

from codecs import utf_8_decode
from typing import Any, Protocol

from juggler.errors import CloseCode
from juggler.server.websocket.frames import Violation

# Each piece costs some 60 bytes beside its content. Those below this size are merged, so that a peer that sends byte
# by byte cannot make us keep 60 times what it sent.
_SMALL = 4096


def _not_utf8() -> Violation:
    return Violation(CloseCode.INVALID_UTF8, "text is not UTF-8")


class Inflater(Protocol):
    """Decompresses messages, one after the other."""

    def inflate(self, data: bytes, final: bool) -> bytes:
        """Return what ``data`` decompresses to; ``final`` tells that the message ends with it."""
        ...


class Assembly:
    """One message that is not here in one frame, or not yet.

    Attributes:
        size: bytes of payload that its frames have declared so far.
        frames: number of its frames so far.
    """

    __slots__ = ("_inflater", "_pieces", "_tail", "_text", "frames", "size")

    def __init__(self, text: bool, inflater: Inflater | None = None) -> None:
        self._text = text
        self._inflater = inflater
        self._pieces: list[Any] = []
        self._tail = b""
        self.size = 0
        self.frames = 0

    def add(self, data: bytes, final: bool) -> None:
        """Take the next bytes of payload, unmasked; ``final`` tells that the message ends with them.

        Raises:
            Violation: they are not UTF-8, or cannot be decompressed within the limit.
        """
        if self._inflater is not None:
            data = self._inflater.inflate(data, final)
        piece: str | bytes = self._decode(data, final) if self._text else data
        if piece:
            self._append(piece)

    def _decode(self, data: bytes, final: bool) -> str:
        if self._tail:
            data = self._tail + data
        try:
            text, used = utf_8_decode(data, "strict", final)
        except UnicodeDecodeError:
            raise _not_utf8() from None
        self._tail = data[used:]
        if self._tail[:1] == b"\xed" and self._tail[1:] >= b"\xa0":
            raise _not_utf8()  # a surrogate: alone among all that is invalid, Python waits for its third byte
        return text

    def _append(self, piece: Any) -> None:
        pieces = self._pieces
        while pieces and len(pieces[-1]) < _SMALL and len(pieces[-1]) <= len(piece):
            piece = pieces.pop() + piece
        pieces.append(piece)

    def message(self) -> Any:
        """Return the whole message: ``str`` or ``bytes``."""
        pieces = self._pieces
        if len(pieces) == 1:
            return pieces[0]
        return "".join(pieces) if self._text else b"".join(pieces)
