"""Functions are bound to URIs at once, or refused at once."""

from __future__ import annotations

import pytest

from callee import Callee


def double(value):
    return value * 2


def test_a_decorator_leaves_the_function_as_it_is():
    rpc = Callee()
    assert rpc.register("math.double")(double) is double
    assert dict(rpc) == {"math.double": double}


def test_a_function_can_be_given():
    rpc = Callee()
    assert rpc.register("math.double", double) is double
    assert rpc["math.double"](21) == 42


def test_one_function_may_have_several_uris():
    rpc = Callee()
    rpc.register("a", rpc.register("b", double))
    assert list(rpc) == ["b", "a"]


def test_a_uri_twice_is_refused_at_once():
    rpc = Callee()
    rpc.register("math.double", double)
    with pytest.raises(ValueError, match=r"math\.double: a function is registered already"):
        rpc.register("math.double")
    late = rpc.register("late")
    rpc.register("late", double)
    with pytest.raises(ValueError, match="late: a function is registered already"):
        late(double)


@pytest.mark.parametrize("uri", ["", "}", "}x", "\ud800"])
def test_uris_that_no_broker_takes_are_refused(uri):
    with pytest.raises(ValueError, match="invalid URI"):
        Callee().register(uri)


async def coroutine(value):
    return value


@pytest.mark.parametrize("function", [coroutine, "double", 1])
def test_only_plain_functions_can_be_bound(function):
    with pytest.raises(TypeError, match="x: expected a plain function, got"):
        Callee().register("x", function)


def test_a_decorator_without_a_uri_says_what_is_missing():
    with pytest.raises(TypeError, match=r"expected a URI, as in @rpc.register\(\"greet\"\), got <function double"):
        Callee().register(double)
