"""What a client sees of a server, message by message, over a real websocket."""

from __future__ import annotations

import gc
import json
import time
import urllib.request
import weakref
from contextlib import ExitStack
from urllib.parse import urlsplit

import gevent
import pytest
from gevent.event import Event as Signal
from websockets.exceptions import ConnectionClosed, InvalidStatus

from juggler.process.uuids import new_uuid
from juggler.protocol.messages import MessageType
from juggler.server.processing import chain, process_message
from juggler.server.websocket import DeflateOptions, WebSocketOptions
from tests.stack import Wire, lazy_subscriber, running_server, serving
from tests.support import eventually

UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Protocol: juggler.0",
)
CALL, PUB, SUB, UNSB, NACK, ACK, RES, EVNT = (MessageType(n) for n in (1, 2, 3, 4, 7, 8, 9, 10))

ODD_ARGS = [
    "123456789012345678901234567890",
    "1e400",
    "0.1000000000000000055511151231257827",
    '{"a":1,"a":2}',
    r'"\ud800"',
    r'"\u003cé"',
    " [ 1 , 2 ] ",
]


def test_a_call_is_acknowledged_and_then_answered():
    with (
        running_server() as running,
        serving(running.broker, ["test.echo"], lambda call: call.args),
        Wire(running.url) as wire,
    ):
        uuid = wire.send(CALL, uri="test.echo", timeout=10**9, args={"x": 1})
        ack, res = wire.receive(), wire.receive()
    assert ack["meta"]["type"] == ACK
    assert ack["payload"] == {"for": uuid, "for_type": 1, "uri": "test.echo"}
    assert res["meta"]["type"] == RES
    assert res["payload"] == {"for": uuid, "uri": "test.echo", "args": {"x": 1}}
    assert len({uuid, ack["meta"]["uuid"], res["meta"]["uuid"]}) == 3


@pytest.mark.parametrize("deflate", [None, DeflateOptions()])
@pytest.mark.parametrize("read_limit", [1 << 20, 6 << 20])
def test_a_message_of_the_read_limit_may_arrive_in_frames_of_4_kib(read_limit, deflate):
    websocket = WebSocketOptions(read_limit=read_limit, deflate=deflate)
    with (
        running_server(websocket=websocket) as running,
        serving(running.broker, ["size"], lambda call: b"%d" % len(call.args)),
        Wire(running.url) as wire,
    ):
        message = '{"meta":{"type":1,"uuid":"%s"},"payload":{"uri":"size","args":"%s"}}'
        bare = len(message % (new_uuid(), ""))
        text = message % (new_uuid(), "x" * (read_limit - bare))
        wire.websocket.send(text[start : start + 4096] for start in range(0, read_limit, 4096))
        assert wire.receive()["meta"]["type"] == ACK
        assert wire.receive()["payload"]["args"] == read_limit - bare + len('""')


@pytest.mark.parametrize("args", ODD_ARGS)
def test_args_travel_as_they_came(args):
    text = '{"meta":{"type":%d,"uuid":"00000000-0000-4000-8000-000000000001"},"payload":{%s,"args":%s}}'
    with (
        running_server() as running,
        serving(running.broker, ["u"], lambda call: call.args),
        Wire(running.url) as wire,
    ):
        wire.websocket.send(text % (CALL, '"uri":"u"', args))
        wire.receive()
        assert f'"args":{args.strip()}' in wire.websocket.recv(timeout=30)
        wire.request(SUB, channel="c")
        wire.websocket.send(text % (PUB, '"channel":"c"', args))
        event = next(text for text in (wire.websocket.recv(timeout=30) for _ in range(2)) if '"type":10' in text)
        assert f'"args":{args.strip()}' in event


def test_a_result_goes_to_the_caller_only():
    with (
        running_server() as running,
        serving(running.broker, ["u"], lambda call: call.args),
        Wire(running.url) as one,
        Wire(running.url) as other,
    ):
        same = "00000000-0000-4000-8000-000000000001"
        for wire, args in ((one, 1), (other, 2)):
            wire.websocket.send(json.dumps({"meta": {"type": 1, "uuid": same}, "payload": {"uri": "u", "args": args}}))
        for wire, args in ((one, 1), (other, 2)):
            assert wire.receive()["meta"]["type"] == ACK
            assert wire.receive()["payload"] == {"for": same, "uri": "u", "args": args}


