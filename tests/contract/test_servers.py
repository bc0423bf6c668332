"""Servers announce themselves, and execute commands from any process."""

from __future__ import annotations

import gevent
import pytest

from juggler.broker import ServerListener
from juggler.process.uuids import new_uuid
from juggler.protocol.server_commands import (
    ConnectionInfo,
    ServerAnswer,
    connections_command,
    disconnect_command,
)
from juggler.protocol.server_status import ServerStatus
from tests.recorders import RecordedSubscriber
from tests.support import eventually


class Listener(ServerListener):
    def __init__(self, count: int = 0, **answer) -> None:
        self.server_id = new_uuid()
        self.commands: list = []
        self._answer = ServerAnswer(self.server_id, count, **answer)
        self.silent = False

    def on_command(self, command, answer):
        self.commands.append(command)
        if not self.silent:
            gevent.spawn(answer, self._answer)

    def status(self):
        return ServerStatus(self.server_id, host="here", pid=7, connections=3)


@pytest.fixture
def server(make_broker):
    return make_broker()


@pytest.fixture
def asker(make_broker, server):
    return make_broker()


def known(broker) -> set[str]:
    return {status.server for status in broker.servers()}


def test_servers_are_known_until_they_leave(server, asker):
    one, two = Listener(), Listener()
    assert asker.servers() == []
    server.attend(one)
    server.attend(one)
    server.attend(two)
    eventually(lambda: known(asker) == {one.server_id, two.server_id})
    assert one.status() in asker.servers()
    server.leave(one.server_id)
    server.leave(one.server_id)
    eventually(lambda: known(asker) == {two.server_id})
    server.leave(two.server_id)
    eventually(lambda: asker.servers() == [])


def test_a_command_reaches_every_server_and_is_counted(server, asker, make_broker):
    listeners = [Listener(2), Listener(1, connections=[ConnectionInfo("c", identity={"user": 7}, since=1.0)])]
    server.attend(listeners[0])
    make_broker().attend(listeners[1])
    eventually(lambda: len(known(asker)) == 2)
    found = asker.command(connections_command(identity={"user": 7}))
    assert (found.servers, found.answered, found.connections, found.errors) == (2, 2, 3, [])
    assert found.listed == [ConnectionInfo("c", identity={"user": 7}, since=1.0)]
    for listener in listeners:
        (command,) = listener.commands
        assert command.do == "connections"
        assert bytes(command.identity) == b'{"user":7}'


def test_a_server_that_does_not_answer_costs_the_timeout_and_is_not_counted(server, asker):
    one, two = Listener(5), Listener(7)
    two.silent = True
    server.attend(one)
    server.attend(two)
    eventually(lambda: len(known(asker)) == 2)
    with gevent.Timeout(5):
        found = asker.command(disconnect_command(identity=1), timeout=0.3)
    assert (found.servers, found.answered, found.connections) == (2, 1, 5)


def test_an_error_of_a_server_is_reported(server, asker):
    server.attend(listener := Listener(error="busy"))
    eventually(lambda: known(asker))
    found = asker.command(disconnect_command(identity=1))
    assert (found.servers, found.answered, found.errors) == (1, 0, ["busy"])
    server.leave(listener.server_id)


def test_without_servers_there_is_no_answer(asker):
    found = asker.command(disconnect_command(identity=1))
    assert (found.servers, found.answered, found.connections) == (0, 0, 0)


def test_events_are_counted_by_channel(pubsub, make_broker):
    subscriber, done = RecordedSubscriber(), []
    pubsub.subscribe("a", False, subscriber, done.append)
    pubsub.subscribe("p.*", True, subscriber, done.append)
    eventually(lambda: done == [None, None])
    for channel in ("a", "a", "p.1", "other"):
        pubsub.publish(channel, new_uuid(), b"null", lambda error: None)
    eventually(lambda: len(subscriber.events) == 3)
    assert pubsub.take_event_counts() == {"a": 2, "p.1": 1}
    assert pubsub.take_event_counts() == {}
    for number in range(1500):
        pubsub.publish("a", new_uuid(), b"null", lambda error: None)
        if number % 4 == 0:
            pubsub.publish("p.1", new_uuid(), b"null", lambda error: None)
    eventually(lambda: len(subscriber.events) == 3 + 1875)
    # An estimate: there are more than are remembered.
    assert pubsub.take_event_counts() == pytest.approx({"a": 1500, "p.1": 375}, rel=0.1)
