"""Results in parts, from generators in greenlets, threads and processes to the client, on real servers."""

from __future__ import annotations

import json
import os
import signal
from itertools import count

import pytest

from juggler.broker.redis import RedisBroker
from juggler.protocol.messages import MessageType
from tests.integration.test_callee_command import running
from tests.integration.test_cancel import NS, Notes, cancel
from tests.integration.test_juggler1 import Wire1, kind
from tests.stack import Wire, running_server
from tests.support import eventually

CALL, NACK, ACK, RES, CNCL, CRDT, PART = (MessageType(n) for n in (1, 7, 8, 9, 16, 17, 33))
POOLS = ("None", "thread", "process")

STREAMS = """
import os
import time

from callee import Callee, progress

rpc = Callee()


def numbers(n, result="end"):
    for number in range(n):
        yield number
    return result


def failing(n):
    yield from range(n)
    raise ValueError("stop")


def endless(path, size=0):
    try:
        number = 0
        while True:
            yield number if not size else "x" * size
            number += 1
    finally:
        with open(path, "w") as file:
            file.write("closed")


def odd():
    yield 1
    yield object()


def paced(n, pause):
    for number in range(n):
        time.sleep(pause)
        yield number


def steps(n):
    for number in range(n):
        progress(number)
    time.sleep(0.3)
    return "done"


def not_asked():
    progress(1)
    return "done"


def pid():
    yield os.getpid()
    time.sleep(60)


for pool in (None, "thread", "process"):
    for function in (numbers, failing, endless, odd, paced, steps, not_asked, pid):
        rpc.register(f"{function.__name__}.{pool}", function, pool=pool)
rpc.register("held", numbers, coalesce=0.5)
"""


@pytest.fixture
def streams(tmp_path, redis_url):
    (tmp_path / "streams.py").write_text(STREAMS)
    options = ("--redis", redis_url, "--pool-processes", "1", "--threads", "2")
    with running("streams:rpc", *options, cwd=tmp_path) as process:
        assert process.said.startswith("serving"), process.stderr.read()
        yield process


@pytest.fixture
def server(redis_url):
    with running_server(RedisBroker(redis_url)) as running:
        yield running


def ask(wire: Wire, uri: str, args=None, *, mode: str = "all", window: int = 1024, timeout: float = 60) -> str:
    parts = {"mode": mode, "window": window}
    return wire.send(CALL, uri=uri, args=args, timeout=int(timeout * NS), parts=parts)


def read(wire: Wire, call: str, number: int | None = None, renew: int = 0):
    """Return the parts of a call and its RES, or the first ``number`` parts and None.

    With ``renew``, grant credit for so many further parts after each message.
    """
    parts: list = []
    while number is None or len(parts) < number:
        message = wire.receive()
        payload = message["payload"]
        if payload["for"] != call or kind(message) == ACK:
            continue
        if kind(message) == RES:
            return parts, payload
        assert kind(message) == PART, message
        assert payload["seq"] == len(parts) + 1
        parts += payload["parts"] if "parts" in payload else [payload["args"]]
        if renew:
            wire.send(CRDT, **{"for": call, "until": len(parts) + renew})
    return parts, None


@pytest.mark.parametrize("pool", POOLS)
def test_each_yield_is_a_part_and_the_return_value_the_result(streams, server, pool):
    with Wire1(server.url) as wire:
        parts, result = read(wire, ask(wire, f"numbers.{pool}", [500]))
        assert parts == list(range(500))
        assert result["args"] == "end"
        assert not result.get("failed")


@pytest.mark.parametrize("pool", POOLS)
def test_without_the_wish_for_parts_the_result_is_their_list(streams, server, pool):
    for client in (Wire1, Wire):
        with client(server.url) as wire:
            call = wire.send(CALL, uri=f"numbers.{pool}", args=[3], timeout=60 * NS)
            assert read(wire, call) == ([], {"for": call, "uri": f"numbers.{pool}", "args": [0, 1, 2]})


def test_a_list_of_parts_is_bounded(streams, server):
    with Wire1(server.url) as wire:
        call = wire.send(CALL, uri="numbers.None", args=[10_001], timeout=60 * NS)
        _, result = read(wire, call)
        assert result["failed"] is True


