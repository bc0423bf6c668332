"""Cancelled calls, from the client's CNCL to functions in greenlets, threads and processes, on real servers."""

from __future__ import annotations

import uuid

import pytest
import redis

from juggler.broker.redis import RedisBroker
from juggler.protocol.messages import MessageType
from tests.integration.test_callee_command import running
from tests.integration.test_juggler1 import Wire1, kind
from tests.stack import Wire, running_server
from tests.support import eventually

CALL, NACK, ACK, RES, CNCL = (MessageType(n) for n in (1, 7, 8, 9, 16))
NS = 1_000_000_000

TASKS = """
import os
import time

while os.path.exists("gate"):
    time.sleep(0.01)

from callee import Callee, Cancelled, cancelled, given_up, publish

rpc = Callee()


def note(path, text):
    with open(path, "a") as file:
        file.write(text + "\\n")


def until_cancelled(path):
    note(path, "started")
    until = time.monotonic() + 30
    while not cancelled():
        if time.monotonic() > until:
            return "never cancelled"
        time.sleep(0.01)
    note(path, "heard")
    assert given_up()
    return "heard"


def sleeping(path):
    note(path, "started")
    try:
        time.sleep(30)
    except Cancelled:
        note(path, "raised")
        raise
    return "slept"


def stubborn(path):
    note(path, "started")
    while True:
        try:
            time.sleep(30)
        except Cancelled:
            note(path, "caught")


def publishing(path):
    note(path, "started")
    while True:
        publish("ticks", 1)


def waiting_for_file(path):
    note(path, "started")
    while not os.path.exists(path + ".go"):
        time.sleep(0.01)
    return cancelled()


for pool in (None, "thread", "process"):
    rpc.register(f"inform.{pool}", until_cancelled, pool=pool)
    rpc.register(f"ignore.{pool}", waiting_for_file, pool=pool, cancel="ignore")
for pool in (None, "process"):
    rpc.register(f"raise.{pool}", sleeping, pool=pool, cancel="raise")
rpc.register("stubborn.process", stubborn, pool="process", cancel="raise")
rpc.register("publishing.process", publishing, pool="process", cancel="raise")
rpc.register("pid.process", os.getpid, pool="process")
rpc.register("quick", lambda: "done")
"""

POOLS = ("None", "thread", "process")


@pytest.fixture
def tasks(tmp_path, redis_url):
    (tmp_path / "tasks.py").write_text(TASKS)
    options = ("--redis", redis_url, "--pool-processes", "1", "--threads", "2")
    with running("tasks:rpc", *options, cwd=tmp_path) as process:
        assert process.said.startswith("serving"), process.stderr.read()
        yield process


class Notes:
    """What a function has noted in a file."""

    def __init__(self, path) -> None:
        self.path = path / f"notes-{uuid.uuid4()}"

    def wait(self, *expected: str) -> None:
        eventually(lambda: self.read() == [*expected], message=f"{expected}")

    def read(self) -> list[str]:
        return self.path.read_text().split() if self.path.exists() else []


@pytest.fixture
def notes(tmp_path):
    return Notes(tmp_path)


def start(wire: Wire, uri: str, notes: Notes, timeout: float = 60) -> str:
    """Make a call and wait until its function runs and its ACK has arrived."""
    call = wire.send(CALL, uri=uri, args=[str(notes.path)], timeout=int(timeout * NS))
    notes.wait("started")
    answer = wire.receive()
    assert (kind(answer), answer["payload"]["for"]) == (ACK, call)
    return call


def cancel(wire: Wire, call: str, wait: bool = False) -> None:
    assert kind(wire.request(CNCL, **{"for": call, "wait": wait})) == ACK


def error_of(wire: Wire) -> tuple:
    answer = wire.receive()
    assert (kind(answer), answer["payload"].get("failed")) == (RES, True)
    error = answer["payload"]["args"]["error"]
    return error["type"], error.get("code")


