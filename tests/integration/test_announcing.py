"""The catalogue: callees announce functions, servers refuse unknown URIs, clients and commands list functions."""

from __future__ import annotations

import json
import re
import signal
import time
from contextlib import closing

import gevent
import pytest
import redis
from msgspec import Raw

from juggler.broker import Announcement
from juggler.broker.redis import RedisBroker
from juggler.process.logline import printable
from juggler.protocol.messages import MessageType
from tests.integration.commands import callee_process, run, server_process
from tests.integration.test_callee_command import end, running
from tests.load import Load
from tests.redis_servers import mortal_redis
from tests.stack import Wire, running_server, serving
from tests.support import eventually

CALL, NACK, ACK, RES = (MessageType(n) for n in (1, 7, 8, 9))
ADD = Announcement(signature="(a: int, b: int) -> int", doc="Add.")


@pytest.fixture
def broker(redis_url):
    """A broker on Redis whose commands can be counted, for a server."""
    broker = RedisBroker(redis_url, blocking_timeout=0.1)
    yield broker
    broker.close()


def exists_asked(redis_url):
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        return client.info("commandstats").get("cmdstat_exists", {}).get("calls", 0)


def call(wire, uri="math.add", timeout=5):
    """Call, and return the type of the first answer, and its payload."""
    wire.send(CALL, uri=uri, timeout=int(timeout * 1e9))
    answer = wire.receive()
    return MessageType(answer["meta"]["type"]), answer["payload"]


def test_a_uri_that_nobody_serves_is_refused_at_once():
    with running_server(unknown_uris="refuse") as running, Wire(running.url) as wire:
        assert call(wire)[0] == NACK
        assert call(wire)[1]["code"] == 404
        assert call(wire)[1]["message"] == "no callee serves 'math.add'"
        running.broker.announce("one", {"math.add": ADD}, 60)
        with serving(running.broker, ["math.add"], lambda call: b"3"):
            assert call(wire)[0] == ACK
            assert wire.receive()["payload"]["args"] == 3


def test_by_default_such_calls_wait_as_in_the_original():
    with running_server() as running, Wire(running.url) as wire:
        assert call(wire)[0] == ACK
        with serving(running.broker, ["math.add"], lambda call: b"3"):
            assert wire.receive()["payload"]["args"] == 3


def test_calls_to_a_served_uri_cost_no_round_trip(broker, redis_url):
    with (
        running_server(broker, unknown_uris="refuse") as running,
        serving(broker, ["math.add"], lambda call: b"3"),
        Wire(running.url) as wire,
    ):
        broker.announce("one", {"math.add": ADD}, 60)
        assert call(wire)[0] == ACK
        wire.receive()
        asked = exists_asked(redis_url)
        began = time.monotonic()
        for _ in range(200):
            assert call(wire)[0] == ACK
            wire.receive()
        # The server looks again once a second, whatever comes.
        assert exists_asked(redis_url) - asked <= 1 + (time.monotonic() - began)
        broker.withdraw("one", ["math.add"])


def test_what_is_served_no_more_is_refused_within_a_heartbeat():
    with running_server(unknown_uris="refuse") as running, Wire(running.url) as wire:
        running.broker.announce("one", {"math.add": ADD}, 0.2)
        assert call(wire)[0] == ACK
        eventually(lambda: call(wire)[0] == NACK, timeout=3)


def test_in_doubt_a_call_is_let_through(tmp_path):
    with mortal_redis(tmp_path) as server:
        server.start()
        broker = RedisBroker(server.url, blocking_timeout=0.1)
        with running_server(broker, unknown_uris="refuse") as running, Wire(running.url) as wire:
            assert call(wire)[1]["code"] == 404
            server.kill()
            eventually(lambda: call(wire)[1].get("code") == 503)
            server.start()
            # Redis is empty: its callees may not have come back yet.
            eventually(lambda: call(wire, timeout=0.1)[0] == ACK)
            eventually(lambda: call(wire, timeout=0.1)[1].get("code") == 404, timeout=8)


