"""Commands from outside: disconnect, unsubscribe and list connections, on one server and on all."""

from __future__ import annotations

import json
from contextlib import ExitStack
from urllib.parse import quote

import gevent
import pytest
import redis

from juggler.broker import Announcement
from juggler.broker.memory import MemoryBroker
from juggler.broker.redis import RedisBroker
from juggler.errors import BrokerError, InvalidValue, OutcomeUnknown
from juggler.process.uuids import new_uuid
from juggler.protocol.messages import MessageType
from juggler.protocol.server_commands import (
    connections_command,
    disconnect_command,
    unsubscribe_command,
)
from juggler.server.connect_hook import ANONYMOUS
from juggler.server.processing import process_message
from tests.stack import Wire, running_server
from tests.support import eventually

CALL, PUB, SUB, NACK, ACK, EVNT, WLCM, ENDS = (MessageType(n) for n in (1, 2, 3, 7, 8, 10, 32, 34))


def by_query(request):
    """The identity is the JSON in the query."""
    return json.loads(request.query["who"]) if "who" in request.query else ANONYMOUS


def client(running, who=None, subprotocol="juggler.1") -> Wire:
    url = running.url if who is None else f"{running.url}?who={quote(json.dumps(who))}"
    wire = Wire(url, subprotocols=[subprotocol])
    if subprotocol == "juggler.1":
        wire.id = wire.receive()["payload"]["conn"]
    return wire


@pytest.fixture(params=["memory", "redis"])
def running(request):
    """A server whose clients state their identity."""
    broker = MemoryBroker(blocking_timeout=0.1)
    if request.param == "redis":
        broker = RedisBroker(request.getfixturevalue("redis_url"), blocking_timeout=0.1)
    with running_server(broker, connect=by_query) as running:
        running.server.start()
        eventually(lambda: [status.server for status in broker.servers()] == [running.server.server_id])
        yield running


def counts(found) -> tuple[int, int, int]:
    assert found.errors == []
    return found.servers, found.answered, found.connections


def test_all_connections_of_an_identity_are_closed_and_no_others(running):
    user = {"sub": "ann", "roles": ["a", 1]}
    same = {"roles": ["a", 1.0], "sub": "ann"}
    with ExitStack() as stack:
        gone = [stack.enter_context(client(running, user, each)) for each in ("juggler.1", "juggler.0")]
        others = [
            stack.enter_context(client(running, who)) for who in ({"sub": "ann", "roles": ["a", True]}, "ann", None)
        ]
        found = running.broker.command(disconnect_command(identity=same, reason="logged out"))
        assert counts(found) == (1, 1, 2)
        assert [wire.closed() for wire in gone] == [(4410, "logged out")] * 2
        for wire in others:
            assert wire.request(SUB, channel="still")["meta"]["type"] == ACK
        assert counts(running.broker.command(disconnect_command(identity=same))) == (1, 1, 0)


def test_a_user_with_a_token_is_named_by_its_subject(running):
    claims = [{"sub": "ann", "exp": n, "iss": iss} for n, iss in ((1, "us"), (2, "us"), (3, "them"))]
    with ExitStack() as stack:
        wires = [stack.enter_context(client(running, each)) for each in claims]
        bob = stack.enter_context(client(running, {"sub": "bob", "exp": 1, "iss": "us"}))
        assert counts(running.broker.command(disconnect_command(identity={"sub": "ann", "exp": 9}))) == (1, 1, 0)
        assert counts(running.broker.command(disconnect_command(identity={"sub": "ann", "iss": "us"}))) == (1, 1, 2)
        assert counts(running.broker.command(disconnect_command(identity={"sub": "ann"}))) == (1, 1, 1)
        assert [wire.closed()[0] for wire in wires] == [4410] * 3
        assert bob.request(SUB, channel="still")["meta"]["type"] == ACK


