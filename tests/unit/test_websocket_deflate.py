"""permessage-deflate: negotiation, compression and decompression, against zlib and ``websockets``."""

from __future__ import annotations

import random
import zlib

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from juggler.server.websocket.deflate import MessageDeflater, MessageInflater, SharedText, negotiate
from juggler.server.websocket.parser import Parser
from juggler.server.websocket.websocket_options import DeflateOptions, WebSocketOptions
from tests.rawframes import CONTINUATION, PING, PONG, TEXT, client, parse

WISHES = DeflateOptions()
KEEPING = DeflateOptions(
    server_no_context_takeover=False,
    client_no_context_takeover=False,
    server_max_window_bits=15,
    client_max_window_bits=15,
    threshold=0,
)
BOTH = "; server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("offer", "wishes", "answer"),
    [
        ("permessage-deflate", KEEPING, "permessage-deflate"),
        ("permessage-deflate", WISHES, "permessage-deflate" + BOTH + "; server_max_window_bits=12"),
        ("permessage-deflate; server_no_context_takeover", KEEPING, "permessage-deflate; server_no_context_takeover"),
        ("permessage-deflate; client_no_context_takeover", KEEPING, "permessage-deflate; client_no_context_takeover"),
        ("permessage-deflate; server_max_window_bits=10", KEEPING, "permessage-deflate; server_max_window_bits=10"),
        ('permessage-deflate; server_max_window_bits="10"', KEEPING, "permessage-deflate; server_max_window_bits=10"),
        ("permessage-deflate; server_max_window_bits=15", KEEPING, "permessage-deflate; server_max_window_bits=15"),
        ("permessage-deflate; client_max_window_bits", KEEPING, "permessage-deflate; client_max_window_bits=15"),
        ("permessage-deflate;client_max_window_bits = 8", KEEPING, "permessage-deflate; client_max_window_bits=8"),
        (
            "permessage-deflate; client_max_window_bits",
            WISHES,
            "permessage-deflate" + BOTH + "; server_max_window_bits=12; client_max_window_bits=12",
        ),
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", KEEPING, "permessage-deflate"),
        ("other; x=1, permessage-deflate", KEEPING, "permessage-deflate"),
        ("", WISHES, None),
        ("permessage-bzip2", WISHES, None),
        ("permessage-deflate; server_max_window_bits=8", WISHES, None),
        ("permessage-deflate; server_max_window_bits", WISHES, None),
        ("permessage-deflate; server_max_window_bits=16", WISHES, None),
        ("permessage-deflate; server_max_window_bits=010", WISHES, None),
        ("permessage-deflate; client_max_window_bits=7", WISHES, None),
        ("permessage-deflate; client_max_window_bits=", WISHES, None),
        ("permessage-deflate; server_no_context_takeover=1", WISHES, None),
        ("permessage-deflate; client_max_window_bits; client_max_window_bits", WISHES, None),
        ("permessage-deflate; unknown", WISHES, None),
    ],
)
def test_offers_and_answers(offer, wishes, answer):
    agreement = negotiate(offer, wishes)
    assert (agreement and agreement.header) == answer


def test_a_client_that_cannot_choose_its_window_may_use_any():
    agreement = negotiate("permessage-deflate", WISHES)
    assert agreement is not None
    assert agreement.options.client_max_window_bits == 15


def deflated(payload: bytes, bits: int = 15) -> bytes:
    compressor = zlib.compressobj(wbits=-bits)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def run(*pieces: bytes, limit: int | None = 1000, options: DeflateOptions = WISHES):
    parser = Parser(WebSocketOptions(read_limit=limit), MessageInflater(options, limit))
    messages = []
    for piece in pieces:
        parser.feed(piece)
        while parser.pending:
            messages += parser.parse(64)
    return parser, messages


def assert_fails(code: int, *pieces: bytes, limit: int | None = 1000) -> None:
    parser, messages = run(*pieces, limit=limit)
    assert messages == []
    assert parser.end is not None
    assert parser.end.code == code


# Receiving


