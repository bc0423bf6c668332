"""Parse and build frames."""

from __future__ import annotations

import gc
import random
import tracemalloc

import pytest
import websockets.utils
from websockets.frames import Frame, Opcode

from juggler.server.websocket.frames import PING_FRAME, close_frame, text_frame
from juggler.server.websocket.parser import Parser
from juggler.server.websocket.websocket_options import DEFAULT, DeflateOptions, WebSocketOptions
from tests.rawframes import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    client,
    close,
    close_of,
    head,
    mask,
    parse,
)

MIB = 1024 * 1024


def run(*pieces: bytes, options: WebSocketOptions = DEFAULT, frames: int = 64) -> tuple[Parser, list[str]]:
    """Feed a parser piece by piece. Return it and all messages."""
    parser = Parser(options)
    messages = []
    for piece in pieces:
        parser.feed(piece)
        while parser.pending:
            messages += parser.parse(frames)
    return parser, messages


def kept(parser: Parser) -> int:
    """Return the size of the largest piece of bytes that a parser holds."""
    return max(len(held) for held in gc.get_referents(parser) if isinstance(held, bytes))


def assert_fails(code: int, *pieces: bytes, options: WebSocketOptions = DEFAULT) -> Parser:
    """Check that the last piece, and none before it, is a violation, answered with a close frame."""
    before, _ = run(*pieces[:-1], options=options)
    assert before.end is None
    parser, _ = run(*pieces, options=options)
    assert parser.end is not None
    assert parser.end.code == code
    assert close_of(parse(parser.end.answer)) == (code, parser.end.reason)
    assert parser.end.reason
    assert not parser.pending
    return parser


# Messages