def test_one_connection_is_closed(running):
    with client(running, 1) as gone, client(running, 1) as other:
        found = running.broker.command(disconnect_command(connection=gone.id, code=4411))
        assert counts(found) == (1, 1, 1)
        assert gone.closed() == (4411, "")
        assert other.request(SUB, channel="still")["meta"]["type"] == ACK
    assert counts(running.broker.command(disconnect_command(connection=new_uuid()))) == (1, 1, 0)


def test_the_calls_of_a_disconnected_client_are_cancelled(running):
    heard: list[str] = []

    class Hears:
        on_cancel = staticmethod(heard.append)
        on_credit = staticmethod(lambda call_id, until: None)
        running = staticmethod(lambda: ())

    running.broker.listen(callee_id := new_uuid(), Hears())
    consumer = running.broker.calls(["f"])
    with client(running, 1) as wire:
        assert wire.request(CALL, uri="f", args=None)["meta"]["type"] == ACK
        (call,) = eventually(lambda: consumer.pop(1))
        running.broker.announce(callee_id, {"f": Announcement()}, 5)
        assert counts(running.broker.command(disconnect_command(identity=1))) == (1, 1, 1)
        assert wire.closed()[0] == 4410
        eventually(lambda: heard == [call.msg_uuid])
    consumer.close()
    running.broker.withdraw(callee_id, ["f"])
    running.broker.unlisten(callee_id)


def test_a_subscription_ends(running):
    with client(running, "ann") as new, client(running, "ann", "juggler.0") as old, client(running, "bob") as other:
        for wire in (new, old, other):
            assert wire.request(SUB, channel="news")["meta"]["type"] == ACK
            assert wire.request(SUB, channel="n*", pattern=True)["meta"]["type"] == ACK
        found = running.broker.command(unsubscribe_command(channel="news", identity="ann", reason="no longer yours"))
        assert counts(found) == (1, 1, 2)
        ends = new.receive()
        assert ends["meta"]["type"] == ENDS
        assert ends["payload"] == {"channel": "news", "pattern": False, "code": 403, "message": "no longer yours"}
        found = running.broker.command(unsubscribe_command(pattern="n*", connection=new.id))
        assert counts(found) == (1, 1, 1)
        assert new.receive()["payload"]["pattern"] is True
        assert counts(running.broker.command(unsubscribe_command(pattern="n*", connection=new.id))) == (1, 1, 0)
        running.server.publish("news", 7)
        assert sorted(other.receive()["payload"].get("pattern", "") for _ in range(2)) == ["", "n*"]
        event = old.receive()  # under juggler.0, only its subscription to the pattern is left
        assert (event["meta"]["type"], event["payload"].get("pattern")) == (EVNT, "n*")
        # Neither has another event.
        for wire in (new, old):
            assert wire.request(SUB, channel="last")["meta"]["type"] == ACK


def test_connections_are_listed(running):
    with client(running, {"sub": "ann"}) as one, client(running, None, "juggler.0") as two:
        one.request(SUB, channel="a")
        one.request(SUB, channel="b")
        one.request(CALL, uri="f", args=None)
        found = running.broker.command(connections_command())
        assert counts(found) == (1, 1, 2)
        first, second = found.listed
        assert (first.id, first.identity, first.address) == (one.id, {"sub": "ann"}, "127.0.0.1")
        assert (first.subprotocol, first.calls, first.subscriptions) == ("juggler.1", 1, 2)
        assert (second.identity, second.subprotocol, second.calls, second.subscriptions) == (None, "juggler.0", 0, 0)
        assert 0 <= second.since - first.since < 20
        found = running.broker.command(connections_command(identity={"sub": "ann"}))
        assert (found.connections, [info.id for info in found.listed]) == (1, [one.id])
        found = running.broker.command(connections_command(connection=one.id))
        assert [info.id for info in found.listed] == [one.id]
        found = running.broker.command(connections_command(limit=1))
        assert (found.connections, [info.id for info in found.listed]) == (2, [one.id])
        assert running.broker.command(connections_command(identity="nobody")).connections == 0
        two.websocket.close()


# Clients in their handshake, and those that come back


