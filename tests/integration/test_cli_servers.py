"""The commands that look at and control all servers: ``juggler connections``, ``kick`` and ``top``."""

from __future__ import annotations

import json
import os
import signal

import pytest

from juggler.backend import Backend
from juggler.broker import Announcement, Registered
from juggler.broker.overview import BusyCallee, BusyUri, busiest, busiest_callees
from juggler.cli.tables import age
from juggler.client import Client
from juggler.protocol.messages import MessageType
from juggler.protocol.server_status import Rate, ServerStatus
from tests.integration.commands import callee_process, run, running
from tests.integration.test_servers_outside import client, server, wait_for_servers
from tests.stack import Wire
from tests.support import eventually

SUB, ACK = MessageType.SUB, MessageType.ACK


@pytest.fixture
def served(redis_url, tmp_path):
    """A server whose clients state their identity, and the variables for commands."""
    with server(tmp_path, redis_url) as process, Backend(redis_url) as backend:
        wait_for_servers(backend, 1)
        yield process


def test_connections_are_listed_for_people_and_programs(served, redis_url):
    hostile = {"sub": "ann [bold]\x1b[2J"}
    with client(served.url, hostile) as wire, Wire(served.url):
        assert wire.request(SUB, channel="c")["meta"]["type"] == ACK
        done = run("connections", REDIS_URL=redis_url)
        assert (done.returncode, done.stderr) == (0, "2 connections on 1 servers\n")
        header, first, second = done.stdout.splitlines()
        assert header == "connection\tidentity\taddress\tage\tsubprotocol\tcalls\tsubscriptions"
        assert first.split("\t")[1:3] == [r'{"sub":"ann [bold]\u001b[2J"}', "127.0.0.1"]
        assert first.split("\t")[4:] == ["juggler.0", "0", "1"]
        assert second.split("\t")[1] == ""
        done = run("connections", "--json", "--identity", json.dumps(hostile), "--redis", redis_url)
        (line,) = done.stdout.splitlines()
        found = json.loads(line)
        assert (found["identity"], found["subscriptions"]) == (hostile, 1)
        done = run("connections", "--connection", found["id"], "--limit", "0", REDIS_URL=redis_url)
        assert (done.stdout, done.stderr) == ("", "1 connections on 1 servers\n")


def test_a_user_is_kicked(served, redis_url):
    with client(served.url, "ann") as ann, client(served.url, "bob") as bob:
        for wire in (ann, bob):
            wire.request(SUB, channel="c")
        done = run("kick", "--identity", '"ann"', "--channel", "c", REDIS_URL=redis_url)
        assert done.stdout == "1 connections unsubscribed, 1 of 1 servers have answered\n"
        done = run("kick", "--identity", '"ann"', "--reason", "logged out", REDIS_URL=redis_url)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "1 connections closed, 1 of 1 servers have answered\n"
        assert ann.closed() == (4410, "logged out")
        done = run("kick", "--identity", '"nobody"', REDIS_URL=redis_url)
        assert (done.returncode, done.stdout) == (0, "0 connections closed, 1 of 1 servers have answered\n")
        with Backend(redis_url) as backend:
            (left,) = backend.connections().listed
        assert run("kick", "--connection", left.id, "--code", "4411", REDIS_URL=redis_url).returncode == 0
        assert bob.closed()[0] == 4411


