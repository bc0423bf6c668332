"""loadtest.frames, compared with the library ``websockets``."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode

from loadtest.frames import CLOSE, PING, TEXT, Frames, frame


@pytest.mark.parametrize("length", [0, 1, 5, 125, 126, 65535, 65536])
def test_frames_are_those_of_the_library(length):
    payload = bytes(number % 251 for number in range(length))
    assert frame(TEXT, payload, masked=False) == Frame(Opcode.TEXT, payload).serialize(mask=False)
    masked = frame(TEXT, payload, masked=True)
    head = len(masked) - length
    key = masked[head - 4 : head]
    assert masked[1] & 0x80
    assert bytes(byte ^ key[i % 4] for i, byte in enumerate(masked[head:])) == payload


@pytest.mark.parametrize("size", [1, 2, 7, 1000, 100_000])
def test_reading_in_pieces(size):
    sent = [(TEXT, b"a" * length) for length in (0, 3, 125, 126, 70_000)] + [(PING, b"p"), (CLOSE, b"\x03\xe8")]
    data = b"".join(Frame(Opcode(opcode), payload).serialize(mask=False) for opcode, payload in sent)
    frames = Frames()
    found = [each for start in range(0, len(data), size) for each in frames.feed(data[start : start + size])]
    assert found == sent


def test_fragments_are_joined():
    parts = [Frame(Opcode.TEXT, b"a", fin=False), Frame(Opcode.PING, b"!"), Frame(Opcode.CONT, b"b")]
    assert Frames().feed(b"".join(part.serialize(mask=False) for part in parts)) == [(PING, b"!"), (TEXT, b"ab")]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (frame(TEXT, b"a", masked=True), "masked"),
        (b"\xc1\x01a", "reserved bits"),
        (Frame(Opcode.CONT, b"a").serialize(mask=False), "out of place"),
    ],
)
def test_frames_that_a_server_must_not_send(data, error):
    with pytest.raises(ValueError, match=error):
        Frames().feed(data)
