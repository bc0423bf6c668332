"""Ready-made middleware in a real server."""

from __future__ import annotations

import logging
import re
from typing import ClassVar

import gevent
import pytest

from juggler.errors import ConfigError, Refused
from juggler.handlers import chain
from juggler.handlers.allow import allow
from juggler.handlers.authorize import Rule, authorize
from juggler.handlers.drill import drill
from juggler.handlers.log import log_connections, log_messages
from juggler.handlers.rate_limit import rate_limit
from juggler.handlers.recover import recover
from juggler.handlers.rewrite import rewrite
from juggler.protocol.messages import Message, MessageType
from tests.stack import Wire, running_server, serving
from tests.support import eventually

CALL, PUB, SUB, UNSB, NACK, ACK, RES, EVNT = (MessageType(n) for n in (1, 2, 3, 4, 7, 8, 9, 10))


UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def failing_on(type, error):
    def middleware(next_handler):
        def handler(ctx, connection, message):
            if message.type is type:
                raise error
            next_handler(ctx, connection, message)

        return handler

    return middleware


def codes(wire, requests):
    """Send requests, and return 0 for each ACK and the code of each NACK."""
    return [wire.request(type, **payload)["payload"].get("code", 0) for type, payload in requests]


# log


def test_messages_are_logged_with_their_connection_and_args_only_when_asked_for(caplog):
    caplog.set_level(logging.INFO, "juggler.messages")
    refuse = failing_on(PUB, Refused(403, "not you"))
    with running_server(handler=chain(log_messages(args=4), refuse)) as running, Wire(running.url) as wire:
        (connection,) = running.server.connections
        codes(wire, [(CALL, {"uri": "u\n", "args": "secret"}), (PUB, {"channel": "c"})])
    lines = [
        re.sub(r"ms=[\d.]+", "ms=0", re.sub(f"(message|for)={UUID}", r"\1=id", record.getMessage()))
        for record in caplog.records
        if record.name == "juggler.messages"
    ]
    assert lines == [
        r'message: processed type=CALL uri="u\n" args="\"sec…" ms=0 message=id',
        r'message: processed type=ACK uri="u\n" args="" ms=0 message=id for=id',
        r'message: processed type=NACK channel=c code=403 reason="not you" args="" ms=0 message=id for=id',
    ]
    assert {record.connection for record in caplog.records if record.name == "juggler.messages"} == {connection.uuid}


class Note(Message, frozen=True):
    type: ClassVar[int] = MessageType.CUSTOM + 7


def test_each_logged_message_has_the_uuid_that_the_client_sees(caplog):
    caplog.set_level(logging.INFO, "juggler.messages")

    def note(next_handler):
        def handler(ctx, connection, message):
            if message.type is CALL:
                connection.send(Note())
            next_handler(ctx, connection, message)

        return handler

    handler = chain(log_messages(events=True), note, failing_on(UNSB, Refused(403, "no")))
    with (
        running_server(handler=handler) as running,
        Wire(running.url) as wire,
        serving(running.broker, ["f"], lambda call: call.args),
    ):
        sent = {
            wire.send(type, **fields)
            for type, fields in (
                (SUB, {"channel": "c"}),
                (PUB, {"channel": "c"}),
                (CALL, {"uri": "f"}),
            )
        }
        received = [wire.receive() for _ in range(5)]
        refused = wire.send(UNSB, channel="c")
        received.append(wire.receive())
    assert sorted(message["meta"]["type"] for message in received) == [NACK, ACK, ACK, ACK, RES, EVNT]
    logged = {
        record.msg.fields["message"]: (record.msg.fields["type"], record.msg.fields.get("for"))
        for record in caplog.records
    }
    assert {uuid for uuid, (type, _) in logged.items() if type in {"CALL", "PUB", "SUB"}} == sent
    for message in received:
        uuid, type = message["meta"]["uuid"], message["meta"]["type"]
        assert logged[uuid] == (MessageType(type).name, message["payload"]["for"])
    assert received[-1]["payload"]["for"] == refused
    assert len([type for type, _ in logged.values() if type == MessageType.CUSTOM + 7]) == 1
    assert len(logged) == len(caplog.records) == 10


