"""Messages and payloads as text, both ways: nothing lost, nothing but `InvalidMessage` for what is not one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import ujson
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import astuple

from juggler.errors import InvalidMessage, InvalidValue, MessageNotAllowed
from juggler.process.uuids import new_uuid
from juggler.protocol.codec import (
    MAX_TIMEOUT,
    StoredCall,
    StoredResult,
    decode_args,
    decode_call,
    decode_event,
    decode_message,
    decode_request,
    decode_response,
    decode_result,
    encode,
    encode_args,
    encode_call,
    encode_event,
    encode_result,
)
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
    Unknown,
    Unsb,
)

WIRE = Path(__file__).parents[1] / "wire" / "golden.jsonl"
GOLDEN = {line["name"]: line["text"] for line in map(json.loads, WIRE.read_text("utf-8").splitlines())}
ID = "00000000-0000-4000-8000-000000000001"
ORIGIN = "00000000-0000-4000-8000-000000000002"

REQUESTS = {name: text for name, text in GOLDEN.items() if name.partition(" ")[0] in {t.name for t in REQUEST_TYPES}}
PAYLOADS = {name: text for name, text in GOLDEN.items() if "payload" in name}
RESPONSES = {name: text for name, text in GOLDEN.items() if name not in REQUESTS | PAYLOADS}


def rewritten(name: str, text: str) -> bytes:
    """Decode the payload that a golden line's name speaks of, and encode what was decoded."""
    golden = json.loads(text)
    kind = name.partition(" ")[0]
    if kind == "event":
        return encode_event(*decode_event(text.encode()))
    if kind == "call":
        return encode_call(*astuple(decode_call(text.encode())))
    return encode_result(
        golden["conn_uuid"], golden["msg_uuid"], golden["uri"], *astuple(decode_result(text.encode()))[1:]
    )


# The texts that the Go implementation writes.


@pytest.mark.parametrize("text", REQUESTS.values(), ids=REQUESTS)
def test_requests_look_as_those_of_go(text: str) -> None:
    assert encode(decode_request(text)).decode() == text


@pytest.mark.parametrize("text", RESPONSES.values(), ids=RESPONSES)
def test_responses_look_as_those_of_go(text: str) -> None:
    assert encode(decode_response(text)).decode() == text


@pytest.mark.parametrize(("name", "text"), PAYLOADS.items(), ids=PAYLOADS)
def test_payloads_look_as_those_of_go(name: str, text: str) -> None:
    assert json.loads(rewritten(name, text)) == {"args": None, **json.loads(text)}


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [("-1", -1e-9), ("86400000000001", 86400.000000001), ("1" * 400, 2**63 / 1e9), ("-" + "1" * 400, -(2**63) / 1e9)],
)
def test_a_timeout_out_of_range_is_no_malformed_message(timeout: str, seconds: float) -> None:
    assert decode_request(envelope(f'{{"uri":"u","timeout":{timeout}}}')).timeout == seconds


def test_no_kind_of_message_is_missing() -> None:
    wire_types = {json.loads(text)["meta"]["type"] for text in (REQUESTS | RESPONSES).values()}

    assert wire_types == set(range(1, 5)) | set(range(7, 11))
    assert len(PAYLOADS) == 5


def test_fields_of_a_call() -> None:
    call = decode_request(GOLDEN["CALL"])

    assert call == Call(
        uuid=ID, uri="example.echo", args=rb'{"s":"\u003c' + "é".encode() + rb'\u0026\u003e","x":3}', timeout=2.0
    )


# Args: any JSON, as it came.

ODD_ARGS = [
    "null",
    "-0",
    "1e400",
    "-1E-400",
    "0.1000000000000000055511151231257827",
    "123456789012345678901234567890",
    "9" * 5000,
    '{"a":1,"a":2}',
    '{"b":1,"a":[ ]}',
    '{"":{"":""}}',
    '[1 ,\t2\r\n, {"a" : null} ]',
    '""',
    '"</script>"',
    r'"\/\b\f\n\r\t\"\\"',
    r'"\u0000\u001F\u2028"',
    '"é\u2028\U0001f600\x7f"',
    r'"\ud83d\ude00"',
    r'"\ud800"',
    r'"\uDFFF and \ud83dx"',
    r'"\ude00\ud83d"',
    r'{"\ud800":["\udc00"],"\ud800":1e999}',
    r'"\\ud800"',
    "[" * 200 + "]" * 200,
    "[" * 200 + r'"\ud800"' + "]" * 200,
]


