"""Build and parse a client's frames, without any of the code under test."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
MASK = b"\x37\xfa\x21\x3d"


def mask(payload: bytes, key: bytes = MASK) -> bytes:
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def head(
    opcode: int, length: int, *, fin: bool = True, rsv: int = 0, width: int | None = None, masked: int = 1
) -> bytes:
    """Return a frame's bytes up to the mask. ``width``: bits of the length, 7, 16 or 64. Default: the shortest form."""
    if width is None:
        width = 7 if length < 126 else 16 if length < 65536 else 64
    first = fin << 7 | rsv << 4 | opcode
    if width == 7:
        return struct.pack(">BB", first, masked << 7 | length)
    if width == 16:
        return struct.pack(">BBH", first, masked << 7 | 126, length)
    return struct.pack(">BBQ", first, masked << 7 | 127, length)


def client(opcode: int, payload: bytes = b"", *, key: bytes = MASK, **options: Any) -> bytes:
    """Return a masked frame."""
    return head(opcode, len(payload), **options) + key + mask(payload, key)


def close(code: int, reason: bytes = b"") -> bytes:
    return client(CLOSE, struct.pack(">H", code) + reason)


class Frame(NamedTuple):
    fin: bool
    rsv: int
    opcode: int
    payload: bytes


def parse(data: bytes) -> list[Frame]:
    """Parse ``data``, which must consist of complete, unmasked frames."""
    frames = []
    position = 0
    while position < len(data):
        first, length = data[position], data[position + 1]
        assert length < 128, "a server's frame is not masked"
        start = position + 2
        if length >= 126:
            start += 2 if length == 126 else 8
            length = int.from_bytes(data[position + 2 : start], "big")
        position = start + length
        assert position <= len(data), "the last frame is cut off"
        frames.append(Frame(bool(first & 0x80), first >> 4 & 7, first & 15, data[start:position]))
    return frames


def texts(frames: list[Frame]) -> list[str]:
    return [frame.payload.decode() for frame in frames if frame.opcode == TEXT]


def close_of(frames: list[Frame]) -> tuple[int, str]:
    """Return code and reason of the only close frame, which must be the last frame."""
    assert [i for i, frame in enumerate(frames) if frame.opcode == CLOSE] == [len(frames) - 1]
    payload = frames[-1].payload
    return (int.from_bytes(payload[:2], "big") if payload else 1005), payload[2:].decode()
