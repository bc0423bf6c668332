"""The chat of examples/, as ``make chat`` runs it."""

from __future__ import annotations

import urllib.request
from contextlib import contextmanager

import pytest

from examples.chat import callees
from juggler.callee.testing import Caller
from juggler.client import Client
from juggler.errors import CallFailed, Nacked
from tests.integration.commands import demo_process


@contextmanager
def chat(database):
    """The chat; yields the URL of its websocket."""
    chat = ("examples.chat.callees:rpc", "--app", "examples.chat.app:application")
    with demo_process(*chat, CHAT_DATABASE=str(database)) as url:
        yield url


def test_what_is_said_is_heard_and_kept(tmp_path):
    database = tmp_path / "chat.db"
    with chat(database) as url, Client(url) as ann, Client(url) as bob:
        with bob.subscribe("chat.lobby") as lobby:
            said = ann.call("chat.say", {"room": "lobby", "name": "ann", "text": "hello"})
            assert lobby.get(timeout=30).args == said
        assert [m["text"] for m in bob.call("chat.history", ["lobby"])] == ["hello"]
        assert bob.call("chat.rooms") == ["lobby"]
        with pytest.raises(CallFailed, match="text: Expected str of length >= 1"):
            ann.call("chat.say", {"room": "lobby", "name": "ann", "text": ""})
        with pytest.raises(Nacked, match="403"):
            ann.publish("chat.lobby", "I was never said")
        with pytest.raises(Nacked, match="403"):
            ann.call("other")
        page = urllib.request.urlopen(url.replace("ws://", "http://").replace("/ws", "/"), timeout=30)
        with page:
            assert b"<title>Chat</title>" in page.read()
    with chat(database) as url, Client(url) as ann:
        assert [m["name"] for m in ann.call("chat.history", ["lobby"])] == ["ann"]


def test_its_functions_without_all_that(tmp_path, monkeypatch):
    monkeypatch.setattr(callees, "DATABASE", str(tmp_path / "chat.db"))
    caller = Caller(callees.rpc)
    for number in range(3):
        caller.call("chat.say", {"room": "a", "name": "ann", "text": str(number)})
    assert [m["text"] for m in caller.call("chat.history", ["a", 2])] == ["1", "2"]
    assert [event.channel for event in caller.published] == ["chat.a"] * 3
    with pytest.raises(CallFailed, match="text: expected more than white space") as failed:
        caller.call("chat.say", ["a", "ann", " "])
    assert failed.value.code == "empty"