@pytest.mark.parametrize("command", [("connections",), ("kick", "--identity", "1")])
def test_a_server_that_does_not_answer_is_an_error(served, redis_url, command):
    def failed():
        # On a busy machine, the server may count as gone before the command asks.
        with Backend(redis_url) as backend:
            wait_for_servers(backend, 1)
        os.kill(served.pid, signal.SIGSTOP)
        try:
            done = run(*command, "--timeout", "0.3", REDIS_URL=redis_url)
        finally:
            os.kill(served.pid, signal.SIGCONT)
        return done if done.returncode else None

    done = eventually(failed, timeout=60)
    assert done.returncode == 4
    expected = f"juggler {command[0]}: 1 of 1 servers have not executed it within 0.3 s"
    assert done.stderr.splitlines()[-1] == expected


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("kick",), "expected either --identity or --connection"),
        (("kick", "--identity", "1", "--connection", "x"), "expected either --identity or --connection"),
        (("kick", "--identity", "ann"), "not JSON at line 1, column 1"),
        (("kick", "--identity", "null"), "null is the identity of no connection"),
        (("kick", "--connection", "x"), "juggler kick: connection: expected the identifier of a connection, a UUID"),
        (("kick", "--identity", "1", "--code", "1000"), "1000 is not in the range 4000<=x<=4999"),
        (("kick", "--identity", "1", "--channel", "c", "--pattern", "p"), "expected either --channel or --pattern"),
        (("kick", "--identity", "1", "--channel", "c", "--code", "4410"), "--code is for disconnecting"),
        (("kick", "--identity", "1", "--reason", "x" * 124), "reason: expected text of at most 123 bytes"),
        (("connections", "--limit", "1001"), "1001 is not in the range 0<=x<=1000"),
        (("connections", "--timeout", "0"), "0.0 is not in the range"),
        (("top", "--interval", "0"), "0.0 is not in the range"),
        (("connections", "--redis", "http://x"), "juggler connections: "),
        (("connections", "--redis", "redis://127.0.0.1:1"), "cannot read from Redis at redis://127.0.0.1:1: "),
        (
            ("kick", "--identity", "1", "--redis", "redis://127.0.0.1:1"),
            "cannot read from Redis at redis://127.0.0.1:1",
        ),
        (("top", "--once", "--redis", "redis://127.0.0.1:1"), "cannot read from Redis at redis://127.0.0.1:1: "),
    ],
)
def test_errors_name_what_is_wrong(arguments, reason):
    done = run(*arguments)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_the_fleet_is_shown(served, redis_url):
    with (
        callee_process(redis_url) as callee,
        Client(f"{served.url}?who=1") as user,
        user.subscribe("hot") as hot,
        Backend(redis_url) as backend,
    ):

        def shown() -> dict:
            user.call("test.reverse", "abc")
            user.publish("hot", 1)
            hot.get(5)
            done = run("top", "--once", "--json", REDIS_URL=redis_url)
            assert (done.returncode, done.stderr) == (0, "")
            found = json.loads(done.stdout)
            return found if found["channels"] and found["uris"][0]["rate"] else {}

        found = eventually(shown, timeout=60)
        (status,) = found["servers"]
        assert (status["pid"], status["connections"], status["draining"]) == (served.pid, 1, False)
        assert found["channels"][0]["name"] == "hot"
        assert found["uris"][0]["uri"] == "test.reverse"
        assert found["uris"][0]["callees"] == 1
        (busy,) = found["callees"]
        assert busy["process"].endswith(f":{callee.pid}")
        assert busy["uris"] > 1
        (pid,) = {each.pid for each in backend.servers()}
        done = run("top", "--once", REDIS_URL=redis_url)
        lines = done.stdout.splitlines()
        assert lines[0].split("\t") == [
            "server",
            "up",
            "connections",
            "in flight",
            "calls/s",
            "events/s",
            "lag ms",
            "state",
        ]
        assert lines[1].split("\t")[0].endswith(f":{pid}")
        assert [line.split("\t")[0] for line in lines if line.startswith(("callee\t", "URI\t", "channel\t"))] == [
            "callee",
            "URI",
            "channel",
        ]


def test_the_fleet_is_shown_again_and_again_until_ctrl_c(redis_url):
    with running("top", "--json", "--interval", "0.1", REDIS_URL=redis_url) as process:
        for _ in range(3):
            assert json.loads(process.stdout.readline()) == {
                "servers": [],
                "callees": [],
                "uris": [],
                "channels": [],
            }
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_the_busiest_uris_come_first():
    servers = [
        ServerStatus("a", uris=[Rate("f", 2.0), Rate("unannounced", 5.0)]),
        ServerStatus("b", uris=[Rate("f", 3.0)]),
    ]
    registered = [
        Registered("f", 0, {"a": Announcement(rate=3.0, process="h:1"), "b": Announcement(rate=1.0)}),
        Registered("idle", 7, {"a": Announcement(process="h:1")}),
        Registered("idler", 0, {"c": Announcement()}),
    ]
    assert busiest(servers, registered) == [
        BusyUri("f", 5.0, 2, 0),
        BusyUri("unannounced", 5.0, 0, 0),
        BusyUri("idle", 0.0, 1, 7),
        BusyUri("idler", 0.0, 1, 0),
    ]
    assert busiest_callees(registered) == [
        BusyCallee("h:1", 2, 3.0),
        BusyCallee("b", 1, 1.0),
        BusyCallee("c", 1, 0.0),
    ]


@pytest.mark.parametrize(("seconds", "shown"), [(-1, "0s"), (59.9, "59s"), (60, "1m"), (7200, "2h"), (86400 * 9, "9d")])
def test_ages(seconds, shown):
    assert age(seconds) == shown
