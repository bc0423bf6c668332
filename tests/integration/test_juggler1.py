"""juggler.1 on a real server: negotiation, WLCM, unknown requests, and ACKs that a RES makes needless."""

from __future__ import annotations

import json
import random

import gevent
import pytest
from gevent.event import Event
from msgspec.structs import replace

from juggler.broker.redis import RedisBroker
from juggler.errors import ConfigError, Refused
from juggler.handlers import chain
from juggler.handlers.rate_limit import rate_limit
from juggler.protocol.messages import Call, MessageType, Wlcm
from juggler.server import Server
from juggler.server.held_acks import HeldAcks
from juggler.wsgi import Application
from tests.stack import Wire, Wire1, running_server, serving
from tests.support import eventually

CALL, PUB, SUB, UNSB, NACK, ACK, RES, EVNT = (MessageType(n) for n in (1, 2, 3, 4, 7, 8, 9, 10))
CNCL, CRDT, AUTH, WLCM = (MessageType(n) for n in (16, 17, 19, 32))
BOTH = ["juggler.1", "juggler.0"]
ID = "00000000-0000-4000-8000-000000000001"
LONG = 1.0
"""Seconds for which ACKs are held in tests of what a result makes of them."""


def kind(message) -> int:
    return message["meta"]["type"]


# Negotiation.


@pytest.mark.parametrize(
    ("server", "client", "chosen"),
    [
        (BOTH, BOTH, "juggler.1"),
        (BOTH, ["juggler.0", "juggler.1"], "juggler.1"),
        (BOTH, ["juggler.2", "juggler.1"], "juggler.1"),
        (BOTH, ["juggler.1"], "juggler.1"),
        (BOTH, ["juggler.0"], "juggler.0"),
        (["juggler.0"], BOTH, "juggler.0"),
        (["juggler.0"], ["juggler.0"], "juggler.0"),
        (["juggler.1"], BOTH, "juggler.1"),
    ],
)
def test_the_newest_subprotocol_that_both_know_is_chosen(server, client, chosen):
    with (
        running_server(application={"subprotocols": server}) as running,
        Wire(running.url, subprotocols=client) as wire,
    ):
        assert wire.websocket.subprotocol == chosen
        wire.send(SUB, channel="c")
        kinds = [kind(wire.receive()) for _ in range(1 + (chosen == "juggler.1"))]
        assert kinds == ([WLCM, ACK] if chosen == "juggler.1" else [ACK])
        (connection,) = running.server.connections
        assert connection.subprotocol == chosen


@pytest.mark.parametrize("subprotocols", ["juggler.0", [], ["juggler.2"], ["juggler.1", "chat"]])
def test_unknown_subprotocols_are_a_config_error(subprotocols):
    with running_server() as running, pytest.raises(ConfigError, match="subprotocols: expected some of juggler"):
        Application(running.server, subprotocols=subprotocols)


# WLCM.


def test_the_welcome_has_features_and_limits():
    with running_server(max_calls=7, max_channel_length=None, max_call_timeout=90.0) as running:
        with Wire1(running.url) as wire:
            (connection,) = running.server.connections
            payload = wire.welcome["payload"]
            assert payload["conn"] == connection.uuid
            assert "ttl" not in payload
            assert payload["features"] == ["auth", "cancel", "identity", "parts"]
            limits = payload["limits"]
            assert (limits["max_calls"], limits["max_call_timeout"], limits["call_timeout"]) == (7, 90, 60)
            assert limits["read_limit"] == 1024 * 1024
            assert "max_channel_length" not in limits
        assert running.server.metrics.written[WLCM] == 1


def test_the_welcome_reports_rate_limits():
    handler = chain(rate_limit(100, key="address"), rate_limit(2, 5, types=[PUB]))
    with running_server(handler=handler) as running, Wire1(running.url) as wire:
        first, second = wire.welcome["payload"]["limits"]["rate_limits"]
        assert (first["rate"], first["burst"], first["key"]) == (100, 100, "address")
        assert first["types"] == ["AUTH", "CALL", "CNCL", "PUB", "SUB", "UNKNOWN", "UNSB"]
        assert second == {"rate": 2, "burst": 5, "key": "connection", "types": ["PUB"]}