def test_an_event_reaches_all_subscribers_of_the_channel_and_of_patterns():
    with (
        running_server() as running,
        Wire(running.url) as publisher,
        Wire(running.url) as one,
        Wire(running.url) as two,
    ):
        assert one.request(SUB, channel="news.eu")["payload"]["channel"] == "news.eu"
        one.request(SUB, channel="news.*", pattern=True)
        two.request(SUB, channel="news.eu", pattern=False)
        uuid = publisher.send(PUB, channel="news.eu", args=[1])
        assert publisher.receive()["payload"] == {"for": uuid, "for_type": 2, "channel": "news.eu"}
        events = sorted((one.receive()["payload"] for _ in range(2)), key=lambda p: "pattern" in p)
        assert events[0] == {"for": uuid, "channel": "news.eu", "args": [1]}
        assert events[1] == {"for": uuid, "channel": "news.eu", "pattern": "news.*", "args": [1]}
        assert two.receive()["payload"] == events[0]


def test_an_event_reaches_clients_with_and_without_compression():
    options = WebSocketOptions(deflate=DeflateOptions(threshold=1))
    with (
        running_server(websocket=options) as running,
        Wire(running.url, compression="deflate") as compressing,
        Wire(running.url, compression=None) as plain,
    ):
        assert compressing.websocket.protocol.extensions
        assert not plain.websocket.protocol.extensions
        for wire in (compressing, plain):
            wire.request(SUB, channel="c")
        for number in range(3):
            uuid = plain.send(PUB, channel="c", args=["x" * 1000, number])
            expected = {"for": uuid, "channel": "c", "args": ["x" * 1000, number]}
            assert compressing.receive()["payload"] == expected
            assert expected in [plain.receive()["payload"] for _ in range(2)]


def test_nothing_comes_after_unsubscribing():
    with running_server() as running, Wire(running.url) as wire:
        wire.request(SUB, channel="a")
        wire.request(SUB, channel="b")
        wire.request(UNSB, channel="a")
        wire.send(PUB, channel="a", args=1)
        wire.send(PUB, channel="b", args=2)
        got = [wire.receive() for _ in range(3)]
    assert [m["payload"]["channel"] for m in got if m["meta"]["type"] == EVNT] == ["b"]


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("garbage", 4400, "invalid JSON"),
        ('{"meta":{"type":99,"uuid":"00000000-0000-4000-8000-000000000001"},"payload":{}}', 4400, "99"),
        ('{"meta":{"type":8,"uuid":"00000000-0000-4000-8000-000000000001"},"payload":{}}', 4403, "8 (ACK)"),
        ('{"meta":{"type":1,"uuid":"00000000-0000-4000-8000-000000000001"},"payload":{}}', 4400, "uri"),
        ('{"payload":' + "[" * 100_000, 4400, "too deep"),
    ],
)
def test_who_breaks_the_protocol_loses_his_connection_and_nobody_else_does(text, code, reason):
    with running_server() as running, Wire(running.url) as good, Wire(running.url) as bad:
        good.request(SUB, channel="c")
        bad.websocket.send(text)
        assert bad.closed()[0] == code
        assert reason in bad.closed()[1]
        good.request(PUB, channel="c")
        assert good.receive()["meta"]["type"] == EVNT


def test_a_binary_message_ends_the_connection():
    with running_server() as running, Wire(running.url) as wire:
        wire.websocket.send(b"{}")
        assert wire.closed()[0] == 1003


def test_a_connection_is_held_to_the_messages_that_it_announced():
    with running_server() as running:
        headers = {"Juggler-Allowed-Messages": "Pub, SUB"}
        with Wire(running.url, additional_headers=headers) as wire:
            wire.request(SUB, channel="c")
            wire.send(CALL, uri="u")
            code, reason = wire.closed()
            assert code == 4403
            assert "1 (CALL)" in reason