def test_connections_are_logged_with_their_addresses_and_their_end(caplog):
    caplog.set_level(logging.INFO, "juggler.connections")
    application = {"trusted_proxies": 1}
    with running_server(application=application, on_state=log_connections()) as running:
        with Wire(running.url, additional_headers={"X-Forwarded-For": "192.0.2.7"}) as wire:
            (connection,) = running.server.connections
            proxy = f"127.0.0.1:{wire.websocket.local_address[1]}"
            server = f"127.0.0.1:{wire.websocket.remote_address[1]}"
            assert (connection.peer_port, connection.local_port) == (
                wire.websocket.local_address[1],
                wire.websocket.remote_address[1],
            )
            assert (connection.peer, connection.local_address) == ("127.0.0.1", "127.0.0.1")
        eventually(lambda: len(caplog.records) == 2)
        with Wire(running.url) as wire:
            direct = f"127.0.0.1:{wire.websocket.local_address[1]}"
            wire.websocket.send("{")
            wire.closed()
        eventually(lambda: len(caplog.records) == 4)
    via = f'client="192.0.2.7 via {proxy}" local={server}'
    assert [record.getMessage() for record in caplog.records] == [
        f"connection: connected {via} subprotocol=juggler.0",
        f'connection: closed {via} code=1000 reason=""',
        f"connection: connected client={direct} local={server} subprotocol=juggler.0",
        f"connection: closed client={direct} local={server} code=4400 "
        'reason="$: invalid JSON: Input data was truncated"',
    ]
    first, second, third, _ = (record.connection for record in caplog.records)
    assert first == second == connection.uuid != third


def test_a_level_that_is_off_logs_no_connections(caplog):
    with running_server(on_state=log_connections(level=logging.DEBUG)) as running:
        caplog.set_level(logging.INFO, "juggler.connections")
        with Wire(running.url) as wire:
            wire.request(SUB, channel="c")
        eventually(lambda: not running.server.connections)
    assert not caplog.records


def test_names_and_reasons_that_clients_choose_are_cut(caplog):
    caplog.set_level(logging.INFO, "juggler.messages")
    handler = chain(log_messages(), failing_on(PUB, Refused(403, "r" * 1000)))
    with running_server(handler=handler, max_channel_length=None) as running, Wire(running.url) as wire:
        codes(wire, [(PUB, {"channel": "c" * 1000})])
    assert max(len(record.getMessage()) for record in caplog.records) < 500


def test_nothing_is_logged_where_the_level_is_off_and_no_events(caplog):
    caplog.set_level(logging.INFO, "juggler.messages")
    log = log_messages(level=logging.DEBUG)
    with running_server(handler=chain(log)) as running, Wire(running.url) as wire:
        wire.request(SUB, channel="c")
    assert not caplog.records
    with running_server(handler=chain(log_messages())) as running, Wire(running.url) as wire:
        wire.request(SUB, channel="c")
        wire.send(PUB, channel="c")
        assert {wire.receive()["meta"]["type"] for _ in range(2)} == {ACK, EVNT}
    assert not [record for record in caplog.records if "EVNT" in record.getMessage()]
    assert "type=PUB channel=c" in caplog.text
    assert "secret" not in caplog.text


# recover


@pytest.mark.parametrize("error", [ZeroDivisionError("on purpose"), gevent.Timeout(0.1, "on purpose")])
def test_a_failure_is_a_nack_with_an_id_that_is_in_the_log(caplog, error):
    handler = chain(recover(), failing_on(CALL, error))
    with running_server(handler=handler) as running, Wire(running.url) as wire:
        nack = wire.request(CALL, uri="u")["payload"]
        assert nack["code"] == 500
        failure = re.fullmatch("internal error, id ([0-9a-f-]{36})", nack["message"])[1]
        assert wire.request(SUB, channel="c")["meta"]["type"] == ACK
        assert running.server.metrics.panics == 1
    assert failure in caplog.text
    assert "on purpose" in caplog.text
    assert "on purpose" not in nack["message"]


def test_a_failed_response_becomes_a_nack_and_a_failed_nack_is_sent(caplog):
    handler = chain(recover(), failing_on(RES, ValueError("no")))
    with (
        running_server(handler=handler) as running,
        serving(running.broker, ["u"], lambda call: call.args),
        Wire(running.url) as wire,
    ):
        uuid = wire.send(CALL, uri="u")
        assert wire.receive()["meta"]["type"] == ACK
        nack = wire.receive()["payload"]
        assert (nack["for"], nack["for_type"], nack["code"]) == (uuid, CALL, 500)
    handler = chain(recover(), failing_on(NACK, ValueError("no")), failing_on(SUB, ValueError("no")))
    with running_server(handler=handler) as running, Wire(running.url) as wire:
        assert codes(wire, [(CALL, {"uri": ""}), (SUB, {"channel": "c"})]) == [400, 500]