def test_a_handler_may_change_the_welcome():
    def middleware(next_handler):
        def handler(ctx, connection, message):
            if isinstance(message, Wlcm):
                message = replace(message, features=(), limits={"mine": 1})
            next_handler(ctx, connection, message)

        return handler

    with running_server(handler=chain(middleware)) as running, Wire1(running.url) as wire:
        assert wire.welcome["payload"]["limits"] == {"mine": 1}
        assert wire.request(SUB, channel="c")


@pytest.mark.parametrize("reaction", ["stops it", "refuses it"])
def test_a_handler_cannot_stop_the_welcome(reaction):
    def middleware(next_handler):
        def handler(ctx, connection, message):
            if not isinstance(message, Wlcm):
                next_handler(ctx, connection, message)
            elif reaction == "refuses it":
                raise Refused(403, "no")

        return handler

    with running_server(handler=chain(middleware)) as running, Wire1(running.url) as wire:
        assert wire.welcome["payload"]["features"] == ["auth", "cancel", "identity", "parts"]
        assert kind(wire.request(SUB, channel="c")) == ACK


def test_the_welcome_has_no_size_limit():
    with running_server(write_limit=150) as running, Wire1(running.url) as wire:
        assert len(json.dumps(wire.welcome)) > 150
        assert kind(wire.request(SUB, channel="c")) == ACK


# Unknown requests.


@pytest.mark.parametrize("handler", [None, chain(lambda next_handler: next_handler)])
def test_unknown_requests_are_refused_and_the_connection_stays(handler):
    options = {} if handler is None else {"handler": handler}
    with running_server(**options) as running, Wire1(running.url) as wire:
        for number in (0, 5, 18, 20, 31, 48, 255, 300, -1):
            answer = wire.request(number, anything=[1])
            assert kind(answer) == NACK
            payload = answer["payload"]
            assert (payload["for_type"], payload["code"]) == (number, 501)
            assert payload["message"] == f"message type {number} is unknown to this server"
            assert not {"uri", "channel"} & payload.keys()
        assert kind(wire.request(SUB, channel="c")) == ACK
        metrics = running.server.metrics
        assert (metrics.read[MessageType.UNKNOWN], metrics.nacks[501], metrics.invalid) == (9, 9, 0)


@pytest.mark.parametrize(
    ("number", "payload"),
    [(AUTH, {"token": "t"})],
)
def test_requests_for_features_that_the_server_has_not(number, payload):
    with running_server() as running, Wire1(running.url) as wire:
        answer = wire.request(number, **payload)["payload"]
        assert (answer["for_type"], answer["code"]) == (number, 501)
        assert answer["message"] == f"{number.name} is not supported by this server"


def test_a_credit_gets_no_answer():
    handler = chain(rate_limit(0.001, 1, types=[CRDT]))
    for options in ({}, {"handler": handler}):
        with running_server(**options) as running, Wire1(running.url) as wire:
            for until in range(3):
                wire.send(CRDT, **{"for": ID, "until": until})
            assert kind(wire.request(SUB, channel="c")) == ACK  # the next message
            assert running.server.metrics.read[CRDT] == 3


@pytest.mark.parametrize(
    ("number", "payload", "code", "reason"),
    [
        (CRDT, {"for": ID, "until": -1}, 4400, "$.payload.until: expected int >= 0"),
        (CNCL, {}, 4400, "$.payload: object missing required field for"),
        (CALL, {"uri": "u", "parts": {"mode": "all", "window": 0}}, 4400, "$.payload.parts.window: expected 1 to"),
        (RES, {"for": ID}, 4403, "$.meta.type: only 1 (CALL) or 2 (PUB) or 3 (SUB) or 4 (UNSB) or 16 (CNCL) or"),
        (WLCM, {"conn": ID}, 4403, "$.meta.type: only 1 (CALL)"),
        (47, {}, 4403, "$.meta.type: only 1 (CALL)"),
    ],
)  # fmt: skip
def test_what_closes_the_connection(number, payload, code, reason):
    with running_server() as running, Wire1(running.url) as wire:
        wire.send(number, **payload)
        closed, why = wire.closed()
        assert closed == code
        assert why.startswith(reason)