def nothing_more(wire: Wire) -> None:
    """Check that no further message has arrived: the answer to the next call is the next message."""
    uuid = wire.send(CALL, uri="quick", timeout=60 * NS)
    answer = wire.receive()
    while kind(answer) == ACK and answer["payload"]["for"] == uuid:
        answer = wire.receive()
    assert (answer["payload"]["for"], answer["payload"].get("args")) == (uuid, "done")


@pytest.fixture
def server(redis_url):
    with running_server(RedisBroker(redis_url)) as running:
        yield running


@pytest.mark.parametrize("pool", POOLS)
def test_a_function_hears_that_its_call_was_cancelled(tasks, server, notes, pool):
    with Wire1(server.url) as wire:
        call = start(wire, f"inform.{pool}", notes)
        cancel(wire, call, wait=True)
        notes.wait("started", "heard")
        answer = wire.receive()
        assert (kind(answer), answer["payload"]["args"]) == (RES, "heard")
        assert server.server.metrics.cancelled == 1


@pytest.mark.parametrize("pool", ["None", "process"])
def test_cancelled_is_raised_in_functions_that_ask_for_it(tasks, server, notes, pool):
    with Wire1(server.url) as wire:
        call = start(wire, f"raise.{pool}", notes)
        cancel(wire, call, wait=True)
        assert error_of(wire) == ("Cancelled", 499)
        assert notes.read() == ["started", "raised"]


@pytest.mark.parametrize("uri", ["inform.thread", "inform.process", "raise.process"])
def test_a_call_may_be_cancelled_while_its_process_starts(tasks, server, notes, tmp_path, redis_url, uri):
    gate = tmp_path / "gate"
    gate.touch()
    with Wire1(server.url) as wire, redis.Redis.from_url(redis_url) as client:
        call = wire.send(CALL, uri=uri, args=[str(notes.path)], timeout=60 * NS)
        assert kind(wire.receive()) == ACK
        eventually(lambda: not client.keys("juggler:calls:timeout:*"))
        cancel(wire, call, wait=True)
        eventually(lambda: client.keys("juggler:calls:cancelled:*") and not client.keys("juggler:control:*"))
        gate.unlink()
        assert error_of(wire) == ("Cancelled", 499)
        assert notes.read() == []
        start(wire, uri, notes)  # the process is not lost


def test_functions_of_a_callee_that_stops_hear_of_cancels(tasks, server, notes, redis_url):
    with Wire1(server.url) as wire, redis.Redis.from_url(redis_url) as client:
        call = start(wire, "inform.None", notes)
        tasks.terminate()
        eventually(lambda: not client.smembers("juggler:callees:{inform.None}"))
        cancel(wire, call, wait=True)
        assert result_of(wire) == "heard"


def test_a_pool_process_survives_a_function_that_ends_in_time(tasks, server, notes):
    with Wire1(server.url) as wire:
        wire.send(CALL, uri="pid.process", timeout=60 * NS)
        pid = result_of(wire)
        cancel(wire, start(wire, "raise.process", notes), wait=True)
        assert error_of(wire) == ("Cancelled", 499)
        wire.send(CALL, uri="pid.process", timeout=60 * NS)
        assert result_of(wire) == pid


def result_of(wire: Wire):
    answer = wire.receive()
    while kind(answer) == ACK:
        answer = wire.receive()
    assert kind(answer) == RES, answer
    return answer["payload"]["args"]


def test_a_pool_process_whose_function_goes_on_is_replaced(tasks, server, notes):
    with Wire1(server.url) as wire:
        cancel(wire, start(wire, "stubborn.process", notes), wait=True)
        assert error_of(wire) == ("Cancelled", 499)
        assert "caught" in notes.read()
        wire.send(CALL, uri="pid.process", timeout=60 * NS)
        assert isinstance(result_of(wire), int)


