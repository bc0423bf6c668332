"""The messages that juggler.1 adds, and the members that it adds to payloads; what juggler.0 does not know of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from juggler.errors import InvalidMessage, MessageNotAllowed
from juggler.protocol.codec import (
    REQUESTS_1,
    StoredCall,
    StoredParts,
    StoredResult,
    decode_call,
    decode_event,
    decode_request,
    decode_response,
    decode_result,
    encode,
    encode_call,
    encode_event,
    encode_result,
)
from juggler.protocol.messages import (
    ALL_REQUEST_TYPES,
    UNANSWERED,
    Ack,
    Auth,
    Call,
    Cncl,
    Crdt,
    Ends,
    Evnt,
    Message,
    MessageType,
    Nack,
    Part,
    Parts,
    Pub,
    Unknown,
    Wlcm,
    ack,
    nack,
)

WIRE = Path(__file__).parents[1] / "wire"
GOLDEN = {line["name"]: line["text"] for line in map(json.loads, (WIRE / "juggler1.jsonl").read_text().splitlines())}
GOLDEN_0 = {line["name"]: line["text"] for line in map(json.loads, (WIRE / "golden.jsonl").read_text().splitlines())}
ID = "00000000-0000-4000-8000-000000000001"
CALL_ID = "00000000-0000-4000-8000-000000000050"
CONN = "00000000-0000-4000-8000-000000000030"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

MEANINGS: dict[str, Message] = {
    "CALL for parts": Call(uri="example.tokens", timeout=2.0, args=b'"once"', parts=Parts("all", 16)),
    "CALL for the latest part": Call(uri="example.progress", parts=Parts("latest", 1)),
    "CALL with a trace": Call(uri="example.echo", args=b"[1]", trace=TRACE),
    "PUB with a trace": Pub(channel="news", args=b"[1,2]", trace=TRACE),
    "EVNT with a trace": Evnt(for_=CALL_ID[:-2] + "58", channel="news", args=b"[1,2]", trace=TRACE),
    "EVNT by pattern with a trace": Evnt(
        for_=CALL_ID[:-2] + "58", channel="news.eu", pattern="news.*", args=b"[1,2]", trace=TRACE
    ),
    "CNCL": Cncl(for_=CALL_ID),
    "CNCL that waits": Cncl(for_=CALL_ID, wait=True),
    "CRDT": Crdt(for_=CALL_ID, until=24),
    "AUTH": Auth(token="a.b-c.d_é"),
    "WLCM": Wlcm(conn=CONN, features=("cancel", "parts"), limits={"max_calls": 50, "max_call_timeout": 600}),
    "WLCM with an expiry": Wlcm(conn=CONN, ttl=3600),
    "PART": Part(for_=CALL_ID, seq=1, args=b'"Once"'),
    "PART of several": Part(for_=CALL_ID, seq=2, args=b'[" upon"," a"," time"]', joined=True),
    "ACK of AUTH with an expiry": Ack(for_=CALL_ID[:-2] + "56", for_type=19, ttl=3600),
    "NACK of AUTH": Nack(for_=CALL_ID[:-2] + "56", for_type=19, code=401, message="the token is not valid"),
    "ENDS": Ends(channel="news.*", is_pattern=True, code=403, message="no longer allowed"),
    "ACK of CNCL": Ack(for_=CALL_ID[:-2] + "53", for_type=MessageType.CNCL),
    "NACK of CNCL": Nack(for_=CALL_ID[:-2] + "53", for_type=16, code=404, message="no such call is in flight"),
    "ACK of AUTH": Ack(for_=CALL_ID[:-2] + "56", for_type=MessageType.AUTH),
    "NACK of an unknown request": Nack(
        for_=CALL_ID[:-2] + "57", for_type=31, code=501, message="message type 31 is unknown to this server"
    ),
    "unknown request": Unknown(number=31, payload=b'{"later":[1]}'),
    "unknown response": Unknown(number=47, payload=b'{"later":[1]}'),
}
REQUESTS = {name: GOLDEN[name] for name, message in MEANINGS.items() if json.loads(GOLDEN[name])["meta"]["type"] < 32}
REQUESTS = {name: text for name, text in REQUESTS.items() if "ACK of" not in name and "EVNT" not in name}
RESPONSES = {name: GOLDEN[name] for name in MEANINGS.keys() - REQUESTS.keys()}

CALLS = {
    "call payload with a caller": StoredCall(CONN, CALL_ID, "example.echo", b"1", by=b'{"sub":"ada"}'),
    "call payload for parts": StoredCall(
        CONN, CALL_ID, "example.tokens", b'"once"', parts=StoredParts("all", 16), trace=TRACE
    ),
    "call payload with a trace": StoredCall(CONN, CALL_ID, "example.echo", b"1", trace=TRACE),
}
EVENTS = {"event payload with a trace": (CALL_ID[:-2] + "58", b"[1,2]", TRACE)}
RESULTS = {
    "result payload with its callee": StoredResult(
        CALL_ID, b'{"error":{"message":"no luck"}}', failed=True, callee="c1"
    ),
    "result payload of a part": StoredResult(CALL_ID, b'"Once"', seq=1, more=True, callee="c1"),
    "result payload of several parts": StoredResult(
        CALL_ID, b'[" upon"," a"," time"]', seq=2, more=True, callee="c1", joined=True
    ),
    "result payload of a call that was taken": StoredResult(CALL_ID, more=True, callee="c1"),
    "result payload without a timeout key": StoredResult(CALL_ID, b'"Once"', keyless=True),
}


def decode_1(text: str) -> Message:
    return decode_request(text, ALL_REQUEST_TYPES, REQUESTS_1)


def decoder(name: str) -> Callable[[str], Message]:
    return decode_1 if name in REQUESTS else decode_response


def envelope(payload: str, type: int = 1) -> str:
    return f'{{"meta":{{"type":{type},"uuid":"{ID}"}},"payload":{payload}}}'


def without_uuid(message: Message) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__struct_fields__ if name != "uuid"}


def test_each_type_has_a_golden_message() -> None:
    types = {json.loads(text)["meta"]["type"] for text in (REQUESTS | RESPONSES).values()}

    assert types >= {type for type in MessageType if type.value in range(16, 48)}
    assert GOLDEN.keys() == MEANINGS.keys() | CALLS.keys() | RESULTS.keys() | EVENTS.keys()


@pytest.mark.parametrize("name", MEANINGS)
def test_golden_messages_are_read_and_written(name: str) -> None:
    message = decoder(name)(GOLDEN[name])

    assert type(message) is type(MEANINGS[name])
    assert without_uuid(message) == without_uuid(MEANINGS[name])
    assert encode(message).decode() == GOLDEN[name]


@pytest.mark.parametrize("name", MEANINGS)
def test_the_slow_way_reads_the_same(name: str) -> None:
    slow = GOLDEN[name].replace('"payload":{', r'"payload":{"unknown":"\ud800",')

    if isinstance(MEANINGS[name], Unknown):
        assert without_uuid(decoder(name)(slow))["number"] == MEANINGS[name].number
    else:
        assert without_uuid(decoder(name)(slow)) == without_uuid(MEANINGS[name])


@pytest.mark.parametrize("name", CALLS)
def test_golden_calls_are_read_and_written(name: str) -> None:
    call = CALLS[name]

    assert decode_call(GOLDEN[name].encode()) == call
    text = encode_call(call.conn_uuid, call.msg_uuid, call.uri, call.args, call.by, call.parts, call.trace)
    assert text.decode() == GOLDEN[name]


@pytest.mark.parametrize("name", EVENTS)
def test_golden_events_are_read_and_written(name: str) -> None:
    assert decode_event(GOLDEN[name].encode()) == EVENTS[name]
    assert encode_event(*EVENTS[name]).decode() == GOLDEN[name]


@pytest.mark.parametrize("name", RESULTS)
def test_golden_results_are_read_and_written(name: str) -> None:
    result = RESULTS[name]

    assert decode_result(GOLDEN[name].encode()) == result
    text = encode_result(
        CONN,
        result.msg_uuid,
        json.loads(GOLDEN[name])["uri"],
        result.args,
        result.failed,
        seq=result.seq,
        more=result.more,
        callee=result.callee,
        joined=result.joined,
        keyless=result.keyless,
    )
    assert text.decode() == GOLDEN[name]


# What goes beside juggler.0.


@pytest.mark.parametrize(
    "members",
    [
        '"parts":{"mode":"all","window":16}',
        '"parts":{"mode":"some","window":0}',
        '"parts":7',
        '"trace":"00-0"',
        '"trace":{"a":[1]}',
        r'"trace":"\ud800","parts":["\ud800"]',
    ],
)
def test_juggler_0_ignores_what_it_does_not_know(members: str) -> None:
    assert decode_request(envelope(f'{{"uri":"u",{members},"args":1}}')) == Call(uuid=ID, uri="u", args=b"1")


@pytest.mark.parametrize("name", [name for name in REQUESTS if not name.startswith(("CALL", "PUB"))])
def test_juggler_0_refuses_new_requests(name: str) -> None:
    with pytest.raises(InvalidMessage, match=r"^\$\.meta\.type: expected 1 \(CALL\) or .* or 4 \(UNSB\), got \d+$"):
        decode_request(GOLDEN[name])


@pytest.mark.parametrize(
    "name", [name for name in GOLDEN_0 if name.partition(" ")[0] in ("CALL", "PUB", "SUB", "UNSB")]
)
def test_juggler_1_reads_and_writes_the_messages_of_juggler_0(name: str) -> None:
    assert decode_1(GOLDEN_0[name]) == decode_request(GOLDEN_0[name])
    assert encode(decode_1(GOLDEN_0[name])).decode() == GOLDEN_0[name]


# Unknown types.


@pytest.mark.parametrize("number", [-1, 0, 5, 6, 11, 15, 18, 20, 31, 48, 255, 256, 10**9])
def test_unknown_requests_are_no_errors(number: int) -> None:
    message = decode_1(envelope("[null]", number))

    assert message == Unknown(uuid=ID, number=number, payload=b"[null]")
    refusal = nack(message, 501, "unknown")
    assert (refusal.for_, refusal.for_type, refusal.code) == (ID, number, 501)
    assert decode_response(encode(refusal, ID).decode()).for_type == number


@pytest.mark.parametrize("number", [7, 8, 9, 10, 32, 33, 34, 35, 40, 47])
@pytest.mark.parametrize("decode", [decode_1, decode_request])
def test_responses_are_no_requests(decode: Callable[[str], Message], number: int) -> None:
    with pytest.raises(MessageNotAllowed, match=rf"may be sent here, got {number}"):
        decode(envelope("{}", number))


@pytest.mark.parametrize("number", [35, 40, 47])
def test_unknown_responses_are_no_errors(number: int) -> None:
    assert decode_response(envelope("[null]", number)) == Unknown(uuid=ID, number=number, payload=b"[null]")


@pytest.mark.parametrize("number", [0, 5, 6, 11, 15, 18, 31, 48, 256])
def test_other_types_are_no_responses(number: int) -> None:
    with pytest.raises(InvalidMessage, match=rf"^\$\.meta\.type: expected 7 \(NACK\) or .*, got {number}$"):
        decode_response(envelope("{}", number))


def test_a_connection_that_may_not_call_may_not_cancel() -> None:
    allowed = frozenset({MessageType.PUB, MessageType.AUTH, MessageType.UNKNOWN})

    with pytest.raises(MessageNotAllowed) as caught:
        decode_request(GOLDEN["CNCL"], allowed, REQUESTS_1)
    assert str(caught.value) == "$.meta.type: only 2 (PUB) or 19 (AUTH) may be sent here, got 16 (CNCL)"


# Errors.


@pytest.mark.parametrize(
    ("type", "payload", "error"),
    [
        (1, '{"uri":"u","parts":1}', "$.payload.parts: expected object, got int"),
        (1, '{"uri":"u","parts":{}}', "$.payload.parts: object missing required field mode"),
        (1, '{"uri":"u","parts":{"mode":"all"}}', "$.payload.parts: object missing required field window"),
        (
            1,
            '{"uri":"u","parts":{"mode":"some","window":1}}',
            "$.payload.parts.mode: expected all or latest, got 'some'",
        ),
        (1, '{"uri":"u","parts":{"mode":null,"window":1}}', "$.payload.parts.mode: expected str, got null"),
        (1, '{"uri":"u","parts":{"mode":"all","window":0}}', "$.payload.parts.window: expected 1 to 1024, got 0"),
        (1, '{"uri":"u","parts":{"mode":"all","window":1025}}', "$.payload.parts.window: expected 1 to 1024, got 1025"),
        (1, '{"uri":"u","parts":{"mode":"all","window":1.5}}', "$.payload.parts.window: expected int, got float"),
        (16, "{}", "$.payload: object missing required field for"),
        (16, '{"for":"x"}', "$.payload.for: expected a UUID, got 'x'"),
        (16, f'{{"for":"{ID}","wait":1}}', "$.payload.wait: expected bool, got int"),
        (17, f'{{"for":"{ID}"}}', "$.payload: object missing required field until"),
        (17, '{"for":"x","until":1}', "$.payload.for: expected a UUID, got 'x'"),
        (17, f'{{"for":"{ID}","until":-1}}', "$.payload.until: expected int >= 0"),
        (17, f'{{"for":"{ID}","until":9007199254740992}}', "$.payload.until: expected int <= 9007199254740991"),
        (17, f'{{"for":"{ID}","until":"1"}}', "$.payload.until: expected int, got str"),
        (19, "{}", "$.payload: object missing required field token"),
        (19, '{"token":null}', "$.payload.token: expected str, got null"),
        (32, '{"conn":"x"}', "$.payload.conn: expected a UUID, got 'x'"),
        (32, f'{{"conn":"{ID}","ttl":"1"}}', "$.payload.ttl: expected int | float, got str"),
        (32, f'{{"conn":"{ID}","features":[1]}}', "$.payload.features[0]: expected str, got int"),
        (32, f'{{"conn":"{ID}","limits":[]}}', "$.payload.limits: expected an object, got []"),
        (33, f'{{"for":"{ID}"}}', "$.payload: object missing required field seq"),
        (33, f'{{"for":"{ID}","seq":0}}', "$.payload.seq: expected int >= 1"),
        (33, '{"for":"x","seq":1}', "$.payload.for: expected a UUID, got 'x'"),
        (33, f'{{"for":"{ID}","seq":1,"parts":{{}}}}', "$.payload.parts: expected an array, got '{}'"),
        (34, '{"channel":"c","code":403}', "$.payload: object missing required field message"),
        (34, '{"channel":"c","code":403,"message":"m","pattern":"p"}', "$.payload.pattern: expected bool, got str"),
    ],
)
def test_errors_say_what_and_where(type: int, payload: str, error: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        (decode_1 if type < 32 else decode_response)(envelope(payload, type))

    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("decode", "members", "error"),
    [
        (decode_call, '"parts":1', "$.parts: expected object, got int"),
        (decode_call, '"parts":{"mode":"x","until":1}', "$.parts.mode: expected all or latest, got 'x'"),
        (decode_call, '"parts":{"mode":"all","until":-1}', "$.parts.until: expected int >= 0"),
        (decode_result, '"seq":-1', "$.seq: expected int >= 0"),
        (decode_result, '"more":1', "$.more: expected bool, got int"),
        (decode_result, '"callee":1', "$.callee: expected str, got int"),
        (decode_result, '"parts":1', "$.parts: expected an array, got '1'"),
    ],
)
def test_errors_in_payloads(decode: Callable[[bytes], Any], members: str, error: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode(f'{{"conn_uuid":"c","msg_uuid":"m","uri":"u",{members}}}'.encode())

    assert str(caught.value) == error


@pytest.mark.parametrize(
    "trace",
    [
        '""',
        "1",
        "null",
        f'"{TRACE[:-1]}"',
        f'"{TRACE}0"',
        f'"{TRACE.upper()}"',
        f'"ff{TRACE[2:]}"',
        f'"00-{"0" * 32}-00f067aa0ba902b7-01"',
        f'"00-4bf92f3577b34da6a3ce929d0e0e4736-{"0" * 16}-01"',
    ],
)
def test_a_malformed_trace_is_no_error(trace: str) -> None:
    assert decode_1(envelope(f'{{"uri":"u","trace":{trace}}}')) == Call(uuid=ID, uri="u")
    assert decode_call(f'{{"conn_uuid":"c","msg_uuid":"m","uri":"u","trace":{trace}}}'.encode()).trace == ""


def test_absent_and_null_are_the_same() -> None:
    nulls = '{"uri":"u","args":null,"timeout":null,"parts":null,"trace":null}'
    call = b'{"conn_uuid":"c","msg_uuid":"m","uri":"u","parts":null,"trace":null,"args":null}'
    part = f'{{"for":"{ID}","seq":1,"args":null,"parts":null}}'

    assert decode_1(envelope(nulls)) == Call(uuid=ID, uri="u")
    assert decode_call(call) == StoredCall("c", "m", "u")
    assert decode_response(envelope(part, 33)) == Part(uuid=ID, for_=ID, seq=1)
    assert decode_1(envelope(f'{{"for":"{ID}","wait":null}}', 16)) == Cncl(uuid=ID, for_=ID)


# There and back.

UUIDS = st.uuids().map(str)
ARGS = st.sampled_from([b"null", b'{"x":[1e400]}', rb'"\ud800"'])
ARRAYS = st.sampled_from([b"[]", b"[1, 2]", rb'["\ud800"]'])
TEXTS = st.text(max_size=10)
NUMBERS = st.integers(1, 2**53 - 1)
A_REQUEST = st.one_of(
    st.builds(
        Call,
        uuid=UUIDS,
        uri=TEXTS,
        args=ARGS,
        parts=st.builds(Parts, st.sampled_from(["all", "latest"]), st.integers(1, 1024)),
        trace=st.sampled_from(["", TRACE]),
    ),
    st.builds(Cncl, uuid=UUIDS, for_=UUIDS, wait=st.booleans()),
    st.builds(Crdt, uuid=UUIDS, for_=UUIDS, until=NUMBERS),
    st.builds(Auth, uuid=UUIDS, token=TEXTS),
    st.builds(Unknown, uuid=UUIDS, number=st.integers(20, 31), payload=ARGS),
)
A_RESPONSE = st.one_of(
    st.builds(
        Wlcm,
        uuid=UUIDS,
        conn=UUIDS,
        features=st.lists(TEXTS, max_size=3).map(tuple),
        limits=st.dictionaries(TEXTS, st.none() | st.integers() | st.text(max_size=3), max_size=3),
        ttl=st.none() | st.integers(0, 10**9) | st.floats(0, 1e9),
    ),
    st.builds(Part, uuid=UUIDS, for_=UUIDS, seq=NUMBERS, args=ARGS),
    st.builds(Part, uuid=UUIDS, for_=UUIDS, seq=NUMBERS, args=ARRAYS, joined=st.just(True)),
    st.builds(Ends, uuid=UUIDS, channel=TEXTS, is_pattern=st.booleans(), code=st.integers(0, 999), message=TEXTS),
)


@given(A_REQUEST)
def test_requests_come_back(message: Message) -> None:
    assert decode_1(encode(message).decode()) == message


@given(A_RESPONSE)
def test_responses_come_back(message: Message) -> None:
    assert decode_response(encode(message).decode()) == message


@st.composite
def spoilt(draw: st.DrawFn) -> str:
    """Return a golden text with a few pieces replaced, doubled or cut out."""
    text = draw(st.sampled_from(sorted(GOLDEN.values())))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 40)))
        piece = draw(
            st.sampled_from(['"', "{", "}", "[", "]", ":", ",", r"\ud800", r'"\ud800"', "null", "-1", "9" * 40])
        )
        text = text[:start] + piece + text[end:]
    return text


@given(spoilt())
def test_any_text_is_a_message_or_invalid(text: str) -> None:
    def bytes_of(decode: Callable[[bytes], Any]) -> Callable[[str], Any]:
        return lambda text: decode(text.encode("utf-8", "surrogatepass"))

    for decode in (decode_1, decode_response, bytes_of(decode_call), bytes_of(decode_result)):
        try:
            decoded = decode(text)
        except InvalidMessage as error:
            why = str(error)
            assert why.startswith("$")
            assert why.isprintable()
            assert len(why) <= 200
        else:
            assert not isinstance(decoded, Message) or decode(encode(decoded).decode()) == decoded


# ACK and NACK.


@pytest.mark.parametrize("request_", [Cncl(uuid=ID, for_=CALL_ID), Auth(uuid=ID, token="t")], ids=["CNCL", "AUTH"])
def test_requests_are_acknowledged(request_: Any) -> None:
    assert ack(request_) == Ack(for_=ID, for_type=request_.type)
    assert nack(request_, 404, "m") == Nack(for_=ID, for_type=request_.type, code=404, message="m")


def test_a_nack_in_place_of_a_part_refers_to_the_call() -> None:
    assert nack(Part(for_=CALL_ID, seq=1), 413, "m") == Nack(for_=CALL_ID, for_type=1, code=413, message="m")


def test_messages_that_need_no_answer() -> None:
    assert {type.name for type in UNANSWERED} == {"NACK", "CRDT", "WLCM", "ENDS"}
    for message in (Wlcm(conn=CONN), Ends(channel="c", code=1, message="m")):
        with pytest.raises(TypeError, match=f"a request or a response to one, got {type(message).__name__}"):
            nack(message, 500, "")
