"""ENDS: the server ends subscriptions of live connections, and clients learn it."""

from __future__ import annotations

import asyncio

import pytest

from juggler.broker.redis import RedisBroker
from juggler.client import AsyncClient, Client
from juggler.errors import Nacked
from juggler.handlers import chain
from juggler.protocol.messages import MessageType
from tests.stack import Wire, running_server
from tests.support import eventually

CALL, PUB, SUB, UNSB, NACK, ACK, RES, EVNT = (MessageType(n) for n in (1, 2, 3, 4, 7, 8, 9, 10))
WLCM, ENDS = MessageType.WLCM, MessageType.ENDS
REASON = "you have left the room"


def only_connection(running):
    (connection,) = running.server.connections
    return connection


@pytest.fixture(params=["memory", "redis", "redis and handlers"])
def running(request, redis_url):
    broker = None if request.param == "memory" else RedisBroker(redis_url)
    options = (
        {"handler": chain(lambda next_handler: lambda *args: next_handler(*args))} if "and" in request.param else {}
    )
    with running_server(broker, **options) as server:
        yield server


def test_no_event_follows_the_end_of_a_subscription(running):
    with Wire(running.url, subprotocols=["juggler.1"]) as wire:
        assert wire.receive()["meta"]["type"] == WLCM
        for channel, pattern in (("news", False), ("news", True), ("other", False)):
            assert wire.request(SUB, channel=channel, pattern=pattern)["meta"]["type"] == ACK
        connection = only_connection(running)
        assert sorted(running.broker.subscriptions_of(connection)) == [
            ("news", False),
            ("news", True),
            ("other", False),
        ]
        assert connection.end_subscription("news", False, 403, REASON)
        assert not connection.end_subscription("news", False, 403, REASON)
        assert not connection.end_subscription("unknown", True, 403, REASON)
        end = wire.receive()
        assert end["meta"]["type"] == ENDS
        assert end["payload"] == {"channel": "news", "pattern": False, "code": 403, "message": REASON}
        wire.send(PUB, channel="news", args=1)
        kinds = sorted((wire.receive() for _ in range(2)), key=lambda message: message["meta"]["type"])
        assert [message["meta"]["type"] for message in kinds] == [ACK, EVNT]
        assert kinds[1]["payload"]["pattern"] == "news"
        assert wire.request(SUB, channel="news")["meta"]["type"] == ACK
        assert running.server.metrics.written[ENDS] == 1


def test_under_juggler_0_the_subscription_ends_without_a_message(running):
    with Wire(running.url) as wire:
        wire.request(SUB, channel="news")
        assert only_connection(running).end_subscription("news", False, 403, REASON)
        assert wire.request(PUB, channel="news")["meta"]["type"] == ACK
        assert wire.request(UNSB, channel="news")["meta"]["type"] == ACK
        assert running.server.metrics.written[ENDS] == 0


def test_the_client_has_the_error_and_does_not_subscribe_again(running):
    seen = []
    with Client(running.url, on_message=seen.append) as client:
        with client.subscribe("news") as first, client.subscribe("news") as second, client.subscribe("other") as other:
            client.publish("news", 1)
            assert first.get(timeout=20).args == 1
            only_connection(running).end_subscription("news", False, 403, REASON)
            for subscription, before in ((first, 0), (second, 1)):
                for _ in range(before):
                    subscription.get(timeout=20)
                with pytest.raises(Nacked) as end:
                    next(subscription)
                assert (end.value.code, end.value.message) == (403, REASON)
            assert [message.type for message in seen].count(ENDS) == 1
            only_connection(running).close(1001, "restart")
            assert eventually(lambda: other.gaps == 1)
            connection = only_connection(running)
            assert running.broker.subscriptions_of(connection) == [("other", False)]
        with client.subscribe("news"):
            assert len(running.broker.subscriptions_of(connection)) == 1


def test_the_asyncio_client_has_it_too(running):
    async def main():
        async with AsyncClient(running.url) as client, await client.subscribe("news.*", True) as events:
            only_connection(running).end_subscription("news.*", True, 410, "gone")
            with pytest.raises(Nacked, match="410 gone"):
                async for _ in events:
                    pass

    asyncio.run(main())
