"""docs/coming-from-flask-socketio.md: its code runs, and it leaves out nothing that Flask-SocketIO has."""

from __future__ import annotations

import inspect
import re

import flask_socketio
import pytest
from engineio.base_server import BaseServer
from flask import session
from flask_socketio import SocketIO
from gevent.pywsgi import WSGIServer

from juggler.client import Client
from juggler.errors import HandshakeRefused, Nacked
from juggler.server.websocket import WebSocketHandler, WebSocketOptions
from tests.docs import DOCS, run_blocks

PAGE = (DOCS / "coming-from-flask-socketio.md").read_text()


def test_every_name_of_flask_socketio_has_a_row():
    functions = {
        name
        for name, value in vars(flask_socketio).items()
        if inspect.getmodule(value) is flask_socketio and name[0] != "_"
    }
    names = functions | {name for name in vars(SocketIO) if name[0] != "_" and callable(getattr(SocketIO, name))}
    assert {"emit", "join_room", "start_background_task", "on_namespace"} <= names
    code = " ".join(re.findall(r"`([^`]+)`", "\n".join(re.findall(r"^\| (.*?) \|", PAGE, re.MULTILINE))))
    assert not {name for name in names if not re.search(rf"\b{name}\b", code)}


def test_the_defaults_of_the_page_are_the_real_ones():
    theirs = inspect.signature(BaseServer.__init__).parameters
    ours = WebSocketOptions()
    intervals = f"({theirs['ping_interval'].default} s, {theirs['ping_timeout'].default} s)"
    assert f"| `ping_interval`, `ping_timeout` {intervals} |" in PAGE
    assert (
        f"`WebSocketOptions(ping_interval=…, ping_timeout=…)` ({ours.ping_interval:g} s, {ours.ping_timeout:g} s) |"
        in PAGE
    )
    assert f"| `max_http_buffer_size` ({theirs['max_http_buffer_size'].default / 1e6:g} MB) |" in PAGE
    assert f"`WebSocketOptions(read_limit=…)` ({ours.read_limit / 2**20:g} MiB) |" in PAGE


@pytest.fixture
def site(redis_url):
    """The server of the page; yields host and port, and the headers of a user."""
    names = run_blocks("coming-from-flask-socketio.md", {"redis://127.0.0.1:6379": redis_url})
    app = names["app"]

    @app.post("/login")
    def login():
        session["user"] = "ann"
        return ""

    http = WSGIServer(("127.0.0.1", 0), names["application"], handler_class=WebSocketHandler, log=None)
    http.start()
    cookie = app.test_client().post("/login").headers["Set-Cookie"].partition(";")[0]
    yield f"127.0.0.1:{http.server_port}", {"Cookie": cookie}
    http.close()
    names["server"].shut_down(grace=5, spread=0)
    http.stop(timeout=1)
    names["broker"].close()


def test_the_session_decides_who_connects_and_what_is_their_own(site):
    address, headers = site
    for forged in ({}, {"Cookie": headers["Cookie"] + "x"}):
        with pytest.raises(HandshakeRefused, match="401"):
            Client(f"ws://{address}/ws", headers=forged)
    with Client(f"ws://{address}/ws", headers=headers) as ann:
        for channel in ("user.ann", "room.tea"):
            ann.subscribe(channel).close()
        for channel in ("user.bob", "news"):
            with pytest.raises(Nacked, match="403"):
                ann.subscribe(channel)
        with pytest.raises(Nacked, match="403"):
            ann.publish("room.tea", "forged")