@pytest.mark.parametrize("size", [0, 1, 2, 125, 126, 127, 150, 65535, 65536, 65537, 200_000])
def test_a_text_of_any_size(size):
    text = ("héllo wörld " * (size // 12 + 1))[:size]
    parser, messages = run(client(TEXT, text.encode()))
    assert messages == [text]
    assert parser.end is None


def test_many_messages_in_one_piece_keep_their_order():
    texts = [str(n) * n for n in range(300)]
    assert run(b"".join(client(TEXT, text.encode()) for text in texts))[1] == texts


def test_any_mask_is_removed():
    for key in (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\x02\x03\x04"):
        assert run(client(TEXT, b"hello, world", key=key))[1] == ["hello, world"]


STREAM = (
    client(TEXT, "smörgås ☃ 𝄞".encode())
    + client(TEXT, "frag☃".encode()[:5], fin=False)
    + client(PING, b"between")
    + client(CONTINUATION, b"", fin=False)
    + client(CONTINUATION, "frag☃".encode()[5:], fin=True)
    + client(PONG, b"unasked")
    + client(TEXT, b"x" * 200)
    + client(TEXT, b"")
    + client(PING)
    + close(4321, "adiós".encode())
)
MESSAGES = ["smörgås ☃ 𝄞", "frag☃", "x" * 200, ""]


def assert_is_the_stream(parser, messages):
    assert messages == MESSAGES
    assert [frame[2:] for frame in parse(parser.replies)] == [(PONG, b"between"), (PONG, b"")]
    assert parser.end is not None
    assert parser.end[:2] == (4321, "adiós")


def test_cut_anywhere_in_two():
    for cut in range(1, len(STREAM)):
        assert_is_the_stream(*run(STREAM[:cut], STREAM[cut:]))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11])
def test_cut_in_small_pieces(size):
    assert_is_the_stream(*run(*(STREAM[i : i + size] for i in range(0, len(STREAM), size))))


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_max_frames(frames):
    assert_is_the_stream(*run(STREAM, frames=frames))
    parser = Parser(DEFAULT)
    parser.feed(client(TEXT, b"a") * 10)
    assert parser.parse(frames) == ["a"] * frames
    assert parser.pending


def test_one_character_over_many_fragments():
    snow = "☃".encode()
    parser, messages = run(
        client(TEXT, snow[:1], fin=False), client(CONTINUATION, snow[1:2], fin=False), client(CONTINUATION, snow[2:])
    )
    assert messages == ["☃"]
    assert parser.end is None


def test_without_the_c_extension(monkeypatch):
    monkeypatch.setattr("juggler.server.websocket.parser.apply_mask", websockets.utils.apply_mask)
    assert_is_the_stream(*run(STREAM[:50], STREAM[50:]))


def test_a_message_in_empty_fragments():
    parts = [client(TEXT, fin=False), *[client(CONTINUATION, fin=False)] * 20, client(CONTINUATION)]
    assert run(*parts)[1] == [""]


def test_a_large_message_in_small_pieces():
    text = "".join(random.Random(1).choices("abc é☃𝄞", k=50_000))
    data = text.encode()
    stream = client(TEXT, data[:70_000], fin=False) + client(CONTINUATION, data[70_000:])
    for size in (1, 999, 4097, 65536):
        pieces = (stream[i : i + size] for i in range(0, len(stream), size))
        assert run(*pieces)[1] == [text]


def test_nothing_counts_after_a_close_frame():
    parser, messages = run(client(TEXT, b"a") + close(1000) + client(TEXT, b"b") + client(PING))
    assert messages == ["a"]
    assert not parser.replies
    parser.feed(client(TEXT, b"c"))
    assert parser.parse(64) == []


# Cost


def test_what_is_kept_of_an_unfinished_message_is_in_proportion_to_it():
    payload = b"x" * 20_000 + "☃".encode() * 2_000
    parser = Parser(DEFAULT)
    parser.feed(head(TEXT, 40_000) + MASK)
    parser.parse(1)
    masked = mask(payload)
    tracemalloc.start()
    try:
        for i in range(len(payload)):
            parser.feed(masked[i : i + 1])
            parser.parse(64)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2 * len(payload)


def test_what_was_read_is_not_read_again():
    """Otherwise a large frame in small pieces would cost the square of its size."""
    parser = Parser(DEFAULT)
    parser.feed(head(TEXT, 1_000_000) + MASK)
    for _ in range(100):
        parser.feed(mask(b"x" * 1000))
        parser.parse(64)
        assert kept(parser) < 14


def test_a_consumed_buffer_is_freed():
    parser, _ = run(client(TEXT, b"x" * 10_000) + client(TEXT, b"y")[:3])
    assert kept(parser) == 3


@pytest.mark.parametrize(
    ("length", "read_size"), [(100, 16_384), (65_536, 65_550), (1_000_000, 131_072), (1 << 40, 131_072)]
)
def test_large_frames_are_read_in_one_go_up_to_a_bound(length, read_size):
    parser, _ = run(head(TEXT, length) + MASK + mask(b"x"), options=WebSocketOptions(read_limit=None))
    assert parser.read_size == read_size


# Rules of framing, RFC 6455 §5


@pytest.mark.parametrize("rsv", range(1, 8))
@pytest.mark.parametrize("opcode", [TEXT, PING, CLOSE])
def test_reserved_bits(opcode, rsv):
    assert_fails(1002, client(opcode, rsv=rsv)[:2])


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_reserved_opcodes(opcode):
    assert_fails(1002, client(opcode)[:2])


@pytest.mark.parametrize("opcode", [TEXT, PING, CLOSE])
def test_an_unmasked_frame(opcode):
    assert_fails(1002, head(opcode, 0, masked=0))


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_a_fragmented_control_frame(opcode):
    assert_fails(1002, client(opcode, fin=False)[:2])


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
@pytest.mark.parametrize("length", [126, 65536])
def test_a_long_control_frame(opcode, length):
    assert_fails(1002, head(opcode, length)[:2])


@pytest.mark.parametrize(("length", "width"), [(0, 16), (125, 16), (0, 64), (126, 64), (65535, 64)])
def test_a_length_that_is_not_in_its_shortest_form(length, width):
    parser = assert_fails(1002, head(TEXT, length, width=width))
    assert parser.end is not None
    assert "shortest" in parser.end.reason


def test_a_length_with_its_highest_bit_set():
    assert_fails(1002, head(TEXT, 1 << 63))


def test_the_longest_length_there_is_without_a_limit():
    parser, _ = run(head(TEXT, (1 << 63) - 1), options=WebSocketOptions(read_limit=None))
    assert parser.end is None


def test_a_continuation_of_nothing():
    assert_fails(1002, client(CONTINUATION, b"x")[:2])
    assert_fails(1002, client(TEXT, b"x"), client(CONTINUATION, b"x")[:2])


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_new_message_within_a_message(opcode):
    assert_fails(1002, client(TEXT, b"x", fin=False), client(opcode, b"y")[:2])


# UTF-8, §8.1

INVALID = [
    b"\x80",
    b"\xc0\xaf",
    b"\xc1\xbf",
    b"\xe0\x80\x80",
    b"\xed\xa0\x80",
    b"\xf0\x80\x80\x80",
    b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80",
    b"\xff",
    b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80edited",
]


@pytest.mark.parametrize("payload", INVALID)
def test_invalid_utf8(payload):
    assert_fails(1007, client(TEXT, payload))
    assert_fails(1007, client(TEXT, b"x" * 200 + payload))
    assert_fails(1007, client(TEXT, payload, fin=False))
    assert_fails(1007, client(TEXT, b"", fin=False), client(CONTINUATION, payload, fin=False))


def test_invalid_utf8_fails_before_the_rest_of_its_frame_is_here():
    assert_fails(1007, head(TEXT, 1000) + MASK, mask(b"ok\xff"))


def test_invalid_utf8_over_two_fragments_fails_at_its_first_byte():
    assert_fails(1007, client(TEXT, b"\xf4", fin=False), client(CONTINUATION, b"\x90", fin=False))
    assert_fails(1007, client(TEXT, b"\xed", fin=False), client(CONTINUATION, b"\xa0", fin=False))


@pytest.mark.parametrize("payload", [b"\xc3", b"\xe2\x98", b"\xf0\x9d\x84", b"ok\xe2"])
def test_a_message_that_ends_within_a_character(payload):
    assert_fails(1007, client(TEXT, payload))
    assert_fails(1007, client(TEXT, payload, fin=False), client(CONTINUATION))


def test_messages_before_a_failure_are_delivered():
    parser, messages = run(client(TEXT, b"fine") + client(TEXT, b"\xff") + client(TEXT, b"late"))
    assert messages == ["fine"]
    assert parser.end is not None


# Limits


def test_the_read_limit_is_checked_on_the_declared_length():
    options = WebSocketOptions(read_limit=1000)
    assert run(client(TEXT, b"x" * 1000), options=options)[1] == ["x" * 1000]
    assert_fails(1009, head(TEXT, 1001)[:4], options=options)
    assert_fails(1009, head(TEXT, 70_000), options=options)
    assert_fails(1009, client(TEXT, b"x" * 1001), options=options)
    assert_fails(1009, client(TEXT, b"xx"), options=WebSocketOptions(read_limit=1))


def test_the_read_limit_counts_all_fragments():
    options = WebSocketOptions(read_limit=1000)
    first = client(TEXT, b"x" * 600, fin=False)
    assert run(first, client(CONTINUATION, b"y" * 400), options=options)[1] == ["x" * 600 + "y" * 400]
    assert_fails(1009, first, head(CONTINUATION, 401), options=options)


def test_the_read_limit_is_each_message_s_own():
    options = WebSocketOptions(read_limit=10)
    assert len(run(client(TEXT, b"x" * 10) * 20, options=options)[1]) == 20


def test_the_number_of_fragments_is_limited():
    options = WebSocketOptions(max_fragments=3)
    parts = [client(TEXT, fin=False), client(CONTINUATION, fin=False)]
    assert run(*parts, client(CONTINUATION), options=options)[1] == [""]
    assert_fails(1009, *parts, client(CONTINUATION, fin=False), client(CONTINUATION), options=options)


@pytest.mark.parametrize("read_limit", [1, 4096, 2 * MIB, 2 * MIB + 1, 16 * MIB, 64 * MIB, None])
def test_a_message_of_the_read_limit_in_frames_of_4_kib(read_limit):
    size = read_limit or 8 * MIB
    middle = client(CONTINUATION, b"x" * 4096, fin=False)
    first = client(TEXT, b"x" * min(size, 4096), fin=size <= 4096)
    rest = [middle] * (size // 4096 - 1) + [client(CONTINUATION, b"x" * (size % 4096))]
    parser, messages = run(first, *rest if size > 4096 else [], options=WebSocketOptions(read_limit=read_limit))
    assert parser.end is None
    assert [len(message) for message in messages] == [size]


def test_a_number_of_fragments_stays_as_it_is_given():
    assert WebSocketOptions(max_fragments=3, read_limit=64 * MIB).fragment_limit == 3
    assert WebSocketOptions(max_fragments=None).fragment_limit is None
    assert WebSocketOptions().fragment_limit == 1024
    assert WebSocketOptions(max_fragments=5000, read_limit=1).fragment_limit == 5000


def test_without_limits():
    options = WebSocketOptions(read_limit=None, max_fragments=None)
    parts = [client(TEXT, b"x" * 2_000_000, fin=False), *[client(CONTINUATION, fin=False)] * 2000, client(CONTINUATION)]
    assert len(run(*parts, options=options)[1][0]) == 2_000_000


def test_binary_is_refused_at_its_first_header():
    assert_fails(1003, head(BINARY, 70_000)[:2])
    assert_fails(1003, client(BINARY, b"x", fin=False)[:2])


# Control frames


@pytest.mark.parametrize("payload", [b"", b"x", b"\xff\xfe\0", b"y" * 125])
def test_a_ping_is_answered_with_its_payload(payload):
    parser, _ = run(client(PING, payload))
    assert [frame[2:] for frame in parse(parser.replies)] == [(PONG, payload)]


def test_a_pong_is_ignored():
    parser, messages = run(client(PONG, b"x") * 3)
    assert (parser.replies, messages, parser.end) == (b"", [], None)


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
)
def test_a_close_frame_is_echoed(code):
    parser, _ = run(close(code, b"bye"))
    assert parser.end is not None
    assert parser.end[:2] == (code, "bye")
    assert close_of(parse(parser.end.answer)) == (code, "bye")


def test_an_empty_close_frame_is_echoed_empty():
    parser, _ = run(client(CLOSE))
    assert parser.end is not None
    assert parser.end[:2] == (1005, "")
    assert parser.end.answer == b"\x88\x00"


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_a_close_code_that_must_not_be_sent(code):
    assert_fails(1002, close(code))
    with pytest.raises(ValueError, match=str(code)):
        close_frame(code)


def test_a_close_payload_of_one_byte():
    assert_fails(1002, client(CLOSE, b"\x03"))


def test_a_close_reason_that_is_not_utf8():
    assert_fails(1007, close(1000, b"\xff"))
    assert_fails(1007, close(1000, b"\xe2\x98"))


# Building frames


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 100_000])
def test_a_text_frame(size):
    payload = b"x" * size
    assert text_frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)


