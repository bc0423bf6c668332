"""Calls carry the identity of their caller: what the server derives from the connection, never what a client sends."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import redis

from juggler.auth import ANONYMOUS
from juggler.broker.redis import RedisBroker
from juggler.errors import CloseCode, NackCode, Refused
from juggler.process.uuids import new_uuid
from juggler.protocol.messages import MessageType
from tests.recorders import pop_all
from tests.stack import Wire, running_server
from tests.support import eventually

CALL, NACK, ACK = MessageType.CALL, MessageType.NACK, MessageType.ACK


@pytest.fixture
def stored(redis_url):
    """Return the payload in Redis of the first call that a client makes to a server with these options."""

    def stored(*texts, **options):
        broker = RedisBroker(redis_url)
        with (
            running_server(broker, **options) as running,
            Wire(running.url) as wire,
            redis.Redis.from_url(redis_url, protocol=2) as client,
        ):
            if texts:
                wire.websocket.send(*texts)
            else:
                wire.send(CALL, uri="f", args=[1])
            assert wire.receive()["meta"]["type"] == ACK
            payload = json.loads(client.rpop("juggler:calls:{f}"))
            assert payload["uri"] == "f"
            return payload

    return stored


@dataclass
class User:
    name: str
    admin: bool = False


@pytest.mark.parametrize(
    ("identity", "by"),
    [
        ("ann", "ann"),
        ("\ud800", "\ud800"),
        (7, 7),
        ({"sub": "ann", "roles": ["admin"]}, {"sub": "ann", "roles": ["admin"]}),
        (User("ann"), {"name": "ann", "admin": False}),
        ("x" * 4094, "x" * 4094),
    ],
    ids=["string", "surrogate", "number", "claims", "dataclass", "4-KiB"],
)
def test_the_identity_of_the_connect_hook_accompanies_its_calls(stored, identity, by):
    assert stored(connect=lambda request: identity)["by"] == by


@pytest.mark.parametrize(
    ("options", "warnings"),
    [
        ({}, 0),
        ({"connect": lambda request: ANONYMOUS}, 0),
        ({"connect": lambda request: "ann", "caller": lambda connection: None}, 0),
        ({"connect": lambda request: "x" * 4095}, 1),
        ({"connect": lambda request: object()}, 1),
        ({"connect": lambda request: b"ann"}, 1),
    ],
    ids=["no-hook", "anonymous", "none", "large", "object", "bytes"],
)
def test_without_an_identity_a_call_carries_none(stored, caplog, options, warnings):
    assert list(stored(**options)) == ["conn_uuid", "msg_uuid", "uri", "args"]
    assert caplog.text.count("server: calls have no identity") == warnings


def test_the_warning_is_given_once_for_a_server(caplog):
    with running_server(connect=lambda request: object()) as running:
        for _ in range(2):
            with Wire(running.url) as wire:
                assert wire.request(CALL, uri="f")["meta"]["type"] == ACK
    assert caplog.text.count("server: calls have no identity") == 1


@pytest.mark.parametrize("connect", [None, lambda request: "ann"], ids=["unknown", "known"])
def test_a_client_cannot_set_it(stored, connect):
    forged = {"by": "mallory", "caller": "mallory"}
    text = json.dumps(
        {
            "meta": {"type": int(CALL), "uuid": new_uuid(), **forged},
            "payload": {"uri": "f", **forged, "args": {**forged, "x": '","by":"mallory"'}},
            **forged,
        }
    )
    payload = stored(text, connect=connect)
    assert payload.pop("args") == {**forged, "x": '","by":"mallory"'}
    assert payload.get("by") == ("ann" if connect else None)
    assert "mallory" not in json.dumps(payload)


def test_the_caller_hook_is_asked_once_for_each_connection():
    asked = []

    def caller(connection):
        asked.append(connection)
        return {"user": connection.identity, "address": connection.address}

    with running_server(connect=lambda request: "ann", caller=caller) as running:
        consumer = running.broker.calls(["f"])
        with Wire(running.url) as one, Wire(running.url) as other:
            assert asked == []
            for wire in (one, one, other):
                assert wire.request(CALL, uri="f", args=1)["meta"]["type"] == ACK
            known = {json.dumps({"user": "ann", "address": "127.0.0.1"}, separators=(",", ":")).encode()}
            assert {call.by for call in pop_all(consumer, 3)} == known
            assert len(asked) == len(set(asked)) == 2


def test_a_caller_hook_may_refuse_and_is_asked_again():
    answers = iter([Refused(NackCode.UNAVAILABLE, "the directory is down"), "ann"])

    def caller(connection):
        answer = next(answers)
        if isinstance(answer, Refused):
            raise answer
        return answer

    with running_server(caller=caller) as running, Wire(running.url) as wire:
        refusal = wire.request(CALL, uri="f")
        assert (refusal["meta"]["type"], refusal["payload"]["message"]) == (NACK, "the directory is down")
        consumer = running.broker.calls(["f"])
        assert wire.request(CALL, uri="f")["meta"]["type"] == ACK
        (call,) = pop_all(consumer, 1)
        assert call.by == b'"ann"'


@pytest.mark.parametrize(
    ("caller", "logged"),
    [
        (lambda connection: 1 // 0, "ZeroDivisionError"),
        (lambda connection: object(), "object cannot be sent as JSON"),
        (lambda connection: "x" * 5000, "expected at most 4096 bytes of JSON, got 5002"),
    ],
    ids=["raises", "no-json", "large"],
)
def test_no_call_passes_when_the_caller_hook_fails(caplog, caller, logged):
    with running_server(caller=caller) as running, Wire(running.url) as wire:
        wire.send(CALL, uri="f")
        code, _ = wire.closed()
        assert code == CloseCode.INTERNAL_ERROR
        eventually(lambda: not running.server.connections)
        assert running.broker.queue_lengths(["f"]) == {"f": 0}
    assert logged in caplog.text
