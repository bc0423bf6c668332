"""`ConnectRequest`: headers, cookies, query, and the client's address."""

from __future__ import annotations

import time

import pytest

from juggler.protocol.messages import REQUEST_TYPES
from juggler.server.connect_hook import ConnectRequest, address_group, client_address, parse_query


def request(trusted_proxies=0, **environ):
    return ConnectRequest(environ, subprotocol="juggler.0", allowed=REQUEST_TYPES, trusted_proxies=trusted_proxies)


@pytest.mark.parametrize(
    ("forwarded", "proxies", "address"),
    [
        (None, 1, "10.0.0.1"),
        ("", 1, "10.0.0.1"),
        ("192.0.2.7", 0, "10.0.0.1"),
        ("192.0.2.7", 1, "192.0.2.7"),
        ("6.6.6.6, 192.0.2.7", 1, "192.0.2.7"),
        ("6.6.6.6, 192.0.2.7,10.0.0.9", 2, "192.0.2.7"),
        ("192.0.2.7", 2, "10.0.0.1"),
        ("garbage\x1b[31m", 1, "10.0.0.1"),
        ("[2001:db8::1]", 1, "2001:db8::1"),
        ("2001:DB8::1", 1, "2001:db8::1"),
        ("192.0.2.7:51008", 1, "192.0.2.7"),
        ('"192.0.2.7:51008"', 1, "192.0.2.7"),
        ('6.6.6.6, "[2001:db8::1]:443" ', 1, "2001:db8::1"),
        ("[2001:db8::1]:443", 1, "2001:db8::1"),
        ("192.0.2.7:51008, 10.0.0.9:80", 2, "192.0.2.7"),
        ("::ffff:192.0.2.7", 1, "192.0.2.7"),
        ("[::FFFF:192.0.2.7]:80", 1, "192.0.2.7"),
        ("::ffff:c000:207", 1, "192.0.2.7"),
        ('"192.0.2.7', 1, "10.0.0.1"),
        ("192.0.2.7:", 1, "10.0.0.1"),
        ("192.0.2.7:x", 1, "10.0.0.1"),
        ("[192.0.2.7", 1, "10.0.0.1"),
        ("unknown", 1, "10.0.0.1"),
        ("_hidden", 1, "10.0.0.1"),
        ("192.0.2.256", 1, "10.0.0.1"),
        ("192.0.2.7,", 1, "10.0.0.1"),
    ],
)
def test_only_trusted_proxies_are_believed(forwarded, proxies, address):
    assert client_address("10.0.0.1", forwarded, proxies) == address


def test_a_request_shows_headers_cookies_query_and_subprotocols():
    shown = request(
        REMOTE_ADDR="10.0.0.1",
        PATH_INFO="/ws",
        QUERY_STRING="token=a%20b&empty=&token=c",
        HTTP_COOKIE='session="s 1"; theme=dark',
        HTTP_X_TENANT="acme",
        HTTP_SEC_WEBSOCKET_PROTOCOL="juggler.0,  other\t, ,",
    )
    assert shown.path == "/ws"
    assert shown.address == shown.peer == "10.0.0.1"
    assert shown.query == {"token": "c", "empty": ""}
    assert shown.cookies == {"session": "s 1", "theme": "dark"}
    assert shown.header("x-tenant") == "acme"
    assert shown.header("X-Other") is None
    assert shown.offered == ["juggler.0", "other"]


@pytest.mark.parametrize(
    ("peer", "address"),
    [("::ffff:10.0.0.1", "10.0.0.1"), ("::1", "::1"), ("::ffff:", "::ffff:"), ("10.0.0.1", "10.0.0.1")],
)
def test_a_peer_of_a_dual_stack_socket_has_its_own_address(peer, address):
    shown = request(REMOTE_ADDR=peer)
    assert (shown.peer, shown.address) == (address, address)


def test_a_unix_socket_has_the_address_that_its_proxy_reports():
    assert request(REMOTE_ADDR="").address == ""
    assert request(1, REMOTE_ADDR="", HTTP_X_FORWARDED_FOR="192.0.2.7").address == "192.0.2.7"


@pytest.mark.parametrize(
    ("odd", "cookies"),
    [
        ("a@b=1", {"a@b": "1"}),
        ('g_state={"i":0}', {"g_state": '{"i":0}'}),
        ("flag", {}),
        ("a=b=c", {"a": "b=c"}),
        ("a=", {"a": ""}),
        ("a b= c d ", {"a b": "c d"}),
        ("expires=1; path=/; $Version=1", {"expires": "1", "path": "/", "$Version": "1"}),
        (r'q="a \"b\" \054\\"', {"q": r'a "b" ,\ '[:-1]}),
        ('q="', {"q": '"'}),
        ("caf\xc3\xa9=1", {"caf\xc3\xa9": "1"}),
        ("session=old", {}),
    ],
)
def test_an_odd_cookie_does_not_hide_the_others(odd, cookies):
    expected = {**cookies, "session": "x"}
    assert request(HTTP_COOKIE=f"{odd}; session=x").cookies == expected
    assert request(HTTP_COOKIE=f"session=old;{odd};session=x").cookies == expected


@pytest.mark.parametrize("unit", ["a", "=", '"', "\\", ";", " ", "a=b;", 'a="', "\\0"])
def test_cookies_are_read_in_linear_time(unit):
    began = time.process_time()
    for header in (unit * (16_384 // len(unit)), 'a="' + unit * (16_384 // len(unit)) + '"'):
        assert isinstance(request(HTTP_COOKIE=header).cookies, dict)
    assert time.process_time() - began < 0.1


def test_what_cannot_be_read_is_empty():
    assert request(HTTP_COOKIE="flag; =nameless; ;;").cookies == {}
    assert parse_query("&".join(f"f{n}=1" for n in range(101))) == {}


def test_clients_are_counted_by_address_and_network():
    assert address_group("192.0.2.7") == "192.0.2.7"
    assert address_group("") == ""
    assert address_group("2001:db8::1") == address_group("2001:db8::ffff:1") != address_group("2001:db8:0:1::1")
    assert address_group("fe80::1%eth0") == "fe80::/64"
    assert address_group("a:b") == "a:b"


@pytest.mark.parametrize(
    ("environ", "name", "expected"),
    [
        ({"REMOTE_PORT": "51008"}, ("::ffff:192.0.2.1", 9000, 0, 0), (51008, "192.0.2.1", 9000)),
        ({"REMOTE_PORT": "51008"}, ("::1", 9000, 0, 0), (51008, "::1", 9000)),
        ({}, "/run/juggler.sock", (None, "/run/juggler.sock", None)),
        ({}, b"\0juggler", (None, "\0juggler", None)),
        ({}, "", (None, "", None)),
        ({}, None, (None, "", None)),
    ],
)
def test_both_ends_of_the_connection_are_known(environ, name, expected):
    request = ConnectRequest(environ, subprotocol=None, allowed=frozenset(), local_name=name)
    assert (request.peer_port, request.local_address, request.local_port) == expected
