"""Parse what a client sends (RFC 6455): bytes in, messages and replies out.

PURE: no I/O, no clock. Only this file checks what a peer may send. Each rule is checked as soon as the bytes that
violate it have arrived, before anything is buffered.
"""

from __future__ import annotations

from typing import NamedTuple

from juggler.errors import CloseCode
from juggler.server.websocket.assembly import Assembly, Inflater
from juggler.server.websocket.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    MAX_CONTROL_BYTES,
    PING,
    PONG,
    RSV1,
    TEXT,
    WHOLE_TEXT,
    Violation,
    close_frame,
    frame,
    parse_close,
)
from juggler.server.websocket.websocket_options import WebSocketOptions

try:
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask  # pure Python, a hundred times slower

_DATA_OPCODES = (CONTINUATION, TEXT, BINARY)
_CONTROL_OPCODES = (CLOSE, PING, PONG)
_MASKED = 0x80
_MAX_HEAD = 14
_MIN_READ = 16 * 1024
_MAX_READ = 128 * 1024  # larger buffers are memory mappings of their own
_NO_LIMIT = 1 << 63  # above any length that a frame can declare


class End(NamedTuple):
    """The end of the stream: a close frame, or a violation.

    Attributes:
        code: the peer's close code, or the one for its violation.
        reason: the peer's close reason, or what it violated.
        answer: the close frame to send.
    """

    code: int
    reason: str
    answer: bytes


def _protocol_error(reason: str) -> Violation:
    return Violation(CloseCode.PROTOCOL_ERROR, reason)


