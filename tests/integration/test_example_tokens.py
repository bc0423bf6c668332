"""The growing text of examples/, as ``make tokens`` runs it."""

from __future__ import annotations

import urllib.request

import pytest

from examples.tokens import callees
from juggler.callee.testing import Caller
from juggler.client import Client
from juggler.errors import CallFailed, Nacked
from tests.integration.commands import demo_process

TOKENS = ("examples.tokens.callees:rpc", "--app", "examples.tokens.app:application")
USAGE = "tokens.usage"


def test_a_text_grows_and_can_be_stopped():
    with demo_process(*TOKENS, TOKENS_PAUSE="0.01") as url, Client(url) as client, client.subscribe(USAGE) as usage:
        stream = client.stream("tokens.write", ["Once", 20])
        assert len(list(stream)) == stream.result()["words"] == 20
        assert usage.get(timeout=30).args == {"words": 20, "limit": 20}
        for word in client.stream("tokens.write", ["Once", 2000]):
            assert word.endswith(" ")
            break
        closed = usage.get(timeout=30).args
        assert closed["words"] < closed["limit"] == 2000
        with pytest.raises(CallFailed, match="prompt: Expected str of length >= 1"):
            client.call("tokens.write", [""])
        with pytest.raises(Nacked, match="403"):
            client.call("other")
        with urllib.request.urlopen(url.replace("ws://", "http://").replace("/ws", "/"), timeout=30) as page:
            assert b"<title>Tokens</title>" in page.read()


def test_its_function_without_all_that(monkeypatch):
    monkeypatch.setattr(callees, "PAUSE", 0.0)
    caller = Caller(callees.rpc)
    assert caller.call("tokens.write", ["Once upon", 4]) == ["Once ", "upon ", "the ", "juggler "]
    assert [event.args for event in caller.published] == [{"words": 4, "limit": 4}]