def test_juggler_0_closes_at_new_requests_as_before():
    with running_server() as running:
        for number in (0, 16, 17, 19, 20, 31, 300):
            with Wire(running.url) as wire:
                wire.send(number, **{"for": ID, "until": 1, "token": "t"})
                code, reason = wire.closed()
                assert code == 4400
                assert reason.startswith("$.meta.type: expected 1 (CALL) or 2 (PUB) or 3 (SUB) or 4 (UNSB), got")


def test_a_connection_that_may_not_call_may_not_cancel():
    with running_server() as running:
        headers = {"Juggler-Allowed-Messages": "pub"}
        with Wire1(running.url, additional_headers=headers) as wire:
            assert wire.request(20)["payload"]["code"] == 501
            wire.send(CNCL, **{"for": ID})
            assert wire.closed()[0] == 4403
        with Wire1(running.url, additional_headers={"Juggler-Allowed-Messages": "call"}) as wire:
            assert wire.request(CNCL, **{"for": ID})["payload"]["code"] == 404
            wire.send(PUB, channel="c")
            assert wire.closed()[0] == 4403


def test_unknown_requests_count_for_the_rate_limit():
    with running_server(handler=chain(rate_limit(0.001, 2))) as running, Wire1(running.url) as wire:
        codes = [wire.request(20)["payload"]["code"] for _ in range(3)]
        assert codes == [501, 501, 429]


@pytest.mark.parametrize("wire_type", [Wire, Wire1])
@pytest.mark.parametrize("channel", ["juggler:control:{x}", "juggler", "__redis__:invalidate", "__keyspace@0__:a"])
def test_reserved_channels_are_refused(wire_type, channel):
    with running_server() as running, wire_type(running.url) as wire:
        answers = [
            wire.request(PUB, channel=channel),
            wire.request(SUB, channel=channel),
            wire.request(SUB, channel=channel + "*", pattern=True),
        ]
        assert [(kind(answer), answer["payload"]["code"]) for answer in answers] == [(NACK, 403)] * 3


# RES implies ACK.


def test_a_quick_result_replaces_the_ack():
    with (
        running_server(ack_delay=LONG) as running,
        serving(running.broker, ["u"], lambda call: call.args),
        Wire1(running.url) as wire,
    ):
        for number in range(3):
            answer = wire.request(CALL, uri="u", args=number)
            assert (kind(answer), answer["payload"]["args"]) == (RES, number)
        metrics = running.server.metrics
        assert (metrics.written[RES], metrics.written[ACK]) == (3, 0)
        # Other requests have no result to wait for.
        assert kind(wire.request(PUB, channel="c")) == ACK
        assert kind(wire.request(SUB, channel="c")) == ACK


def test_an_ack_is_not_held_for_long():
    finished = Event()

    def answer(call):
        finished.wait()
        return b"1"

    with (
        running_server() as running,
        serving(running.broker, ["u"], answer),
        Wire1(running.url) as wire,
    ):
        assert kind(wire.request(CALL, uri="u")) == ACK
        finished.set()
        assert kind(wire.receive()) == RES
        assert running.server.metrics.written[ACK] == 1


def test_refusals_are_not_held():
    with running_server(ack_delay=LONG, max_calls=1) as running, Wire1(running.url) as wire:
        first = wire.send(CALL, uri="u", timeout=10**10)
        answer = wire.request(CALL, uri="u")
        assert (kind(answer), answer["payload"]["code"]) == (NACK, 429)
        late = wire.receive()
        assert (kind(late), late["payload"]["for"]) == (ACK, first)