class Parser:
    """Parser for one peer.

    Attributes:
        read_size: bytes to request from the socket: the size of the last large frame, at least 16 KiB.
        pending: whether `parse` has bytes left to parse.
        replies: pong frames for the peer's pings, for the caller of `parse` to send and clear.
        end: set once nothing more will be parsed. Messages returned before are valid.
    """

    __slots__ = (
        "_assembly",
        "_buffer",
        "_final",
        "_inflater",
        "_left",
        "_mask",
        "_max_fragments",
        "_position",
        "_read_limit",
        "end",
        "pending",
        "read_size",
        "replies",
    )

    def __init__(self, options: WebSocketOptions, inflater: Inflater | None = None) -> None:
        self._read_limit = _NO_LIMIT if options.read_limit is None else options.read_limit
        self._max_fragments = _NO_LIMIT if options.fragment_limit is None else options.fragment_limit
        self._inflater = inflater
        self._buffer = b""
        self._position = 0
        self._assembly: Assembly | None = None
        # The data frame being read:
        self._left = 0
        self._mask = b""
        self._final = 0
        self.read_size = _MIN_READ
        self.pending = False
        self.replies = b""
        self.end: End | None = None

    @property
    def received(self) -> int | None:
        """Bytes that have arrived of an incomplete message, small frames not counted; None if there is none."""
        if self._assembly is not None:
            return self._assembly.size - self._left
        return 0 if self._buffer and not self.pending else None

    def feed(self, data: bytes) -> None:
        """Add bytes from the peer. Call it only when nothing is `pending`: less than a frame is buffered then."""
        if self.end is not None:
            return
        kept = self._buffer[self._position :]
        self._buffer = kept + data if kept else data
        self._position = 0
        self.pending = True

    def parse(self, max_frames: int) -> list[str]:
        """Parse at most ``max_frames`` frames. Return the messages that they complete."""
        messages: list[str] = []
        if self.end is None:
            try:
                self._parse(max_frames, messages)
            except Violation as violation:
                self._finish(End(violation.code, violation.reason, close_frame(violation.code, violation.reason)))
        return messages

    def _parse(self, max_frames: int, messages: list[str]) -> None:
        buffer = self._buffer
        size = len(buffer)
        position = self._position
        if self._left:
            position = self._read_payload(position, messages)
        for _ in range(max_frames):
            # Fast path: a text in one frame, which is nearly all that clients send. _read_frame does the rest.
            stop = size + 1
            if size - position >= 8 and buffer[position] == WHOLE_TEXT and self._assembly is None:
                length = buffer[position + 1] - _MASKED
                if 0 <= length < 126:
                    start = position + 6
                    stop = start + length
                elif length == 126:
                    length = buffer[position + 2] << 8 | buffer[position + 3]
                    start = position + 8
                    if length >= 126:
                        stop = start + length
            if stop <= size and length <= self._read_limit:
                try:
                    messages.append(str(apply_mask(buffer[start:stop], buffer[start - 4 : start]), "utf-8"))
                except UnicodeDecodeError:
                    raise Violation(CloseCode.INVALID_UTF8, "text is not UTF-8") from None
                if stop == size:
                    self._buffer = b""
                    self._position = 0
                    self.pending = False
                    return
                position = stop
                continue
            stop = self._read_frame(position, messages)
            if stop == position:
                # Less than a frame is left: copy it, so that the large buffer can be freed.
                self._buffer = buffer[position:]
                self._position = 0
                self.pending = False
                return
            position = stop
            if self.end is not None:
                return
            if position < size and messages and len(messages[-1]) > _MIN_READ:
                break  # a few compressed bytes may inflate to this: let other connections run
        self._position = position
        self.pending = True

    def _read_frame(self, position: int, messages: list[str]) -> int:
        """Read one frame, possibly in part. Return the position after it, or ``position`` if bytes are missing."""
        buffer = self._buffer
        here = len(buffer) - position
        if here < 2:
            return position
        first = buffer[position]
        opcode = first & 0x0F
        length = buffer[position + 1] & 0x7F
        self._check_start(first, opcode, buffer[position + 1])
        start = position + 2
        if length >= 126:
            width = 2 if length == 126 else 8
            if here < 2 + width:
                return position
            length = int.from_bytes(buffer[start : start + width], "big")
            _check_minimal(length, width)
            start += width
        if opcode >= CLOSE:
            return self._read_control(opcode, start, length) or position
        self._check_limits(length)
        start += 4
        if start > len(buffer):
            return position
        self._begin_payload(first, length, buffer[start - 4 : start])
        return self._read_payload(start, messages)

    def _check_start(self, first: int, opcode: int, second: int) -> None:
        """Check the first two bytes of a frame (§5.2, §5.4, §5.5)."""
        if first & 0x70 and not (
            first & 0x70 == RSV1 and self._inflater is not None and opcode in (TEXT, BINARY)  # RFC 7692 §6
        ):
            raise _protocol_error("reserved bits are set")
        if not second & _MASKED:
            raise _protocol_error("frame is not masked")
        if opcode in _CONTROL_OPCODES:
            if not first & FIN:
                raise _protocol_error("control frame is fragmented")
            if second & 0x7F > MAX_CONTROL_BYTES:
                raise _protocol_error("control frame is too long")
        elif opcode not in _DATA_OPCODES:
            raise _protocol_error(f"unknown opcode {opcode}")
        elif (opcode == CONTINUATION) != (self._assembly is not None):
            raise _protocol_error("expected a continuation" if self._assembly else "nothing to continue")
        elif opcode == BINARY:
            raise Violation(CloseCode.UNSUPPORTED_DATA, "binary messages are not supported")

    def _check_limits(self, length: int) -> None:
        assembly = self._assembly
        size, frames = (assembly.size, assembly.frames) if assembly is not None else (0, 0)
        if size + length > self._read_limit:
            raise Violation(CloseCode.TOO_BIG, f"message is over {self._read_limit} bytes")
        if frames >= self._max_fragments:
            raise Violation(CloseCode.TOO_BIG, f"message is in more than {self._max_fragments} fragments")

    def _begin_payload(self, first: int, length: int, mask: bytes) -> None:
        assembly = self._assembly
        if assembly is None:
            assembly = self._assembly = Assembly(self._inflater if first & RSV1 else None)
        assembly.size += length
        assembly.frames += 1
        if length > _MIN_READ:
            self.read_size = min(length + _MAX_HEAD, _MAX_READ)
        self._left = length
        self._mask = mask
        self._final = first & FIN

    def _read_payload(self, start: int, messages: list[str]) -> int:
        """Read the payload of a data frame as far as it has arrived."""
        assembly = self._assembly
        assert assembly is not None
        masked = self._buffer[start : start + self._left]
        here = len(masked)
        self._left -= here
        last = bool(self._final) and not self._left
        mask = self._mask
        assembly.add(apply_mask(masked, mask), last)
        if self._left:
            turn = here & 3
            self._mask = mask[turn:] + mask[:turn]
        elif last:
            messages.append(assembly.message())
            self._assembly = None
        return start + here

    def _read_control(self, opcode: int, start: int, length: int) -> int:
        """Read a control frame. Return the position after it, 0 if bytes are missing."""
        buffer = self._buffer
        stop = start + 4 + length
        if stop > len(buffer):
            return 0
        payload = apply_mask(buffer[start + 4 : stop], buffer[start : start + 4])
        if opcode == PING:
            self.replies += frame(FIN | PONG, payload)
        elif opcode == CLOSE:
            code, reason = parse_close(payload)
            self._finish(End(code, reason, frame(FIN | CLOSE, payload)))
        return stop

    def _finish(self, end: End) -> None:
        self.end = end
        self.pending = False
        self._buffer = b""
        self._position = 0
        self._assembly = None
        self._left = 0


def _check_minimal(length: int, width: int) -> None:
    if length >> 63:
        raise _protocol_error("length has its highest bit set")
    if length < (126 if width == 2 else 65536):
        raise _protocol_error("length is not in its shortest form")
