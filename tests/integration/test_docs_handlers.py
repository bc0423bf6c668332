"""docs/handlers.md: its code runs, and does what the page says."""

from __future__ import annotations

import pytest

from juggler.handlers import chain
from juggler.protocol.custom import unregister
from juggler.protocol.messages import MessageType
from tests.docs import run_blocks
from tests.stack import Wire, running_server, serving

CALL, PUB, SUB = MessageType.CALL, MessageType.PUB, MessageType.SUB


@pytest.fixture(scope="module")
def names():
    names = run_blocks("handlers.md")
    yield names
    for name in ("Typing", "Typist"):
        unregister(names[name])


@pytest.mark.parametrize("middleware", ["check_access", "check_access_by_hand"])
def test_a_caller_without_access_gets_a_403(names, middleware):
    with running_server(handler=chain(names[middleware]), connect=lambda request: request.query.get("user")) as running:
        with Wire(running.url + "?user=bob") as wire:
            nack = wire.request(CALL, uri="u")["payload"]
            assert (nack["code"], nack["message"], nack["uri"]) == (403, "caller doesn't have access", "u")
        with Wire(running.url + "?user=ann") as wire:
            assert "code" not in wire.request(CALL, uri="u")["payload"]


def test_a_result_is_altered(names):
    with (
        running_server(handler=chain(names["without_secrets"])) as running,
        serving(running.broker, ["internal.key", "u"], lambda call: b'"secret"'),
        Wire(running.url) as wire,
    ):
        for uri, args in (("internal.key", "hidden"), ("u", "secret")):
            wire.request(CALL, uri=uri)
            assert wire.receive()["payload"]["args"] == args


def test_a_message_of_your_own_is_answered(names):
    with running_server(handler=chain(names["count_typists"])) as running, Wire(running.url) as wire:
        request = wire.send(300, room="tea")
        ack, typist = wire.receive(), wire.receive()
    assert ack["payload"] == {"for": request, "for_type": 300}
    assert typist["meta"]["type"] == 301
    assert typist["payload"] == {"for": request, "count": 1}


def test_the_large_chain_does_all_of_it(names):
    with (
        running_server(handler=names["handler"], connect=lambda request: "ann") as running,
        serving(running.broker, [f"thumbnail.{n}" for n in range(4)], lambda call: call.args),
        Wire(running.url) as wire,
    ):
        assert wire.request(CALL, uri="thumbnail", args=1)["payload"]["uri"] == "thumbnail"
        assert wire.receive()["payload"]["args"] == 1
        assert wire.request(CALL, uri="admin.stop")["payload"]["code"] == 403
        codes = [wire.request(PUB, channel="room.1")["payload"].get("code") for _ in range(6)]
        assert codes == [None] * 5 + [429]


@pytest.mark.parametrize(
    ("chained", "uri", "code"), [("only_these", "os.system", 403), ("only_these", "math.add", None)]
)
def test_only_what_is_listed_is_allowed(names, chained, uri, code):
    with running_server(handler=names[chained]) as running, Wire(running.url) as wire:
        assert wire.request(CALL, uri=uri)["payload"].get("code") == code
