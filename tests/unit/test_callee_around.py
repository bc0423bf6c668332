"""Generators wrap calls as context managers do: in order, whatever the function does, and they yield once."""

from __future__ import annotations

import sys
import time
import traceback
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import gevent
import pytest

from juggler.broker import IncomingCall
from juggler.callee import Callee, CallError, DeadlineExceeded, answer, caller
from juggler.callee.failures import InvalidArguments, InvalidResult
from juggler.callee.pools.greenlets import GreenletRunner

number: ContextVar[int] = ContextVar("number")


def run(rpc, uri="f", args=b"null"):
    call = IncomingCall("conn", "msg", uri, args, time.monotonic() + 60, by=b'"ann"')
    return answer.run(rpc[uri], call).args


class Log(list):
    """What happened, in order."""

    def around(self, name):
        def generator():
            self.append(f"open {name}")
            try:
                yield
            except BaseException as error:
                self.append(f"{name}: {type(error).__name__}")
                raise
            finally:
                self.append(f"close {name}")

        return generator


def test_a_generator_runs_before_and_after_the_function():
    rpc, log = Callee(), Log()
    rpc.around(log.around("a"))
    rpc.register("f", lambda: log.append("run"))
    for _ in range(2):
        assert run(rpc) == b"null"
        assert log == ["open a", "run", "close a"]
        log.clear()


def test_several_nest_in_their_order_whenever_they_were_registered():
    rpc, log = Callee(), Log()
    rpc.around(log.around("a"))
    rpc.register("f", lambda: log.append("f"))
    rpc.around(log.around("b"))
    rpc.register("g", lambda: log.append("g"), raw=False)
    for uri in ("f", "g"):
        run(rpc, uri)
        assert log == ["open a", "open b", uri, "close b", "close a"]
        log.clear()


def test_an_included_callee_keeps_its_own_further_in():
    inner, outer, log = Callee(), Callee(), Log()
    inner.register("f", lambda: log.append("f"))
    inner.around(log.around("inner"))
    outer.around(log.around("a"))
    outer.include(inner)
    outer.around(log.around("b"))
    outer.register("own", lambda: log.append("own"))
    run(outer)
    assert log == ["open a", "open b", "open inner", "f", "close inner", "close b", "close a"]
    log.clear()
    run(outer, "own")
    assert log == ["open a", "open b", "own", "close b", "close a"]
    log.clear()
    run(inner)
    assert log == ["open inner", "f", "close inner"]


def test_raw_functions_and_those_in_pools_are_wrapped_too():
    rpc, log = Callee(), Log()
    rpc.around(log.around("a"))
    rpc.register("f", lambda call: log.append(call.uri), raw=True)
    rpc.register("g", lambda: log.append("g"), pool="process")
    run(rpc)
    answer.run(rpc["g"].in_place(), IncomingCall("conn", "msg", "g", b"null", time.monotonic() + 60))
    assert log == ["open a", "f", "close a", "open a", "g", "close a"]


def fail():
    raise ValueError("bad")


@pytest.mark.parametrize(
    ("function", "args", "error"),
    [
        (fail, b"null", ValueError),
        (lambda: 1, b"[1]", InvalidArguments),
        (lambda: object(), b"null", InvalidResult),
        (lambda: next(iter(())), b"null", StopIteration),
        (lambda: sys.exit(1), b"null", SystemExit),
    ],
    ids=["exception", "arguments", "result", "StopIteration", "SystemExit"],
)
def test_an_error_of_the_call_is_raised_at_each_yield(function, args, error):
    rpc, log = Callee(), Log()
    rpc.around(log.around("a"))
    rpc.around(log.around("b"))
    rpc.register("f", function)
    with pytest.raises(error):
        run(rpc, args=args)
    name = error.__name__
    assert log == ["open a", "open b", f"b: {name}", "close b", f"a: {name}", "close a"]


def test_the_traceback_begins_in_the_function():
    rpc, log = Callee(), Log()
    rpc.around(log.around("a"))
    rpc.around(log.around("b"))
    rpc.register("f", fail)
    with pytest.raises(ValueError, match="bad") as raised:
        run(rpc)
    raised.value.__traceback__ = raised.value.__traceback__.tb_next.tb_next
    shown = traceback.extract_tb(answer.without_library_frames(raised.value).__traceback__)
    assert [frame.name for frame in shown] == ["fail"]


def test_an_error_before_the_yield_is_that_of_the_call_and_the_function_does_not_run():
    rpc, log = Callee(), Log()
    rpc.around(log.around("a"))

    @rpc.around
    def locked():
        raise CallError("the shop is closed", code=503)
        yield

    rpc.around(log.around("c"))
    rpc.register("f", lambda: pytest.fail("must not run"))
    with pytest.raises(CallError, match="the shop is closed"):
        run(rpc)
    assert log == ["open a", "a: CallError", "close a"]


