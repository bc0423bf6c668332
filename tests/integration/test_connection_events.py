"""Functions that servers call when clients connect and disconnect, and clients cannot call."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager

import gevent
import pytest
import redis

from juggler.auth import bearer
from juggler.broker.memory import MemoryBroker
from juggler.broker.redis import RedisBroker
from juggler.callee import Callee, ConnectionEvent, caller
from juggler.callee.testing import Caller
from juggler.callee.worker import Worker
from juggler.errors import CallFailed, Nacked, Refused
from juggler.protocol.connection_events import SERVER_URIS
from juggler.protocol.messages import MessageType
from tests.integration.commands import server_process
from tests.integration.test_callee_command import running
from tests.integration.test_juggler1 import Wire1
from tests.redis_servers import mortal_redis
from tests.stack import Wire, running_server
from tests.support import eventually

CALL, NACK, RES, SUB = (MessageType(n) for n in (1, 7, 9, 3))
NS = 1_000_000_000


class Door:
    """An application that notes who comes and goes."""

    def __init__(self) -> None:
        self.joined: list[ConnectionEvent] = []
        self.left: list[ConnectionEvent] = []
        self.rpc = Callee()
        self.rpc.on_connect(self.on_connect)
        self.rpc.on_disconnect(self.on_disconnect)

    def on_connect(self, event: ConnectionEvent) -> None:
        assert event.identity == caller().identity
        self.joined.append(event)

    def on_disconnect(self, event: ConnectionEvent) -> None:
        self.left.append(event)


@contextmanager
def working(door: Door, broker):
    worker = Worker(door.rpc, broker, grace=0.1)
    greenlet = gevent.spawn(worker.run)
    try:
        yield
    finally:
        worker.stop()
        greenlet.join(10)


@pytest.fixture(params=["memory", "redis"])
def brokers(request):
    """The broker of a server, and that of a callee."""
    if request.param == "memory":
        broker = MemoryBroker(blocking_timeout=0.1)
        yield broker, broker
    else:
        url = request.getfixturevalue("redis_url")
        theirs = RedisBroker(url, blocking_timeout=0.1)
        yield RedisBroker(url), theirs
        theirs.close()


def is_open(wire: Wire) -> bool:
    """Return whether the server answers."""
    return wire.request(SUB, channel="c", pattern=False)["meta"]["type"] == 8


def lost(server) -> float:
    return server.server.snapshot().counters["juggler_connection_events_lost"][""]


def stored(server) -> float:
    return server.server.snapshot().counters["juggler_connection_events"][""]


@pytest.mark.leaves_keys("juggler:results:*")  # of the last events: the server closes
def test_functions_hear_of_clients_that_come_and_go(brokers):
    door, began = Door(), time.time()
    hook = bearer({"1": {"sub": "ann"}}.get, optional=True)
    with working(door, brokers[1]), running_server(brokers[0], connection_events=True, connect=hook) as server:
        with Wire1(server.url + "?token=1") as wire:
            eventually(lambda: door.joined)
            assert door.left == []
            (connection,) = server.server.connections
            assert wire.welcome["payload"]["conn"] == connection.uuid
            wire.websocket.close(4321, "so long")
        eventually(lambda: door.left)
        with Wire(server.url):
            eventually(lambda: len(door.joined) == 2)
        eventually(lambda: len(door.left) == 2)
        assert (stored(server), lost(server)) == (4, 0)
    (joined, anonymous), (left, _) = door.joined, door.left
    assert joined.connection == left.connection == connection.uuid
    assert joined.identity == left.identity == {"sub": "ann"}
    assert joined.address == left.address == "127.0.0.1"
    assert (joined.code, joined.reason, left.code, left.reason) == (None, "", 4321, "so long")
    assert began - 1 <= joined.at <= left.at <= time.time() + 1
    assert anonymous.identity is None


@pytest.mark.leaves_keys("juggler:results:*")  # of the last events: the server closes
def test_a_server_that_shuts_down_reports_its_clients(brokers):
    door = Door()
    with working(door, brokers[1]):
        with running_server(brokers[0], connection_events=True) as server, Wire(server.url), Wire(server.url):
            eventually(lambda: len(door.joined) == 2)
            server.server.shut_down(grace=5, spread=0)
            eventually(lambda: len(door.left) == 2)
        assert {event.code for event in door.left} == {1001}


def test_they_are_off_by_default(redis_url):
    with running_server(RedisBroker(redis_url)) as server, redis.Redis.from_url(redis_url, protocol=2) as client:
        with Wire(server.url) as wire:
            assert is_open(wire)
        eventually(lambda: not server.server.connections)
        assert client.keys("juggler:calls*") == []


@pytest.mark.parametrize("uri", sorted(SERVER_URIS))
@pytest.mark.parametrize("is_on", [False, True])
def test_clients_cannot_call_them(uri, is_on):
    door, broker = Door(), MemoryBroker(blocking_timeout=0.1)
    args = {"connection": "forged", "at": 1.0}
    with working(door, broker), running_server(broker, connection_events=is_on) as server:
        for client in (Wire, Wire1):
            with client(server.url) as wire:
                answer = wire.request(CALL, uri=uri, args=args, timeout=NS)
                assert (answer["meta"]["type"], answer["payload"]["code"]) == (NACK, 403)
        with Wire1(server.url) as wire:
            answer = wire.request(CALL, uri=uri, args=args, timeout=NS, parts={"mode": "all", "window": 1})
            assert answer["payload"]["code"] == 403
    assert "forged" not in {event.connection for event in door.joined + door.left}


def test_calls_of_go_servers_are_refused(redis_url):
    door, conn = Door(), "00000000-0000-4000-8000-000000000030"
    theirs = RedisBroker(redis_url, blocking_timeout=0.1)
    with working(door, theirs), redis.Redis.from_url(redis_url, protocol=2) as client:
        for number, uri in enumerate(sorted(SERVER_URIS)):
            msg = f"00000000-0000-4000-8000-{number:012}"
            client.set(f"juggler:calls:timeout:{{{uri}}}:{msg}", 60_000, px=60_000)
            call = {"conn_uuid": conn, "msg_uuid": msg, "uri": uri, "args": {"connection": "forged", "at": 1}}
            client.lpush(f"juggler:calls:{{{uri}}}", json.dumps(call))
        eventually(lambda: client.llen(f"juggler:results:{{{conn}}}") == 2)
        for result in map(json.loads, client.lrange(f"juggler:results:{{{conn}}}", 0, -1)):
            assert result["args"]["error"]["code"] == "forbidden"
        client.flushall()
    theirs.close()
    assert door.joined == door.left == []


@pytest.mark.leaves_keys("juggler:calls:*")  # of events that no callee has taken
def test_an_absent_callee_harms_no_connection_and_events_are_bounded(redis_url):
    broker = RedisBroker(redis_url, call_capacity=3)
    with (
        redis.Redis.from_url(redis_url, protocol=2) as client,
        running_server(broker, connection_events=True) as server,
    ):
        for _ in range(6):
            with Wire(server.url) as wire:
                assert is_open(wire)
        eventually(lambda: (stored(server), lost(server)) == (6, 6))
        keys = client.keys("juggler:calls:timeout:{juggler.on_connect}:*")
        assert len(keys) == client.llen("juggler:calls:{juggler.on_connect}") == 3
        assert all(0 < client.pttl(key) <= 60_000 for key in keys)


def test_the_events_in_flight_of_a_server_are_bounded(monkeypatch):
    monkeypatch.setattr("juggler.server.event_calls.CAPACITY", 2)
    with running_server(connection_events=True) as server:
        for _ in range(3):
            with Wire(server.url) as wire:
                assert is_open(wire)
        eventually(lambda: (stored(server), lost(server)) == (2, 4))


def test_events_are_lost_if_no_callee_processes_them_in_time(monkeypatch):
    monkeypatch.setattr("juggler.server.event_calls.LIFETIME", 0.05)
    with running_server(connection_events=True) as server:
        with Wire(server.url) as wire:
            assert is_open(wire)
        eventually(lambda: (stored(server), lost(server)) == (2, 2))


def test_connections_work_while_redis_is_away(tmp_path):
    with mortal_redis(tmp_path) as mortal:
        mortal.start()
        pubsub = MemoryBroker()
        with running_server(RedisBroker(mortal.url), connection_events=True) as server:
            with Wire(server.url):
                eventually(lambda: stored(server))
            eventually(lambda: stored(server) == 2)
            mortal.kill()
            with Wire1(server.url):
                pass
            eventually(lambda: lost(server) >= 2)
        pubsub.close()


def test_any_reason_of_the_server_is_reported():
    door, broker = Door(), MemoryBroker(blocking_timeout=0.1)
    with working(door, broker), running_server(broker, connection_events=True) as server, Wire(server.url):
        (connection,) = eventually(lambda: list(server.server.connections))
        connection.close(4000, "bad \ud800")
        eventually(lambda: door.left)
        assert (server.server.connections, door.left[0].code) == (set(), 4000)
        assert door.left[0].reason.startswith("bad ")


def test_a_caller_hook_that_raises_costs_only_the_identity():
    def hook(connection):
        raise Refused(403, "no")

    door, broker = Door(), MemoryBroker(blocking_timeout=0.1)
    with (
        working(door, broker),
        running_server(broker, connection_events=True, caller=hook) as server,
        Wire(server.url) as wire,
    ):
        eventually(lambda: door.joined)
        assert is_open(wire)
    assert door.joined[0].identity is None


DOOR = """
from callee import Callee, ConnectionEvent