def test_the_ack_of_a_call_that_expires_is_sent():
    with running_server(ack_delay=LONG) as running, Wire1(running.url) as wire:
        sent = wire.send(CALL, uri="nobody", timeout=10**7)
        assert eventually(lambda: running.server.metrics.expired == 1)
        assert running.server.metrics.written[ACK] == 1  # not when its time to wait is over
        answer = wire.receive()
        assert (kind(answer), answer["payload"]["for"]) == (ACK, sent)


def test_juggler_0_and_a_delay_of_0_send_each_ack():
    for options, wire_type in (({"ack_delay": LONG}, Wire), ({"ack_delay": 0}, Wire1)):
        with (
            running_server(**options) as running,
            serving(running.broker, ["u"], lambda call: b"1"),
            wire_type(running.url) as wire,
        ):
            assert kind(wire.request(CALL, uri="u")) == ACK
            assert kind(wire.receive()) == RES


@pytest.mark.parametrize("with_handlers", [False, True])
def test_no_ack_follows_its_result(redis_url, with_handlers):
    """300 calls whose functions take about as long as an ACK is held: each has a RES, and at most one ACK before it."""
    random_ = random.Random(1)
    seen: list[MessageType] = []

    def middleware(next_handler):
        def handler(ctx, connection, message):
            seen.append(message.type)
            next_handler(ctx, connection, message)

        return handler

    broker, callee = RedisBroker(redis_url), RedisBroker(redis_url)
    options = {"handler": chain(middleware)} if with_handlers else {}
    consumer = callee.calls(["u"])

    def answer(call):
        gevent.sleep(random_.uniform(0, 0.006))
        callee.result(call, call.args, lambda error: None)

    def serve():
        while not consumer.closed:
            for call in consumer.pop(50):
                gevent.spawn(answer, call)

    server = gevent.spawn(serve)
    try:
        with running_server(broker, **options) as running, Wire1(running.url) as wire:
            answers: dict[str, list[int]] = {}
            for start in range(0, 300, 20):
                sent = [wire.send(CALL, uri="u", args=start + number) for number in range(20)]
                missing = set(sent)
                while missing:
                    message = wire.receive()
                    answers.setdefault(message["payload"]["for"], []).append(kind(message))
                    if kind(message) == RES:
                        missing.discard(message["payload"]["for"])
            assert set(map(tuple, answers.values())) <= {(RES,), (ACK, RES)}
            assert len(answers) == 300
            written = running.server.metrics.written
            acks = sum(ACK in kinds for kinds in answers.values())
            assert (written[RES], written[ACK]) == (300, acks)
            if with_handlers:
                assert (seen.count(RES), seen.count(ACK)) == (300, acks)
    finally:
        consumer.close()
        server.join(5)
        callee.close()


def test_a_handler_sees_no_ack_that_is_not_sent():
    seen: list[MessageType] = []

    def middleware(next_handler):
        def handler(ctx, connection, message):
            seen.append(message.type)
            next_handler(ctx, connection, message)

        return handler

    with (
        running_server(handler=chain(middleware), ack_delay=LONG) as running,
        serving(running.broker, ["u"], lambda call: b"1"),
        Wire1(running.url) as wire,
    ):
        wire.request(CALL, uri="u")
        assert seen == [WLCM, CALL, RES]


def test_the_catalogue_needs_no_ack():
    with running_server(list_uri="list") as running, Wire1(running.url) as wire:
        assert kind(wire.request(CALL, uri="list")) == RES
        assert kind(wire.request(SUB, channel="c")) == ACK


def test_a_client_that_leaves_costs_nothing(redis_url):
    broker = RedisBroker(redis_url)
    with running_server(broker, ack_delay=LONG) as running:
        with Wire1(running.url) as wire:
            wire.send(CALL, uri="nobody")
            eventually(lambda: running.server.metrics.read[CALL])
        eventually(lambda: not running.server.connections)
        assert kind_of_new_connection(running) == ACK


