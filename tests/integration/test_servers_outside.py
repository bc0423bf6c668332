"""Server processes, controlled by another process: through backends, counted, and with processes that die or hang."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple
from urllib.parse import quote

import pytest
import redis

from juggler.backend import Backend
from juggler.broker.redis import RedisBroker
from juggler.client import Client
from juggler.errors import BrokerError, BrokerUnavailable, ConnectionClosed, Nacked
from juggler.process.embedded import free_port
from juggler.protocol.messages import MessageType
from juggler.protocol.server_commands import disconnect_command
from tests.docs import DOCS
from tests.integration.commands import run_python, running, running_python
from tests.redis_servers import mortal_redis, sentinels
from tests.stack import Wire, running_server
from tests.support import eventually

SUB, ACK = MessageType.SUB, MessageType.ACK

APP = """
import json, os
from juggler import Application, RedisBroker, Server
from juggler.auth import ANONYMOUS

def connect(request):
    return json.loads(request.query["who"]) if "who" in request.query else ANONYMOUS

broker = RedisBroker(os.environ["REDIS_URL"])
application = Application(Server(caller_broker=broker, pubsub_broker=broker, connect=connect))
"""


class Process(NamedTuple):
    pid: int
    url: str


@contextmanager
def server(directory, redis_url: str, *args: str) -> Iterator[Process]:
    """A server whose clients state their identity."""
    (directory / "identified.py").write_text(APP)
    variables = {"PYTHONPATH": os.pathsep.join([str(directory), os.getcwd()]), "REDIS_URL": redis_url}
    command = ("server", "identified:application", "--bind", "127.0.0.1:0", *args)
    with running(*command, **variables) as process:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield Process(process.pid, re.search(r"(ws|http)://[^ /]+", line).group().replace("http", "ws") + "/ws")
        process.terminate()
        assert process.wait(20) == 0


def client(url: str, who: object) -> Wire:
    return Wire(f"{url}?who={quote(json.dumps(who))}")


def counts(found) -> tuple[int, int, int]:
    assert found.errors == []
    return found.servers, found.answered, found.connections


@pytest.fixture
def backend(redis_url) -> Iterator[Backend]:
    with Backend(redis_url) as backend:
        yield backend


def wait_for_servers(backend: Backend, count: int) -> set[int]:
    """Wait until so many servers are known, and return their process ids."""
    return eventually(lambda: pids if len(pids := {each.pid for each in backend.servers()}) == count else None)


def test_two_workers_are_counted_right_and_leave_nothing(redis_url, tmp_path, backend):
    with redis.Redis.from_url(redis_url, protocol=2) as store:
        with server(tmp_path, redis_url, "--workers", "2") as process, ExitStack() as stack:
            workers = wait_for_servers(backend, 2)
            assert process.pid not in workers

            def has_clients() -> bool:
                wires.append(stack.enter_context(client(process.url, {"sub": "ann"})))
                return all(each.connections for each in backend.servers())

            wires: list[Wire] = []
            eventually(has_clients)
            other = stack.enter_context(client(process.url, "bob"))
            eventually(lambda: backend.connections().connections == len(wires) + 1)
            found = backend.connections(identity={"sub": "ann"}, limit=1)
            assert counts(found) == (2, 2, len(wires))
            assert found.listed[0].identity == {"sub": "ann"}
            assert counts(backend.disconnect(identity={"sub": "ann"}, reason="logged out")) == (2, 2, len(wires))
            assert {wire.closed() for wire in wires} == {(4410, "logged out")}
            assert counts(backend.disconnect(identity="nobody")) == (2, 2, 0)
            (bob,) = backend.connections(identity="bob").listed
            assert counts(backend.disconnect(connection=bob.id, code=4411)) == (2, 2, 1)
            assert other.closed() == (4411, "")
        # The keys are deleted at a graceful shutdown, and do not have to expire.
        assert [key for key in store.keys("*") if key.startswith((b"juggler:server", b"juggler:control"))] == []


@pytest.mark.parametrize("clients", [0, 3])
def test_a_server_that_stops_deletes_its_keys(redis_url, tmp_path, backend, clients):
    with redis.Redis.from_url(redis_url, protocol=2) as store:
        with server(tmp_path, redis_url) as process, ExitStack() as stack:
            wait_for_servers(backend, 1)
            for _ in range(clients):
                stack.enter_context(client(process.url, 1))
        assert [key for key in store.keys("*") if key.startswith((b"juggler:server", b"juggler:control"))] == []


def test_workers_that_are_forked_from_one_server_are_two(redis_url, tmp_path, backend):
    (tmp_path / "identified.py").write_text(APP)
    port = free_port()
    command = ("-m", "gunicorn", "-k", "juggler.worker.GeventWorker", "-w", "2", "--preload", "--no-control-socket")
    with running_python(
        *command, "-b", f"127.0.0.1:{port}", "--chdir", str(tmp_path), "identified:application", REDIS_URL=redis_url
    ) as process:
        assert len(wait_for_servers(backend, 2)) == 2
        assert counts(backend.connections()) == (2, 2, 0)
        process.terminate()
        assert process.wait(20) == 0
    assert backend.servers() == []


def test_a_server_that_is_stopped_or_killed_is_asked_and_does_not_answer(redis_url, tmp_path, backend):
    with server(tmp_path, redis_url) as one, ExitStack() as stack:
        two = stack.enter_context(running_app(tmp_path, redis_url))
        wait_for_servers(backend, 2)
        mine, hung = (stack.enter_context(client(each.url, 7)) for each in (one, two))
        eventually(lambda: backend.connections(identity=7).connections == 2)
        os.kill(two.pid, signal.SIGSTOP)
        began = time.monotonic()
        found = backend.disconnect(identity=7, timeout=1.0)
        assert counts(found) == (2, 1, 1)
        assert 1.0 <= time.monotonic() - began < 4
        assert mine.closed()[0] == 4410
        # It executes the command when it goes on.
        os.kill(two.pid, signal.SIGCONT)
        assert hung.closed()[0] == 4410
        wait_for_servers(backend, 2)

        os.kill(two.pid, signal.SIGKILL)
        found = backend.disconnect(identity=7, timeout=0.5)
        assert (found.servers, found.answered) in ((2, 1), (1, 1))
        eventually(lambda: counts(backend.disconnect(identity=7, timeout=0.5)) == (1, 1, 0))
        with redis.Redis.from_url(redis_url, protocol=2) as store:
            assert store.scard("juggler:servers") == 1  # whoever looks, removes it


@contextmanager
def running_app(directory, redis_url: str) -> Iterator[Process]:
    """A server that the test kills."""
    variables = {"PYTHONPATH": os.pathsep.join([str(directory), os.getcwd()]), "REDIS_URL": redis_url}
    with running("server", "identified:application", "--bind", "127.0.0.1:0", **variables) as process:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield Process(process.pid, re.search(r"ws://\S+", line).group())


@pytest.mark.leaves_keys("*")
def test_redis_goes_away_and_comes_back(tmp_path):
    with mortal_redis(tmp_path) as store:
        store.start()
        broker = RedisBroker(store.url, blocking_timeout=0.1)
        with (
            running_server(broker, connect=lambda request: "ann") as running,
            Backend(store.url) as backend,
            Wire(running.url) as wire,
        ):
            running.server.start()
            wait_for_servers(backend, 1)
            store.kill()
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                backend.disconnect(identity="ann")
            with pytest.raises(BrokerError):
                broker.command(disconnect_command(identity="ann"))
            assert time.monotonic() - began < 10
            assert running.server.disconnect(identity="bob") == 0  # needs no Redis
            store.start()
            wait_for_servers(backend, 1)
            assert wire.websocket.protocol.state.name == "OPEN"
            eventually(lambda: counts(backend.disconnect(identity="ann", timeout=1.0)) == (1, 1, 1))
            assert wire.closed()[0] == 4410


def test_commands_reach_servers_after_a_failover(tmp_path):
    with (
        sentinels(tmp_path) as deployment,
        server(tmp_path, deployment.url) as process,
        Backend(deployment.url) as fleet,
    ):
        wait_for_servers(fleet, 1)
        deployment.fail_over()
        with client(process.url, 7) as wire:

            def is_closed() -> bool:
                try:
                    return fleet.disconnect(identity=7, timeout=1.0).connections == 1
                except BrokerUnavailable:
                    return False

            eventually(is_closed, timeout=60)
            assert wire.closed()[0] == 4410


def test_clients_come_back_after_4411_and_stay_away_after_4410(redis_url, tmp_path, backend):
    with server(tmp_path, redis_url) as process, Client(f"{process.url}?who=1") as user:
        (first,) = eventually(lambda: backend.connections(identity=1).listed)
        assert counts(backend.disconnect(identity=1, code=4411)) == (1, 1, 1)
        (second,) = eventually(lambda: backend.connections(identity=1).listed)
        assert second.id != first.id
        user.wait_connected(10)
        with user.subscribe("news") as news:
            assert counts(backend.unsubscribe(channel="news", identity=1, reason="not any more")) == (1, 1, 1)
            with pytest.raises(Nacked, match="403 not any more"):
                news.get(10)
        assert counts(backend.disconnect(connection=second.id, reason="bye")) == (1, 1, 1)
        with pytest.raises(ConnectionClosed, match="4410 bye"):
            eventually(lambda: user.publish("news", 1) and False)
        assert backend.connections().connections == 0


def test_a_backend_needs_the_prefix_of_the_servers(redis_url):
    broker = RedisBroker(redis_url, blocking_timeout=0.1, key_prefix="shop:")
    with (
        running_server(broker, connect=lambda request: "ann") as running,
        Wire(running.url),
        Backend(redis_url, key_prefix="shop:") as right,
        Backend(redis_url) as wrong,
    ):
        eventually(right.servers)
        assert counts(wrong.connections()) == (0, 0, 0)
        assert counts(right.connections()) == (1, 1, 1)


def test_a_backend_on_a_cluster(redis_cluster):
    broker = RedisBroker(redis_cluster.url, blocking_timeout=0.1)
    with (
        running_server(broker, connect=lambda request: "ann") as running,
        Wire(running.url) as wire,
        Backend(redis_cluster.url) as backend,
    ):
        eventually(backend.servers)
        assert counts(backend.disconnect(identity="ann", timeout=10)) == (1, 1, 1)
        assert wire.closed()[0] == 4410


ASYNC = """
import asyncio, sys
from juggler.backend import AsyncBackend