@pytest.mark.parametrize(
    ("options", "status", "body"),
    [
        ({"subprotocols": None}, 400, "juggler.0"),
        ({"subprotocols": ["juggler.2"]}, 400, "juggler.0"),
        ({"additional_headers": {"Juggler-Allowed-Messages": "fly"}}, 400, "fly"),
        ({"origin": "https://evil.example"}, 403, "evil.example"),
    ],
)
def test_a_refusal_is_plain_http_with_a_reason(options, status, body):
    with running_server() as running:
        with pytest.raises(InvalidStatus) as refused:
            Wire(running.url, **options)
        assert refused.value.response.status_code == status
        assert body in refused.value.response.body.decode()


def test_other_paths_say_where_websockets_are():
    with running_server() as running:
        with pytest.raises(InvalidStatus) as refused:
            Wire(running.url.replace("/ws", "/other"))
        assert refused.value.response.status_code == 404
        assert "/ws" in refused.value.response.body.decode()


def test_connections_per_address_are_limited():
    with running_server(max_connections_per_address=2) as running:
        with Wire(running.url) as first, Wire(running.url) as second:
            for _ in range(2):
                with pytest.raises(InvalidStatus) as refused:
                    Wire(running.url)
                assert refused.value.response.status_code == 429
                assert refused.value.response.headers["Retry-After"] == "5"
            first.request(SUB, channel="c")
            second.request(SUB, channel="c")
        eventually(lambda: not running.server.connections)
        with Wire(running.url), Wire(running.url):
            pass


def test_clients_in_the_connect_hook_count_for_their_address():
    go = Signal()
    hooked = []

    def connect(request):
        hooked.append(request)
        go.wait()
        return "ann"

    with running_server(max_connections_per_address=1, connect=connect) as running:
        waiting = gevent.spawn(Wire, running.url)
        eventually(lambda: hooked)
        with pytest.raises(InvalidStatus) as refused:
            Wire(running.url)
        assert refused.value.response.status_code == 429
        go.set()
        with waiting.get(timeout=10) as wire:
            wire.request(SUB, channel="c")


REBOUND = {"Host": "evil.example", "Origin": "http://evil.example"}
"""Headers from a web page whose own name resolves to this server: DNS rebinding."""


@pytest.mark.parametrize(
    ("application", "headers", "status"),
    [
        ({}, REBOUND, 403),
        ({}, {"Host": "evil.example"}, 403),
        ({}, {"Host": "localhost:1234", "Origin": "http://localhost:1234"}, 101),
        ({}, {"Host": "[::1]:80"}, 101),
        ({"allowed_hosts": ["app.example"]}, REBOUND, 403),
        ({"allowed_hosts": ["app.example"]}, {"Host": "app.example", "Origin": "https://app.example"}, 101),
        ({"allowed_hosts": ["app.example"]}, {"Host": "localhost"}, 403),
        ({"allowed_hosts": ["*"]}, REBOUND, 101),
        ({"trusted_proxies": 1}, REBOUND, 101),
    ],
)
def test_other_hosts_are_refused_on_loopback(application, headers, status):
    with running_server(application=application) as running:
        for path, expected in [("/ws", status), ("/juggler.js", status), ("/nothing", status), ("/healthz", 200)]:
            address = ("127.0.0.1", urlsplit(running.url).port)
            request = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), *UPGRADE]
            with gevent.socket.create_connection(address) as sock:
                sock.sendall("\r\n".join([*request, "", ""]).encode())
                answer = sock.recv(4096).decode()
            ordinary = {"/juggler.js": 200, "/nothing": 404}
            assert int(answer.split()[1]) == (ordinary.get(path, expected) if expected == 101 else expected)


def test_a_server_that_is_not_on_loopback_takes_any_host():
    with running_server(bind="0.0.0.0") as running, Wire(running.url, additional_headers={"X": "y"}) as wire:
        wire.request(SUB, channel="c")
        answer = urllib.request.urlopen(
            urllib.request.Request(
                running.url.replace("ws:", "http:").replace("/ws", "/juggler.js"), headers={"Host": "any.example"}
            ),
            timeout=10,
        )
        assert answer.status == 200


def test_origins_and_empty_subprotocols_can_be_allowed():
    application = {"allowed_origins": ["https://*.example"], "allow_empty_subprotocol": True}
    with (
        running_server(application=application) as running,
        Wire(running.url, origin="https://good.example", subprotocols=None) as wire,
    ):
        assert wire.request(SUB, channel="c")["meta"]["type"] == ACK