class Carried(NamedTuple):
    args: bytes


def carriers(args: bytes) -> dict[str, tuple[Callable[[bytes], Any], bytes]]:
    """Return all that can carry args: how to decode it, and the encoded text of one that carries these."""

    def request(text: bytes) -> Any:
        return decode_request(text.decode())

    def response(text: bytes) -> Any:
        return decode_response(text.decode())

    return {
        "CALL": (request, encode(Call(uuid=ID, uri="u", args=args))),
        "PUB": (request, encode(Pub(uuid=ID, channel="c", args=args))),
        "RES": (response, encode(Res(uuid=ID, for_=ID, uri="u", args=args))),
        "EVNT": (response, encode(Evnt(uuid=ID, for_=ID, channel="c", args=args))),
        "call payload": (decode_call, encode_call("c", "m", "u", args)),
        # An empty "by" would be left out.
        "call payload by": (
            lambda text: Carried(decode_call(text).by),
            encode_call("c", "m", "u", b"1", b"@").replace(b"@", args),
        ),
        "result payload": (decode_result, encode_result("c", "m", "u", args)),
        "event payload": (lambda text: Carried(decode_event(text)[1]), encode_event(ID, args)),
    }


CARRIERS = list(carriers(b"null"))


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("args", ODD_ARGS, ids=lambda args: args[:30])
def test_args_travel_as_they_came(carrier: str, args: str) -> None:
    decode, text = carriers(args.encode())[carrier]

    assert args.encode() in text
    assert decode(text).args == args.encode()
    assert type(decode(text).args) is bytes


def spaced(parts: list[str], opening: str, closing: str) -> st.SearchStrategy[str]:
    return st.text(" \t\r\n", max_size=2).map(lambda gap: opening + gap + (gap + "," + gap).join(parts) + gap + closing)