def test_a_ping_frame():
    assert Frame(Opcode.PING, b"").serialize(mask=False) == PING_FRAME


def test_a_close_frame_has_code_and_reason():
    assert close_of(parse(close_frame(4400, "nö"))) == (4400, "nö")


def test_a_long_close_reason_is_cut_between_characters():
    assert close_of(parse(close_frame(1000, "x" * 122 + "ö" + "y"))) == (1000, "x" * 122)
    assert close_of(parse(close_frame(1000, "☃" * 100))) == (1000, "☃" * 41)
    assert close_of(parse(close_frame(1000, "x" * 123))) == (1000, "x" * 123)


def test_a_close_reason_that_utf8_cannot_carry():
    assert close_of(parse(close_frame(1000, "\ud800"))) == (1000, "?")


# Options


@pytest.mark.parametrize(
    "name",
    ["read_limit", "max_fragments", "queue_limit", "write_timeout", "ping_interval", "ping_timeout", "close_timeout"],
)
@pytest.mark.parametrize("value", [0, -1, float("nan"), "10", True])
def test_a_limit_that_is_none(name, value):
    with pytest.raises(ValueError, match=f"{name}.*{value!r}"):
        WebSocketOptions(**{name: value})
    assert getattr(WebSocketOptions(**{name: None}), name) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("server_max_window_bits", 8),
        ("server_max_window_bits", 16),
        ("client_max_window_bits", 7),
        ("level", 0),
        ("memory_level", 10),
        ("threshold", -1),
    ],
)
def test_deflate_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        DeflateOptions(**{name: value})