def test_an_emptied_redis_refuses_no_call_until_callees_have_announced_again(broker, redis_url):
    with running_server(broker, unknown_uris="refuse") as running, Wire(running.url) as wire:
        broker.announce("one", {"math.add": ADD, "math.sub": ADD}, 60)
        assert call(wire, "math.add", timeout=0.1)[0] == ACK
        with redis.Redis.from_url(redis_url, protocol=2) as client:
            client.flushall()
        emptied = time.monotonic()
        assert accepted(wire, "math.sub"), "one that the server has not asked for yet"
        # The server asks for those it knows once a second, and callees announce functions once a second.
        while time.monotonic() - emptied < 2:
            assert accepted(wire, "math.add")
        eventually(lambda: not accepted(wire, "math.add"))


def accepted(wire, uri):
    """Call with a short timeout and return whether the call was accepted; too many in flight are accepted as well."""
    type, payload = call(wire, uri, timeout=0.01)
    assert type == ACK or payload["code"] in (404, 429), payload
    return type == ACK or payload["code"] == 429


def test_the_list_can_be_called_like_any_function():
    with running_server(list_uri="juggler.uris") as running, Wire(running.url) as wire:
        running.broker.announce("one", {"math.add": ADD}, 60)
        assert call(wire, "juggler.uris")[0] == ACK
        assert wire.receive()["payload"]["args"] == [
            {
                "uri": "math.add",
                "signature": "(a: int, b: int) -> int",
                "doc": "Add.",
                "callees": 1,
                "rate": 0.0,
                "waiting": 0,
            }
        ]


def test_the_list_has_schemas(broker, redis_url):
    schema = {"args": {"anyOf": [{"type": "object", "properties": {"é": {}}}]}, "stream": True}
    with running_server(broker, list_uri="juggler.uris") as running, Wire(running.url) as wire:
        broker.announce("one", {"math.add": Announcement(schema=Raw(json.dumps(schema).encode()))}, 60)
        # A callee of an older version, and one that announces a schema that is not UTF-8.
        broker.announce("older", {"old.f": ADD}, 60)
        broker.announce("broken", {"broken.f": Announcement(schema=Raw(b'"\xff"'))}, 60)
        assert call(wire, "juggler.uris")[0] == ACK
        listed = {each["uri"]: each.get("schema") for each in wire.receive()["payload"]["args"]}
        assert listed == {"math.add": schema, "old.f": None}
        for callee_id, uri in (("one", "math.add"), ("older", "old.f"), ("broken", "broken.f")):
            broker.withdraw(callee_id, [uri])


def test_the_list_is_an_ordinary_uri_where_it_is_not_enabled():
    with (
        running_server() as running,
        serving(running.broker, ["juggler.uris"], lambda call: b'"mine"'),
        Wire(running.url) as wire,
    ):
        assert call(wire, "juggler.uris")[0] == ACK
        assert wire.receive()["payload"]["args"] == "mine"


def test_a_new_callee_removes_what_killed_callees_have_left(broker, redis_url):
    with redis.Redis.from_url(redis_url, protocol=2) as client, closing(RedisBroker(redis_url)) as killed:
        for number in range(5):
            killed.announce(f"killed{number}", {"math.add": ADD, "math.gone": ADD}, 0.1)

        def sets():
            broker.announce("new", {"math.add": ADD}, 0.2)
            return client.smembers("juggler:callees:{math.add}"), client.smembers("juggler:uris")

        eventually(lambda: sets() == ({b"new"}, {b"math.add"}))
        broker.withdraw("new", ["math.add"])


def test_a_withdrawn_uri_leaves_the_set_of_uris_unless_it_is_still_served(broker, redis_url):
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        broker.announce("one", {"math.add": ADD, "math.sub": ADD}, 60)
        broker.announce("two", {"math.add": ADD}, 60)
        broker.withdraw("one", ["math.add", "math.sub"])
        eventually(lambda: client.smembers("juggler:uris") == {b"math.add"})
        broker.withdraw("two", ["math.add"])
        eventually(lambda: not client.exists("juggler:uris"))


