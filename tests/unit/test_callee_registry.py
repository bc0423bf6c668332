"""Functions are bound to URIs at once, or refused at once."""

from __future__ import annotations

import types

import pytest

from callee import Callee
from juggler.errors import ConfigError


def double(value):
    """Return twice as much.

    For numbers and more.
    """
    return value * 2


def functions(rpc):
    return {uri: thunk.function for uri, thunk in rpc.items()}


def test_a_decorator_leaves_the_function_as_it_is():
    rpc = Callee()
    assert rpc.register("math.double")(double) is double
    assert functions(rpc) == {"math.double": double}


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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pool": "fibre"}, "x: pool: expected 'thread', 'process' or None, got 'fibre'"),
        ({"deadline": "ignore"}, "x: deadline: expected 'inform' or 'enforce', got 'ignore'"),
        ({"deadline": "enforce", "pool": "thread"}, "x: deadline='enforce' needs pool='process' or no pool"),
        ({"raw": True, "whole": True}, "x: expected raw or whole, got both"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Callee().register("x", double, **options)


class Account:
    limit = 3

    def balance(self):
        return self.limit

    def _secret(self):
        return 0


def test_the_methods_of_an_object_can_be_included():
    rpc = Callee()
    rpc.include(Account(), prefix="account.")
    assert list(rpc) == ["account.balance"]
    assert rpc["account.balance"](None) == 3


SHOP = """
from os.path import join

upper = str.upper

def price(name): return len(name)

def _hidden(): pass

class Item: pass
"""


@pytest.fixture
def module():
    module = types.ModuleType("shop")
    exec(SHOP, vars(module))
    return module


def test_the_functions_of_a_module_can_be_included(module):
    rpc = Callee()
    rpc.include(module, prefix="shop.")
    assert list(rpc) == ["shop.price"]
    assert rpc["shop.price"]("tea") == 3


def test_a_module_may_say_what_is_public(module):
    module.__all__ = ["_hidden", "join", "Item"]
    rpc = Callee()
    rpc.include(module)
    assert list(rpc) == ["_hidden", "join"]


def test_another_callee_can_be_included_with_its_options():
    other, rpc = Callee(), Callee()
    other.register("double", double, whole=True, pool="thread")
    rpc.include(other, prefix="math.")
    assert rpc["math.double"].pool == "thread"
    assert rpc["math.double"]([1]) == [1, 1]


def test_what_is_included_is_checked_before_any_of_it_is_bound(module):
    rpc = Callee()
    rpc.register("price", double)
    module.other = double
    module.other.__module__, kept = "shop", double.__module__
    with pytest.raises(ValueError, match="price: a function is registered already"):
        rpc.include(module)
    double.__module__ = kept
    assert list(rpc) == ["price"]
    with pytest.raises(ValueError, match="expected public functions, found none in"):
        rpc.include(object())


def test_a_function_that_cannot_be_called_is_found_out_by_a_check():
    rpc = Callee()
    rpc.register("x", lambda value: value)
    rpc.check()

    def odd(value: complex) -> None:
        pass

    rpc.register("odd", odd)
    with pytest.raises(ConfigError, match="odd: parameter value: JSON does not support the type complex"):
        rpc.check()


def test_what_is_announced_are_signature_and_docstring():
    rpc = Callee()
    rpc.register("math.double", double)
    said = rpc["math.double"].announcement(rate=1.5)
    assert (said.signature, said.doc, said.rate) == ("(value)", "Return twice as much.\n\nFor numbers and more.", 1.5)
    rpc.register("raw", double, raw=True)
    assert rpc["raw"].announcement().signature == "(raw)"