async def main():
    async with AsyncBackend(sys.argv[1]) as backend:
        print([each.connections for each in await backend.servers()])
        for found in (
            await backend.connections(identity=7),
            await backend.unsubscribe(channel="c", identity=7),
            await backend.disconnect(identity=7),
        ):
            print(found.servers, found.answered, found.connections)
        try:
            await backend.disconnect()
        except ValueError as error:
            print(error)

asyncio.run(main())
"""


def test_the_backend_for_asyncio(redis_url, tmp_path):
    with server(tmp_path, redis_url) as process, client(process.url, 7) as wire, Backend(redis_url) as backend:
        eventually(lambda: [each.connections for each in backend.servers()] == [1])
        done = run_python("-c", ASYNC, redis_url)
        assert done.stdout.splitlines() == [
            "[1]",
            "1 1 1",
            "1 1 0",
            "1 1 1",
            "expected either identity or connection",
        ]
        assert wire.closed()[0] == 4410


@pytest.mark.parametrize("timeout", [0, -1, 61, float("nan")])
def test_the_wait_is_bounded(backend, timeout):
    with pytest.raises(ValueError, match="timeout: expected more than 0 and at most 60 seconds, got"):
        backend.disconnect(identity=1, timeout=timeout)


def test_servers_that_were_killed_are_removed_by_the_next_one(redis_url, monkeypatch):
    monkeypatch.setattr("juggler.broker.redis.server_presence.PRUNE_AFTER", 1)
    with redis.Redis.from_url(redis_url, protocol=2) as store:
        store.sadd("juggler:servers", "killed")
        broker = RedisBroker(redis_url, blocking_timeout=0.1)
        with running_server(broker) as running:
            running.server.start()
            eventually(lambda: store.smembers("juggler:servers") == {running.server.server_id.encode()})


def test_the_permissions_documented_for_controlling_servers_are_enough(redis_server, redis_url):
    page = (DOCS / "redis.md").read_text()
    row = r"^\| a program controls servers .* for its own user `(.*)` on `(.*)` \|$"
    ((commands, keys),) = re.findall(row, page, re.MULTILINE)
    broker = RedisBroker(redis_url, blocking_timeout=0.1)
    with (
        redis.Redis.from_url(redis_server.url, protocol=2) as admin,
        running_server(broker, connect=lambda request: "ann") as running,
        Wire(running.url) as wire,
    ):
        admin.sadd("juggler:servers", "killed")
        admin.execute_command("ACL", "SETUSER", "operator", "on", ">secret", "-@all", keys, *commands.split())
        admin.execute_command("ACL", "LOG", "RESET")
        try:
            with Backend(redis_server.url.replace("unix://", "unix://operator:secret@")) as backend:
                eventually(backend.servers)
                assert counts(backend.connections()) == (1, 1, 1)
                assert counts(backend.disconnect(identity="ann")) == (1, 1, 1)
                assert wire.closed()[0] == 4410
            assert admin.smembers("juggler:servers") == {running.server.server_id.encode()}
            assert admin.acl_log() == []
        finally:
            admin.execute_command("ACL", "DELUSER", "operator")


def test_without_the_permission_a_server_works_and_says_so_once(redis_server, redis_url, caplog):
    with redis.Redis.from_url(redis_server.url, protocol=2) as admin:
        admin.execute_command("ACL", "SETUSER", "frugal", "on", ">secret", "~*", "&*", "+@all", "-sadd")
        try:
            url = redis_server.url.replace("unix://", "unix://frugal:secret@")
            broker = RedisBroker(url, blocking_timeout=0.1)
            with running_server(broker) as running, Wire(running.url) as wire:
                assert wire.request(SUB, channel="c")["meta"]["type"] == ACK
                eventually(lambda: "announcing the server failed" in caplog.text)
                eventually(lambda: admin.exists(f"juggler:server:{{{running.server.server_id}}}"))
        finally:
            admin.execute_command("ACL", "DELUSER", "frugal")
    assert caplog.text.count("announcing the server failed") == 1
