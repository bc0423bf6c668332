"""examples/from_flask_socketio/: the same things happen in the chat before and after."""

from __future__ import annotations

import re
import urllib.request

import pytest
from socketio import SimpleClient
from socketio.exceptions import ConnectionError as SocketIORefused
from socketio.exceptions import DisconnectedError

from juggler.client import Client
from juggler.errors import CallFailed, ConnectionClosed, HandshakeRefused, Nacked
from juggler.process.embedded import free_port
from tests.integration.commands import ROOT, demo_process, running, running_python
from tests.support import eventually

HELLO = {"user": "ann", "text": "hello"}
CLOSED_AT_FIVE = {"user": None, "text": "closed at five"}

# The old chat in a server of juggler, while an application moves.
BESIDE = """
from examples.from_flask_socketio.before import app
from juggler import Application, MemoryBroker, Server

broker = MemoryBroker()
application = Application(Server(caller_broker=broker, pubsub_broker=broker), otherwise=app)
"""


def post(site: str, path: str) -> str:
    """Send a POST request, and return the cookie that it sets."""
    request = urllib.request.Request(f"{site}/{path}", method="POST")
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.status == 204
        return response.headers.get("Set-Cookie", "").partition(";")[0]


def next_of(client: SimpleClient, event: str):
    """Return the value of the next event with this name."""
    while True:
        name, value = client.receive(timeout=20)
        if name == event:
            return value


def chat_with_before(site: str, *transports: str) -> None:
    """Let two users chat, each with a transport."""
    ann, bob = SimpleClient(), SimpleClient()
    try:
        for user, client, transport in zip(("ann", "bob"), (ann, bob), transports, strict=True):
            client.connect(site, headers={"Cookie": post(site, f"login/{user}")}, transports=[transport])
            assert client.transport == transport
        eventually(lambda: next_of(ann, "online") == "bob")  # her own name may come first
        assert ann.call("join", "tea") == bob.call("join", "tea") == []
        ann.call("say", ("tea", "hello"))
        assert next_of(bob, "message") == HELLO
        assert bob.call("join", "tea") == [HELLO]
        post(site, "announce/tea/closed%20at%20five")
        assert [next_of(bob, "message")] == [CLOSED_AT_FIVE]
        post(site, "kick/bob")
        assert next_of(ann, "offline") == "bob"
        eventually(lambda: not bob.connected)
        with pytest.raises(DisconnectedError):
            bob.call("join", "tea")
    finally:
        ann.disconnect()
        bob.disconnect()


def test_before():
    address = f"127.0.0.1:{free_port()}"
    app = "examples.from_flask_socketio.before:app"
    with running_python("-m", "gunicorn", app, "--threads", "10", "--bind", address) as gunicorn:
        while "Listening at" not in (line := gunicorn.stderr.readline()):
            assert line
        with pytest.raises(SocketIORefused):
            SimpleClient().connect(f"http://{address}", transports=["websocket"])
        chat_with_before(f"http://{address}", "websocket", "websocket")


def test_before_beside_juggler(tmp_path):
    (tmp_path / "beside.py").write_text(BESIDE)
    bind = ("--bind", "127.0.0.1:0")
    with running("server", "beside:application", *bind, PYTHONPATH=f"{tmp_path}:{ROOT}") as server:
        url = re.search(r"ws://(.*)/ws", server.stdout.readline())
        assert url, server.stderr.read()
        chat_with_before(f"http://{url[1]}", "websocket", "polling")


def test_after():
    package = "examples.from_flask_socketio"
    with demo_process(f"{package}.callees:rpc", "--app", f"{package}.app:application") as url:
        site = url.replace("ws://", "http://").removesuffix("/ws")

        def client_of(user: str) -> Client:
            return Client(url, headers={"Cookie": post(site, f"login/{user}")})

        with pytest.raises(HandshakeRefused):
            Client(url)
        with (
            client_of("ann") as ann,
            ann.subscribe("chat.online") as online,
            ann.subscribe("chat.offline") as offline,
            client_of("bob") as bob,
            bob.subscribe("chat.room.tea") as tea,
        ):
            eventually(lambda: online.get(20).args == "bob")  # the name of ann may come first
            assert bob.call("chat.history", "tea") == []
            ann.call("chat.say", ["tea", "hello"])
            assert tea.get(20).args == HELLO
            assert bob.call("chat.history", "tea") == [HELLO]
            post(site, "announce/tea/closed%20at%20five")
            assert tea.get(20).args == CLOSED_AT_FIVE
            for channel in ("chat.room.tea", "chat.online"):
                with pytest.raises(Nacked, match="403"):
                    bob.publish(channel, "forged")
            with pytest.raises(CallFailed):
                bob.call("chat.say", ["cellar", "hello"])
            post(site, "kick/bob")
            assert offline.get(20).args == "bob"
            with pytest.raises(ConnectionClosed, match="4410"):
                bob.call("chat.history", "tea")


def test_both_are_short():
    files = list((ROOT / "examples" / "from_flask_socketio").glob("*.py"))
    assert len(files) == 4
    assert not [path for path in files if len(path.read_text().splitlines()) > 60]
