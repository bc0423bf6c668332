"""The test kit reads results in parts and cancels calls, without a server."""

from __future__ import annotations

import subprocess
import sys
import time

import gevent
import pytest

import callee
from callee import Callee, CallError, cancelled, given_up, progress, time_left
from juggler.callee.testing import Caller, Stream
from juggler.errors import CallFailed, Expired, InvalidValue, Nacked
from juggler.errors import Cancelled as ClientCancelled

rpc = Callee()
seen: list[object] = []


@pytest.fixture(autouse=True)
def nothing_seen():
    seen.clear()


@rpc.register("numbers")
def numbers(n: int):
    try:
        for number in range(n):
            seen.append(number)
            yield number
        return {"n": n}
    finally:
        seen.append("closed")


@rpc.register("numbers.raise", cancel="raise")
def numbers_raise(n: int):
    yield from numbers(n)


@rpc.register("numbers.ignore", cancel="ignore")
def numbers_ignore(n: int):
    return (yield from numbers(n))


@rpc.register("failing")
def failing():
    yield 1
    raise CallError("no more", code="empty")


@rpc.register("rows")
def rows(n: int) -> str:
    for row in range(n):
        progress({"row": row})
    return "imported"


@rpc.register("slow")
def slow(seconds: float):
    yield "first"
    gevent.sleep(seconds)
    yield "second"


@rpc.register("left")
def left():
    yield time_left()
    yield time_left()


@rpc.register("who")
def who():
    yield callee.caller().identity


@rpc.register("bytes")
def bytes_():
    yield 1
    yield b"1"


def until_cancelled() -> list[object]:
    until = time.monotonic() + 10
    while not cancelled():
        if time.monotonic() > until:
            return ["never"]
        time.sleep(0.001)  # blocks gevent, too, unless it is monkey-patched
    return ["cancelled", given_up()]


def sleeping() -> str:
    try:
        gevent.sleep(30)
    except callee.Cancelled:
        seen.append("raised")
        raise
    return "slept"


def napping() -> object:
    gevent.sleep(0.05)
    return [cancelled(), given_up()]


rpc.register("until", until_cancelled)
rpc.register("until.thread", until_cancelled, pool="thread")
rpc.register("sleeping", sleeping, cancel="raise")
rpc.register("napping", napping, cancel="ignore")


def test_parts_and_the_result():
    caller = Caller(rpc)
    for n in (0, 1, 5000):
        with caller.stream("numbers", n) as stream:
            assert isinstance(stream, Stream)
            assert list(stream) == list(range(n))
            assert stream.result() == stream.result() == {"n": n}
            assert (stream.uri, next(stream, "end")) == ("numbers", "end")
        assert stream.result() == {"n": n}
    assert caller.stream("numbers", 3).result() == {"n": 3}
    assert caller.call("numbers", 3) == [0, 1, 2]


def test_a_function_is_never_ahead_of_its_reader():
    stream = Caller(rpc).stream("numbers", 3)
    assert seen == []
    for number in range(3):
        assert next(stream) == number
        gevent.sleep(0)
        assert seen == list(range(number + 1))
    assert stream.result() == {"n": 3}


def test_an_error_follows_the_parts_before_it():
    stream = Caller(rpc).stream("failing")
    assert next(stream) == 1
    for _ in range(2):
        with pytest.raises(CallFailed, match="no more") as failed:
            next(stream)
        assert (failed.value.code, type(failed.value.__cause__)) == ("empty", CallError)
    with pytest.raises(CallFailed, match="no more"):
        stream.result()
    with pytest.raises(CallFailed, match="n: Expected int, got str"):
        list(Caller(rpc).stream("numbers", "3"))
    stream = Caller(rpc).stream("bytes")
    with pytest.raises(CallFailed, match="a part of the function's result cannot be encoded as JSON"):
        list(stream)


def test_what_cannot_be_called():
    with pytest.raises(Nacked, match="404 no function is registered for nothing"):
        Caller(rpc).stream("nothing")
    with pytest.raises(InvalidValue):
        Caller(rpc).stream("numbers", b"1")


def test_progress_is_a_part():
    caller = Caller(rpc)
    with caller.stream("rows", 3) as stream:
        assert list(stream) == [{"row": 0}, {"row": 1}, {"row": 2}]
        assert stream.result() == "imported"
    assert caller.call("rows", 3) == "imported"


