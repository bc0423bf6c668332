"""Other libraries read the generator's frames, and the generator finds members in juggler's messages."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from juggler.process.uuids import new_uuid
from juggler.protocol import codec
from juggler.protocol.messages import Ack, Evnt, MessageType, Nack, Res
from juggler.server.websocket.frames import PING_FRAME, text_frame
from loadtest.bench.generator import nats_wire, wire


def received(data):
    """Return the frames that websockets reads from a client's bytes."""
    protocol = ServerProtocol(max_size=None)
    protocol.state = protocol.state.OPEN
    protocol.parser = protocol.parse()
    next(protocol.parser)
    protocol.receive_data(data)
    return protocol.events_received()


@pytest.mark.parametrize("size", [0, 1, 5, 125, 126, 65535, 65536, 100_000])
def test_websockets_reads_the_frames(size):
    text = b"x" * size
    assert received(wire.client_frame(text)) == [Frame(Opcode.TEXT, text)]


def test_the_codec_reads_a_request():
    (frame,) = received(wire.request(wire.CALL, 7, uri="test.echo", timeout=5, args="hi"))
    call = codec.decode_request(frame.data.decode())
    assert (call.type, call.uuid, call.uri, call.args) == (
        MessageType.CALL,
        wire.uuid_of(7),
        "test.echo",
        b'"hi"',
    )


@given(st.lists(st.integers(0, 70_000), max_size=5), st.integers(0, 1000))
def test_split_frames_are_joined(sizes, cut):
    texts = [b"y" * size for size in sizes]
    data = b"".join(map(text_frame, texts)) + PING_FRAME
    first = wire.split(data[:cut])
    second = wire.split(first.rest + data[cut:])
    assert first.texts + second.texts == texts
    assert first.others + second.others == [(wire.PING, b"")]
    assert second.rest == b""


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (Ack(uuid=new_uuid(), for_=wire.uuid_of(99), for_type=MessageType.CALL, uri="u"), wire.ACK),
        (
            Nack(uuid=new_uuid(), for_=wire.uuid_of(99), for_type=MessageType.CALL, code=404, message="no", uri="u"),
            wire.NACK,
        ),
        (Res(uuid=new_uuid(), for_=wire.uuid_of(99), uri='"for":"', args=b'{"for":"x"}'), wire.RES),
    ],
)
def test_responses_contain_the_number_of_their_request(message, kind):
    text = codec.encode(message)
    assert wire.kind(text) == kind
    assert wire.number_of(text) == 99


def test_events_contain_publisher_and_time():
    args = json.dumps(wire.stamped(3, 1_234_567_890) + "xxx").encode()
    text = codec.encode(Evnt(uuid=new_uuid(), for_=new_uuid(), channel="c", args=args))
    assert wire.kind(text) == wire.EVNT
    assert wire.stamp_of(wire.args_of(text)) == (3, 1_234_567_890)


def test_other_messages_are_errors():
    with pytest.raises(wire.UnknownMessage, match="the server sent"):
        wire.kind(b'{"payload":{}}')


@given(st.lists(st.binary(max_size=50), max_size=5), st.integers(0, 400))
def test_messages_of_nats_are_joined(payloads, cut):
    data = (
        b"".join(b"MSG a.%d 1 %d\r\n%b\r\n" % (at, len(each), each) for at, each in enumerate(payloads)) + b"PING\r\n"
    )
    first = nats_wire.split(data[:cut])
    second = nats_wire.split(first.rest + data[cut:])
    assert first.messages + second.messages == [(b"a.%d" % at, each) for at, each in enumerate(payloads)]
    assert first.lines + second.lines == [nats_wire.PING]
    assert second.rest == b""


def test_messages_of_nats_are_published_with_their_size():
    (frame,) = received(nats_wire.publish("a.b", b"hello", "inbox"))
    assert frame.data == b"PUB a.b inbox 5\r\nhello\r\n"
    (frame,) = received(nats_wire.publish("a.b", b""))
    assert frame.data == b"PUB a.b 0\r\n\r\n"