@pytest.mark.parametrize("pool", POOLS)
def test_an_error_follows_the_parts_before_it(streams, server, pool):
    with Wire1(server.url) as wire:
        parts, result = read(wire, ask(wire, f"failing.{pool}", [20]))
        assert parts == list(range(20))
        assert result["failed"] is True
        assert result["args"]["error"]["type"] == "Internal"
        parts, result = read(wire, ask(wire, f"odd.{pool}"))
        assert (parts, result["failed"]) == ([1], True)


@pytest.mark.leaves_keys("juggler:results:*")  # of a call that was cancelled just before the end
@pytest.mark.parametrize("pool", POOLS)
def test_no_part_is_sent_without_credit(streams, server, pool, tmp_path):
    notes = Notes(tmp_path)
    with Wire1(server.url) as wire:
        call = ask(wire, f"endless.{pool}", [str(notes.path)], window=5)
        assert read(wire, call, 5) == ([0, 1, 2, 3, 4], None)
        other = wire.send(CALL, uri="numbers.None", args=[1], timeout=60 * NS)
        assert read(wire, other)[1]["args"] == [0]  # nothing of the first call came before
        wire.send(CRDT, **{"for": call, "until": 8})
        wire.send(CRDT, **{"for": call, "until": 8})
        wire.send(CRDT, **{"for": call, "until": 2})
        more: list = []
        while len(more) < 3:
            payload = wire.receive()["payload"]
            more += payload.get("parts", [payload.get("args")])
        assert more == [5, 6, 7]
        cancel(wire, call, wait=True)
        _, result = read(wire, call)
        assert result["args"]["error"]["type"] == "Cancelled"
        notes.wait("closed")


@pytest.mark.leaves_keys("juggler:results:*")  # of a call that was cancelled just before the end
@pytest.mark.parametrize("pool", POOLS)
def test_a_cancel_closes_the_generator(streams, server, pool, tmp_path):
    notes = Notes(tmp_path)
    with Wire1(server.url) as wire:
        call = ask(wire, f"endless.{pool}", [str(notes.path)], window=50)
        for seen in count(1):
            message = wire.receive()
            if seen == 5:
                break
            if kind(message) == PART:
                wire.send(CRDT, **{"for": call, "until": message["payload"]["seq"] + 300})
        wire.send(CNCL, **{"for": call, "wait": False})
        notes.wait("closed")


@pytest.mark.leaves_keys("juggler:results:*")  # of a call that was cancelled just before the end
def test_a_client_that_leaves_closes_the_generator(streams, server, tmp_path):
    notes = Notes(tmp_path)
    with Wire1(server.url) as wire:
        read(wire, ask(wire, "endless.None", [str(notes.path)], window=5), 5)
    notes.wait("closed")
    eventually(lambda: server.broker.stats().dropped)


def test_credit_beyond_two_windows_is_cut(streams, server, tmp_path):
    notes = Notes(tmp_path)
    with Wire1(server.url) as wire:
        call = ask(wire, "endless.None", [str(notes.path)], window=4)
        assert len(read(wire, call, 4)[0]) == 4
        wire.send(CRDT, **{"for": call, "until": 10**9})
        arrived = 4
        while arrived < 12:
            payload = wire.receive()["payload"]
            arrived += len(payload.get("parts", [0]))
        assert arrived == 12
        other = wire.send(CALL, uri="numbers.None", args=[1], timeout=60 * NS)
        assert read(wire, other)[1]["args"] == [0]
        cancel(wire, call, wait=True)
        read(wire, call)


@pytest.mark.parametrize("pool", POOLS)
def test_only_the_latest_parts_are_kept_if_that_is_asked_for(streams, server, pool):
    with Wire1(server.url) as wire:
        call = ask(wire, f"numbers.{pool}", [5000], mode="latest", window=1)
        message = wire.receive()
        while kind(message) != PART:
            message = wire.receive()
        parts, result = read_any(wire, call)
        assert len(parts) == 0
        assert result["args"] == "end"


