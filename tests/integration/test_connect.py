"""Admission of clients, their identity, and the states of connections."""

from __future__ import annotations

import base64

import gevent
import pytest
from gevent.event import Event
from websockets.exceptions import InvalidStatus

from juggler.auth import bearer
from juggler.errors import HandshakeRefused
from juggler.protocol.messages import MessageType
from juggler.server.connection import State
from tests.stack import Wire, running_server
from tests.support import eventually

CALL, PUB, SUB, UNSB, NACK, ACK = (MessageType(n) for n in (1, 2, 3, 4, 7, 8))


def refused(url, **options):
    with pytest.raises(InvalidStatus) as refusal:
        Wire(url, **options)
    response = refusal.value.response
    return response.status_code, response.body.decode(), response.headers


def only_connection(running):
    (connection,) = running.server.connections
    return connection


def test_the_connect_hook_returns_the_identity():
    seen = []

    def who(request):
        seen.append(request)
        return request.cookies["session"]

    with running_server(connect=who) as running:
        with Wire(running.url + "?tab=2", additional_headers={"Cookie": "session=ann"}):
            assert only_connection(running).identity == "ann"
        (request,) = seen
        assert (request.path, request.address, request.subprotocol) == ("/ws", "127.0.0.1", "juggler.0")


def test_the_connect_hook_refuses_with_a_status_and_a_reason():
    def nobody(request):
        raise HandshakeRefused("403 Forbidden", "members only", [("X-Why", "because")])

    with running_server(connect=nobody) as running:
        status, body, headers = refused(running.url)
        assert (status, body, headers["X-Why"]) == (403, "members only\n", "because")
        assert not running.server.connections


def test_a_failed_connect_hook_refuses_the_client_and_is_logged(caplog):
    with running_server(connect=lambda request: 1 // 0) as running:
        status, body, headers = refused(running.url)
        assert (status, headers["Retry-After"]) == (503, "5")
        assert "temporarily unavailable" in body
    assert "ZeroDivisionError" in caplog.text


def test_a_connect_hook_that_does_not_answer_is_not_waited_for_and_counts_as_a_connection():
    asked, never = Event(), Event()

    def who(request):
        if "slow" in request.query:
            asked.set()
            never.wait()
        return "ann"

    with running_server(connect=who, connect_timeout=0.3, max_connections=1) as running:
        slow = gevent.spawn(refused, running.url + "?slow")
        assert asked.wait(5)
        assert "has reached its limit of 1 connections" in refused(running.url)[1]
        assert "temporarily unavailable" in slow.get(timeout=30)[1]
        with Wire(running.url) as wire:
            assert wire.request(SUB, channel="c")["meta"]["type"] == ACK


def test_a_token_lets_in_by_each_of_the_ways_that_browsers_have():
    entry = "juggler.bearer." + base64.urlsafe_b64encode(b"good").decode().rstrip("=")
    with running_server(connect=bearer({"good": "ann"}.get)) as running:
        for query, options in (
            ("?token=good", {}),
            ("", {"subprotocols": ["juggler.0", entry]}),
            ("", {"additional_headers": {"Authorization": "Bearer good"}}),
        ):
            with Wire(running.url + query, **options) as wire:
                assert wire.websocket.subprotocol == "juggler.0"
                assert only_connection(running).identity == "ann"
                assert wire.request(SUB, channel="c")["meta"]["type"] == ACK
            eventually(lambda: not running.server.connections)
        status, body, headers = refused(running.url + "?token=bad")
        assert (status, body, headers["WWW-Authenticate"]) == (401, "the token is not valid\n", "Bearer")


def test_headers_that_are_asked_for_are_kept():
    with (
        running_server(keep_headers=["X-Tenant", "X-Absent"]) as running,
        Wire(running.url, additional_headers={"X-Tenant": "acme", "X-Other": "1"}),
    ):
        assert dict(only_connection(running).headers) == {"X-Tenant": "acme"}


@pytest.mark.parametrize(("trusted", "address"), [(0, "127.0.0.1"), (1, "192.0.2.7"), (2, "6.6.6.6")])
def test_behind_trusted_proxies_the_client_has_its_own_address(trusted, address):
    with (
        running_server(application={"trusted_proxies": trusted}) as running,
        Wire(running.url, additional_headers={"X-Forwarded-For": "6.6.6.6, 192.0.2.7"}),
    ):
        connection = only_connection(running)
        assert (connection.address, connection.peer) == (address, "127.0.0.1")


def test_a_browser_names_its_messages_in_the_query():
    with running_server() as running:
        with Wire(running.url + "?allowed_messages=call,%20PUB") as wire:
            assert wire.request(PUB, channel="c")["meta"]["type"] == ACK
            wire.send(SUB, channel="c")
            assert wire.closed()[0] == 4403
        status, body, _ = refused(running.url + "?allowed_messages=dance")
        assert status == 400
        assert "some of call, pub, sub, unsb, got 'dance'" in body


def test_the_header_counts_before_the_query():
    headers = {"Juggler-Allowed-Messages": "sub"}
    with (
        running_server() as running,
        Wire(running.url + "?allowed_messages=*", additional_headers=headers) as wire,
    ):
        wire.send(PUB, channel="c")
        assert wire.closed()[0] == 4403


def test_several_paths_serve():
    with running_server(application={"path": ["/ws", "/other"]}) as running:
        for url in (running.url, running.url.replace("/ws", "/other")):
            with Wire(url) as wire:
                assert wire.request(SUB, channel="c")["meta"]["type"] == ACK
        status, body, _ = refused(running.url.replace("/ws", "/nowhere"))
        assert (status, body) == (404, "not found; websockets are served at /ws and /other\n")


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (lambda wire: wire.websocket.close(1000, "bye"), (1000, "bye")),
        (lambda wire: wire.websocket.socket.close(), (1006, "the peer closed the connection without a close frame")),
        (lambda wire: wire.websocket.send("{"), (4400, None)),
    ],
)
def test_each_state_is_reported_once_and_the_last_with_its_reason(end, expected):
    told = []

    def on_state(connection, state):
        told.append((connection.uuid, state, connection.closed and (connection.closed.code, connection.closed.reason)))

    with running_server(on_state=on_state) as running:
        with Wire(running.url) as wire:
            wire.request(SUB, channel="c")
            uuid = only_connection(running).uuid
            assert told == [(uuid, State.ACCEPTING, None), (uuid, State.CONNECTED, None)]
            end(wire)
            eventually(lambda: len(told) == 3)
        code, reason = expected
        assert told[2][:2] == (uuid, State.CLOSED)
        assert told[2][2][0] == code
        assert reason in (None, told[2][2][1])


