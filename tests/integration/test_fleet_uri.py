"""The built-in call that returns the fleet, ``fleet_uri``."""

from __future__ import annotations

from contextlib import closing

import pytest

from juggler.broker import Announcement
from juggler.broker.redis import RedisBroker
from juggler.errors import NackCode
from juggler.handlers import chain
from juggler.handlers.authorize import Rule, authorize
from juggler.protocol.messages import MessageType
from juggler.server.options import ServerOptions
from tests.integration.commands import demo_process
from tests.stack import Wire, running_server
from tests.support import eventually

ACK, NACK = MessageType.ACK, MessageType.NACK


@pytest.fixture
def broker(redis_url):
    with closing(RedisBroker(redis_url)) as broker:
        yield broker


def ask(wire, uri):
    """Call, and return the type and payload of the first answer."""
    answer = wire.request(MessageType.CALL, uri=uri, args=None, timeout=5_000_000_000)
    return answer["meta"]["type"], answer["payload"]


def test_the_fleet_can_be_called_like_any_function(broker):
    with running_server(broker, fleet_uri="juggler.fleet") as running, Wire(running.url) as wire:
        broker.announce(
            "one", {"a.f": Announcement(rate=2.5, process="box:7"), "a.g": Announcement(process="box:7")}, 60
        )

        def fleet():
            assert ask(wire, "juggler.fleet")[0] == ACK
            return wire.receive()["payload"]["args"]

        eventually(lambda: [each["server"] for each in fleet()["servers"]] == [running.server.server_id])
        found = fleet()
        assert found["servers"][0]["connections"] == 1
        assert found["callees"] == [{"process": "box:7", "uris": 2, "rate": 2.5}]
        assert [each["uri"] for each in found["uris"]] == ["a.f", "a.g"]
        assert found["channels"] == []
        broker.withdraw("one", ["a.f", "a.g"])


def test_it_is_off_by_default_and_handlers_can_refuse_it():
    with running_server(unknown_uris="refuse") as running, Wire(running.url) as wire:
        type, payload = ask(wire, "juggler.fleet")
        assert (type, payload["code"]) == (NACK, NackCode.NOT_FOUND)
    handler = chain(authorize([Rule("call", "chat.*")]))
    with running_server(handler=handler, fleet_uri="juggler.fleet") as running, Wire(running.url) as wire:
        type, payload = ask(wire, "juggler.fleet")
        assert (type, payload["code"]) == (NACK, NackCode.FORBIDDEN)


def test_it_needs_a_uri_of_its_own():
    with pytest.raises(ValueError, match="fleet_uri: expected another URI than list_uri, got 'x' for both"):
        ServerOptions(list_uri="x", fleet_uri="x")


def test_the_demo_has_it():
    with demo_process() as url, Wire(url) as wire:
        assert ask(wire, "juggler.fleet")[0] == ACK
