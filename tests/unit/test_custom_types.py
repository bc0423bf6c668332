"""Classes of messages that a program registers: the rules of registration, and their JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from juggler.errors import InvalidMessage, InvalidValue, MessageNotAllowed
from juggler.protocol.codec import REQUESTS_1, decode_message, decode_request, decode_response, encode
from juggler.protocol.custom import FIRST, LAST, register, registered, registered_types, unregister
from juggler.protocol.messages import ALL_REQUEST_TYPES, REQUEST_TYPES, Message, MessageType, Unknown, ack, nack
from juggler.protocol.subprotocols import allowed_messages

ID = "00000000-0000-4000-8000-000000000001"


class Point(msgspec.Struct):
    x: float
    y: float = 0.0


@pytest.fixture(autouse=True)
def nothing_stays_registered() -> Iterator[None]:
    yield
    for kind in registered_types():
        found = registered(kind)
        assert found is not None
        unregister(found)


def request() -> type[Any]:
    @register("MOVE", 300, "request")
    class Move(Message, frozen=True):
        to: Point
        for_: str = msgspec.field(name="for", default="")
        tags: tuple[str, ...] = ()
        data: msgspec.Raw = msgspec.Raw(b"null")

    return Move


def response() -> type[Any]:
    @register("MOVED", 301, "response")
    class Moved(Message, frozen=True):
        steps: int

    return Moved


def plain() -> type[Any]:
    class Plain(Message, frozen=True):
        text: str = ""

    return Plain


def text(number: int, payload: str) -> str:
    return f'{{"meta":{{"type":{number},"uuid":"{ID}"}},"payload":{payload}}}'


# Registration


def test_a_registered_class_has_a_type():
    kind = request().type
    assert (kind, kind.name, kind.is_request, kind.is_response) == (300, "MOVE", True, False)
    kind = response().type
    assert (kind, kind.name, kind.is_request, kind.is_response) == (301, "MOVED", False, True)
    assert [int(each) for each in registered_types()] == [300, 301]


def test_numbers_are_assigned_in_order_from_257():
    numbers = []
    for name in ("A", "B", "C"):
        numbers.append(register(name)(plain()).type)
    register("D", 261)(plain())
    numbers += [register(name)(plain()).type for name in ("E", "F")]
    assert numbers == [257, 258, 259, 260, 262]
    assert not any(kind.is_request or kind.is_response for kind in numbers)


@pytest.mark.parametrize("number", [-1, 0, 1, 16, 32, 64, 255, 256, 512, 10**9, True, 1.5, "300"])
def test_numbers_out_of_range_are_refused(number):
    with pytest.raises(ValueError, match=r"^number: expected 257 to 511, got"):
        register("X", number)


@pytest.mark.parametrize("name", ["", "lower", "Mixed", "1ST", "WITH SPACE", "A" * 33, "Ä", "A\n"])
def test_odd_names_are_refused(name):
    with pytest.raises(ValueError, match=r"^name: expected up to 32 capital letters"):
        register(name)


@pytest.mark.parametrize("name", ["CALL", "RES", "UNKNOWN", "CUSTOM", "EXP", "MOVE"])
def test_names_that_are_taken_are_refused(name):
    request()
    with pytest.raises(ValueError, match=f"^name: {name} is registered already$"):
        register(name)


def test_a_number_that_is_taken_is_refused():
    request()
    with pytest.raises(ValueError, match=r"^number: 300 is registered already, as MOVE$"):
        register("OTHER", 300)
    decorate = register("LATER", 302), register("LAST", 302)
    decorate[0](plain())
    with pytest.raises(ValueError, match=r"^number: 302 is registered already, as LATER$"):
        decorate[1](plain())


def test_there_is_a_bound():
    for number in range(FIRST, LAST + 1):
        register(f"T{number}")(plain())
    with pytest.raises(ValueError, match="all types from 257 to 511"):
        register("ONE_MORE")


def test_other_mistakes_are_refused():
    with pytest.raises(ValueError, match=r"^direction: expected 'request', 'response' or 'local', got 'both'$"):
        register("X", direction="both")
    with pytest.raises(ValueError, match=r"^int: expected a subclass of Message"):
        register("X")(int)
    with pytest.raises(ValueError, match=r"^Move: expected a subclass of Message that has no type yet$"):
        register("X")(request())

    class Odd(Message, frozen=True):
        thing: Point | Message

    with pytest.raises(ValueError, match=r"^Odd: expected fields that JSON can represent"):
        register("X")(Odd)
    assert [kind.name for kind in registered_types()] == ["MOVE"]


def test_a_class_can_be_registered_again_once_it_is_not():
    cls = request()
    unregister(cls)
    with pytest.raises(ValueError, match=r"^Move: not registered$"):
        unregister(cls)
    assert register("AGAIN", 310)(cls).type == 310
    assert json.loads(encode(cls(to=Point(1)), ID))["meta"]["type"] == 310


# JSON


def test_messages_come_back():
    move, moved = request(), response()
    message = move(uuid=ID, to=Point(1.0, 2.0), for_="x", tags=("a",), data=msgspec.Raw(b'{"b":1e400}'))
    sent = encode(message).decode()
    assert sent == text(300, '{"to":{"x":1.0,"y":2.0},"for":"x","tags":["a"],"data":{"b":1e400}}')
    allowed = allowed_messages(None)
    for decode in (decode_message, lambda text: decode_request(text, allowed)):
        assert encode(decode(sent)).decode() == sent
        assert type(decode(sent)) is move
    assert decode_request(text(300, '{"to":{"x":1},"more":[]}'), allowed) == move(uuid=ID, to=Point(1))
    for decode in (decode_message, decode_response):
        assert decode(encode(moved(steps=3), ID).decode()) == moved(uuid=ID, steps=3)


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ("{}", "$.payload: object missing required field to"),
        ("null", "$.payload: expected object, got null"),
        ('{"to":{"x":"1"}}', "$.payload.to.x: expected float, got str"),
        ('{"to":{"x":1},"tags":[1]}', "$.payload.tags[0]: expected str, got int"),
        (r'{"to":{"x":1},"for":"\ud800"}', "$.payload: lone surrogate outside of args"),
    ],
)
def test_malformed_payloads(payload, error):
    request()
    with pytest.raises(InvalidMessage) as caught:
        decode_request(text(300, payload), allowed_messages(None))
    assert str(caught.value) == error


def test_values_that_json_cannot_represent_are_refused():
    cls = register("ODD", 302, "response")(type("Odd", (Message,), {"__annotations__": {"a": Any}}, frozen=True))
    for value in (object(), "\ud800"):
        with pytest.raises(InvalidValue, match="Odd cannot be written"):
            encode(cls(a=value))


def test_requests_are_decoded_only_where_they_are_allowed():
    request()
    response()
    sent = text(300, '{"to":{"x":1}}')
    with pytest.raises(MessageNotAllowed, match=r"only 1 \(CALL\) may be sent here, got 300 \(MOVE\)"):
        decode_request(sent, allowed_messages("call"))
    with pytest.raises(MessageNotAllowed, match=r"4 \(UNSB\) or 300 \(MOVE\) may be sent here, got 301 \(MOVED\)"):
        decode_request(text(301, '{"steps":1}'), allowed_messages(None))
    with pytest.raises(MessageNotAllowed, match=r"may be sent here, got 300 \(MOVE\)"):
        decode_response(sent)
    with pytest.raises(MessageNotAllowed, match=r"got 301 \(MOVED\)"):
        decode_request(text(301, '{"steps":1}'), allowed_messages(None, "juggler.1"), REQUESTS_1)


def test_types_that_are_not_registered():
    with pytest.raises(InvalidMessage, match=r"got 300$"):
        decode_request(text(300, "{}"), allowed_messages(None))
    assert decode_response(text(300, "{}")) == Unknown(uuid=ID, number=300, payload=b"{}")
    unknown = decode_request(text(300, "{}"), allowed_messages(None, "juggler.1"), REQUESTS_1)
    assert unknown == Unknown(uuid=ID, number=300, payload=b"{}")
    with pytest.raises(TypeError, match="expected a request or a response, got Plain"):
        encode(plain()())


def test_acks_and_nacks_of_requests():
    message = request()(uuid=ID, to=Point(1))
    assert json.loads(encode(ack(message), ID))["payload"] == {"for": ID, "for_type": 300}
    assert (nack(message, 403, "no").for_type, nack(message, 403, "no").for_) == (300, ID)
    for other in (response()(steps=1), plain()()):
        with pytest.raises(TypeError, match="expected a request or a response to one"):
            nack(other, 403, "no")


# Restricted connections


@pytest.mark.parametrize("subprotocol", ["juggler.0", "juggler.1"])
def test_registered_requests_are_allowed_by_default_and_by_name(subprotocol):
    before = allowed_messages(None, subprotocol)
    request()
    response()
    assert allowed_messages(None, subprotocol) == before | {300}
    assert allowed_messages("*", subprotocol) == before | {300}
    assert 300 not in allowed_messages("call, pub", subprotocol)
    assert {MessageType.CALL, 300} <= allowed_messages("Call, Move, moved", subprotocol)
    assert allowed_messages("move") == {300}
    assert REQUEST_TYPES | ALL_REQUEST_TYPES == ALL_REQUEST_TYPES