def test_connections_beyond_the_limit_are_told_to_come_back():
    with running_server(max_connections=1) as running, Wire(running.url):
        with pytest.raises(InvalidStatus) as refused:
            Wire(running.url)
        assert refused.value.response.status_code == 503
        assert "Retry-After" in refused.value.response.headers


def test_calls_in_flight_and_subscriptions_are_bounded():
    with running_server(max_calls=1, max_subscriptions=1) as running, Wire(running.url) as wire:
        wire.request(CALL, uri="nobody", timeout=10**9)
        nack = wire.request(CALL, uri="nobody", timeout=10**9)
        assert nack["meta"]["type"] == NACK
        assert nack["payload"]["code"] == 429
        wire.request(SUB, channel="a")
        assert wire.request(SUB, channel="a")["meta"]["type"] == ACK
        assert wire.request(SUB, channel="b")["payload"]["code"] == 429
        wire.request(UNSB, channel="a")
        assert wire.request(SUB, channel="b")["meta"]["type"] == ACK


def test_the_recipients_of_an_event_share_its_uuid_as_documented():
    with running_server() as running, Wire(running.url) as one, Wire(running.url) as two:
        for wire in (one, two):
            wire.request(SUB, channel="c")
        two.request(SUB, channel="c*", pattern=True)
        one.send(PUB, channel="c")
        first = next(message for message in (one.receive(), one.receive()) if message["meta"]["type"] == EVNT)
        second, by_pattern = two.receive(), two.receive()
    assert first["meta"]["uuid"] == second["meta"]["uuid"] != by_pattern["meta"]["uuid"]
    assert len({event["payload"]["for"] for event in (first, second, by_pattern)}) == 1


def test_patterns_are_bounded():
    options = {"max_patterns": 1, "max_pattern_length": 10, "max_wildcards": 2}
    with running_server(**options) as running, Wire(running.url) as wire:
        for pattern, reason in (
            ("a" * 10 + "*", "pattern: expected at most 10 characters, got 11"),
            ("a*b*c*", "pattern: expected at most 2 wildcards (*), got 3"),
        ):
            nack = wire.request(SUB, channel=pattern, pattern=True)["payload"]
            assert (nack["code"], nack["message"]) == (400, reason)
        assert wire.request(SUB, channel="a" * 11 + "***")["meta"]["type"] == ACK
        for _ in range(2):
            assert wire.request(SUB, channel="a*b*cdefgh", pattern=True)["meta"]["type"] == ACK
        nack = wire.request(SUB, channel="b*", pattern=True)["payload"]
        assert (nack["code"], nack["message"]) == (429, "1 subscriptions to patterns exist already")
        wire.request(UNSB, channel="a*b*cdefgh", pattern=True)
        assert wire.request(SUB, channel="b*", pattern=True)["meta"]["type"] == ACK


def test_bytes_of_calls_in_flight_are_bounded():
    with running_server(max_call_bytes=100) as running, Wire(running.url) as wire:
        assert wire.request(CALL, uri="nobody", args="x" * 200)["meta"]["type"] == ACK
        nack = wire.request(CALL, uri="nobody", args=1)["payload"]
        message = "calls with 202 bytes of args are in flight already, expected at most 100"
        assert (nack["code"], nack["message"]) == (429, message)


def test_queued_calls_of_a_client_that_disconnects_are_removed():
    with running_server() as running:
        with Wire(running.url) as wire:
            for _ in range(3):
                assert wire.request(CALL, uri="nobody", timeout=60 * 10**9)["meta"]["type"] == ACK
            assert running.broker.has_calls_or_results()
        eventually(lambda: not running.broker.has_calls_or_results())


def test_requests_that_await_their_ack_are_bounded_and_none_is_lost():
    with running_server(max_unanswered=2) as running, Wire(running.url) as wire:
        wire.request(SUB, channel="c")
        sent = [wire.send(PUB, channel="c", args=n) for n in range(100)]
        got = [wire.receive() for _ in range(200)]
    assert [m["payload"]["for"] for m in got if m["meta"]["type"] == ACK] == sent
    assert [m["payload"]["args"] for m in got if m["meta"]["type"] == EVNT] == list(range(100))