# With the commands


def test_a_killed_callee_is_forgotten_and_a_new_one_is_found_at_once(redis_url):
    with server_process(redis_url, "--unknown-uris", "refuse") as url, Wire(url) as wire:
        assert call(wire, "test.echo")[1]["code"] == 404
        with callee_process(redis_url) as callee:
            # It prints its line just before it announces its functions.
            eventually(lambda: call(wire, "test.echo")[0] == ACK)
            assert wire.receive()["meta"]["type"] == RES
            callee.kill()
            callee.wait()
            killed = time.monotonic()
            eventually(lambda: refused(wire))
            assert time.monotonic() - killed < 8
        with callee_process(redis_url):
            eventually(lambda: call(wire, "test.echo")[0] == ACK)
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        eventually(lambda: not client.keys("juggler:callees:*") and not client.exists("juggler:uris"))


def refused(wire):
    """Whether a short call is refused with 404; results of others may come in between."""
    uuid = wire.send(CALL, uri="test.echo", timeout=10**8)
    while True:
        answer = wire.receive()
        if answer["payload"]["for"] == uuid and answer["meta"]["type"] in (ACK, NACK):
            return answer["payload"].get("code") == 404


def test_a_rolling_restart_refuses_nothing(redis_url):
    with (
        running("callee.demo:rpc", "-p", "2", "--redis", redis_url) as process,
        server_process(redis_url, "--unknown-uris", "refuse") as url,
        Load(url) as load,
    ):
        load.flows()
        process.send_signal(signal.SIGHUP)
        line = ""
        while "new processes serve" not in line:
            line = process.stderr.readline()
        load.flows()
        counts = load.counts()
        assert end(process, signal.SIGTERM)[0] == 0
    assert (counts.refused, counts.expired) == (0, 0)


def test_uris_are_listed_for_people_and_programs(redis_url):
    with callee_process(redis_url):
        table = run("uris", "test.*", REDIS_URL=redis_url, COLUMNS="120")
        assert table.returncode == 0
        assert "test.reverse" in table.stdout
        assert "(text: str) -> str" in table.stdout
        done = run("uris", "--json", "test.r*", REDIS_URL=redis_url)
        (line,) = done.stdout.splitlines()
        function = json.loads(line)
        assert (function["uri"], function["callees"]) == ("test.reverse", 1)
        assert function["doc"] == "Return a string with its characters in reverse order."
    assert run("uris", "no.*", REDIS_URL=redis_url).stdout == "no registered functions match\n"


def test_schemas_are_printed_for_programs(redis_url):
    with callee_process(redis_url):
        done = run("uris", "--schema", "test.reverse", REDIS_URL=redis_url)
        schemas = json.loads(done.stdout)
        assert (done.returncode, done.stderr) == (0, "")
        assert schemas["test.reverse"] == {
            "args": {"description": "Return a string with its characters in reverse order.", "type": "string"},
            "whole": True,
            "result": {"type": "string"},
        }
        (line,) = run("uris", "--json", "test.reverse", REDIS_URL=redis_url).stdout.splitlines()
        assert json.loads(line)["schema"] == schemas["test.reverse"]
        for arguments, expected in [
            (("--schema", "test.no"), "juggler uris: no registered functions match test.no\n"),
            (("--schema", "--json"), "juggler uris: expected --json or --schema, got both\n"),
        ]:
            done = run("uris", *arguments, REDIS_URL=redis_url)
            assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


