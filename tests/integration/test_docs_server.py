"""Run the code of docs/server.md, and compare its tables with the real options and defaults."""

from __future__ import annotations

import inspect
import re
import urllib.request
from dataclasses import fields

import pytest
from gevent.pywsgi import WSGIServer

from juggler.errors import HandshakeRefused
from juggler.server import Server
from juggler.server.options import ServerOptions
from juggler.server.websocket import WebSocketHandler, WebSocketOptions
from juggler.wsgi import Application
from tests.docs import DOCS, run_blocks
from tests.stack import Wire

PAGE = (DOCS / "server.md").read_text()


@pytest.fixture
def names(redis_url):
    names = run_blocks("server.md", {"redis://127.0.0.1:6379": redis_url})
    yield names
    names["backend"].close()
    names["broker"].close()


def test_a_flask_application_beside_it(names):
    http = WSGIServer(("127.0.0.1", 0), names["application"], handler_class=WebSocketHandler, log=None)
    http.start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{http.server_port}/", timeout=30) as page:
            assert page.read() == b"hello"
        with urllib.request.urlopen(f"http://127.0.0.1:{http.server_port}/healthz", timeout=30) as page:
            assert page.read() == b"alive\n"
        with Wire(f"ws://127.0.0.1:{http.server_port}/ws") as wire:
            assert wire.request(3, channel="c")["meta"]["type"] == 8
    finally:
        http.close()
        names["application"].server.shut_down(grace=5, spread=0)
        http.stop(timeout=1)


def test_the_hooks_know_who_it_is(names):
    class Request:
        cookies = {"session": "6f1c"}  # noqa: RUF012

    assert names["who"](Request) == "ann"
    Request.cookies = {}
    with pytest.raises(HandshakeRefused, match="log in first"):
        names["who"](Request)


def test_a_user_is_disconnected(names):
    assert (names["found"].servers, names["found"].connections) == (0, 0)  # no server has started


SERVER_DEFAULTS = {field.name: field.default for field in fields(ServerOptions)}


def options_in(section: str) -> dict[str, str]:
    """Return the options of a table, with the defaults as the page writes them."""
    text = PAGE.split(section, 1)[1].split("\n\n", 2)[1]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", text, re.MULTILINE)
    return {name: default for cell, default in rows for name in re.findall(r"`(\w+)`", cell)}


@pytest.mark.parametrize(
    ("section", "known"),
    [
        ("`Server` (its docstring", {*inspect.signature(Server).parameters, *SERVER_DEFAULTS}),
        ("`WebSocketOptions`, passed as", {field.name for field in fields(WebSocketOptions)}),
        ("\n`Application`:", inspect.signature(Application).parameters.keys()),
    ],
)
def test_the_options_of_the_page_exist(section, known):
    named = options_in(section)
    assert named
    assert set(named) <= set(known)


def test_the_defaults_of_the_page_are_the_real_ones():
    for name, shown in options_in("`Server` (its docstring").items():
        if shown == "none":
            assert SERVER_DEFAULTS[name] is None, name
            continue
        number = float(re.match(r"[\d,.]+", shown).group().replace(",", ""))
        assert SERVER_DEFAULTS[name] == number * (1024 * 1024 if "MiB" in shown else 1), name