def test_streams_have_an_identity():
    assert list(Caller(rpc, caller="ann").stream("who")) == ["ann"]


def test_the_timeout_counts_from_part_to_part():
    caller = Caller(rpc)
    with caller.stream("slow", 0.05, timeout=10) as stream:
        assert list(stream) == ["first", "second"]
    stream = caller.stream("slow", 30, timeout=0.2)
    assert next(stream) == "first"
    for _ in range(2):
        with pytest.raises(Expired, match=r"no result of slow within 0.2 s"):
            next(stream)
    with pytest.raises(Expired):
        stream.result()
    stream.close()

    with caller.stream("left", timeout=5) as stream:
        assert 4 < next(stream) <= 5
    with caller.stream("left", timeout=0.2) as stream:
        assert next(stream) > 0
        until = time.monotonic() + 0.25
        while time.monotonic() < until:
            gevent.sleep(0.01)
        assert 0 < next(stream) <= 0.2
        assert stream.result() is None


@pytest.mark.parametrize("uri", ["numbers", "numbers.raise"])
def test_leaving_the_loop_closes_the_generator(uri):
    with Caller(rpc).stream(uri, 10**9) as stream:
        for number in stream:
            if number == 2:
                break
    assert seen == [0, 1, 2, "closed"]
    for read in (stream.result, lambda: next(stream)):
        with pytest.raises(ClientCancelled, match=f"the call of {uri} was cancelled"):
            read()
    stream.close()


def test_a_function_that_ignores_cancels_completes():
    with Caller(rpc).stream("numbers.ignore", 5) as stream:
        assert next(stream) == 0
    assert seen == [0, 1, 2, 3, 4, "closed"]


def test_a_stream_that_was_closed_before_it_was_read_never_runs():
    with Caller(rpc).stream("numbers", 3):
        pass
    assert seen == []


@pytest.mark.parametrize("uri", ["until", "until.thread"])
def test_a_function_is_informed_of_a_cancel(uri):
    assert Caller(rpc).call(uri, cancel_after=0.02) == ["cancelled", True]


def test_a_cancel_is_raised():
    with pytest.raises(CallFailed) as failed:
        Caller(rpc).call("sleeping", cancel_after=0.02)
    assert (failed.value.type, failed.value.code) == ("Cancelled", 499)
    assert isinstance(failed.value.__cause__, callee.Cancelled)
    assert seen == ["raised"]


def test_a_cancel_is_ignored():
    for after in (0, 0.01, 5):
        assert Caller(rpc).call("napping", cancel_after=after) == [False, False]


@pytest.mark.parametrize("uri", ["until", "sleeping"])
def test_a_call_that_was_cancelled_before_never_runs(uri):
    with pytest.raises(CallFailed) as failed:
        Caller(rpc).call(uri, cancel_after=0)
    assert (failed.value.type, failed.value.code, seen) == ("Cancelled", 499, [])


def test_a_cancel_closes_the_generator_of_a_caller_without_parts():
    with pytest.raises(CallFailed) as failed:
        Caller(rpc).call("numbers", 10**9, cancel_after=0.001)
    # Either the cancel or the maximum number of parts ends it first.
    assert failed.value.type in ("Cancelled", "InvalidResult")
    assert seen[-1] == "closed"


def test_a_cancel_after_the_end_does_nothing():
    assert Caller(rpc).call("numbers", 2, cancel_after=60) == [0, 1]


PATCHED = """
from gevent import monkey

monkey.patch_all()

import time

from callee import Callee, cancelled
from juggler.callee.testing import Caller
from juggler.errors import CallFailed

rpc = Callee()


def inform():
    while not cancelled():
        time.sleep(0.01)
    return "heard"


def compute():
    while not cancelled():
        pass
    return "noticed"


def endless():
    while True:
        yield 1
        time.sleep(0.001)


rpc.register("inform", inform)
rpc.register("compute", compute)
rpc.register("raise", lambda: time.sleep(30), cancel="raise")
rpc.register("endless", endless)
caller = Caller(rpc)
print(caller.call("inform", cancel_after=0.05))
print(caller.call("compute", cancel_after=0.05))
try:
    caller.call("raise", cancel_after=0.05)
except CallFailed as error:
    print(error.code)
with caller.stream("endless") as stream:
    print(next(stream), next(stream))
"""


def test_it_works_with_monkey_patching():
    done = subprocess.run([sys.executable, "-c", PATCHED], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "heard\nnoticed\n499\n1 1\n", "")