@pytest.mark.parametrize("function", [lambda: 1, fail], ids=["returns", "raises"])
def test_an_error_after_the_yield_is_that_of_the_call(function):
    rpc, log = Callee(), Log()
    rpc.around(log.around("a"))

    @rpc.around
    def commit():
        try:
            yield
        finally:
            raise OSError("disk full")

    rpc.register("f", function)
    with pytest.raises(OSError, match="disk full") as raised:
        run(rpc)
    assert isinstance(raised.value.__context__, ValueError if function is fail else type(None))
    assert log == ["open a", "a: OSError", "close a"]


def test_a_generator_may_catch_the_error():
    rpc, log = Callee(), Log()
    rpc.around(log.around("a"))

    @rpc.around
    def forgiving():
        try:
            yield
        except ValueError:
            log.append("caught")

    rpc.register("f", fail)
    assert run(rpc) == b"null"
    assert log == ["open a", "caught", "close a"]


def test_a_generator_may_replace_the_error():
    rpc = Callee()

    @rpc.around
    def translated():
        try:
            yield
        except ValueError as error:
            raise CallError(f"not possible: {error}", code=422) from error

    rpc.register("f", fail)
    with pytest.raises(CallError, match="not possible: bad"):
        run(rpc)


def never():
    return
    yield


@pytest.mark.parametrize("function", [lambda: 1, fail], ids=["returns", "raises"])
def test_a_generator_that_yields_more_than_once_is_an_error(function):
    rpc, log = Callee(), Log()
    rpc.around(log.around("a"))

    @rpc.around
    def twice():
        try:
            yield
        except ValueError:
            log.append("caught")
        try:
            yield
        finally:
            log.append("closed")

    rpc.register("f", function)
    with pytest.raises(RuntimeError, match=r"around: .*twice yielded more than once"):
        run(rpc)
    assert log[-3:] == ["closed", "a: RuntimeError", "close a"]


def test_a_generator_that_does_not_yield_is_an_error():
    rpc = Callee()
    rpc.around(never)
    rpc.register("f", lambda: pytest.fail("must not run"))
    with pytest.raises(RuntimeError, match="around: never did not yield"):
        run(rpc)


def test_generator_and_function_share_the_context_of_the_call_with_no_other():
    rpc, seen = Callee(), []

    @rpc.around
    def numbered():
        assert number.get(None) is None
        number.set(len(seen))
        yield
        seen.append((number.get(), caller().identity))

    @rpc.register("f")
    def double():
        number.set(2 * number.get() + 1)
        return number.get()

    assert [run(rpc), run(rpc)] == [b"1", b"3"]
    assert seen == [(1, "ann"), (3, "ann")]
    assert number.get(None) is None


def test_the_deadline_and_the_end_of_the_greenlet_are_raised_at_the_yield():
    rpc, log = Callee(), Log()
    rpc.around(log.around("a"))
    rpc.register("f", lambda: gevent.sleep(30), deadline="enforce")
    call = IncomingCall("conn", "msg", "f", b"null", time.monotonic() + 0.05)
    with pytest.raises(DeadlineExceeded):
        GreenletRunner().run(rpc["f"], call)
    assert log == ["open a", "a: DeadlineExceeded", "close a"]
    log.clear()
    greenlet = gevent.spawn(run, rpc)
    gevent.sleep(0)
    greenlet.kill()
    assert log == ["open a", "a: GreenletExit", "close a"]


def with_parameter(name):
    yield


async def asynchronous():
    yield


@contextmanager
def manager():
    yield


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (fail, "around: expected a generator function, got <function fail"),
        (manager, "around: expected a generator function, got <function manager"),
        (asynchronous, "around: expected a generator function, got <function asynchronous"),
        (never(), "around: expected a generator function, got <generator"),
        (None, "around: expected a generator function, got None"),
        (with_parameter, r"around: with_parameter: expected no parameters \(missing a required argument: 'name'\)"),
    ],
)
def test_what_cannot_wrap_calls_is_refused(function, expected):
    with pytest.raises(TypeError, match=expected):
        Callee().around(function)


def test_partials_and_methods_can_wrap_calls():
    class Database:
        def session(self):
            seen.append("session")
            yield

    rpc, seen = Callee(), []
    rpc.around(partial(with_parameter, "x"))
    assert rpc.around(Database().session)
    rpc.register("f", lambda: 1)
    assert run(rpc) == b"1"
    assert seen == ["session"]


def test_a_call_without_generators_passes_no_function_more():
    rpc = Callee()
    rpc.register("f", nothing)
    call = IncomingCall("conn", "msg", "f", b"null", time.monotonic() + 60)
    answer.run(rpc["f"], call)  # the first call inspects the function
    passed = []

    def on_call(frame, event, arg):
        if event == "call":
            passed.append(frame.f_code.co_name)

    sys.setprofile(on_call)
    try:
        answer.run(rpc["f"], call)
    finally:
        sys.setprofile(None)
    assert passed[1:8] == ["run", "_run", "run", "decode_args", "_call", "nothing", "encode_args"]
    assert "surround" not in passed


def nothing():
    pass
