"""Requests and responses of registered types, over a real websocket."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import msgspec
import pytest

from juggler.client import Client
from juggler.errors import NackCode, Refused
from juggler.handlers.log import log_messages
from juggler.handlers.rate_limit import rate_limit
from juggler.handlers.recover import recover
from juggler.process.uuids import new_uuid
from juggler.protocol.codec import encode
from juggler.protocol.custom import register, unregister
from juggler.protocol.messages import Message, MessageType, ack
from juggler.server.processing import chain
from tests.stack import Wire, running_server
from tests.support import eventually

CALL, SUB, NACK, ACK, WLCM = (MessageType(n) for n in (1, 3, 7, 8, 32))


class Ping(Message, frozen=True):
    text: str
    refuse: bool = False


class Pong(Message, frozen=True):
    for_: str = msgspec.field(name="for")
    text: str


class Tick(Message, frozen=True):
    """A local message."""


@pytest.fixture(autouse=True)
def types() -> Iterator[None]:
    register("PING", 300, "request")(Ping)
    register("PONG", 301, "response")(Pong)
    register("TICK")(Tick)
    yield
    for cls in (Ping, Pong, Tick):
        unregister(cls)


def pong(next_handler):
    def handler(ctx, connection, message):
        if isinstance(message, Ping):
            if message.refuse:
                raise Refused(NackCode.FORBIDDEN, "not now")
            connection.send(Tick())
            connection.send(ack(message))
            connection.send(Pong(for_=message.uuid, text=message.text))
        else:
            next_handler(ctx, connection, message)

    return handler


@pytest.mark.parametrize("subprotocol", ["juggler.0", "juggler.1"])
def test_requests_reach_handlers_and_responses_the_client(subprotocol, caplog):
    caplog.set_level(logging.INFO, "juggler.messages")
    with (
        running_server(handler=chain(log_messages(), pong)) as running,
        Wire(running.url, subprotocols=[subprotocol]) as wire,
    ):
        if subprotocol == "juggler.1":
            assert wire.receive()["meta"]["type"] == WLCM
        uuid = wire.send(300, text="hi")
        assert wire.receive()["payload"] == {"for": uuid, "for_type": 300}
        answer = wire.receive()
        assert (answer["meta"]["type"], answer["payload"]) == (301, {"for": uuid, "text": "hi"})
        refusal = wire.request(300, text="hi", refuse=True)["payload"]
        assert (refusal["for_type"], refusal["code"], refusal["message"]) == (300, 403, "not now")
        messages = running.server.metrics.counters()["juggler_messages"]
    assert (messages["in,PING"], messages["out,PONG"]) == (2, 1)
    logged = [record.msg.fields["type"] for record in caplog.records if "type" in record.msg.fields]
    assert {"PING", "TICK", "PONG"} <= set(logged)


def test_a_request_that_no_handler_processes_is_refused():
    with running_server() as running, Wire(running.url) as wire:
        refusal = wire.request(300, text="hi")["payload"]
        assert (refusal["code"], refusal["message"]) == (501, "no handler of this server processes PING")
        assert wire.request(SUB, channel="c")["meta"]["type"] == ACK


@pytest.mark.parametrize(
    ("number", "payload", "reason"),
    [
        (300, {}, "$.payload: object missing required field text"),
        (300, {"text": 1}, "$.payload.text: expected str, got int"),
        (301, {"for": "x", "text": ""}, "$.meta.type: only 1 (CALL) or 2 (PUB) or 3 (SUB) or 4 (UNSB) or 300 (PING)"),
        (302, {}, "$.meta.type: expected 1 (CALL) or 2 (PUB) or 3 (SUB) or 4 (UNSB) or 300 (PING), got 302"),
    ],
)
def test_malformed_messages_close_the_connection(number, payload, reason):
    with running_server(handler=chain(pong)) as running, Wire(running.url) as wire:
        wire.send(number, **payload)
        code, text = wire.closed()
    assert code in (4400, 4403)
    assert text.startswith(reason)


def test_a_restricted_connection_names_the_types_that_it_sends():
    def header(value):
        return {"additional_headers": {"Juggler-Allowed-Messages": value}}

    with running_server(handler=chain(pong)) as running:
        with Wire(running.url, **header("ping, call")) as wire:
            assert wire.request(300, text="hi")["meta"]["type"] == ACK
        with Wire(running.url, **header("call")) as wire:
            wire.send(300, text="hi")
            assert wire.closed()[1] == "$.meta.type: only 1 (CALL) may be sent here, got 300 (PING)"


def test_a_response_over_the_write_limit_is_dropped_and_logged(caplog):
    with running_server(handler=chain(pong), write_limit=1000) as running, Wire(running.url) as wire:
        assert wire.request(300, text="x" * 2000)["meta"]["type"] == ACK
        assert wire.request(300, text="short")["meta"]["type"] == ACK
        assert wire.receive()["payload"]["text"] == "short"
        assert running.server.metrics.write_limit_exceeded == 1
    assert "connection: response over the write limit dropped type=PONG" in caplog.text


def test_a_client_shows_registered_responses():
    seen = []
    with (
        running_server(handler=chain(pong)) as running,
        Client(running.url, on_message=seen.append) as client,
    ):
        ping = Ping(uuid=new_uuid(), text="hi")
        client.send_raw(encode(ping).decode())
        eventually(lambda: any(isinstance(message, Pong) for message in seen))
        (answer,) = (message for message in seen if isinstance(message, Pong))
        assert (answer.for_, answer.text) == (ping.uuid, "hi")
        assert any(message.type == ACK and message.for_type == 300 for message in seen)


def test_ready_handlers_know_registered_requests():
    def fail(next_handler):
        def handler(ctx, connection, message):
            if isinstance(message, (Ping, Tick)):
                connection.send(Tick()) if isinstance(message, Ping) else None
                raise ValueError("bad")
            next_handler(ctx, connection, message)

        return handler

    handler = chain(rate_limit(0.001, 2), recover(), fail)
    with running_server(handler=handler) as running, Wire(running.url) as wire:
        codes = [wire.request(300, text="hi")["payload"]["code"] for _ in range(3)]
        assert running.server.metrics.panics == 4
    assert codes == [500, 500, 429]


def test_a_slow_request_is_counted():
    with running_server(handler=chain(pong), slow_threshold=1e-9) as running, Wire(running.url) as wire:
        wire.send(300, text="hi")
        eventually(lambda: running.server.metrics.counters()["juggler_slow_messages"]["PING"] == 1)
