"""A callee process that dies: its long calls and its streams end soon, and no others."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from contextlib import contextmanager

import pytest
import redis

from juggler.broker.redis import RedisBroker
from juggler.protocol.messages import MessageType
from tests.integration.test_callee_command import running
from tests.integration.test_cancel import NS
from tests.integration.test_juggler1 import Wire1, kind
from tests.redis_servers import mortal_redis
from tests.stack import Wire, running_server
from tests.support import eventually

CALL, ACK, RES, PART = (MessageType(n) for n in (1, 8, 9, 33))
POOLS = ("None", "thread", "process")
SOON = 7.0
"""Seconds after which a client knows, at most."""

FUNCTIONS = """
import os
import time

from callee import Callee

rpc = Callee()


def note(path):
    with open(path, "a") as file:
        file.write("x")


def wait(path, seconds=0):
    note(path)
    until = time.monotonic() + (seconds or 60)
    while time.monotonic() < until and not os.path.exists(path + ".go"):
        time.sleep(0.01)
    return "done"


def stream(path, seconds=0):
    yield "first"
    return wait(path, seconds)


for pool in (None, "thread", "process"):
    rpc.register(f"wait.{pool}", wait, pool=pool)
    rpc.register(f"stream.{pool}", stream, pool=pool)
rpc.register("quick", lambda: "quick")
"""


@pytest.fixture
def functions(tmp_path):
    (tmp_path / "functions.py").write_text(FUNCTIONS)

    @contextmanager
    def serve(url: str, *options: str):
        more = ("--redis", url, "--pool-processes", "1", "--threads", "2", *options)
        with running("functions:rpc", *more, cwd=tmp_path) as process:
            assert process.said.startswith("serving"), process.stderr.read()
            yield process

    return serve


@pytest.fixture
def path(tmp_path):
    return tmp_path / f"note-{uuid.uuid4()}"


def reports(url: str) -> int:
    """Return how many payloads were pushed: one for each call, one for each result and each report."""
    with redis.Redis.from_url(url, protocol=2) as client:
        return client.info("commandstats").get("cmdstat_lpush", {"calls": 0})["calls"]


def ask(wire: Wire, uri: str, args=None, **more) -> str:
    return wire.send(CALL, uri=uri, args=args, timeout=60 * NS, **more)


def result_of(wire: Wire, call: str):
    while True:
        message = wire.receive()
        if kind(message) == RES and message["payload"]["for"] == call:
            return message["payload"]


def error_type(result) -> str:
    assert result["failed"] is True
    return result["args"]["error"]["type"]


@pytest.mark.parametrize("subprotocol", [Wire, Wire1])
@pytest.mark.parametrize("pool", POOLS)
def test_a_long_call_fails_soon_after_its_callee_was_killed(functions, redis_url, path, pool, subprotocol):
    with (
        functions(redis_url) as callee,
        running_server(RedisBroker(redis_url)) as server,
        subprotocol(server.url) as wire,
    ):
        before = reports(redis_url)
        call = ask(wire, f"wait.{pool}", [str(path)])
        eventually(lambda: reports(redis_url) == before + 2, message="the call and its report")
        os.kill(callee.pid, signal.SIGKILL)
        killed = time.monotonic()
        assert error_type(result_of(wire, call)) == "CalleeGone"
        assert time.monotonic() - killed < SOON
        (connection,) = server.server.connections
        assert server.broker.in_flight(connection) == 0
        path.with_name(path.name + ".go").touch()


def test_calls_that_the_killed_callee_had_not_taken_wait_for_the_next_one(functions, redis_url, path):
    with running_server(RedisBroker(redis_url)) as server, Wire1(server.url) as wire:
        with functions(redis_url, "-c", "1") as callee:
            before = reports(redis_url)
            first = ask(wire, "wait.None", [str(path)])
            eventually(path.exists)
            second = ask(wire, "wait.None", [str(path), 0.1])
            eventually(lambda: reports(redis_url) == before + 3, message="both calls and a report")
            os.kill(callee.pid, signal.SIGKILL)
            callee.wait()
        with functions(redis_url, "-c", "1"):
            results = [result_of(wire, second), result_of(wire, first)]
        assert results[0]["args"] == "done"
        assert error_type(results[1]) == "CalleeGone"


def test_only_long_calls_of_our_servers_are_reported(functions, redis_url, path):
    conn, other = str(uuid.uuid4()), str(uuid.uuid4())
    of_go, ours = str(uuid.uuid4()), f"{uuid.uuid4().hex[:8]}-0000-8ca1-8001-0123456789ab"
    key = f"juggler:results:{{{conn}}}"
    with redis.Redis.from_url(redis_url, protocol=2) as client, functions(redis_url):
        for consumer, call, uri in ((conn, of_go, "wait.None"), (conn, ours, "wait.None"), (other, ours, "quick")):
            args = [str(path)] if uri != "quick" else None
            client.set(f"juggler:calls:timeout:{{{uri}}}:{call}", 60_000, px=60_000)
            payload = {"conn_uuid": consumer, "msg_uuid": call, "uri": uri, "args": args}
            client.lpush(f"juggler:calls:{{{uri}}}", json.dumps(payload))
        eventually(lambda: client.llen(key), message="a report")
        (report,) = map(json.loads, client.lrange(key, 0, -1))
        assert (report["msg_uuid"], report["more"], report["seq"]) == (ours, True, 0)
        assert client.exists(f"juggler:callee:{{{report['callee']}}}")
        path.with_name(path.name + ".go").touch()
        eventually(lambda: client.llen(key) == 3, message="both results")
        (result,) = map(json.loads, client.lrange(f"juggler:results:{{{other}}}", 0, -1))
        assert "more" not in result
        client.flushall()


KINDS = pytest.mark.parametrize("kind_of_call", ["wait", "stream"])
WINDOW = {"mode": "all", "window": 8}


def start(wire: Wire1, kind_of_call: str, path) -> str:
    """Start a call or a stream that ends when a file exists."""
    more = {"parts": WINDOW} if kind_of_call == "stream" else {}
    call = ask(wire, f"{kind_of_call}.None", [str(path)], **more)
    eventually(path.exists)
    return call


def ends_well(wire: Wire1, call: str, path) -> None:
    path.with_name(path.name + ".go").touch()
    result = result_of(wire, call)
    assert result["args"] == "done", result


def quiet_for(wire: Wire1, seconds: float) -> None:
    """Check that nothing but ACKs and parts arrives for so long."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        try:
            message = wire.receive(timeout=left)
        except TimeoutError:
            return
        assert kind(message) in (ACK, PART), message


