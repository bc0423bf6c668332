"""The opening handshake: valid requests, and the refusals of the others."""

from __future__ import annotations

from typing import Any

import pytest

from juggler.errors import ConfigError, HandshakeRefused
from juggler.protocol.messages import ALL_REQUEST_TYPES, REQUEST_TYPES, MessageType
from juggler.protocol.subprotocols import allowed_messages, choose_subprotocol
from juggler.server.websocket.handshake import (
    accept_token,
    check_allowed_hosts,
    check_allowed_origins,
    check_host,
    check_origin,
    websocket_key,
)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
REQUEST = {
    "REQUEST_METHOD": "GET",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "HTTP_UPGRADE": "websocket",
    "HTTP_CONNECTION": "Upgrade",
    "HTTP_SEC_WEBSOCKET_VERSION": "13",
    "HTTP_SEC_WEBSOCKET_KEY": KEY,
}


def request(**changes: str | None) -> dict[str, Any]:
    return {name: value for name, value in {**REQUEST, **changes}.items() if value is not None}


def test_accept_token_of_the_rfc() -> None:
    assert accept_token(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"HTTP_UPGRADE": "WebSocket"},
        {"HTTP_UPGRADE": "h2c, websocket"},
        {"HTTP_CONNECTION": "keep-alive, Upgrade"},
        {"HTTP_CONNECTION": "keep-alive,upgrade"},
        {"HTTP_SEC_WEBSOCKET_KEY": f" {KEY} "},
        {"CONTENT_LENGTH": "0"},
        {"CONTENT_LENGTH": ""},
    ],
    ids=str,
)
def test_requests_for_a_websocket(changes: dict[str, str]) -> None:
    assert websocket_key(request(**changes)) == KEY


UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade"}
NOT_A_WEBSOCKET = [
    ({"REQUEST_METHOD": "POST"}, "405 Method Not Allowed", "method: expected GET, got 'POST'", {"Allow": "GET"}),
    ({"REQUEST_METHOD": "get"}, "405 Method Not Allowed", "method: expected GET, got 'get'", {"Allow": "GET"}),
    ({"HTTP_UPGRADE": None}, "426 Upgrade Required", "Upgrade: expected websocket, got none", UPGRADE),
    ({"HTTP_UPGRADE": "websockets"}, "426 Upgrade Required", "Upgrade: expected websocket, got 'websockets'", UPGRADE),
    ({"HTTP_CONNECTION": "close"}, "426 Upgrade Required", "Connection: expected upgrade, got 'close'", UPGRADE),
    ({"SERVER_PROTOCOL": "HTTP/1.0"}, "426 Upgrade Required", "protocol: expected HTTP/1.1, got 'HTTP/1.0'", UPGRADE),
    (
        {"HTTP_SEC_WEBSOCKET_VERSION": "8"},
        "426 Upgrade Required",
        "Sec-WebSocket-Version: expected 13, got '8'",
        {**UPGRADE, "Sec-WebSocket-Version": "13"},
    ),
    (
        {"HTTP_SEC_WEBSOCKET_VERSION": None},
        "426 Upgrade Required",
        "Sec-WebSocket-Version: expected 13, got none",
        {**UPGRADE, "Sec-WebSocket-Version": "13"},
    ),
    ({"CONTENT_LENGTH": "5"}, "400 Bad Request", "Content-Length: expected no body, got '5'", {}),
    ({"CONTENT_LENGTH": "-1"}, "400 Bad Request", "Content-Length: expected no body, got '-1'", {}),
    (
        {"HTTP_TRANSFER_ENCODING": "chunked"},
        "400 Bad Request",
        "Transfer-Encoding: expected no body, got 'chunked'",
        {},
    ),
]


@pytest.mark.parametrize(("changes", "status", "reason", "headers"), NOT_A_WEBSOCKET, ids=str)
def test_requests_for_something_else(
    changes: dict[str, str | None], status: str, reason: str, headers: dict[str, str]
) -> None:
    with pytest.raises(HandshakeRefused) as caught:
        websocket_key(request(**changes))

    refused = caught.value
    assert (refused.status, refused.reason, dict(refused.headers)) == (status, reason, headers)