CHARACTERS = st.one_of(
    st.characters(min_codepoint=0x20, exclude_categories=["Cs"], exclude_characters='"\\'),
    st.sampled_from([r"\"", r"\\", r"\/", r"\b", r"\f", r"\n", r"\r", r"\t", r"\ud83d\ude00"]),
    st.from_regex(r"\\u[0-9a-fA-F]{4}", fullmatch=True),
    st.from_regex(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}", fullmatch=True),
)
STRINGS = st.lists(CHARACTERS, max_size=8).map(lambda parts: '"' + "".join(parts) + '"')
NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?", fullmatch=True)
JSON_TEXTS = st.recursive(
    st.one_of(STRINGS, NUMBERS, st.sampled_from(["null", "true", "false"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).flatmap(lambda parts: spaced(parts, "[", "]")),
        st.lists(st.tuples(STRINGS, inner).map(":".join), max_size=3).flatmap(lambda parts: spaced(parts, "{", "}")),
    ),
    max_leaves=8,
)


@given(JSON_TEXTS, st.sampled_from(CARRIERS))
def test_any_args_travel_as_they_came(args: str, carrier: str) -> None:
    decode, text = carriers(args.encode())[carrier]

    assert decode(text).args == args.encode()


@pytest.mark.parametrize(
    "args", ["", "[1,]", "NaN", "-Infinity", "01", "1.", "tru", '"\x01"', r'"\x41"', r'"\u12g4"', "1 2", r'["\ud800",]']
)
@pytest.mark.parametrize("carrier", CARRIERS)
def test_args_that_are_not_json(carrier: str, args: str) -> None:
    decode, text = carriers(args.encode())[carrier]

    with pytest.raises(InvalidMessage):
        decode(text)


# Every message and payload, there and back.

TEXTS = st.text(max_size=10)
UUIDS = st.uuids().flatmap(lambda u: st.sampled_from([str(u), str(u).upper()]))
ARGS = st.sampled_from([b"null", b'{"x":[1e400]}', rb'"\ud800"'])
FOR_TYPES = st.sampled_from(sorted(REQUEST_TYPES))
# Nanoseconds up to a day are exact in a float.
TIMEOUTS = st.integers(0, int(MAX_TIMEOUT) * 10**9).map(lambda ns: ns / 10**9)

A_REQUEST = st.one_of(
    st.builds(Call, uuid=UUIDS, uri=TEXTS, args=ARGS, timeout=TIMEOUTS),
    st.builds(Pub, uuid=UUIDS, channel=TEXTS, args=ARGS),
    st.builds(Sub, uuid=UUIDS, channel=TEXTS, is_pattern=st.booleans()),
    st.builds(Unsb, uuid=UUIDS, channel=TEXTS, is_pattern=st.booleans()),
)
A_RESPONSE = st.one_of(
    st.builds(Ack, uuid=UUIDS, for_=UUIDS, for_type=FOR_TYPES, uri=TEXTS, channel=TEXTS),
    st.builds(
        Nack, uuid=UUIDS, for_=UUIDS, for_type=FOR_TYPES, uri=TEXTS, channel=TEXTS, code=st.integers(), message=TEXTS
    ).filter(lambda m: -(2**63) <= m.code < 2**63),
    st.builds(Res, uuid=UUIDS, for_=UUIDS, uri=TEXTS, args=ARGS),
    st.builds(Evnt, uuid=UUIDS, for_=UUIDS, channel=TEXTS, args=ARGS, pattern=TEXTS),
)


@given(A_REQUEST)
def test_requests_come_back(message: Any) -> None:
    assert decode_request(encode(message).decode()) == message


@given(A_RESPONSE)
def test_responses_come_back(message: Any) -> None:
    assert decode_response(encode(message).decode()) == message


@given(TEXTS.filter(bool), TEXTS.filter(bool), TEXTS, ARGS, ARGS)
def test_calls_and_results_come_back(conn_uuid: str, msg_uuid: str, uri: str, args: bytes, by: bytes) -> None:
    fields = conn_uuid, msg_uuid, uri, args

    assert decode_call(encode_call(*fields)) == StoredCall(*fields)
    assert decode_call(encode_call(*fields, by)) == StoredCall(*fields, by)
    assert decode_result(encode_result(*fields)) == StoredResult(msg_uuid, args)
    assert decode_result(encode_result(*fields, failed=True)) == StoredResult(msg_uuid, args, failed=True)


@given(UUIDS, ARGS)
def test_events_come_back(msg_uuid: str, args: bytes) -> None:
    assert decode_event(encode_event(msg_uuid, args)) == (msg_uuid, args, "")


# Whatever comes in.

ANY_TEXT = st.text(st.characters(categories=["L", "N", "P", "S", "Z", "Cc", "Cs"]), max_size=30)
FRAGMENTS = st.one_of(
    ANY_TEXT,
    JSON_TEXTS,
    st.sampled_from(
        ['"', "{", "}", "[", "]", ":", ",", "\\", r"\ud800", '"\\ud800"', "null", "-1", "1.5", "1e3", "9" * 40]
    ),
)


@st.composite
def spoilt(draw: st.DrawFn, texts: dict[str, str]) -> str:
    """Return a text of Go's with a few pieces replaced, doubled or cut out."""
    text = draw(st.sampled_from(sorted(texts.values())))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 40)))
        text = text[:start] + draw(FRAGMENTS) + text[end:]
    return text


def decodes_or_says_why(decode: Callable[[Any], Any], data: str | bytes) -> None:
    try:
        decoded = decode(data)
    except InvalidMessage as error:
        why = str(error)
        assert why.startswith("$")
        assert why.isprintable()
        assert len(why) <= 200
    else:
        if isinstance(decoded, Message):
            assert decode(encode(decoded).decode()) == decoded


@given(spoilt(REQUESTS | RESPONSES) | ANY_TEXT)
@example("")
@example("\ud800")
@example('{"meta":{"type":1,"uuid":"' + ID + '\n"},"payload":{"uri":"u"}}')
def test_any_text_is_a_message_or_invalid(text: str) -> None:
    decodes_or_says_why(decode_request, text)
    decodes_or_says_why(decode_response, text)