def read_any(wire: Wire, call: str):
    parts: list = []
    while True:
        message = wire.receive()
        if kind(message) == RES and message["payload"]["for"] == call:
            return parts, message["payload"]
        if kind(message) == PART:
            parts += message["payload"].get("parts", [message["payload"].get("args")])


@pytest.mark.parametrize("pool", POOLS)
def test_progress_is_sent_now_and_then(streams, server, pool):
    with Wire1(server.url) as wire:
        parts, result = read_any(wire, ask(wire, f"steps.{pool}", [2000]))
        assert result["args"] == "done"
        assert 1 <= len(parts) <= 10
        assert parts == sorted(parts)
        assert parts[-1] == 1999
        for client in (wire,):
            call = client.send(CALL, uri=f"not_asked.{pool}", timeout=60 * NS)
            assert read(client, call)[1]["args"] == "done"


def test_the_timeout_counts_from_part_to_part(streams, server):
    with Wire1(server.url) as wire:
        parts, result = read(wire, ask(wire, "paced.None", [8, 0.4], timeout=2))
        assert (parts, result["args"]) == (list(range(8)), None)


@pytest.mark.leaves_keys("juggler:results:*")  # of a call that was cancelled just before the end
def test_a_slow_reader_does_not_expire_while_it_holds_credit_back(streams, redis_url, tmp_path):
    notes = Notes(tmp_path)
    with running_server(RedisBroker(redis_url)) as server, Wire1(server.url) as wire:
        call = ask(wire, "endless.None", [str(notes.path)], window=2, timeout=3)
        assert read(wire, call, 2)[0] == [0, 1]
        (connection,) = server.server.connections
        (pending,) = connection.caller_broker.calls_of(connection)
        first = pending.deadline
        eventually(lambda: pending.deadline > first + 4)
        wire.send(CRDT, **{"for": call, "until": 3})
        payload = wire.receive()["payload"]
        assert (payload["seq"], payload["args"]) == (3, 2)
        cancel(wire, call, wait=True)
        read(wire, call)


@pytest.mark.leaves_keys("juggler:results:*")  # of a call that was cancelled just before the end
def test_a_stream_is_bounded_as_a_whole(streams, redis_url, tmp_path):
    notes = Notes(tmp_path)
    with running_server(RedisBroker(redis_url), max_stream_time=1.0) as server, Wire1(server.url) as wire:
        call = ask(wire, "endless.None", [str(notes.path)], window=8)
        _, result = read(wire, call, renew=8)
        assert result["args"]["error"]["type"] == "StreamTooLong"
        notes.wait("closed")


def test_a_part_over_the_write_limit_fails_its_call_alone(streams, redis_url, tmp_path):
    notes = Notes(tmp_path)
    with running_server(RedisBroker(redis_url), write_limit=10_000) as server, Wire1(server.url) as wire:
        call = ask(wire, "endless.None", [str(notes.path), 20_000])
        _, result = read(wire, call)
        assert (result["failed"], result["args"]["error"]["code"]) == (True, 413)
        notes.wait("closed")
        call = wire.send(CALL, uri="numbers.None", args=[1], timeout=60 * NS)
        assert read(wire, call)[1]["args"] == [0]


@pytest.mark.parametrize("pool", POOLS)
def test_a_client_learns_soon_that_the_callee_was_killed(streams, server, pool):
    with Wire1(server.url) as wire:
        call = ask(wire, f"pid.{pool}")
        (pid,), _ = read(wire, call, 1)
        os.kill(streams.pid if pool == "None" else pid, signal.SIGKILL)
        _, result = read(wire, call)
        assert result["failed"] is True
        expected = "CalleeGone" if pool == "None" else "ProcessDied"
        assert result["args"]["error"]["type"] == expected


def test_parts_are_joined_while_they_are_held(streams, server):
    with Wire1(server.url) as wire:
        call = ask(wire, "held", [30])
        messages = []
        while not messages or kind(messages[-1]) != RES:
            messages.append(wire.receive())
        parts = [m["payload"] for m in messages if kind(m) == PART]
        assert [len(part["parts"]) for part in parts] == [30]
        assert json.dumps(parts[0]["parts"]) == json.dumps(list(range(30)))
        assert parts[0]["for"] == call