@pytest.mark.parametrize(("type", "name"), [(CALL, "uri"), (PUB, "channel"), (SUB, "channel")])
def test_an_empty_name_is_a_nack_and_no_end(type, name):
    with running_server() as running, Wire(running.url) as wire:
        nack = wire.request(type, **{name: ""})
        assert nack["meta"]["type"] == NACK
        assert nack["payload"]["code"] == 400
        assert nack["payload"]["for_type"] == type
        assert wire.request(SUB, channel="c")["meta"]["type"] == ACK


def test_a_response_over_the_write_limit_becomes_a_nack_of_the_request():
    with (
        running_server(write_limit=1000) as running,
        serving(running.broker, ["u"], lambda call: b'"%s"' % (b"x" * 1000)),
        Wire(running.url) as wire,
    ):
        uuid = wire.send(CALL, uri="u", timeout=10**9)
        assert wire.receive()["meta"]["type"] == ACK
        nack = wire.receive()
        assert nack["meta"]["type"] == NACK
        assert nack["payload"]["code"] == 413
        assert nack["payload"]["for"] == uuid
        assert "1000" in nack["payload"]["message"]


def test_an_event_over_the_write_limit_becomes_a_nack_of_its_publication():
    with running_server(write_limit=1000) as running, Wire(running.url) as one, Wire(running.url) as two:
        one.request(SUB, channel="c")
        uuid = two.send(PUB, channel="c", args="x" * 1000)
        nack = one.receive()
        assert nack["meta"]["type"] == NACK
        assert (nack["payload"]["for"], nack["payload"]["for_type"], nack["payload"]["code"]) == (uuid, PUB, 413)


@pytest.mark.parametrize("timeout", [-1, -(10**30), 600 * 10**9 + 1, 10**15, 10**400])
def test_a_timeout_out_of_range_costs_no_other_call(timeout):
    with (
        running_server() as running,
        Wire(running.url) as wire,
    ):
        uuid = wire.send(CALL, uri="u", timeout=10**10)
        assert wire.receive()["meta"]["type"] == ACK
        nack = wire.request(CALL, uri="u", timeout=timeout)["payload"]
        assert (nack["code"], nack["message"].startswith("timeout: expected 0 to 600 s, got ")) == (400, True)
        with serving(running.broker, ["u"], lambda call: b"1"):
            assert wire.receive()["payload"] == {"for": uuid, "uri": "u", "args": 1}


@pytest.mark.parametrize("channel", ["juggler", "juggler.gap", "juggler:control:{x}", "jugglers", "__keyspace@0__:k"])
def test_clients_cannot_publish_on_reserved_channels(channel):
    with running_server() as running, Wire(running.url) as wire:
        nack = wire.request(PUB, channel=channel)["payload"]
        assert (nack["code"], nack["channel"]) == (403, channel)
        assert repr(channel) in nack["message"]
        assert wire.request(PUB, channel=f"my.{channel}")["meta"]["type"] == ACK


@pytest.mark.parametrize(
    ("channel", "pattern", "code"),
    [
        ("juggler.gap", False, None),
        ("juggler.gap", True, 403),
        ("juggler.g*", True, 403),
        ("juggler.other", False, 403),
        ("__redis__:invalidate", False, 403),
        ("__key*", True, 403),
        ("*", True, None),
    ],
)
def test_clients_can_subscribe_to_gaps_and_no_other_reserved_channel(channel, pattern, code):
    with running_server() as running, Wire(running.url) as wire:
        answer = wire.request(SUB, channel=channel, pattern=pattern)
        assert answer["payload"].get("code") == code
        assert wire.request(UNSB, channel=channel, pattern=pattern)["meta"]["type"] == ACK


def test_many_large_results_at_once_pass():
    with (
        running_server() as running,
        serving(running.broker, ["u"], lambda call: b'"%b"' % (b"x" * 2_000_000)),
        Wire(running.url) as wire,
    ):
        for _ in range(8):
            wire.send(CALL, uri="u", timeout=10**10)
        got = [wire.receive() for _ in range(16)]
    assert sum(len(m["payload"].get("args", "")) for m in got) == 16_000_000