@KINDS
def test_a_callee_that_is_stopped_for_four_seconds_has_not_gone(functions, redis_url, path, kind_of_call):
    with (
        functions(redis_url) as callee,
        running_server(RedisBroker(redis_url)) as server,
        Wire1(server.url) as wire,
    ):
        before = reports(redis_url)
        call = start(wire, kind_of_call, path)
        eventually(lambda: reports(redis_url) >= before + 2)
        for _ in range(2):
            os.kill(callee.pid, signal.SIGSTOP)
            try:
                quiet_for(wire, 4.0)
            finally:
                os.kill(callee.pid, signal.SIGCONT)
            quiet_for(wire, 1.5)
        ends_well(wire, call, path)


@KINDS
def test_an_emptied_redis_does_not_mean_that_callees_have_gone(functions, redis_url, path, kind_of_call):
    with (
        functions(redis_url),
        redis.Redis.from_url(redis_url, protocol=2) as client,
        running_server(RedisBroker(redis_url)) as server,
        Wire1(server.url) as wire,
    ):
        before = reports(redis_url)
        call = start(wire, kind_of_call, path)
        eventually(lambda: reports(redis_url) >= before + 2)
        until = time.monotonic() + 4
        while time.monotonic() < until:
            client.flushall()
            quiet_for(wire, 0.3)
        quiet_for(wire, 6.5)
        ends_well(wire, call, path)


@KINDS
@pytest.mark.parametrize("outage", [0.0, 3.0, 8.0])
def test_a_restarted_redis_does_not_mean_that_callees_have_gone(functions, tmp_path, path, kind_of_call, outage):
    with mortal_redis(tmp_path) as mortal:
        mortal.start()
        with (
            functions(mortal.url) as callee,
            running_server(RedisBroker(mortal.url)) as server,
            Wire1(server.url) as wire,
        ):
            before = reports(mortal.url)
            call = start(wire, kind_of_call, path)
            eventually(lambda: reports(mortal.url) >= before + 2)
            mortal.kill()
            quiet_for(wire, outage)
            mortal.start()
            quiet_for(wire, 7.0)
            if kind_of_call == "wait":
                # It is reported again, and noticed.
                os.kill(callee.pid, signal.SIGKILL)
                killed = time.monotonic()
                assert error_type(result_of(wire, call)) == "CalleeGone"
                assert time.monotonic() - killed < SOON
            else:
                ends_well(wire, call, path)