def test_compressed_and_plain_messages_mix():
    frames = client(TEXT, deflated(b"one"), rsv=4) + client(TEXT, b"two") + client(TEXT, deflated(b""), rsv=4)
    assert run(frames)[1] == ["one", "two", ""]
    assert run(*(frames[i : i + 1] for i in range(len(frames))))[1] == ["one", "two", ""]


@pytest.mark.parametrize(
    "data",
    [
        "f2 48 cd c9 c9 07 00",
        "00 05 00 fa ff 48 65 6c 6c 6f 00",  # not compressed
        "f3 48 cd c9 c9 07 00 00",  # in a final block
        "f2 48 05 00 00 00 ff ff ca c9 c9 07 00",  # in two blocks
    ],
)
def test_the_examples_of_the_rfc(data):
    hello = bytes.fromhex(data)
    for options in (WISHES, KEEPING):
        assert run(client(TEXT, hello, rsv=4) * 2, options=options)[1] == ["Hello"] * 2
        parts = client(TEXT, hello[:3], rsv=4, fin=False), client(CONTINUATION, hello[3:])
        assert run(*parts, options=options)[1] == ["Hello"]


def test_a_message_that_refers_to_the_one_before():
    frames = [client(TEXT, bytes.fromhex(data), rsv=4) for data in ("f248cdc9c90700", "f200110000")]
    assert run(*frames, options=KEEPING)[1] == ["Hello", "Hello"]
    assert run(*frames, options=WISHES)[0].end.code == 1002


def test_control_frames_within_a_compressed_message():
    data = deflated(b"x" * 500)
    frames = [client(TEXT, data[:3], rsv=4, fin=False), client(PING, b"p"), client(CONTINUATION, data[3:])]
    parser, messages = run(*frames)
    assert messages == ["x" * 500]
    assert [frame[2:] for frame in parse(parser.replies)] == [(PONG, b"p")]


@pytest.mark.parametrize(
    "frames",
    [
        client(PING, rsv=4),
        client(TEXT, b"x", rsv=2),
        client(TEXT, b"x", rsv=6),
        client(TEXT, deflated(b"xx")[:1], rsv=4, fin=False) + client(CONTINUATION, rsv=4),
        client(TEXT, b"\xff\xff", rsv=4),
        client(TEXT, bytes.fromhex("f348cdc9c9070000") + b"more!!", rsv=4),
    ],
)
def test_what_is_not_allowed(frames):
    assert_fails(1002, frames)


