"""ACK and NACK of each message, and identifiers that never repeat."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from juggler.codec import decode_request, decode_response
from juggler.message import (
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
    new_uuid,
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

    assert answer.uuid not in {message.uuid, answer.for_}
    assert (answer.code, answer.message) == (503, "second")


def test_nack_of_something_else() -> None:
    with pytest.raises(TypeError, match="one of the eight messages, got Message"):
        nack(Message(), 500, "")


def test_types_are_requests_or_responses() -> None:
    requests = [type.name for type in MessageType if type.is_request]
    responses = [type.name for type in MessageType if type.is_response]

    assert requests == ["CALL", "PUB", "SUB", "UNSB"]
    assert responses == ["NACK", "ACK", "RES", "EVNT"]


def test_uuids_are_random_ones() -> None:
    for _ in range(1000):
        text = new_uuid()
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 4, uuid.RFC_4122)


def test_uuids_are_unique() -> None:
    assert len({new_uuid() for _ in range(10_000)}) == 10_000


def test_each_message_has_its_own_uuid() -> None:
    assert Sub(channel="c").uuid != Sub(channel="c").uuid


def test_a_forked_process_goes_its_own_way() -> None:
    printed = run("""
        import os
        from juggler.message import new_uuid

        new_uuid()
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        print(new_uuid(), flush=True)
    """)

    assert len(printed) == len(set(printed)) == 2


def test_threads_share_the_source() -> None:
    printed = run("""
        import sys
        from concurrent.futures import ThreadPoolExecutor
        from juggler.message import new_uuid

        sys.setswitchinterval(1e-6)
        with ThreadPoolExecutor(4) as pool:
            parts = pool.map(lambda _: [new_uuid() for _ in range(10_000)], range(4))
            print(len({uuid for part in parts for uuid in part}))
    """)

    assert printed == ["40000"]


def fields(message: Message) -> dict[str, object]:
    return {name: getattr(message, name) for name in message.__struct_fields__}


def run(program: str) -> list[str]:
    """Run a program in a process that has no gevent in it; return the words that it prints."""
    code = "\n".join(line[8:] for line in program.splitlines())
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
