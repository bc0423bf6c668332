"""The test kit calls functions as a client would."""

from __future__ import annotations

import time

import gevent
import pytest

from callee import Callee, CallError, DeadlineExceeded, given_up, publish, time_left
from juggler.callee.testing import Caller, Published
from juggler.errors import CallFailed, Expired, InvalidValue, Nacked

rpc = Callee()


@rpc.register("add")
def add(a: int, b: int) -> int:
    return a + b


@rpc.register("fail")
def fail(message: str) -> None:
    raise CallError(message, code="no") if message else ValueError("secret")


@rpc.register("news")
def news(text: str) -> None:
    publish("news", {"text": text})


@rpc.register("look")
def look() -> list[object]:
    return [time_left() > 1, given_up()]


@rpc.register("wait", deadline="enforce")
def wait(seconds: float) -> None:
    try:
        gevent.sleep(seconds)
    except DeadlineExceeded:
        ended.append("in time")
        raise


@rpc.register("never", deadline="inform")
def never(seconds: float) -> str:
    gevent.sleep(seconds)
    return "late"


ended: list[str] = []


def test_arguments_and_results_travel():
    caller = Caller(rpc)
    assert caller.call("add", [1, 2]) == caller.call("add", {"a": 1, "b": 2}) == 3
    assert caller.call("look", timeout=5) == [True, False]


def test_errors_are_those_of_a_client():
    caller = Caller(rpc)
    with pytest.raises(CallFailed, match="a: Expected int, got str") as failed:
        caller.call("add", ["1", 2])
    assert (failed.value.type, failed.value.code) == ("InvalidArguments", 400)
    with pytest.raises(CallFailed, match="sorry") as failed:
        caller.call("fail", "sorry")
    assert failed.value.code == "no"
    with pytest.raises(CallFailed, match="secret") as failed:
        caller.call("fail", "")
    assert isinstance(failed.value.__cause__, ValueError)
    with pytest.raises(CallFailed, match="internal error"):
        Caller(rpc, mask_errors=True).call("fail", "")
    with pytest.raises(Nacked, match="404 no function is registered for nothing"):
        caller.call("nothing")
    with pytest.raises(InvalidValue):
        caller.call("add", b"1")


def test_time_is_kept():
    ended.clear()
    began = time.monotonic()
    with pytest.raises(Expired, match=r"no result of wait within 0.02 s"):
        Caller(rpc).call("wait", 30, timeout=0.02)
    assert ended == ["in time"]
    assert time.monotonic() - began < 5
    with pytest.raises(Expired):
        Caller(rpc).call("never", 0.03, timeout=0.01)
    with pytest.raises(CallFailed, match=r"the function exceeded its time limit of 0.01 s"):
        Caller(rpc, time_limit=0.01).call("never", 30)


def test_what_is_published_is_kept():
    caller = Caller(rpc)
    caller.call("news", "hello")
    assert caller.published == [Published("news", {"text": "hello"})]