def test_large_results_pass():
    with (
        running_server() as running,
        serving(running.broker, ["u"], lambda call: b"[%s1]" % (b"1," * 2_500_000)),
        Wire(running.url) as wire,
    ):
        wire.request(CALL, uri="u", timeout=10**10)
        assert len(wire.receive()["payload"]["args"]) == 2_500_001


def test_a_connection_that_ends_leaves_nothing_behind():
    with running_server() as running:
        with Wire(running.url) as wire:
            wire.request(CALL, uri="nobody", timeout=50 * 10**6)
            wire.request(SUB, channel="c")
            wire.request(SUB, channel="c*", pattern=True)
        eventually(lambda: not running.server.connections)
        eventually(lambda: running.broker.is_empty(), message="the broker has forgotten the connection")


def test_shutting_down_lets_calls_finish_and_says_goodbye():
    with running_server() as running, Wire(running.url) as wire:
        uuid = wire.send(CALL, uri="u", timeout=5 * 10**9)
        assert wire.receive()["meta"]["type"] == ACK
        ending = gevent.spawn(running.server.shut_down, 5.0, 0.1)
        eventually(lambda: running.server.draining)
        with pytest.raises(InvalidStatus) as refused:
            Wire(running.url)
        assert refused.value.response.status_code == 503
        with serving(running.broker, ["u"], lambda call: b'"done"'):
            assert wire.receive()["payload"] == {"for": uuid, "uri": "u", "args": "done"}
        assert wire.closed() == (1001, "the server is shutting down")
        ending.join()


def test_shutting_down_closes_the_idle_first_and_spreads_it():
    with running_server() as running, ExitStack() as stack:
        busy = stack.enter_context(Wire(running.url))
        busy.request(CALL, uri="u", timeout=5 * 10**9)
        idle = [stack.enter_context(Wire(running.url)) for _ in range(10)]
        begin = time.monotonic()
        ending = gevent.spawn(running.server.shut_down, 5.0, 0.1)
        assert [wire.closed() for wire in idle] == [(1001, "the server is shutting down")] * 10
        assert time.monotonic() - begin > 0.08
        with serving(running.broker, ["u"], lambda call: b"1"):
            assert busy.receive()["meta"]["type"] == RES
        assert busy.closed()[0] == 1001
        ending.get(timeout=30)
        assert time.monotonic() - begin < 1


def test_a_connection_that_always_has_calls_in_flight_is_drained_too():
    seen = {kind: set() for kind in (ACK, RES, NACK)}
    refusals = set()

    def call_without_end(wire):
        """Keep calls in flight until the connection closes: each result is followed by the next call."""
        for _ in range(3):
            wire.send(CALL, uri="u", timeout=10**10)
        while True:
            message = wire.receive()
            kind, payload = message["meta"]["type"], message["payload"]
            seen[kind].add(payload["for"])
            if kind == NACK:
                refusals.add((payload["code"], payload["message"]))
            elif kind == RES:
                wire.send(CALL, uri="u", timeout=10**10)

    with (
        running_server() as running,
        serving(running.broker, ["u"], lambda call: gevent.sleep(0.02) or b"1"),
        Wire(running.url) as wire,
    ):
        calling = gevent.spawn(call_without_end, wire)
        eventually(lambda: len(seen[RES]) > 3)
        begin = time.monotonic()
        running.server.shut_down(20.0, 0.1)
        with pytest.raises(ConnectionClosed) as closed:
            calling.get(timeout=30)
        assert closed.value.rcvd.code == 1001
        assert time.monotonic() - begin < 10, "it does not wait for the end of the grace"
    assert seen[ACK] == seen[RES]
    assert refusals == {(503, "the server is shutting down")}


@pytest.mark.parametrize("spread", [0.0, 60.0])
def test_shutting_down_ends_in_time_whatever_clients_and_calls_do(spread):
    with (
        running_server() as running,
        Wire(running.url) as waiting,
        lazy_subscriber(running.url, "c") as lazy,
    ):
        waiting.request(CALL, uri="nobody", timeout=60 * 10**9)
        websockets = [connection.websocket for connection in running.server.connections]
        begin = time.monotonic()
        running.server.shut_down(0.4, spread)
        assert 0.35 < time.monotonic() - begin < 0.6
        assert all(websocket.closed for websocket in websockets)
        assert waiting.closed()[0] == 1001
        assert (1001).to_bytes(2, "big") in b"".join(iter(lambda: lazy.recv(65536), b""))


