"""Websocket frames, written from RFC 6455: shares no code with juggler or a websocket library. PURE."""

from __future__ import annotations

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

KEY = b"\x37\xfa\x21\x3d"
"""Mask of all frames. RFC 6455 requires random ones, to protect proxies. A server does not notice the difference."""


def frame(opcode: int, payload: bytes, *, masked: bool) -> bytes:
    """Return a frame; those of clients are masked."""
    length, bit = len(payload), masked << 7
    if length < 126:
        head = bytes((0x80 | opcode, bit | length))
    elif length < 65536:
        head = bytes((0x80 | opcode, bit | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, bit | 127)) + length.to_bytes(8, "big")
    return head + KEY + _xor(payload, KEY) if masked else head + payload


def _xor(payload: bytes, key: bytes) -> bytes:
    # As one large integer: a loop over the bytes takes a hundred times as long.
    length = len(payload)
    mask = (key * (length // 4 + 1))[:length]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(length, "big")


class Frames:
    """Turns the bytes of a server into messages and control frames."""

    def __init__(self) -> None:
        self._data = b""
        self._opcode = CONTINUATION
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return what is complete: the opcode and payload of each message and control frame.

        Raises:
            ValueError: a frame of a server must not look so.
        """
        data = self._data + data
        found = []
        start, end = 0, len(data)
        while end - start >= 2:
            first, length = data[start], data[start + 1]
            body = start + 2
            if length > 125:
                if length > 127:
                    raise ValueError("a frame of the server is masked")
                body += 2 if length == 126 else 8
                if body > end:
                    break
                length = int.from_bytes(data[start + 2 : body], "big")
            if body + length > end:
                break
            start = body + length
            payload = data[body:start]
            # Most frames are whole texts.
            found += [(TEXT, payload)] if first == 0x80 | TEXT else self._take(first, payload)
        self._data = data[start:]
        return found

    def _take(self, first: int, payload: bytes) -> list[tuple[int, bytes]]:
        if first & 0x70:
            raise ValueError(f"a frame of the server has reserved bits: {first:#x}")
        opcode = first & 0x0F
        if opcode >= CLOSE:
            return [(opcode, payload)]
        if (opcode == CONTINUATION) is not bool(self._parts):
            raise ValueError("a fragment of the server is out of place")
        if opcode != CONTINUATION:
            self._opcode = opcode
        self._parts.append(payload)
        if not first & 0x80:
            return []
        whole, self._parts = b"".join(self._parts), []
        return [(self._opcode, whole)]
