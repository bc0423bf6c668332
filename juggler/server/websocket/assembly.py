"""Assemble one text message from the pieces in which it arrives, and detect invalid UTF-8 at its first byte.

PURE: no I/O, no clock.
"""

from __future__ import annotations

from codecs import utf_8_decode
from typing import Protocol

from juggler.errors import CloseCode
from juggler.server.websocket.frames import Violation

# Each piece costs some 60 bytes beside its content. Smaller pieces are merged, so that a peer that sends byte by byte
# cannot make the server keep 60 times what it sent.
_SMALL = 4096


def _not_utf8() -> Violation:
    return Violation(CloseCode.INVALID_UTF8, "text is not UTF-8")


class Inflater(Protocol):
    """Decompresses messages, one after another."""

    def inflate(self, data: bytes, final: bool) -> bytes:
        """Decompress ``data``; ``final`` marks the end of the message."""
        ...


class Assembly:
    """A message that has not arrived completely, or that consists of several frames.

    Attributes:
        size: payload bytes declared by its frames so far.
        frames: number of its frames so far.
    """

    __slots__ = ("_inflater", "_pieces", "_tail", "frames", "size")

    def __init__(self, inflater: Inflater | None = None) -> None:
        self._inflater = inflater
        self._pieces: list[str] = []
        self._tail = b""
        self.size = 0
        self.frames = 0

    def add(self, data: bytes, final: bool) -> None:
        """Add the next payload bytes, unmasked; ``final`` marks the end of the message.

        Raises:
            Violation: the bytes are not UTF-8, or decompress to more than the limit.
        """
        if self._inflater is not None:
            data = self._inflater.inflate(data, final)
        piece = self._decode(data, final)
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
            raise _not_utf8()  # a surrogate, the only invalid sequence that Python reports after its third byte
        return text

    def _append(self, piece: str) -> None:
        pieces = self._pieces
        while pieces and len(pieces[-1]) < _SMALL and len(pieces[-1]) <= len(piece):
            piece = pieces.pop() + piece
        pieces.append(piece)

    def message(self) -> str:
        """Return the complete message."""
        return "".join(self._pieces)