def test_shutting_down_again_is_for_who_is_in_a_hurry():
    with running_server() as running, Wire(running.url) as wire:
        wire.request(CALL, uri="nobody", timeout=60 * 10**9)
        patient = gevent.spawn(running.server.shut_down, 60.0)
        eventually(lambda: running.server.draining)
        running.server.shut_down(0.2)
        assert wire.closed()[0] == 1001
        patient.get(timeout=1)
        running.server.shut_down()


def test_a_connection_that_was_admitted_just_before_goes_at_once():
    with running_server() as running:
        # The upgrade may wait for the client's socket: here, until the server has been shut down.
        admit = running.server.check_admission
        running.server.check_admission = lambda: (admit(), running.server.shut_down())
        with Wire(running.url) as wire:
            assert wire.closed() == (1001, "the server is shutting down")
        assert not running.server.connections


def test_one_greenlet_watches_over_connections_that_come_one_after_the_other():
    with running_server() as running:
        for _ in range(3):
            with Wire(running.url) as wire:
                wire.request(SUB, channel="c")
            eventually(lambda: not running.server.connections)
        alive = [each for each in gc.get_objects() if issubclass(type(each), gevent.Greenlet) and not each.dead]
        assert [each.name for each in alive].count("websocket-sweeper") == 1


def test_closing_a_server_lets_its_connections_end_in_order(capfd):
    with running_server() as running, Wire(running.url) as wire:
        wire.request(SUB, channel="c")
        running.server.close()
        assert wire.closed()[0] == 1001
    assert not capfd.readouterr().err


def test_a_response_that_the_handler_still_has_is_not_lost_when_shutting_down():
    held, go = Signal(), Signal()

    def hold(next):
        def handler(ctx, connection, message):
            if message.type == RES:
                held.set()
                assert go.wait(5)
            next(ctx, connection, message)

        return handler

    with (
        running_server(handler=chain(hold)) as running,
        serving(running.broker, ["u"], lambda call: b"1"),
        Wire(running.url) as wire,
    ):
        wire.request(CALL, uri="u", timeout=5 * 10**9)
        assert held.wait(5)
        ending = gevent.spawn(running.server.shut_down, 5.0, 0)
        eventually(lambda: running.server.draining)
        go.set()
        assert wire.receive()["meta"]["type"] == RES
        assert wire.closed()[0] == 1001
        ending.get(timeout=30)


def test_a_client_that_does_not_read_is_closed_and_holds_up_nobody():
    options = WebSocketOptions(queue_limit=200_000, close_timeout=0.2)
    with (
        running_server(websocket=options) as running,
        lazy_subscriber(running.url, "c") as lazy,
        Wire(running.url) as eager,
    ):
        eager.request(SUB, channel="c")
        published = 0
        while len(running.server.connections) == 2:
            eager.send(PUB, channel="c", args="x" * 20_000)
            for _ in range(2):
                eager.receive()
            published += 1
        assert published > 10
        received = b"".join(iter(lambda: lazy.recv(65536), b""))
        # The frame that it had begun to get is whole; then comes the close frame: 4429.
        assert (4429).to_bytes(2, "big") in received[-125:]


@pytest.mark.parametrize("custom_handler", [False, True])
def test_an_ended_connection_does_not_wait_for_the_garbage_collector(custom_handler):
    def handler(ctx, connection, message):
        process_message(ctx, connection, message)

    options = {"handler": handler} if custom_handler else {}
    with running_server(**options) as running:
        gc.collect()
        gc.disable()
        try:
            with Wire(running.url) as wire:
                wire.request(CALL, uri="nobody", timeout=10**10)
                wire.request(SUB, channel="c")
                (connection,) = (weakref.ref(c.websocket) for c in running.server.connections)
            eventually(lambda: not running.server.connections)
            eventually(lambda: connection() is None)
        finally:
            gc.enable()