@given(st.binary(max_size=30) | spoilt(PAYLOADS).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_payload_or_invalid(data: bytes) -> None:
    for decode in (decode_call, decode_result, decode_event):
        decodes_or_says_why(decode, data)


def envelope(payload: str, type: object = 1, uuid: str = ID) -> str:
    return json.dumps({"meta": {"type": type, "uuid": uuid}, "payload": 0})[:-2] + payload + "}"


INVALID_REQUESTS = [
    ("", "$: invalid JSON: Input data was truncated"),
    ("{", "$: invalid JSON: Input data was truncated"),
    ("[]", "$: expected object, got array"),
    ("null", "$: expected object, got null"),
    ("{}", "$: object missing required field meta"),
    ('{"meta":{"type":1,"uuid":"x"}}', "$: object missing required field payload"),
    ('{"meta":null,"payload":{}}', "$.meta: expected object, got null"),
    ('{"meta":{"uuid":"x"},"payload":{}}', "$.meta: object missing required field type"),
    (envelope("{}", type="1"), "$.meta.type: expected int, got str"),
    (envelope("{}", type=1.0), "$.meta.type: expected int, got float"),
    (envelope("{}", type=True), "$.meta.type: expected int, got bool"),
    (envelope("{}", type=5), "$.meta.type: expected 1 (CALL) or 2 (PUB) or 3 (SUB) or 4 (UNSB), got 5"),
    (
        envelope("{}", type=10**9),
        "$.meta.type: expected 1 (CALL) or 2 (PUB) or 3 (SUB) or 4 (UNSB), got 1000000000",
    ),
    (envelope("{}", uuid="x"), "$.meta.uuid: expected a UUID, got 'x'"),
    (envelope("{}", uuid=ID.replace("-", "")), "$.meta.uuid: expected a UUID, got '00000000000040008000000000000001'"),
    (envelope("{}", uuid=ID + "\n"), "$.meta.uuid: expected a UUID, got '00000000-0000-4000-8000-000000000001\\n'"),
    (envelope("{}", uuid="x" + ID[1:]), "$.meta.uuid: expected a UUID, got 'x0000000-0000-4000-8000-000000000001'"),
    (envelope("{}", uuid="٣" + ID[1:]), "$.meta.uuid: expected a UUID, got '٣0000000-0000-4000-8000-000000000001'"),
    (envelope("null"), "$.payload: expected object, got null"),
    (envelope("[]"), "$.payload: expected object, got array"),
    (envelope("{}"), "$.payload: object missing required field uri"),
    (envelope('{"uri":5}'), "$.payload.uri: expected str, got int"),
    (envelope('{"uri":null}'), "$.payload.uri: expected str, got null"),
    (envelope(r'{"uri":"a\ud800"}'), "$.payload: lone surrogate outside of args"),
    (envelope("{}", uuid="\ud800"), "$: lone surrogate outside of args"),
    (
        envelope(r'{"uri":"u","args":["\ud800"}'),
        "$: invalid JSON: expected ',' or ']' (byte 108)",
    ),
    (envelope('{"uri":"u","timeout":1.5}'), "$.payload.timeout: expected int, got float"),
    (envelope('{"uri":"u","timeout":"1s"}'), "$.payload.timeout: expected int, got str"),
    (envelope('{"uri":"u","timeout":%s}' % ("9" * 1_000_000)), "$.payload.timeout: integer value out of range"),
    (envelope('{"channel":"c","pattern":1}', type=3), "$.payload.pattern: expected bool, got int"),
    (envelope('{"uri":"u"}') + "x", "$: invalid JSON: trailing characters (byte 94)"),
    (envelope('{"uri":"u","args":%s' % ("[" * 200_000)), "$: nested too deeply"),
    (envelope(r'{"uri":"\ud800","args":%s' % ("[" * 200_000)), "$: nested too deeply"),
    (envelope('{"uri":"\ud800"}'), "$: not UTF-8"),
]


@pytest.mark.parametrize(("text", "error"), INVALID_REQUESTS, ids=[error[:60] for _, error in INVALID_REQUESTS])
def test_errors_say_what_and_where(text: str, error: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode_request(text)

    assert str(caught.value) == error
    assert type(caught.value) is InvalidMessage


@pytest.mark.parametrize(
    ("payload", "type", "error"),
    [
        ('{"for":"x","uri":"u"}', 9, "$.payload.for: expected a UUID, got 'x'"),
        ('{"for":"x","channel":"c"}', 10, "$.payload.for: expected a UUID, got 'x'"),
        (f'{{"for":"{ID}","for_type":9}}', 8, "$.payload.for_type: expected the type of a request, got 9"),
        (f'{{"for":"{ID}","for_type":1,"code":500}}', 7, "$.payload: object missing required field message"),
        (
            "{}",
            5,
            "$.meta.type: expected 7 (NACK) or 8 (ACK) or 9 (RES) or 10 (EVNT) or 32 (WLCM) or 33 (PART) or 34 (ENDS), "
            "got 5",
        ),
    ],
)
def test_errors_in_responses(payload: str, type: int, error: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode_response(envelope(payload, type))

    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("decode", "data", "error"),
    [
        (decode_call, b"\xff", "$: not UTF-8 (byte 0)"),
        (decode_result, b'{"conn_uuid":"c","msg_uuid":"m","uri":"u","args":"\xed\xa0\x80"}', "$: not UTF-8 (byte 50)"),
        (decode_call, b'{"conn_uuid":"","msg_uuid":"m","uri":"u"}', "$.conn_uuid: expected str of length >= 1"),
        (decode_result, b'{"conn_uuid":"c","msg_uuid":null,"uri":"u"}', "$.msg_uuid: expected str, got null"),
        (decode_event, b'{"args":1}', "$: object missing required field msg_uuid"),
        (decode_event, b'{"msg_uuid":"m"}', "$.msg_uuid: expected a UUID, got 'm'"),
    ],
)
def test_errors_in_payloads(decode: Callable[[bytes], Any], data: bytes, error: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode(data)

    assert str(caught.value) == error


# Who may send what.


@pytest.mark.parametrize("text", RESPONSES.values(), ids=RESPONSES)
def test_a_client_sends_no_responses(text: str) -> None:
    with pytest.raises(MessageNotAllowed, match=r"^\$\.meta\.type: only 1 \(CALL\) or .* may be sent here, got"):
        decode_request(text)


@pytest.mark.parametrize("name", [*REQUESTS, *RESPONSES])
def test_a_message_of_either_direction(name: str) -> None:
    text = GOLDEN[name]
    message = decode_message(text)

    assert message == (decode_request if name in REQUESTS else decode_response)(text)
    assert encode(message).decode() == text


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", "$: invalid JSON: Input data was truncated"),
        (f'{{"meta":{{"type":1,"uuid":"{ID}"}}}}', "$: object missing required field payload"),
        ('{"meta":{"type":1,"uuid":"x"},"payload":{}}', "$.meta.uuid: expected a UUID, got 'x'"),
        *(
            (
                f'{{"meta":{{"type":{type},"uuid":"{ID}"}},"payload":{{}}}}',
                f"$.meta.type: expected the type of a message, got {type}",
            )
            for type in (-1, 0, 5, 6, 11, 15, 48, 256)
        ),
    ],
)
def test_errors_in_messages_of_either_direction(text: str, error: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode_message(text)

    assert str(caught.value) == error


def test_a_message_of_a_later_version_is_unknown() -> None:
    later = decode_message(envelope('{"a":1}', 47))

    assert isinstance(later, Unknown)
    assert (later.uuid, later.number, later.payload) == (ID, 47, b'{"a":1}')


@pytest.mark.parametrize("text", REQUESTS.values(), ids=REQUESTS)
def test_a_server_sends_no_requests(text: str) -> None:
    with pytest.raises(MessageNotAllowed, match=r"^\$\.meta\.type: only 7 \(NACK\) or .* may be sent here, got"):
        decode_response(text)


def test_a_restricted_connection() -> None:
    allowed = frozenset({MessageType.CALL, MessageType.PUB})

    assert decode_request(GOLDEN["PUB"], allowed).type is MessageType.PUB
    with pytest.raises(MessageNotAllowed) as caught:
        decode_request(GOLDEN["UNSB"], allowed)
    assert str(caught.value) == "$.meta.type: only 1 (CALL) or 2 (PUB) may be sent here, got 4 (UNSB)"


def test_types_that_only_servers_send_are_refused_even_if_they_are_allowed() -> None:
    allowed = frozenset({MessageType.CALL, *MessageType}) - {MessageType.UNKNOWN}

    assert decode_request(GOLDEN["PUB"], allowed).type is MessageType.PUB
    for text in RESPONSES.values():
        with pytest.raises(MessageNotAllowed, match=r"only 1 \(CALL\) or .* or 4 \(UNSB\) may be sent here, got"):
            decode_request(text, allowed)
    custom = GOLDEN["PUB"].replace('"type":2', '"type":256')
    with pytest.raises(InvalidMessage, match=r"^\$\.meta\.type: expected 1 \(CALL\) or .*, got 256$"):
        decode_request(custom, allowed)


# What may be left out, and what may be there beside.


@pytest.mark.parametrize(
    "payload", ['{"uri":"u"}', '{"args":null,"timeout":null,"uri":"u"}', '{"uri":"u","timeout":0}']
)
def test_defaults_of_a_call(payload: str) -> None:
    assert decode_request(envelope(payload)) == Call(uuid=ID, uri="u", args=b"null", timeout=0.0)


@pytest.mark.parametrize("payload", ['{"channel":"c"}', '{"channel":"c","pattern":null}'])
def test_defaults_of_a_subscription(payload: str) -> None:
    assert decode_request(envelope(payload, type=3)) == Sub(uuid=ID, channel="c", is_pattern=False)


@pytest.mark.parametrize(
    ("type", "payload", "message"),
    [
        (7, '"for_type":1,"code":503,"message":"m"', Nack(uuid=ID, for_=ORIGIN, for_type=1, code=503, message="m")),
        (8, '"for_type":2', Ack(uuid=ID, for_=ORIGIN, for_type=2)),
        (9, '"args":1', Res(uuid=ID, for_=ORIGIN, uri="", args=b"1")),
        (10, '"pattern":"*","args":1', Evnt(uuid=ID, for_=ORIGIN, channel="", pattern="*", args=b"1")),
    ],
)
def test_servers_in_go_leave_out_empty_fields(type: int, payload: str, message: Message) -> None:
    assert decode_response(envelope(f'{{"for":"{ORIGIN}",{payload}}}', type)) == message


@pytest.mark.parametrize("unknown", ["1", '{"uri":[]}', r'"\ud800"', r'{"\ud800":1}'])
def test_unknown_fields_are_ignored(unknown: str) -> None:
    text = '{{"x":{0},"payload":{{"x":{0},"uri":"u","args":[1],"y":{0}}},"meta":{{"uuid":"{1}","type":1}},"y":{0}}}'

    assert decode_request(text.format(unknown, ID)) == Call(uuid=ID, uri="u", args=b"[1]")


def test_of_two_fields_with_one_name_the_last_counts() -> None:
    for args in ('"2"', r'"\ud802"'):
        text = envelope(rf'{{"args":"\ud801","uri":"t","uri":"u","\u0061rgs":{args}}}')

        assert decode_request(text) == Call(uuid=ID, uri="u", args=args.encode())


@pytest.mark.parametrize(("name", "text"), (REQUESTS | RESPONSES).items(), ids=REQUESTS | RESPONSES)
def test_the_slow_way_reads_the_same(name: str, text: str) -> None:
    decode = decode_request if name in REQUESTS else decode_response
    slow = text.replace('"payload":{', r'"payload":{"unknown":"\ud800",')

    assert slow != text
    assert decode(slow) == decode(text)


# What cannot be written.


def test_only_messages_are_encoded() -> None:
    with pytest.raises(TypeError, match="a request or a response, got Message"):
        encode(Message())


@pytest.mark.parametrize(
    "message",
    [Call(uri="\ud800"), Sub(channel="\ud800"), Call(uri="u", timeout=math.inf), Call(uri="u", timeout=math.nan)],
)
def test_fields_that_cannot_be_written(message: Message) -> None:
    with pytest.raises(InvalidValue, match=f"^{type(message).__name__} cannot be written: "):
        encode(message)


def test_a_nack_is_sent_whatever_its_reason_quotes() -> None:
    text = encode(Nack(uuid=ID, for_=ID, for_type=1, code=500, message='no file "\udcff"')).decode()

    assert decode_response(text).message == 'no file "?"'


def test_strings_cannot_break_out_of_their_field() -> None:
    evil = '","args":"\\\n\x00'
    message = Evnt(uuid=ID, for_=ORIGIN, channel=evil, pattern=evil, args=b"1")

    assert decode_response(encode(message).decode()) == message


# Python values and args.

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(VALUES)
def test_values_come_back(value: Any) -> None:
    text = encode_args(value)

    assert decode_args(text) == decode_args(text.decode()) == json.loads(text) == value


@given(st.none() | st.booleans() | st.integers() | st.text() | st.text(st.characters(max_codepoint=127)))
@example('\x00\b\t\n\f\r"/\\\x1f<>&\x7f')
def test_simple_values_have_the_text_of_ujson(value: Any) -> None:
    assert encode_args(value) == ujson.dumps(value, allow_nan=False, escape_forward_slashes=False).encode()


@given(VALUES)
def test_encoded_values_are_args(value: Any) -> None:
    decode, text = carriers(encode_args(value))["CALL"]

    assert decode_args(decode(text).args) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((1, "a"), b'[1,"a"]'),
        ("</é>", rb'"</\u00e9>"'),
        ("\ud800", rb'"\ud800"'),
        (2**100, b"1267650600228229401496703205376"),
        ({1: {None: True}}, b'{"1":{"null":true}}'),
        (MessageType.CALL, b"1"),
    ],
)
def test_values_as_args(value: Any, text: bytes) -> None:
    assert encode_args(value) == text


