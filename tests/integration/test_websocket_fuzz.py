"""Random streams, in any segmentation, are parsed as by other parsers.

Each stream is parsed by `Parser` in random pieces, by ``websockets``, and by `Reference`, a plain implementation of
RFC 6455 that has the whole stream. `Parser` must always agree with the reference, and with ``websockets`` except where
that is known to differ.
"""

from __future__ import annotations

import random
import struct
from typing import Any, NamedTuple

import pytest
from websockets.frames import Opcode
from websockets.protocol import SERVER, Protocol, State

from juggler.server.websocket.parser import Parser
from juggler.server.websocket.websocket_options import WebSocketOptions
from tests.rawframes import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, client, parse

STREAMS = 100_000
CHUNKS = 20
LIMIT = 300
OPTIONS = WebSocketOptions(read_limit=LIMIT, max_fragments=None)


class Outcome(NamedTuple):
    messages: list[str]
    pongs: list[bytes]
    code: int | None
    """The close code at the end of the stream; None if it has no end."""


# Three parsers


def ours(stream: bytes, rng: random.Random) -> Outcome:
    parser = Parser(OPTIONS)
    messages: list[str] = []
    position = 0
    largest = rng.choice((1, 3, 20, 1000))
    while position < len(stream):
        size = rng.randint(1, largest)
        parser.feed(stream[position : position + size])
        while parser.pending:
            messages += parser.parse(rng.randint(1, 5))
        position += size
    pongs = [frame.payload for frame in parse(parser.replies)]
    return Outcome(messages, pongs, parser.end and parser.end.code)


def theirs(stream: bytes) -> Outcome:
    protocol = Protocol(SERVER, state=State.OPEN, max_size=LIMIT)
    protocol.receive_data(stream)
    message = Message()
    messages: list[str] = []
    pongs = []
    for frame in protocol.events_received():
        if frame.opcode is Opcode.PING:
            pongs.append(bytes(frame.data))
        elif frame.opcode is Opcode.BINARY:
            return Outcome(messages, pongs, 1003)  # it accepts binary messages
        elif frame.opcode in (Opcode.TEXT, Opcode.CONT):
            try:
                messages += message.add(frame.opcode, bytes(frame.data), frame.fin)
            except UnicodeDecodeError:
                return Outcome(messages, pongs, 1007)
    close = protocol.close_rcvd or protocol.close_sent
    return Outcome(messages, pongs, close and int(close.code))


class Message:
    """Assembles fragments, and decodes all of them again with each."""

    def __init__(self) -> None:
        self.opcode = 0
        self.data = b""

    def add(self, opcode: int, data: bytes, fin: bool) -> list[str]:
        """Return the complete message in a list, or an empty list."""
        if opcode != CONTINUATION:
            self.opcode, self.data = opcode, b""
        self.data += data
        check_utf8(self.data, fin)
        if not fin:
            return []
        data = self.data
        self.opcode, self.data = 0, b""
        return [data.decode()]


def check_utf8(data: bytes, whole: bool) -> None:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        tail = data[error.start :]
        if whole or not any(is_utf8(tail + end) for end in CHARACTER_ENDS):
            raise


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


# One of these completes each character that can be completed.
CHARACTER_ENDS = [bytes((byte,)) + b"\x80" * n for byte in (0x80, 0x90, 0xA0, 0xBF) for n in range(3)]


class Reference:
    """A plain implementation of RFC 6455: takes one frame after another from the whole stream.

    Attributes:
        agreed: whether ``websockets`` is known to agree. It checks complete frames only, their size first, accepts
            any form of length, and counts control frames as part of their message.
    """

    def __init__(self, stream: bytes) -> None:
        self.messages: list[str] = []
        self.pongs: list[bytes] = []
        self.code: int | None = None
        self.agreed = True
        self._message = Message()
        while stream and self.code is None:
            stream = self._frame(stream)

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.messages, self.pongs, self.code)

    def _frame(self, data: bytes) -> bytes:
        """Check the first frame. Return the bytes after it; none if it is incomplete."""
        if len(data) < 2:
            return b""
        opcode, length = data[0] & 15, data[1] & 127
        start = {126: 4, 127: 10}.get(length, 2)
        known = len(data) >= start
        if start > 2 and known:
            length = int.from_bytes(data[2:start], "big")
        stop = start + 4 + length
        over = known and len(self._message.data) + length > LIMIT
        minimal = {2: -1, 4: 125, 10: 65535}[start] < length < 1 << 63
        if self._is_malformed(data[0], data[1]):
            return self._fail(1002, len(data) >= stop and known and minimal and not over)
        if opcode == BINARY:
            return self._fail(1003, len(data) >= stop and known and minimal and not over)
        if not known:
            return b""
        if not minimal:
            return self._fail(1002, False)
        if over and opcode < 8:
            return self._fail(1009, True)
        self.agreed = self.agreed and not over
        key = data[start : start + 4]
        payload = bytes(byte ^ key[i & 3] for i, byte in enumerate(data[start + 4 : stop]))
        if opcode < 8:
            self._data(opcode, payload, data[0] >= 128, len(data) >= stop)
        elif len(data) >= stop:
            self._control(opcode, payload)
        return data[stop:]

    def _is_malformed(self, first: int, second: int) -> bool:
        opcode = first & 15
        if first & 0x70 or second < 128 or opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            return True
        if opcode >= 8:
            return first < 128 or second & 127 > 125
        return (opcode == CONTINUATION) != bool(self._message.opcode)

    def _data(self, opcode: int, payload: bytes, fin: bool, complete: bool) -> None:
        try:
            self.messages += self._message.add(opcode, payload, fin and complete)
        except UnicodeDecodeError:
            self._fail(1007, complete)

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self.pongs.append(payload)
        elif opcode == CLOSE:
            self.code = self._closing(payload)

    def _closing(self, payload: bytes) -> int:
        if not payload:
            return 1005
        code = int.from_bytes(payload[:2], "big")
        if len(payload) == 1 or not (code in REGISTERED or 3000 <= code < 5000):
            # Either of two violations may be reported.
            self.agreed = self.agreed and is_utf8(payload[2:])
            return 1002
        return code if is_utf8(payload[2:]) else 1007

    def _fail(self, code: int, agreed: bool) -> bytes:
        self.code = code
        self.agreed = self.agreed and agreed
        return b""