def test_a_client_in_its_handshake_does_not_escape():
    asked, go = gevent.event.Event(), gevent.event.Event()

    def slow(request):
        asked.set()
        go.wait()  # it has found the user valid before
        return {"sub": "ann", "exp": 1}

    with running_server(connect=slow) as running:
        running.server.start()
        ended = []
        greenlet = gevent.spawn(lambda: ended.append(_closed_at_once(running)))
        asked.wait(5)
        assert counts(
            running.broker.command(disconnect_command(identity={"sub": "ann"}, code=4410, reason="revoked"))
        ) == (
            1,
            1,
            0,
        )
        go.set()
        greenlet.join(20)
        assert ended == [(4410, "revoked")]
        # It is a new decision of the hook now.
        with Wire(running.url) as wire:
            assert wire.request(SUB, channel="c")["meta"]["type"] == ACK


def _closed_at_once(running) -> tuple[int, str]:
    with Wire(running.url) as wire:
        return wire.closed()


def test_a_revoked_user_who_comes_back_is_refused_by_the_hook():
    revoked: set[str] = set()

    def hook(request):
        who = request.query["who"]
        return who if who not in revoked else None

    with running_server(connect=hook) as running:
        with Wire(f"{running.url}?who=ann") as wire:
            revoked.add("ann")
            assert running.server.disconnect(identity="ann") == 1
            assert wire.closed()[0] == 4410
        with pytest.raises(Exception, match="401"), Wire(f"{running.url}?who=ann"):
            pass


def test_many_disconnected_identities_are_remembered_but_not_all():
    with running_server(connect=by_query) as running:
        for number in range(10_050):
            running.server.disconnect(identity=number)
        with client(running, 10_049) as wire:  # its hook was asked later
            assert wire.request(SUB, channel="c")["meta"]["type"] == ACK


# The caller hook


def test_the_identity_is_that_of_the_caller_hook():
    with running_server(connect=by_query, caller=lambda connection: {"user": connection.identity}) as running:
        running.server.start()
        with client(running, 7) as wire:
            assert running.server.disconnect(identity=7) == 0
            assert running.server.disconnect(identity={"user": 7}) == 1
            assert wire.closed()[0] == 4410


def test_a_caller_hook_that_fails_or_hangs_does_not_save_others(monkeypatch):
    monkeypatch.setattr("juggler.server.command_inbox.HOOK_TIMEOUT", 0.3)

    def caller(connection):
        if connection.identity == "hangs":
            gevent.sleep(60)
        if connection.identity == "fails":
            raise RuntimeError("the database is gone")
        return connection.identity

    with running_server(connect=by_query, caller=caller) as running, ExitStack() as stack:
        running.server.start()
        fails, known, hangs = (stack.enter_context(client(running, who)) for who in ("fails", "known", "hangs"))
        known.request(CALL, uri="f", args=None)
        found = running.broker.command(disconnect_command(identity="known"))
        (error,) = found.errors
        assert (found.answered, error.startswith("the caller hook has not returned the identities of ")) == (0, True)
        assert known.closed()[0] == 4410
        assert fails.request(SUB, channel="c")["meta"]["type"] == ACK
        assert hangs.request(SUB, channel="c")["meta"]["type"] == ACK


@pytest.mark.parametrize("error", [SystemExit(1), gevent.Timeout(1), KeyError("user")])
def test_whatever_a_caller_hook_raises_later_commands_are_executed(error):
    def caller(connection):
        if connection.identity == "fails":
            raise error
        return connection.identity

    with running_server(connect=by_query, caller=caller) as running:
        running.server.start()
        with client(running, "fails") as fails, client(running, "known") as known:
            running.broker.command(disconnect_command(identity="known"))
            fails.websocket.close()
            eventually(lambda: running.broker.command(disconnect_command(identity="nobody")).answered)
            known.websocket.close()


# In the server's own process


