"""Health check and readiness probe, and the reasons that they return."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path

import gevent
import redis as redis_client

from juggler.broker.redis import RedisBroker
from juggler.process.embedded import EmbeddedRedis, bundled_server, free_port
from juggler.protocol.messages import MessageType
from tests.integration.commands import running
from tests.stack import Wire, running_server
from tests.support import eventually


def probe(url: str, path: str) -> tuple[int, str]:
    """Return status and body of a path beside the websocket's."""
    address = url.replace("ws://", "http://").replace("/ws", path)
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_server_is_alive_and_ready():
    with running_server() as running:
        assert probe(running.url, "/healthz") == (200, "alive\n")
        assert probe(running.url, "/readyz") == (200, "ready\n")


def test_a_server_that_shuts_down_is_not_ready():
    with running_server() as running, Wire(running.url) as wire:
        wire.request(MessageType.CALL, uri="nobody", timeout=10**9)
        ending = gevent.spawn(running.server.shut_down, 5.0, 0.1)
        eventually(lambda: running.server.draining)
        assert probe(running.url, "/readyz") == (503, "the server is shutting down\n")
        assert probe(running.url, "/healthz") == (200, "alive\n")
        ending.join()


def test_a_server_without_redis_is_alive_but_not_ready():
    with running_server(RedisBroker(f"redis://127.0.0.1:{free_port()}")) as running:
        eventually(lambda: "no connection to Redis" in probe(running.url, "/readyz")[1])
        assert probe(running.url, "/readyz")[0] == 503
        assert probe(running.url, "/healthz")[0] == 200


def test_a_server_is_ready_again_when_all_its_subscriptions_are_confirmed():
    with EmbeddedRedis(bundled_server()) as redis:
        broker = RedisBroker(redis.url)
        with running_server(broker) as running, Wire(running.url) as wire:
            wire.request(MessageType.SUB, channel="c")
            eventually(lambda: probe(running.url, "/readyz") == (200, "ready\n"))
            connection = broker.pubsub.receiver.connection
            connector, connection.connector = connection.connector, refuse
            connection.drop("on purpose")
            assert probe(running.url, "/readyz") == (503, "1 of 1 subscriptions are not confirmed\n")
            connection.connector = connector
            eventually(lambda: probe(running.url, "/readyz") == (200, "ready\n"))


def test_the_command_answers_probes_while_it_waits_for_redis():
    redis_url = f"redis://127.0.0.1:{free_port()}"
    with running("server", "--bind", "127.0.0.1:0", "--redis", redis_url) as server:
        assert "retrying in" in server.stderr.readline()
        port = listening_port(server.pid)
        assert probe(f"ws://127.0.0.1:{port}/ws", "/healthz") == (200, "alive\n")
        assert probe(f"ws://127.0.0.1:{port}/ws", "/readyz")[0] == 503


def listening_port(pid: int) -> int:
    """Return the TCP port that a process listens on, which is not printed before it has connected to Redis."""
    inodes = {os.stat(file).st_ino for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_socket()}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_, inode = line.split()[:10]
        if state == "0A" and int(inode) in inodes:
            return int(local.rpartition(":")[2], 16)
    raise AssertionError("it does not listen")


def refuse():
    raise OSError("on purpose")


def test_without_a_connection_for_results_calls_are_refused_and_the_server_is_not_ready():
    with EmbeddedRedis(bundled_server()) as redis, redis_client.Redis.from_url(redis.url, protocol=2) as admin:
        broker = RedisBroker(redis.url)
        with running_server(broker) as running, Wire(running.url) as wire:

            def answer() -> int:
                return wire.request(MessageType.CALL, uri="nobody", timeout=10**9)["payload"].get("code", 200)

            assert answer() == 200
            eventually(lambda: broker.stats().links["results"])
            assert probe(running.url, "/readyz") == (200, "ready\n")
            clients = admin.client_list()
            # The latest one: the server has read commands since the client connected.
            reading = max(int(client["id"]) for client in clients if client["cmd"].startswith("blmpop"))
            admin.config_set("maxclients", len(clients) - 1)
            admin.client_kill_filter(_id=reading)

            eventually(lambda: probe(running.url, "/readyz")[0] == 503)
            assert "results" in probe(running.url, "/readyz")[1]
            eventually(lambda: answer() == 503)

            admin.config_set("maxclients", 1000)
            eventually(lambda: probe(running.url, "/readyz") == (200, "ready\n"))
            eventually(lambda: answer() == 200)
