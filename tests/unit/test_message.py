"""ACK and NACK of each message, and identifiers that never repeat."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from juggler.protocol.codec import decode_request, decode_response
from juggler.protocol.messages import (
    REQUEST_TYPES,
    Ack,
    Call,
    Evnt,
    Message,
    MessageType,
    Nack,
    Pub,
    Res,
    Sub,
    Unsb,
    ack,
    nack,
)

WIRE = Path(__file__).parents[1] / "wire" / "golden.jsonl"
GOLDEN = {line["name"]: line["text"] for line in map(json.loads, WIRE.read_text("utf-8").splitlines())}

MESSAGES = [
    Call(uri="u"),
    Pub(channel="c"),
    Sub(channel="c"),
    Unsb(channel="c"),
    Ack(for_="r", for_type=MessageType.SUB, channel="c"),
    Nack(for_="r", for_type=MessageType.CALL, uri="u", code=500, message="first"),
    Res(for_="r", uri="u"),
    Evnt(for_="r", channel="c", pattern="c*"),
]


def golden(name: str) -> Message:
    is_request = name.partition(" ")[0] in {type.name for type in REQUEST_TYPES}
    return (decode_request if is_request else decode_response)(GOLDEN[name])


@pytest.mark.parametrize(
    ("request_name", "ack_name"),
    [("CALL", "ACK of CALL"), ("PUB", "ACK of PUB"), ("SUB pattern", "ACK of SUB"), ("UNSB", "ACK of UNSB")],
)
def test_ack_is_the_one_that_go_writes(request_name: str, ack_name: str) -> None:
    expected = golden(ack_name)

    answer = ack(golden(request_name))

    assert {**fields(answer), "uuid": expected.uuid} == fields(expected)


@pytest.mark.parametrize(
    ("name", "nack_name"),
    [
        ("CALL", "NACK of CALL"),
        ("PUB", "NACK of PUB"),
        ("SUB pattern", "NACK of SUB"),
        ("UNSB", "NACK of UNSB"),
        ("RES", "NACK of RES"),
        ("EVNT", "NACK of EVNT"),
        ("ACK of CALL", "NACK of ACK of CALL"),
        ("NACK of UNSB", "NACK of UNSB"),
    ],
)
def test_nack_is_the_one_that_go_writes(name: str, nack_name: str) -> None:
    expected = golden(nack_name)

    answer = nack(golden(name), expected.code, expected.message)

    assert {**fields(answer), "uuid": expected.uuid} == fields(expected)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: m.type.name)
def test_a_nack_is_a_message_of_its_own(message: Message) -> None:
    answer = nack(message, 503, "second")

    assert answer.uuid == ""  # assigned when it is written
    assert (answer.code, answer.message) == (503, "second")


def test_nack_of_something_else() -> None:
    with pytest.raises(TypeError, match="a request or a response to one, got Message"):
        nack(Message(), 500, "")


def test_types_are_requests_or_responses() -> None:
    requests = [type.name for type in MessageType if type.is_request]
    responses = [type.name for type in MessageType if type.is_response]

    assert requests == ["UNKNOWN", "CALL", "PUB", "SUB", "UNSB", "CNCL", "CRDT", "AUTH"]
    assert responses == ["NACK", "ACK", "RES", "EVNT", "WLCM", "PART", "ENDS"]


def fields(message: Message) -> dict[str, object]:
    return {name: getattr(message, name) for name in message.__struct_fields__}