def test_the_reason_of_a_shutdown_is_reported():
    ends = []
    with (
        running_server(on_state=lambda connection, state: ends.append(connection.closed)) as running,
        Wire(running.url) as wire,
    ):
        running.server.shut_down(grace=1, spread=0)
        assert wire.closed()[0] == 1001
        eventually(lambda: ends[-1] is not None and ends[-1].code == 1001)


def test_a_state_callback_that_fails_costs_nothing(caplog):
    with running_server(on_state=lambda connection, state: 1 // 0) as running, Wire(running.url) as wire:
        assert wire.request(SUB, channel="c")["meta"]["type"] == ACK
    assert caplog.text.count("on_state failed") == 3


@pytest.mark.parametrize(
    ("type", "fields", "reason"),
    [
        (CALL, {"uri": "u" * 11}, "URI: expected at most 10 characters, got 11"),
        (PUB, {"channel": "c" * 21}, "channel: expected at most 20 characters, got 21"),
        (SUB, {"channel": "c" * 21}, "channel: expected at most 20 characters, got 21"),
        (CALL, {"uri": "u", "timeout": 5_000_000_001}, "timeout: expected 0 to 5 s, got 5.000000001 s"),
        (CALL, {"uri": "u", "timeout": 6_000_000_000}, "timeout: expected 0 to 5 s, got 6 s"),
    ],
)
def test_names_and_timeouts_over_the_limit_are_nacks(type, fields, reason):
    limits = {"max_uri_length": 10, "max_channel_length": 20, "call_timeout": 2, "max_call_timeout": 5}
    with running_server(**limits) as running, Wire(running.url) as wire:
        nack = wire.request(type, **fields)
        assert nack["meta"]["type"] == NACK
        assert (nack["payload"]["code"], nack["payload"]["message"]) == (400, reason)
        assert wire.request(SUB, channel="c" * 20)["meta"]["type"] == ACK
        assert wire.request(UNSB, channel="c" * 20)["meta"]["type"] == ACK
        assert wire.request(CALL, uri="u" * 10, timeout=5_000_000_000)["meta"]["type"] == ACK


def test_values_of_a_handler_and_waiting_for_the_end():
    with running_server() as running, Wire(running.url) as wire:
        connection = only_connection(running)
        connection.attrs.user = "ann"
        assert connection.attrs.user == "ann"
        assert not connection.wait_closed(0)
        connection.close(4000, "that was all")
        assert wire.closed() == (4000, "that was all")
        assert connection.wait_closed(5)