def test_an_event_that_fails_is_dropped_without_a_word_to_its_subscriber(caplog):
    with (
        running_server(handler=chain(recover(), failing_on(EVNT, ValueError("no")))) as running,
        Wire(running.url) as one,
        Wire(running.url) as two,
    ):
        one.request(SUB, channel="c")
        two.request(PUB, channel="c")
        eventually(lambda: running.server.metrics.panics == 1)
        assert codes(one, [(SUB, {"channel": "d"})]) == [0]


def test_the_nack_of_recover_passes_the_other_handlers(caplog):
    caplog.set_level(logging.INFO, "juggler.messages")
    fail = failing_on(RES, ValueError("no"))
    with (
        running_server(handler=chain(recover(), log_messages(), rewrite({"hot": 1}), fail)) as running,
        serving(running.broker, ["hot.0"], lambda call: call.args),
        Wire(running.url) as wire,
    ):
        wire.request(CALL, uri="hot")
        assert wire.receive()["payload"]["uri"] == "hot"
    assert "type=NACK uri=hot.0 code=500" in caplog.text


def test_a_refusal_passes_and_closing_is_an_option(caplog):
    handler = chain(recover(close=True), failing_on(CALL, Refused(403, "no")), failing_on(SUB, ValueError("no")))
    with running_server(handler=handler) as running, Wire(running.url) as wire:
        assert codes(wire, [(CALL, {"uri": "u"})]) == [403]
        assert codes(wire, [(SUB, {"channel": "c"})]) == [500]
        assert wire.closed() == (1011, "internal error")


# authorize and allow


def is_admin(connection, name):
    return connection.identity == "admin"


RULES = [
    Rule("call", "admin.*", is_admin),
    Rule("call", "*"),
    Rule("pub", "room.*"),
    Rule("sub", "private.*", is_admin),
    Rule("sub", "*"),
]


@pytest.mark.parametrize(("identity", "admins_only"), [("admin", 0), ("ann", 403)])
def test_rules_decide_by_name_and_identity(identity, admins_only):
    with (
        running_server(handler=chain(authorize(RULES)), connect=lambda request: identity) as running,
        Wire(running.url) as wire,
    ):
        assert codes(wire, [(CALL, {"uri": "admin.stop"}), (SUB, {"channel": "private.1"})]) == [admins_only] * 2
        assert codes(wire, [(SUB, {"channel": "private.*", "pattern": True})]) == [admins_only]
        assert codes(wire, [(CALL, {"uri": "u"}), (SUB, {"channel": "c"}), (UNSB, {"channel": "private.1"})]) == [0] * 3
        assert codes(wire, [(PUB, {"channel": "room.1"}), (PUB, {"channel": "hall"})]) == [0, 403]
        assert "pub of 'hall' is not allowed" in wire.request(PUB, channel="hall")["payload"]["message"]


def test_a_pattern_brings_no_events_of_forbidden_channels():
    with (
        running_server(handler=chain(authorize([Rule("sub", "private.*", False)], default=True))) as running,
        Wire(running.url) as one,
        Wire(running.url) as two,
    ):
        one.request(SUB, channel="p*", pattern=True)
        for channel in ("private.1", "public"):
            two.request(PUB, channel=channel)
        assert one.receive()["payload"]["channel"] == "public"


def test_only_what_is_listed_is_allowed():
    with (
        running_server(handler=chain(allow(uris=["math.*"], channels=["news"]))) as running,
        Wire(running.url) as wire,
    ):
        requests = [(CALL, {"uri": "math.add"}), (PUB, {"channel": "news"}), (SUB, {"channel": "news"})]
        assert codes(wire, requests) == [0, 0, 0]  # a subscription would have brought the EVNT first
        requests = [(CALL, {"uri": "os.system"}), (PUB, {"channel": "new"}), (SUB, {"channel": "*", "pattern": True})]
        assert codes(wire, requests) == [403] * 3
    with running_server(handler=chain(allow(uris=[]))) as running, Wire(running.url) as wire:
        assert codes(wire, [(CALL, {"uri": "u"}), (PUB, {"channel": "c"})]) == [403, 0]


def test_rules_that_make_no_sense_are_errors():
    for wrong in (lambda: Rule("res", "*"), lambda: authorize([], ["evnt"]), lambda: allow(uris="math.*")):
        with pytest.raises(ConfigError, match="expected"):
            wrong()


def test_rules_may_come_from_anywhere_once():
    rules = (rule for rule in [Rule("sub", "private.*", False)])
    with running_server(handler=chain(authorize(rules, default=True))) as running, Wire(running.url) as wire:
        assert codes(wire, [(SUB, {"channel": "private.1"})]) == [403]


