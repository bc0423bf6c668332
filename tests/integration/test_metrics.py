"""Figures of a real server, as its clients cause them."""

from __future__ import annotations

import json
import urllib.request

from juggler.message import MessageType
from tests.stack import Wire, running_server, serving
from tests.support import eventually


def get(url: str, path: str) -> str:
    with urllib.request.urlopen(url.replace("ws://", "http://").replace("/ws", path), timeout=5) as answer:
        return answer.read().decode()


def variables(url: str) -> dict[str, int]:
    return json.loads(get(url, "/debug/vars"))["juggler"]


def test_a_call_is_counted():
    with running_server() as running, serving(running.broker, ["f"], lambda call: call.args):
        with Wire(running.url) as wire:
            wire.request(MessageType.CALL, uri="f", args=1)
            wire.receive()
            found = variables(running.url)
            assert [found[n] for n in ("MsgsCALL", "MsgsACK", "MsgsRES", "Msgs", "Results")] == [1, 1, 1, 3, 1]
            assert found["ActiveConns"] == found["TotalConns"] == found["ActiveConnGoros"] == 1
            text = get(running.url, "/metrics")
            assert 'juggler_messages_total{direction="in",type="CALL"} 1.0' in text
            assert 'juggler_call_duration_seconds_count{uri="f"} 1.0' in text
            assert "juggler_connections 1.0" in text
        eventually(lambda: variables(running.url)["ActiveConns"] == 0)
        assert 'juggler_closes_total{code="1000"} 1.0' in get(running.url, "/metrics")


def test_what_is_no_message_is_counted():
    with running_server() as running, Wire(running.url) as wire:
        wire.websocket.send("{")
        wire.closed()
        assert variables(running.url)["MsgsUnknown"] == 1


def test_a_handler_that_fails_is_counted():
    def fail(ctx, connection, message):
        raise ValueError("on purpose")

    with running_server(handler=fail) as running, Wire(running.url) as wire:
        wire.send(MessageType.PUB, channel="c")
        wire.closed()
        assert variables(running.url)["RecoveredPanics"] == 1