@pytest.mark.parametrize(
    "key",
    [
        None,
        "",
        "x",
        "dGhlIHNhbXBsZSBub25jZQ",  # no padding
        "dGhlIHNhbXBsZSBub25j",  # 15 bytes
        "dGhlIHNhbXBsZSBub25jZSE=",  # 17 bytes
        "dGhlIHNhbXBsZSBub25jZ_==",  # base64url
        "dGhlIHNhbXBsZSBub25jZQ==\n",
        f"{KEY}, {KEY}",
        f"{KEY},",
        "é" * 22 + "==",
    ],
)
def test_invalid_keys(key: str | None) -> None:
    with pytest.raises(HandshakeRefused, match=r"^400 .*16 bytes in base64, once, got"):
        websocket_key(request(HTTP_SEC_WEBSOCKET_KEY=key))


def test_a_reason_is_one_short_line() -> None:
    with pytest.raises(HandshakeRefused) as caught:
        websocket_key(request(HTTP_SEC_WEBSOCKET_KEY="x\r\n" * 10_000))

    assert len(caught.value.reason) < 200
    assert caught.value.reason.isprintable()


@pytest.mark.parametrize("offered", ["juggler.0", "chat, juggler.0", "chat,juggler.0 ,", "juggler.0,juggler.2"])
def test_subprotocol_among_others(offered: str) -> None:
    assert choose_subprotocol(offered) == "juggler.0"


@pytest.mark.parametrize(
    "offered", ["juggler.1", "juggler.1, juggler.0", "juggler.0,juggler.1", "juggler.2, juggler.1"]
)
def test_the_newest_subprotocol_is_chosen(offered: str) -> None:
    assert choose_subprotocol(offered) == "juggler.1"
    if "juggler.0" in offered:
        assert choose_subprotocol(offered, supported=("juggler.0",)) == "juggler.0"
    else:
        with pytest.raises(HandshakeRefused, match=r"expected juggler\.0, got '.*juggler\.1'"):
            choose_subprotocol(offered, supported=("juggler.0",))


@pytest.mark.parametrize("offered", [None, "", "chat", "Juggler.0", "juggler.00", "juggler"])
def test_unsupported_subprotocol(offered: str | None) -> None:
    with pytest.raises(
        HandshakeRefused, match=r"^400 .*Sec-WebSocket-Protocol: expected juggler\.1 or juggler\.0, got"
    ):
        choose_subprotocol(offered)


@pytest.mark.parametrize("offered", [None, "", " , "])
def test_empty_subprotocol_where_that_is_allowed(offered: str | None) -> None:
    assert choose_subprotocol(offered, allow_empty=True) is None


def test_empty_is_not_another() -> None:
    with pytest.raises(HandshakeRefused, match="got 'chat'"):
        choose_subprotocol("chat", allow_empty=True)


@pytest.mark.parametrize(
    ("value", "types"),
    [
        (None, REQUEST_TYPES),
        ("", REQUEST_TYPES),
        (" ", REQUEST_TYPES),
        ("*", REQUEST_TYPES),
        ("call, pub", {MessageType.CALL, MessageType.PUB}),
        ("CALL,Sub , unsb", {MessageType.CALL, MessageType.SUB, MessageType.UNSB}),
        ("call, teleport", {MessageType.CALL}),
        ("call, *", {MessageType.CALL}),
        ("call,,call", {MessageType.CALL}),
    ],
)
def test_allowed_messages(value: str | None, types: set[MessageType]) -> None:
    assert allowed_messages(value) == types
    assert allowed_messages(value, None) == types


@pytest.mark.parametrize(
    ("value", "types"),
    [
        (None, ALL_REQUEST_TYPES),
        ("*", ALL_REQUEST_TYPES),
        ("call", ALL_REQUEST_TYPES - {MessageType.PUB, MessageType.SUB, MessageType.UNSB}),
        ("pub, sub", {MessageType.PUB, MessageType.SUB, MessageType.AUTH, MessageType.UNKNOWN}),
        ("pub, cncl, auth", {MessageType.PUB, MessageType.AUTH, MessageType.UNKNOWN}),
    ],
)
def test_allowed_messages_of_juggler_1(value: str | None, types: set[MessageType]) -> None:
    assert allowed_messages(value, "juggler.1") == types