def test_code_in_the_server_publishes_and_disconnects():
    def handler(ctx, connection, message):
        if message.type == PUB and message.channel == "logout":
            server.publish("audit", {"who": connection.identity})
            assert server.disconnect(identity=connection.identity, reason="bye") == 1
        process_message(ctx, connection, message)

    with running_server(connect=by_query, handler=handler) as running:
        server = running.server
        with client(running, "ann") as ann, client(running, "bob") as bob:
            bob.request(SUB, channel="audit")
            ann.send(PUB, channel="logout", args=None)
            assert ann.closed() == (4410, "bye")
            assert bob.receive()["payload"]["args"] == {"who": "ann"}
        with pytest.raises(InvalidValue):
            server.publish("c", {1, object()})
        with pytest.raises(BrokerError, match="must not be empty"):
            server.publish("", 1)
        with pytest.raises(BrokerError, match="are reserved"):
            server.publish("juggler.gap", 1)
        with pytest.raises(InvalidValue, match="expected either identity or connection"):
            server.disconnect()


def test_publishing_has_an_end_when_the_broker_is_silent(monkeypatch):
    monkeypatch.setattr("juggler.server.server.PUBLISH_TIMEOUT", 0.1)
    with running_server() as running:
        running.server.pubsub_broker.publish = lambda *args: None
        with pytest.raises(OutcomeUnknown, match=r"has not answered within 0\.1 s"):
            running.server.publish("c", 1)


# Bounds


def test_ten_thousand_entries_and_garbage_are_survived(redis_url):
    broker = RedisBroker(redis_url, blocking_timeout=0.1)
    with running_server(broker, connect=by_query) as running, redis.Redis.from_url(redis_url, protocol=2) as store:
        running.server.start()
        eventually(broker.servers)
        key = f"juggler:control:{{{running.server.server_id}}}"
        with client(running, "ann") as wire, client(running, 9_999) as last:
            garbage = [b"\xff", b"{}", b"null", b"[" * 1000, b'{"do": "drop"}', b'{"do": "disconnect", "identity": 1}']
            orders = [json.dumps({"do": "disconnect", "identity": n, "code": 4410}) for n in range(10_000)]
            store.lpush(key, *garbage, *orders, *garbage)
            store.pexpire(key, 10_000)
            assert last.closed()[0] == 4410
            assert wire.request(SUB, channel="c")["meta"]["type"] == ACK
            # A key of another type is an error in the log, and control works again when it is gone.
            eventually(lambda: store.llen(key) == 0)
            store.set(key, "x")
            assert counts(broker.command(disconnect_command(identity="ann"), timeout=0.2)) == (1, 0, 0)
            store.delete(key)
            assert counts(broker.command(disconnect_command(identity="ann"), timeout=10)) == (1, 1, 1)
            assert wire.closed()[0] == 4410


def test_commands_that_cannot_wait_are_refused(monkeypatch):
    monkeypatch.setattr("juggler.server.command_inbox.CAPACITY", 3)
    with running_server(connect=by_query) as running:
        running.server.start()
        greenlets = [gevent.spawn(running.broker.command, disconnect_command(identity=n)) for n in range(5)]
        gevent.joinall(greenlets, timeout=5)
        found = [greenlet.value for greenlet in greenlets]
        assert [each.answered for each in found] == [1, 1, 1, 0, 0]
        assert found[-1].errors == ["3 commands wait to be executed"]


def test_a_server_with_another_broker_works_as_before():
    broker = MemoryBroker(blocking_timeout=0.1)
    broker.attend = lambda listener: None
    broker.leave = lambda server_id: None
    with running_server(broker) as running, Wire(running.url) as wire:
        assert wire.request(SUB, channel="c")["meta"]["type"] == ACK
        assert counts(broker.command(disconnect_command(identity=1))) == (0, 0, 0)


def test_the_status_names_what_is_busy(running):
    with client(running, "ann") as wire:
        wire.request(SUB, channel="hot")
        for n in range(3):
            running.server.publish("hot", n)
            assert wire.receive()["payload"]["args"] == n

        def status():
            (found,) = running.broker.servers()
            return found if found.channels else None

        found = eventually(status)
        assert (found.connections, found.calls, found.draining, found.uris) == (1, 0, False, [])
        assert [rate.name for rate in found.channels] == ["hot"]
        assert found.event_rate > 0
        assert found.pid
        assert found.host