# rate limit


@pytest.mark.parametrize(
    ("identity", "shared"),
    [({"iss": "us", "sub": "ann"}, True), ({"sub": ["ann"]}, False), ({"name": "ann"}, False), (("ann", ["x"]), False)],
)
def test_an_identity_of_any_kind_has_its_bucket(identity, shared):
    limit = rate_limit(1, 1, key="identity", clock=lambda: 100.0)
    with (
        running_server(handler=chain(limit), connect=lambda request: identity) as running,
        Wire(running.url) as one,
        Wire(running.url) as two,
    ):
        assert codes(one, [(PUB, {"channel": "c"})]) == [0]
        assert codes(one, [(PUB, {"channel": "c"})]) == [429]
        assert codes(two, [(PUB, {"channel": "c"})]) == [429 if shared else 0]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("connection", [[0, 0, 429], [0, 0, 429]]),
        ("identity", [[0, 0, 429], [429, 429, 429]]),
        ("uri", [[0, 0, 0], [0, 0, 0]]),
        (lambda connection, message: message.uri, [[0, 0, 0], [429, 0, 429]]),
    ],
)
def test_a_refusal_has_the_time_to_wait(key, expected):
    limit = rate_limit(0.5, 2, key=key, types=[CALL], clock=lambda: 100.0)
    calls = [(CALL, {"uri": "u"}), (CALL, {"uri": "v"}), (CALL, {"uri": "u"})]
    with running_server(handler=chain(limit), connect=lambda request: "ann") as running:
        for each in expected:
            with Wire(running.url) as wire:
                assert codes(wire, calls) == each
                assert codes(wire, [(SUB, {"channel": "c"})] * 3) == [0] * 3
                if each[-1]:
                    message = wire.request(CALL, uri="u")["payload"]["message"]
                    assert message == "too many requests: try again in 2.00 s"


# rewrite


def test_hot_uris_are_spread_and_clients_see_only_the_one():
    served = []

    def answer(call):
        served.append(call.uri)
        return call.args

    with (
        running_server(handler=chain(rewrite({"hot": 2}))) as running,
        serving(running.broker, ["hot.0", "hot.1", "cold"], answer),
        Wire(running.url) as wire,
    ):
        for uri in ("hot", "cold", "hot", "hot"):
            assert wire.request(CALL, uri=uri, args=uri)["payload"]["uri"] == uri
            result = wire.receive()["payload"]
            assert (result["uri"], result["args"]) == (uri, uri)
        nack = wire.request(CALL, uri="hot.1")["payload"]
        assert (nack["code"], nack["message"]) == (404, "call 'hot' instead of 'hot.1'")
    assert served == ["hot.0", "cold", "hot.1", "hot.0"]


def test_each_hot_uri_has_a_turn_of_its_own():
    served = []
    with (
        running_server(handler=chain(rewrite({"a": 2, "b": 2}))) as running,
        serving(running.broker, ["a.0", "a.1", "b.0", "b.1"], lambda call: served.append(call.uri) or b"1"),
        Wire(running.url) as wire,
    ):
        for uri in "abab":
            wire.request(CALL, uri=uri)
            wire.receive()
    assert served == ["a.0", "b.0", "a.1", "b.1"]


def test_hot_uris_may_be_spread_by_the_call():
    served = []
    by_length = rewrite({"hot": 3}, choose=lambda connection, call: len(call.args))
    with (
        running_server(handler=chain(by_length)) as running,
        serving(running.broker, ["hot.0", "hot.1", "hot.2"], lambda call: served.append(call.uri) or b"1"),
        Wire(running.url) as wire,
    ):
        for args in (1, 22, 333, 4444):
            wire.request(CALL, uri="hot", args=args)
            wire.receive()
    assert served == ["hot.1", "hot.2", "hot.0", "hot.1"]
    with pytest.raises(ConfigError, match=r"at least 1, got \{'hot': 0\}"):
        rewrite({"hot": 0})


# drill


def test_a_client_may_rehearse_its_end(caplog):
    handler = chain(drill(close_uri="bye", panic_uri="panic"))
    with running_server(handler=handler) as running:
        for uri, end in (("bye", (1000, "requested by the client")), ("panic", (1011, "internal error"))):
            with Wire(running.url) as wire:
                wire.send(CALL, uri=uri)
                assert wire.closed() == end
    with running_server(handler=chain(drill())) as running, Wire(running.url) as wire:
        assert codes(wire, [(CALL, {"uri": "bye"})]) == [0]