def test_invalid_utf8_fails_early():
    compressor = zlib.compressobj(wbits=-15)
    data = compressor.compress(b"\xff" + random.Random(1).randbytes(100)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert_fails(1007, client(TEXT, data, rsv=4, fin=False))


def test_a_bomb_is_not_inflated_beyond_the_limit():
    bomb = deflated(b"x" * 50_000_000)
    assert len(bomb) < 50_000
    asked = []

    class Watching(MessageInflater):
        def inflate(self, data: bytes, final: bool) -> bytes:
            inflated = super().inflate(data, final)
            asked.append(len(inflated))
            return inflated

    parser = Parser(WebSocketOptions(read_limit=100_000), Watching(WISHES, 100_000))
    for i in range(0, len(bomb), 10):
        parser.feed((client(TEXT, bomb, rsv=4))[i : i + 10])
        parser.parse(64)
        if parser.end is not None:
            break
    assert parser.end is not None
    assert parser.end.code == 1009
    assert sum(asked) <= 100_000


def test_many_bombs_are_defused_one_at_a_time():
    parser = Parser(WebSocketOptions(), MessageInflater(WISHES, None))
    parser.feed(client(TEXT, deflated(b"x" * 1_000_000), rsv=4) * 10 + client(TEXT, b"y") * 3)
    counts = []
    while parser.pending:
        counts.append(len(parser.parse(64)))
    assert counts == [1] * 10 + [3]


def test_the_limit_is_exact_and_each_message_s_own():
    fits, over = client(TEXT, deflated(b"x" * 1000), rsv=4), client(TEXT, deflated(b"x" * 1001), rsv=4)
    assert run(fits * 3)[1] == ["x" * 1000] * 3
    assert_fails(1009, over)
    data = deflated(b"x" * 1001)
    assert_fails(1009, client(TEXT, data[:-1], rsv=4, fin=False), client(CONTINUATION, data[-1:]))
    assert run(client(TEXT, deflated(b"x" * 100_000), rsv=4), limit=None)[1] == ["x" * 100_000]


def test_the_compressed_size_is_limited_as_well():
    assert_fails(1009, client(TEXT, b"\0" * 1001, rsv=4))


@pytest.mark.parametrize("keep", [True, False])
def test_what_another_library_compresses(keep):
    rng = random.Random(3)
    theirs = PerMessageDeflate(not keep, not keep, 15, 15 if keep else 12)
    texts = ["".join(rng.choices("abc☃", k=rng.choice((0, 1, 10, 5000)))) for _ in range(50)]
    stream = b""
    for text in texts:
        frame = theirs.encode(Frame(Opcode.TEXT, text.encode()))
        stream += client(TEXT, bytes(frame.data), rsv=4)
    options = KEEPING if keep else WISHES
    pieces = []
    while stream:
        size = rng.randint(1, 2000)
        pieces.append(stream[:size])
        stream = stream[size:]
    assert run(*pieces, limit=None, options=options)[1] == texts


# Sending


def decoded(theirs: PerMessageDeflate, data: bytes) -> tuple[bytes, bool]:
    """Decode one frame with another library. Return the text, and whether it was compressed."""
    (frame,) = parse(data)
    whole = theirs.decode(Frame(Opcode(frame.opcode), frame.payload, frame.fin, rsv1=frame.rsv == 4))
    return bytes(whole.data), frame.rsv == 4


TEXTS = [f'{{"number": {n}, "text": "the same words in each message"}}'.encode() * 50 for n in range(10)]


@pytest.mark.parametrize("bits", [9, 12, 15])
@pytest.mark.parametrize("keep", [True, False])
def test_what_another_library_decompresses(bits, keep):
    options = DeflateOptions(server_no_context_takeover=not keep, server_max_window_bits=bits)
    deflater = MessageDeflater(options)
    theirs = PerMessageDeflate(not keep, False, bits, 15)
    for text in TEXTS:
        frame = deflater.text_frame(text)
        assert len(frame) < len(text) / 5
        assert decoded(theirs, frame) == (text, True)


def test_the_context_is_kept_where_that_is_agreed_on():
    deflater = MessageDeflater(KEEPING)
    text = TEXTS[0][:60]
    assert len(deflater.text_frame(text)) > 2 * len(deflater.text_frame(text))


def test_short_texts_and_those_that_cannot_be_compressed_are_sent_as_they_are():
    theirs = PerMessageDeflate(True, False, 12, 15)
    for text in (b"", b"x" * 1023):
        assert decoded(theirs, MessageDeflater(WISHES).text_frame(text)) == (text, False)
    assert decoded(theirs, MessageDeflater(WISHES).text_frame(b"x" * 1024))[1]
    noise = random.Random(1).randbytes(5000)
    assert decoded(theirs, MessageDeflater(WISHES).text_frame(noise)) == (noise, False)


@pytest.mark.parametrize("keep", [True, False])
def test_shared_texts_mix_with_the_peer_s_own(keep):
    options = DeflateOptions(server_no_context_takeover=not keep)
    deflater = MessageDeflater(options)
    theirs = PerMessageDeflate(not keep, False, 12, 15)
    shared = [SharedText(text) for text in TEXTS]
    for _ in range(2):
        for number, text in enumerate(TEXTS):
            assert decoded(theirs, deflater.text_frame(text)) == (text, True)
            assert decoded(theirs, shared[number].deflated(deflater)) == (text, True)
            assert decoded(theirs, deflater.text_frame(TEXTS[0])) == (TEXTS[0], True)


def test_a_shared_text_is_compressed_once_for_each_size_of_window():
    text = SharedText(TEXTS[0])
    frames = [
        text.deflated(MessageDeflater(DeflateOptions(server_max_window_bits=bits)))
        for bits in (12, 12, 15, 15)
        for _ in "ab"
    ]
    assert len({id(frame) for frame in frames}) == 2
    assert parse(text.plain)[0].payload == TEXTS[0]