def kind_of_new_connection(running) -> int:
    with Wire1(running.url) as wire:
        return kind(wire.request(SUB, channel="c"))


def test_unanswered_requests_do_not_wait_for_held_acks():
    """Held ACKs are of calls that are stored: they do not stop the server from reading."""
    with running_server(ack_delay=LONG, max_unanswered=2) as running, Wire1(running.url) as wire:
        for _ in range(10):
            wire.send(CALL, uri="nobody", timeout=10**10)
        assert kind(wire.request(SUB, channel="c")) == ACK


class Held:
    """A call whose ACK is held."""

    def __init__(self) -> None:
        self.awaits_ack = True
        self.sent = Event()

    def acknowledge(self) -> None:
        self.awaits_ack = False
        self.sent.set()


def test_the_timer_stops_when_no_ack_is_held():
    acks = HeldAcks(0.02)
    for _ in range(3):  # it starts again
        slow, quick = Held(), Held()
        acks.add(slow)
        acks.add(quick)
        quick.awaits_ack = False
        assert slow.sent.wait(5)
        assert not quick.sent.is_set()
        assert eventually(lambda: len(acks) == 0)
        assert not acks.is_ticking
    acks.close()


def test_the_timer_stops_at_once_when_all_are_implied():
    acks = HeldAcks(1.0)
    for _ in range(2):
        first, second = Held(), Held()
        acks.add(first)
        acks.add(second)
        for held, is_ticking in ((first, True), (second, False)):
            assert acks.is_ticking
            held.awaits_ack = False
            acks.implied()
            assert acks.is_ticking is is_ticking
        assert len(acks) == 0
    acks.close()


def test_an_ack_is_sent_whatever_happens_to_others():
    """Random calls: each is either acknowledged by the timer, or implied before; the timer stops after the last one."""
    random_ = random.Random(1)
    acks = HeldAcks(0.004)
    calls = []
    for _ in range(300):
        call = Held()
        acks.add(call)
        calls.append(call)
        for other in random_.sample(calls, min(2, len(calls))):
            if other.awaits_ack and random_.random() < 0.5:
                other.awaits_ack = False
                if random_.random() < 0.8:  # an expired call sends its ACK without a word
                    acks.implied()
        gevent.sleep(random_.choice((0, 0, 0.001, 0.003)))
    assert eventually(lambda: not any(call.awaits_ack for call in calls))
    assert eventually(lambda: not acks.is_ticking)
    assert any(call.sent.is_set() for call in calls)
    acks.close()


def test_closing_drops_what_is_held():
    acks = HeldAcks(0.02)
    held = Held()
    acks.add(held)
    acks.close()
    assert not held.sent.wait(0.1)
    assert len(acks) == 0


@pytest.mark.parametrize("delay", [-1, 1.5, "1", True])
def test_the_delay_is_checked(delay):
    with (
        running_server() as running,
        pytest.raises(ValueError, match="ack_delay: expected more than 0 and at most 1 s"),
    ):
        Server(caller_broker=running.broker, pubsub_broker=running.broker, ack_delay=delay)


def test_calls_decode_parts_only_under_juggler_1():
    seen = []

    def middleware(next_handler):
        def handler(ctx, connection, message):
            if isinstance(message, Call):
                seen.append(message.parts)
            next_handler(ctx, connection, message)

        return handler

    parts = {"mode": "latest", "window": 8}
    with (
        running_server(handler=chain(middleware)) as running,
        Wire(running.url) as old,
        Wire1(running.url) as new,
    ):
        assert kind(old.request(CALL, uri="nobody", timeout=10**8, parts=parts)) == ACK
        assert kind(old.request(CALL, uri="nobody", timeout=10**8, parts="any")) == ACK
        assert kind(new.request(CALL, uri="nobody", timeout=10**8, parts=parts)) == ACK
        assert [part if part is None else (part.mode, part.window) for part in seen] == [None, None, ("latest", 8)]