REGISTERED = {*range(1000, 1004), *range(1007, 1015)}


# Streams


def valid(rng: random.Random) -> list[bytes]:
    """Return the frames of some valid messages."""
    frames = []
    for _ in range(rng.randint(1, 4)):
        frames += valid_message(rng)
        while rng.random() < 0.3:
            frames.insert(rng.randint(0, len(frames)), client(rng.choice((PING, PONG)), payload(rng, 20)))
    if rng.random() < 0.3:
        frames.append(valid_close(rng))
    return frames


def valid_message(rng: random.Random) -> list[bytes]:
    opcode = TEXT if rng.random() < 0.95 else BINARY
    data = payload(rng, rng.choice((0, 10, 100, 130, LIMIT)))
    cuts = sorted(rng.randint(0, len(data)) for _ in range(rng.choice((0, 0, 1, 3))))
    parts = [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    last = len(parts) - 1
    return [client(CONTINUATION if i else opcode, part, fin=i == last) for i, part in enumerate(parts)]


def valid_close(rng: random.Random) -> bytes:
    code = rng.choice([*REGISTERED, 3000, 4999])
    return client(CLOSE, rng.choice((b"", struct.pack(">H", code) + payload(rng, 50))))


ALPHABET = "abc é☃𝄞\x00"


def payload(rng: random.Random, size: int) -> bytes:
    """Return UTF-8 of at most ``size`` bytes."""
    data = "".join(rng.choices(ALPHABET, k=size // 2)).encode()
    return data[:size].decode(errors="ignore").encode()


def anything(rng: random.Random) -> bytes:
    """Return a frame with a random header."""
    opcode = rng.choice((CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG, rng.randint(0, 15)))
    data = rng.choice((rng.randbytes(rng.randint(0, 140)), payload(rng, 20)))
    return client(opcode, data, fin=rng.random() < 0.7, rsv=rng.choice((0,) * 9 + (1, 2, 4)))


def swap(rng: random.Random, frames: list[bytes]) -> None:
    i, j = rng.randrange(len(frames)), rng.randrange(len(frames))
    frames[i], frames[j] = frames[j], frames[i]


def insert(rng: random.Random, frames: list[bytes]) -> None:
    frames.insert(rng.randint(0, len(frames)), anything(rng))


def drop(rng: random.Random, frames: list[bytes]) -> None:
    frames[rng.randrange(len(frames))] = b""


def flip(rng: random.Random, frames: list[bytes]) -> None:
    i = rng.randrange(len(frames))
    frame = bytearray(frames[i])
    if frame:
        # Headers matter more than payloads.
        frame[min(rng.randrange(len(frame)), rng.choice((0, 1, 2, 3, 1000)))] ^= 1 << rng.randrange(8)
    frames[i] = bytes(frame)


def cut(rng: random.Random, frames: list[bytes]) -> None:
    i = rng.randrange(len(frames))
    frames[i] = frames[i][: rng.randint(0, len(frames[i]))]


def stream(rng: random.Random) -> bytes:
    kind = rng.random()
    if kind < 0.05:
        return rng.randbytes(rng.randint(1, 60))
    frames = valid(rng)
    if kind > 0.3:
        for _ in range(rng.choice((1, 1, 2, 4))):
            rng.choice((swap, insert, drop, flip, flip, cut))(rng, frames)
    return b"".join(frames)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_any_stream(chunk):
    rng = random.Random(chunk)
    agreed = 0
    codes: set[Any] = set()
    for number in range(STREAMS // CHUNKS):
        data = stream(rng)
        reference = Reference(data)
        outcome = ours(data, rng)
        where = f"stream {number}: {data!r}"
        assert outcome == reference.outcome, where
        if reference.agreed:
            assert outcome == theirs(data), where
        agreed += reference.agreed
        codes.add(outcome.code)
    assert agreed > 0.8 * STREAMS // CHUNKS
    assert {None, 1000, 1002, 1003, 1005, 1007, 1009, 4999} <= codes