def test_types_are_written_from_redis_or_from_the_list_of_a_server(redis_url, tmp_path):
    output = tmp_path / "functions.d.ts"
    with callee_process(redis_url), server_process(redis_url, "--list-uri", "juggler.uris") as url:
        done = run("types", "-o", str(output), REDIS_URL=redis_url)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        types = output.read_text()
        assert '"test.reverse": {\n    args: string;\n    result: string;\n  };' in types
        listed = run("call", "juggler.uris", JUGGLER_URL=url).stdout
        assert run("types", "--from", "-", stdin=listed).stdout == types
        some = run("types", "test.r*", REDIS_URL=redis_url).stdout
        assert re.findall(r'^  "(.*?)"', some, re.MULTILINE) == ["test.reverse"]
        (tmp_path / "list.json").write_text(listed)
        assert run("types", "test.r*", "--from", str(tmp_path / "list.json")).stdout == some


@pytest.mark.parametrize(
    ("arguments", "stdin", "expected"),
    [
        (("--from", "-"), "[{]", "--from -: expected a catalogue of functions: not JSON at line 1, column 3: "),
        (("--from", "-"), '{"a": 1}', "--from -: expected a catalogue of functions: Expected array, got object"),
        (
            ("--from", "-"),
            '[{"uri": 1}]',
            "--from -: expected a catalogue of functions: Expected str, got int - at $[0].uri",
        ),
        (("--from", "-"), "[]", "no registered functions"),
        (("--from", "-", "x.*"), '[{"uri": "a"}]', "no registered functions match x.*"),
        (("--from", "/no/such"), "", "--from /no/such: expected a catalogue of functions: cannot read /no/such: "),
        (
            ("--from", "-", "-o", "/no/such/file"),
            '[{"uri": "a"}]',
            "cannot write /no/such/file: No such file or directory",
        ),
        (("--redis", "redis://127.0.0.1:1"), "", "cannot read from Redis at redis://127.0.0.1:1: "),
    ],
)
def test_what_types_cannot_use_is_one_line(arguments, stdin, expected):
    done = run("types", *arguments, stdin=stdin)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"juggler types: {expected}")


LONG_URI = "shop." + 30 * "long."


def test_uris_are_whole_and_text_is_no_markup(redis_url):
    broker = RedisBroker(redis_url)
    hostile = '(text: str = "[/bold]\x1b[2J\\x9b\\n", other=[red]) -> None'
    broker.announce("one", {LONG_URI: ADD, "shop.x": Announcement(hostile, "")}, 60)
    eventually(lambda: len(broker.functions()) == 2)
    done = run("uris", REDIS_URL=redis_url)
    assert (done.returncode, done.stderr) == (0, "")
    header, first, second = done.stdout.splitlines()
    assert header == "URI\tsignature\tcallees\tcalls/s\tqueued"
    assert first == f"{LONG_URI}\t{ADD.signature}\t1\t0.0\t0"
    assert second.startswith(f"shop.x\t{printable(hostile)}\t")
    broker.withdraw("one", [LONG_URI, "shop.x"])
    eventually(lambda: not broker.functions())
    broker.close()


def test_no_redis_is_said():
    done = run("uris", "--redis", "redis://127.0.0.1:1")
    assert done.returncode == 2
    assert done.stderr.startswith("juggler uris: cannot read from Redis at redis://127.0.0.1:1: ")
    assert done.stderr.count("\n") == 1


def test_a_rate_is_told(redis_url):
    with callee_process(redis_url), server_process(redis_url) as url, Wire(url) as wire:

        def rate():
            for _ in range(5):
                call(wire, "test.echo")
                wire.receive()
            lines = run("uris", "--json", "test.echo", REDIS_URL=redis_url).stdout.splitlines()
            return json.loads(lines[0])["rate"]

        eventually(lambda: rate() > 0)


def test_thousands_of_uris_are_announced_in_chunks(redis_url):
    with running("callee.demo:rpc", REDIS_URL=redis_url, JUGGLER_DEMO_DELAYS="2000") as process:
        broker = RedisBroker(redis_url)
        told = []

        def all_served():
            told.clear()
            broker.ask_served([f"test.delay.{number}" for number in (0, 999, 1999)], told.append)
            eventually(lambda: told)
            return all(told[0].values())

        eventually(all_served)
        gevent.sleep(0)
        broker.close()
        assert end(process, signal.SIGTERM)[0] == 0
