"""Commands to servers and their answers."""

from __future__ import annotations

import json

import pytest

from juggler.errors import InvalidMessage, InvalidValue
from juggler.protocol.server_commands import (
    MAX_ANSWER,
    ConnectionInfo,
    ServerAnswer,
    canonical,
    canonical_names,
    connections_command,
    decode_command,
    disconnect_command,
    encode_answer,
    encode_command,
    outcome,
    unsubscribe_command,
    within_answer,
)

ID = "6a7f6e5c-0d7e-4c2b-a1d0-3f6b9f0c7e11"
REPLY = "00000000-0000-4000-8000-000000000001"


@pytest.mark.parametrize(
    ("command", "members"),
    [
        (
            disconnect_command(identity={"user": 7}, reply=REPLY),
            {"do": "disconnect", "reply": REPLY, "identity": {"user": 7}, "code": 4410},
        ),
        (
            disconnect_command(connection=ID, code=4411, reason="moved"),
            {"do": "disconnect", "connection": ID, "code": 4411, "reason": "moved"},
        ),
        (
            unsubscribe_command(pattern="room.*", identity=0, reason="over"),
            {
                "do": "unsubscribe",
                "channel": "room.*",
                "pattern": True,
                "identity": 0,
                "code": 403,
                "reason": "over",
            },
        ),
        (connections_command(limit=5), {"do": "connections", "limit": 5}),
        (connections_command(), {"do": "connections"}),
        (disconnect_command(identity="é"), {"do": "disconnect", "identity": "é", "code": 4410}),
    ],
)
def test_commands_have_only_the_members_they_need(command, members):
    text = encode_command(command)
    assert json.loads(text) == members
    assert decode_command(text) == command


def test_unknown_members_are_ignored():
    text = b'{"do": "connections", "later": [1], "limit": 3}'
    assert decode_command(text) == connections_command(limit=3)


@pytest.mark.parametrize(
    ("make", "arguments", "reason"),
    [
        (disconnect_command, {}, "expected either identity or connection"),
        (disconnect_command, {"identity": None}, "expected either identity or connection"),
        (disconnect_command, {"identity": 1, "connection": ID}, "expected either identity or connection"),
        (disconnect_command, {"identity": {1, 2, object()}}, "identity: "),
        (
            disconnect_command,
            {"identity": "x" * 5000},
            "identity: identity of a caller: expected at most 4096 bytes of JSON, got 5002",
        ),
        (disconnect_command, {"identity": "\ud800"}, "identity: not supported in commands: "),
        (disconnect_command, {"connection": "abc"}, "connection: expected the identifier of a connection, a UUID, got"),
        (disconnect_command, {"connection": 7}, "connection: expected the identifier of a connection, a UUID, got 7"),
        (disconnect_command, {"connection": ""}, "expected text that is not empty"),
        (disconnect_command, {"identity": 1, "code": 1000}, "code: expected a close code from 4000 to 4999, got 1000"),
        (disconnect_command, {"identity": 1, "code": "4410"}, "code: expected a close code from 4000 to 4999, got"),
        (disconnect_command, {"identity": 1, "reason": "é" * 62}, "reason: expected text of at most 123 bytes, got"),
        (disconnect_command, {"identity": 1, "reason": "\ud800"}, "reason: expected text"),
        (unsubscribe_command, {"identity": 1}, "expected either channel or pattern"),
        (unsubscribe_command, {"identity": 1, "channel": "a", "pattern": "b"}, "expected either channel or pattern"),
        (unsubscribe_command, {"identity": 1, "channel": ""}, "expected text that is not empty"),
        (unsubscribe_command, {"identity": 1, "channel": "x" * 9000}, "channel: expected text of 1 to 8192 characters"),
        (unsubscribe_command, {"identity": 1, "channel": "a", "code": 200}, "code: expected 400 to 599, got 200"),
        (connections_command, {"limit": 1001}, "limit: expected 0 to 1000, got 1001"),
        (connections_command, {"limit": "all"}, "limit: expected 0 to 1000, got 'all'"),
        (connections_command, {"identity": 1, "connection": ID}, "expected either identity or connection"),
    ],
)
def test_invalid_arguments_are_named(make, arguments, reason):
    with pytest.raises(InvalidValue) as caught:
        make(**arguments)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b"{}",
        b'{"do": "drop"}',
        b'{"do": "disconnect"}',
        b'{"do": "disconnect", "identity": null, "code": 4410}',
        b'{"do": "disconnect", "identity": 1}',
        b'{"do": "disconnect", "identity": 1, "code": true}',
        b'{"do": "disconnect", "identity": 1, "code": "4410"}',
        b'{"do": "disconnect", "identity": 1, "code": 4410, "reason": ["x"]}',
        b'{"do": "disconnect", "identity": 1, "code": 4410, "reply": "../../x"}',
        b'{"do": "disconnect", "identity": 1, "connection": "%b", "code": 4410}' % ID.encode(),
        b'{"do": "disconnect", "connection": "x", "code": 4410}',
        b'{"do": "unsubscribe", "identity": 1, "code": 403}',
        b'{"do": "connections", "limit": -1}',
        b'{"do": "connections", "identity": "%b"}' % (b"x" * 5000),
    ],
)
def test_malformed_commands(text):
    with pytest.raises(InvalidMessage, match=r"^command to servers: "):
        decode_command(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a": 1, "b": [true, null]}', b'{"b":[true,null],"a":1}'),
        (b"1", b"1.0"),
        (b"100", b"1e2"),
        ('"é"'.encode(), b'"\\u00e9"'),
        (b"123456789012345678901234567890", b"123456789012345678901234567890"),
    ],
)
def test_equal_json(one, other):
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"1", b"true"),
        (b"0", b"false"),
        (b'"1"', b"1"),
        (b"[1,2]", b"[2,1]"),
        (b"1", b"1.5"),
        (b'{"a":null}', b"{}"),
        (b"[1e400]", b"[null]"),
    ],
)
def test_different_json(one, other):
    assert canonical(one) != canonical(other)