rpc = Callee()


@rpc.on_connect
def joined(event: ConnectionEvent):
    print("joined", event.connection, event.code, flush=True)


@rpc.on_disconnect
def left(event: ConnectionEvent):
    print("left", event.connection, event.code, flush=True)
"""


@pytest.mark.leaves_keys("juggler:results:*")  # of the last event
def test_the_commands_report_clients(tmp_path, redis_url):
    (tmp_path / "door.py").write_text(DOOR)
    with (
        running("door:rpc", "--redis", redis_url, cwd=tmp_path) as callee,
        server_process(redis_url, "--connection-events") as url,
    ):
        assert callee.said.startswith("serving juggler.on_connect, juggler.on_disconnect"), callee.stderr.read()
        with Wire1(url) as wire:
            conn = wire.welcome["payload"]["conn"]
            assert callee.stdout.readline() == f"joined {conn} None\n"
        assert callee.stdout.readline() == f"left {conn} 1000\n"


# Registering, and the test kit.


def test_the_test_kit_fires_them():
    door = Door()
    kit = Caller(door.rpc, caller={"sub": "ann"})
    kit.connect("c1", "192.0.2.7")
    kit.disconnect("c1", "192.0.2.7", code=4429, reason="too slow")
    kit.connect()
    assert [(event.connection, event.identity, event.address, event.code) for event in door.joined[:1] + door.left] == [
        ("c1", {"sub": "ann"}, "192.0.2.7", None),
        ("c1", {"sub": "ann"}, "192.0.2.7", 4429),
    ]
    assert door.left[0].reason == "too slow"
    assert len(door.joined[1].connection) == 36


def test_errors_of_the_functions_reach_the_test():
    rpc = Callee()

    @rpc.on_connect
    def joined(event: ConnectionEvent) -> None:
        raise ValueError("full")

    with pytest.raises(CallFailed, match="full"):
        Caller(rpc).connect()
    with pytest.raises(Nacked):
        Caller(rpc).disconnect()


def test_an_included_callee_keeps_their_uris_and_its_generators():
    inner, outer, seen = Callee(), Callee(), []
    inner.on_connect(seen.append)
    inner.register("f", lambda: 1)

    @inner.around
    def noted():
        seen.append("around")
        yield

    outer.include(inner, "shop.")
    assert set(outer) == {"juggler.on_connect", "shop.f"}
    Caller(outer).connect()
    assert [type(each) for each in seen] == [str, ConnectionEvent]


async def asynchronous(event: ConnectionEvent) -> None: ...


def generator(event: ConnectionEvent):
    yield


def test_registering_them_is_checked():
    rpc = Callee()
    rpc.on_connect(print)
    with pytest.raises(ValueError, match="a function is registered already"):
        rpc.on_connect(print)
    for uri in SERVER_URIS:
        with pytest.raises(ValueError, match="reserved, register it with on_connect or on_disconnect"):
            Callee().register(uri, print)
    for wrong in (None, asynchronous, generator):
        with pytest.raises(TypeError, match="expected a plain function"):
            Callee().on_disconnect(wrong)