class Writes:
    """An object that says itself how it looks."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __json__(self) -> str:
        return self.text


class Fails:
    def __json__(self) -> str:
        raise RuntimeError("not today")


def circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


NO_VALUES = [
    (math.nan, "NaN and Infinity are not JSON"),
    ([{"a": -math.inf}], "NaN and Infinity are not JSON"),
    (b"x", "bytes cannot be sent as JSON: b'x'"),
    ([{1j}], "set cannot be sent as JSON: Encoding objects of type complex is unsupported"),
    ({"a": 1j}, "complex cannot be sent as JSON: 1j"),
    ("x".join, "builtin_function_or_method cannot be sent as JSON: <built-in"),
    (bytearray(1_000_000), "bytearray cannot be sent as JSON: bytearray(b'"),
    ({b"\xff": 1}, "cannot be sent as JSON: 'utf-8' codec can't decode byte 0xff"),
    (circle(), "nested too deeply, or circular"),
    (nested(100_000), "nested too deeply, or circular"),
    (Writes("NaN"), "cannot be sent as JSON: invalid character (byte 0)"),
    (Writes("1,2"), "cannot be sent as JSON: trailing characters (byte 2)"),
    (Writes('"\ud800"'), "cannot be sent as JSON: "),
    ([Fails()], "cannot be sent as JSON: not today"),
]


@pytest.mark.parametrize(("value", "error"), NO_VALUES, ids=[error[:60] for _, error in NO_VALUES])
def test_values_that_json_has_not(value: Any, error: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        encode_args(value)

    assert str(caught.value).startswith(error)
    assert len(str(caught.value)) <= 200


def test_integers_that_python_does_not_convert() -> None:
    with pytest.raises(InvalidValue, match="Exceeds the limit"):
        encode_args(1 << 20_000)
    with pytest.raises(InvalidValue, match="Exceeds the limit"):
        decode_args("9" * 5000)


@pytest.mark.parametrize("text", ["", "[1,]", "{", "nul", "1 2", '"\\x"', "[" * 100_000, b"\xff", b'"\xed\xa0\x80"'])
def test_texts_that_are_no_value(text: str | bytes) -> None:
    with pytest.raises(InvalidValue, match=r"^not a JSON value: "):
        decode_args(text)


def test_uuids_of_ours_pass() -> None:
    for _ in range(100):
        assert decode_request(encode(Sub(uuid=new_uuid(), channel="c")).decode())