def test_text_that_has_no_value_is_compared_as_it_is():
    assert canonical(b'"\\ud800"') == b'"\\ud800"'
    assert canonical(b"[" * 5000) == b"[" * 5000


def test_claims_of_a_token_are_named_by_their_subject():
    claims = b'{"sub": "ann", "exp": 7, "iss": "us"}'
    assert canonical_names(claims) == {
        b'{"exp":7,"iss":"us","sub":"ann"}',
        b'{"sub":"ann"}',
        b'{"iss":"us","sub":"ann"}',
    }
    assert canonical_names(b'{"sub": ""}') == {b'{"sub":""}'}
    assert canonical_names(b'["sub", "ann"]') == {b'["sub","ann"]'}
    assert canonical_names(b'"\\ud800"') == {b'"\\ud800"'}


def test_the_outcome_counts_servers_that_have_answered():
    old, new = ConnectionInfo("1", since=1.0), ConnectionInfo("2", since=2.0)
    texts = [
        encode_answer(ServerAnswer("a", 2, [new])),
        encode_answer(ServerAnswer("a", 50)),
        encode_answer(ServerAnswer("b", 1, [old])),
        encode_answer(ServerAnswer("c", error="busy")),
        encode_answer(ServerAnswer("other", 7)),
        b"garbage",
        b"\xff",
        b'{"server": 7}',
    ]
    found = outcome(["a", "b", "c", "d"], texts)
    assert (found.servers, found.answered, found.connections, found.errors) == (4, 2, 3, ["busy"])
    assert found.listed == [old, new]
    assert outcome(["a", "b"], texts, limit=1).listed == [old]
    assert outcome([], texts) == outcome([], [])


def test_an_answer_is_bounded():
    infos = [ConnectionInfo(str(n), identity="x" * 4000) for n in range(1000)]
    listed = within_answer(infos, 1000)
    assert 200 < len(listed) < 300
    assert len(encode_answer(ServerAnswer("a", 1000, listed))) < MAX_ANSWER + 1000
    assert within_answer(infos, 2) == infos[:2]
    assert within_answer(infos, 0) == []