@pytest.mark.parametrize("value", ["teleport", "ack", "1", "call pub", "nack, res"])
def test_allowed_messages_that_name_nothing_known(value: str) -> None:
    with pytest.raises(HandshakeRefused, match=r"^400 .*some of call, pub, sub, unsb, got") as caught:
        allowed_messages(value)

    assert repr(value) in caught.value.reason


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "example.com"),
        ("http://example.com", "example.com"),
        ("http://example.com", "EXAMPLE.com:80"),
        ("https://Example.com:443", "example.com"),
        ("https://example.com", "example.com"),
        ("http://localhost:8080", "localhost:8080"),
        ("http://[::1]:8080", "[::1]:8080"),
    ],
)
def test_same_origin_passes(origin: str | None, host: str) -> None:
    check_origin(origin, host)


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "http://evil.example",
        "http://example.com.evil.example",
        "http://example.com@evil.example",
        "http://evilexample.com",
        "http://sub.example.com",
        "http://*.example.com",
        "http://example.com:8080",
        "https://example.com:80",
        "ftp://example.com:443",
        "http://example.com/",
        "http://example.com, http://example.com",
        "http://example.com\n",
        "example.com",
    ],
)
def test_other_origins_are_refused(origin: str) -> None:
    with pytest.raises(HandshakeRefused, match=r"^403 Forbidden: Origin: expected a page of 'example.com'") as caught:
        check_origin(origin, "example.com")

    assert caught.value.reason.endswith(f"got {origin!r}" if origin else "got none")


@pytest.mark.parametrize(
    ("origin", "allowed", "passes"),
    [
        ("https://app.example.com", "https://app.example.com", True),
        ("https://app.example.com:443", "HTTPS://APP.example.com", True),
        ("https://app.example.com:8443", "https://app.example.com", False),
        ("http://app.example.com", "https://app.example.com", False),
        ("https://app.example.com", "https://*.example.com", True),
        ("https://a.b.example.com", "https://*.example.com", True),
        ("https://example.com", "https://*.example.com", False),
        ("https://evilexample.com", "https://*.example.com", False),
        ("https://.example.com.evil.example", "https://*.example.com", False),
        ("http://app.example.com", "https://*.example.com", False),
        ("https://app.example.com:8443", "https://*.example.com:8443", True),
        ("capacitor://localhost", "capacitor://localhost", True),
        ("https://anything.example", "*", True),
        ("null", "*", True),
        ("null", "null", False),
    ],
)
def test_allowed_origins(origin: str, allowed: str, passes: bool) -> None:
    try:
        check_origin(origin, "server.example", ["https://unused.example", allowed])
    except HandshakeRefused:
        assert not passes
    else:
        assert passes


def test_settings_that_are_origins() -> None:
    check_allowed_origins(["*", "https://app.example.com", "https://*.example.com:8443", "http://[::1]:80"])


@pytest.mark.parametrize(
    "entry",
    ["", "null", "example.com", "https://", "https://example.com/", "https://*", "https://a.*.com", "https://é", 5],
)
def test_settings_that_could_never_match(entry: Any) -> None:
    with pytest.raises(ConfigError, match=r"^allowed origins: expected .*, got") as caught:
        check_allowed_origins(["*", entry])

    assert repr(entry) in str(caught.value)


def test_a_single_origin_is_not_a_list_of_its_letters() -> None:
    with pytest.raises(ConfigError, match="expected a list, got '\\*'"):
        check_allowed_origins("*")


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost:9000", "localhost"),
        ("LOCALHOST", "localhost"),
        ("localhost.", "Localhost"),
        ("127.0.0.1:9000", "127.0.0.1"),
        ("[::1]", "[::1]"),
        ("[::1]:9000", "[::1]"),
        ("a.b.example.com", "*.example.com"),
        ("evil.example", "*"),
        ("", "localhost"),
    ],
)
def test_an_allowed_host_passes(host, allowed):
    check_allowed_hosts([allowed])
    check_host(host, ["unused.example", allowed])


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("evil.example", "localhost"),
        ("localhost.evil.example:9000", "localhost"),
        ("evil.example", "example"),
        ("example.com", "*.example.com"),
        ("evilexample.com", "*.example.com"),
        ("[::1].evil", "[::1]"),
        ("[::2]:1", "[::1]"),
        ("127.0.0.1", "[::1]"),
        (":9000", "localhost"),
    ],
)
def test_another_host_is_refused(host, allowed):
    with pytest.raises(HandshakeRefused, match="403 Forbidden: Host: expected one of the allowed hosts"):
        check_host(host, [allowed])


@pytest.mark.parametrize("entry", ["http://localhost", "localhost:9000", "", "a b", "*.*", "*a", None])
def test_a_host_that_can_never_match_is_refused(entry):
    with pytest.raises(ConfigError, match="allowed hosts: expected"):
        check_allowed_hosts([entry])
    with pytest.raises(ConfigError, match="expected a list"):
        check_allowed_hosts("localhost")
