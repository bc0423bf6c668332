"""The test kit calls functions as a client would."""

from __future__ import annotations

import time

import gevent
import pytest

import callee
from callee import Call, Callee, CallError, DeadlineExceeded, given_up, publish, time_left
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


@rpc.register("who")
def who(caller: callee.Caller, more: int = 0) -> object:
    return [caller.identity, caller.known, callee.caller() == caller, more]


@rpc.register("raw", raw=True)
def raw(call: Call) -> object:
    return call.caller.identity


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


@pytest.mark.parametrize("identity", ["ann", {"sub": "ann", "roles": ["admin"]}, 7, 0, ""])
def test_functions_receive_the_identity_of_the_caller(identity):
    caller = Caller(rpc, caller=identity)
    assert caller.call("who") == [identity, True, True, 0]
    assert caller.call("who", {"more": 1}) == [identity, True, True, 1]
    assert caller.call("raw") == identity
    with pytest.raises(CallFailed, match="caller: unknown parameter"):
        caller.call("who", {"caller": "mallory"})


def test_without_an_identity_the_caller_is_unknown():
    assert Caller(rpc).call("who") == [None, False, True, 0]
    assert Caller(rpc).call("raw") is None


def test_an_identity_must_be_json():
    with pytest.raises(InvalidValue, match="object cannot be sent as JSON"):
        Caller(rpc, caller=object())


def test_generators_wrap_calls():
    seen = []
    wrapped = Callee()
    wrapped.include(rpc)

    @wrapped.around
    def around():
        seen.append(callee.caller().identity)
        yield
        seen.append("done")

    caller = Caller(wrapped, caller="ann")
    assert caller.call("add", [1, 2]) == 3
    assert seen == ["ann", "done"]
    with pytest.raises(CallFailed, match="secret"):
        caller.call("fail", "")
    assert seen == ["ann", "done", "ann"]