def test_a_cancel_does_not_harm_events_that_the_function_publishes(tasks, server, notes, tmp_path):
    with Wire1(server.url) as wire:
        for _ in range(20):
            each = Notes(tmp_path)
            cancel(wire, start(wire, "publishing.process", each), wait=True)
            assert error_of(wire) == ("Cancelled", 499)
        wire.send(CALL, uri="pid.process", timeout=60 * NS)
        assert isinstance(result_of(wire), int)


@pytest.mark.parametrize("pool", POOLS)
def test_functions_may_ignore_cancels(tasks, server, notes, pool):
    with Wire1(server.url) as wire:
        cancel(wire, start(wire, f"ignore.{pool}", notes), wait=True)
        notes.path.with_name(notes.path.name + ".go").touch()
        assert result_of(wire) is False


def test_without_wait_the_call_is_over_for_the_client(tasks, server, notes):
    with Wire1(server.url) as wire:
        call = start(wire, "inform.None", notes)
        cancel(wire, call)
        notes.wait("started", "heard")
        again = wire.request(CNCL, **{"for": call})
        assert (kind(again), again["payload"]["code"]) == (NACK, 404)
        nothing_more(wire)
        (connection,) = server.server.connections
        eventually(lambda: connection.calls_in_flight == 0)


def test_a_call_that_is_not_in_flight_cannot_be_cancelled(tasks, server):
    with Wire1(server.url) as wire, Wire1(server.url) as other:
        nothing_more(wire)
        unknown = str(uuid.uuid4())
        answer = wire.request(CNCL, **{"for": unknown, "wait": True})
        assert (kind(answer), answer["payload"]["code"]) == (NACK, 404)
        assert unknown in answer["payload"]["message"]
        nothing_more(other)


def test_a_client_cannot_cancel_the_call_of_another(tasks, server, notes):
    with Wire1(server.url) as wire, Wire1(server.url) as other:
        call = start(wire, "inform.None", notes)
        assert other.request(CNCL, **{"for": call})["payload"]["code"] == 404
        cancel(wire, call, wait=True)
        assert result_of(wire) == "heard"


def test_a_queued_call_that_is_cancelled_never_runs(server):
    with Wire1(server.url) as wire:
        call = wire.send(CALL, uri="nobody", timeout=60 * NS)
        assert kind(wire.receive()) == ACK
        cancel(wire, call, wait=True)
        assert error_of(wire) == ("Cancelled", 499)
        (connection,) = server.server.connections
        assert connection.calls_in_flight == 0


def test_a_cancelled_call_keeps_its_place_until_its_function_has_ended(tasks, redis_url, notes, tmp_path):
    with running_server(RedisBroker(redis_url), max_calls=1) as server, Wire1(server.url) as wire:
        cancel(wire, start(wire, "ignore.None", notes))
        refused = wire.request(CALL, uri="quick", timeout=60 * NS)
        assert (kind(refused), refused["payload"]["code"]) == (NACK, 429)
        notes.path.with_name(notes.path.name + ".go").touch()
        (connection,) = server.server.connections
        eventually(lambda: connection.calls_in_flight == 0)
        nothing_more(wire)


@pytest.mark.parametrize(
    ("client", "option", "is_cancelled"),
    [
        (Wire1, "juggler.1", True),
        (Wire, "juggler.1", False),
        (Wire, "always", True),
        (Wire1, "never", False),
    ],
)
def test_a_connection_that_closes_cancels_its_calls(tasks, redis_url, notes, client, option, is_cancelled):
    uri = "inform.None" if is_cancelled else "ignore.None"
    with running_server(RedisBroker(redis_url), cancel_on_close=option) as server:
        with client(server.url) as wire:
            start(wire, uri, notes)
        if is_cancelled:
            notes.wait("started", "heard")
        else:
            notes.path.with_name(notes.path.name + ".go").touch()
        eventually(lambda: server.broker.stats().dropped == 1)


def test_under_juggler_0_a_cancel_is_an_invalid_message(server):
    with Wire(server.url) as wire:
        wire.send(CNCL, **{"for": str(uuid.uuid4())})
        assert wire.closed()[0] == 4400
