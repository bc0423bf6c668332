"""Arguments are validated and converted, or the caller receives what was expected."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pytest

from juggler.broker import Caller, IncomingCall
from juggler.callee import caller
from juggler.callee.binding import Binding
from juggler.callee.current import running
from juggler.callee.failures import InvalidArguments


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Item:
    name: str
    prices: list[int]
    note: str = ""


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Options(TypedDict):
    deep: bool


def call(function: Callable[..., Any], value: Any = None, **options: Any) -> Any:
    return Binding("f", function, **options).call(value)


def refusal(function: Callable[..., Any], value: Any, **options: Any) -> str:
    with pytest.raises(InvalidArguments) as refused:
        call(function, value, **options)
    assert refused.value.code == 400
    return str(refused.value)


def add(a: int, b: int = 10) -> int:
    return a + b


def anything(a, b=2, *rest, c=3, **more):
    return a, b, rest, c, more


def positional(a, b=2, /, c=3):
    return a, b, c


def nothing():
    return "called"


@pytest.mark.parametrize(
    ("function", "value", "result"),
    [
        (add, [1, 2], 3),
        (add, [1], 11),
        (add, {"a": 1, "b": 2}, 3),
        (add, {"b": 2, "a": 1}, 3),
        (add, {"a": 1}, 11),
        (add, 1, 11),
        (anything, [1], (1, 2, (), 3, {})),
        (anything, [1, 5, 6, 7], (1, 5, (6, 7), 3, {})),
        (anything, {"a": 1, "c": 4, "d": 5}, (1, 2, (), 4, {"d": 5})),
        (anything, "text", ("text", 2, (), 3, {})),
        (anything, None, (None, 2, (), 3, {})),
        (positional, {"a": 1, "c": 5}, (1, 2, 5)),
        (positional, {"a": 1, "b": 4}, (1, 4, 3)),
        (positional, [1, 4, 5], (1, 4, 5)),
        (nothing, None, "called"),
        (nothing, [], "called"),
        (nothing, {}, "called"),
        (lambda value=5: value, None, 5),
        (lambda value=5: value, [None], None),
        (lambda value: value, None, None),
        (partial(add, 1), {"b": 5}, 6),
        (Item("x", []).__eq__, 1, NotImplemented),
        (max, [1, 3, 2], 3),
        (str.upper, "abc", "ABC"),
    ],
)
def test_arrays_go_by_position_objects_by_name_and_the_rest_is_the_only_one(function, value, result):
    assert call(function, value) == result


@pytest.mark.parametrize(
    ("function", "value", "words"),
    [
        (add, [1, 2, 3], "expected 2 arguments (the parameters are a, b), got 3"),
        (add, [], "a: missing (the parameters are a, b)"),
        (add, None, "a: Expected int, got null"),
        (add, {"b": 1}, "a: missing (the parameters are a, b)"),
        (add, {"a": 1, "x": 1}, "x: unknown parameter (the parameters are a, b)"),
        (nothing, [1], "expected no arguments, got 1"),
        (nothing, 1, "expected no arguments, got 1"),
        (lambda *, key: key, [], "key: missing (the parameters are key)"),
        (lambda a, *, key: key, [1], "key: missing (the parameters are a, key)"),
        (lambda a, *, key: key, {"a": 1}, "key: missing (the parameters are a, key)"),
    ],
)
def test_what_does_not_fit_is_told(function, value, words):
    assert refusal(function, value) == words


@pytest.mark.parametrize(
    ("wanted", "value", "result"),
    [
        (int, 1, 1),
        (float, 1, 1.0),
        (int | None, None, None),
        (list[int], [1, 2], [1, 2]),
        (Sequence[int], [1, 2], [1, 2]),
        (dict[int, str], {"1": "a"}, {1: "a"}),
        (set[int], [1, 1], {1}),
        (tuple[int, str], [1, "a"], (1, "a")),
        (Colour, "red", Colour.RED),
        (Literal["a", "b"], "b", "b"),
        (Item, {"name": "tea", "prices": [1]}, Item("tea", [1])),
        (Point, {"x": 1}, Point(1, 0)),
        (Options, {"deep": True}, {"deep": True}),
        (datetime, "2026-11-25T09:00:00Z", datetime(2026, 11, 25, 9, tzinfo=timezone.utc)),
        (uuid.UUID, "00000000-0000-4000-8000-000000000001", uuid.UUID("00000000-0000-4000-8000-000000000001")),
        (Decimal, "1.10", Decimal("1.10")),
        (bytes, "aGk=", b"hi"),
        (Annotated[int, msgspec.Meta(ge=0)], 3, 3),
        (Any, {"a": [1]}, {"a": [1]}),
        (object, "x", "x"),
    ],
)
def test_annotations_convert(wanted, value, result):
    def function(argument):
        return argument

    function.__annotations__ = {"argument": wanted}
    assert call(function, [value]) == result
    assert call(function, {"argument": value}) == result


@pytest.mark.parametrize(
    ("wanted", "value", "words"),
    [
        (int, "1", "argument: Expected int, got str"),
        (int, True, "argument: Expected int, got bool"),
        (int, 1.5, "argument: Expected int, got float"),
        (str, 1, "argument: Expected str, got int"),
        (list[int], [1, "a"], "argument[1]: Expected int, got str"),
        (Item, {"name": "tea", "prices": [None]}, "argument.prices[0]: Expected int, got null"),
        (Point, {}, "argument: Object missing required field x"),
        (Colour, "blue", "argument: Invalid enum value 'blue'"),
        (Annotated[int, msgspec.Meta(ge=0)], -1, "argument: Expected int >= 0"),
        (datetime, "yesterday", "argument: Invalid RFC3339 encoded datetime"),
    ],
)
def test_what_an_annotation_does_not_take_is_told_with_its_place(wanted, value, words):
    def function(argument):
        raise AssertionError("it was called")

    function.__annotations__ = {"argument": wanted}
    assert refusal(function, [value]) == words
    assert refusal(function, {"argument": value}) == words


def test_more_arguments_are_checked_too():
    def total(*numbers: int, **named: int) -> int:
        return sum(numbers) + sum(named.values())

    assert call(total, [1, 2, 3]) == 6
    assert call(total, {"a": 1, "b": 2}) == 3
    assert refusal(total, [1, "2"]) == "numbers: Expected int, got str"
    assert refusal(total, {"a": "2"}) == "a: Expected int, got str"


@pytest.mark.parametrize("value", [None, 1, "a", [1, 2], {"a": 1}])
def test_the_whole_is_given_as_it_is(value):
    assert call(lambda value: value, value, whole=True) == value


def test_the_whole_is_checked_as_well():
    def total(prices: list[int]) -> int:
        return sum(prices)

    assert call(total, [1, 2], whole=True) == 3
    assert refusal(total, {"prices": []}, whole=True) == "prices: Expected array, got object"


@pytest.mark.parametrize("function", [nothing, lambda a, b: a, lambda *, key: key])
def test_the_whole_needs_one_parameter(function):
    with pytest.raises(TypeError, match="f: whole=True needs a function of one parameter, got "):
        Binding("f", function, whole=True)


class Opaque:
    pass


@pytest.mark.parametrize("wanted", [Opaque, list[Opaque], Callable, complex, str | datetime])
def test_what_no_json_makes_is_refused_when_it_is_bound(wanted):
    def function(argument):
        return argument

    function.__annotations__ = {"argument": wanted}
    with pytest.raises(TypeError, match="f: parameter argument: JSON does not support the type "):
        Binding("f", function)


def test_an_annotation_that_names_nothing_is_refused():
    def function(argument: Nonsense) -> None:  # noqa: F821
        pass

    with pytest.raises(TypeError, match="f: cannot evaluate an annotation: name 'Nonsense' is not defined"):
        Binding("f", function)


@pytest.mark.parametrize(
    ("function", "signature"),
    [(add, "(a: int, b: int = 10) -> int"), (nothing, "()"), (max, "(...)"), (partial(add, 1), "(b: int = 10) -> int")],
)
def test_the_signature_is_for_people(function, signature):
    assert Binding("f", function).signature == signature


def test_a_type_error_of_the_function_is_its_own():
    def fails(value):
        raise TypeError("its own")

    with pytest.raises(TypeError, match="its own"):
        call(fails, 1)


def in_the_middle(a: int, who: Caller, b: int = 2):
    return a, who.identity, b


def at_the_end(*rest, who: Caller, **more):
    return rest, who.identity, more


def at_the_beginning(who: Caller, *rest):
    return who.identity, rest


def by_position_only(a=1, who: Caller = Caller("default"), /, **more):  # noqa: B008
    return a, who.identity, more


def by_itself(who: Caller):
    return who.identity, who.known, who == caller()


class Desk:
    def ask(self, who: Caller, what: str):
        return who.identity, what


@contextmanager
def called_by(by: bytes) -> Iterator[None]:
    token = running.set(IncomingCall("conn", "msg", "f", b"null", 1e12, by=by))
    yield
    running.reset(token)


@pytest.mark.parametrize(
    ("function", "value", "result"),
    [
        (in_the_middle, [1], (1, "ann", 2)),
        (in_the_middle, [1, 3], (1, "ann", 3)),
        (in_the_middle, {"b": 3, "a": 1}, (1, "ann", 3)),
        (in_the_middle, 1, (1, "ann", 2)),
        (at_the_end, [1, 2], ((1, 2), "ann", {})),
        (at_the_end, {"x": 1}, ((), "ann", {"x": 1})),
        (at_the_beginning, [1, 2], ("ann", (1, 2))),
        (at_the_beginning, None, ("ann", ())),
        (by_position_only, None, (1, "ann", {})),
        (by_position_only, [5], (5, "ann", {})),
        (by_position_only, {"a": 5, "who": "mallory"}, (5, "ann", {"who": "mallory"})),
        (by_itself, None, ("ann", True, True)),
        (by_itself, [], ("ann", True, True)),
        (by_itself, {}, ("ann", True, True)),
        (Desk().ask, "tea", ("ann", "tea")),
        (Desk().ask, {"what": "tea"}, ("ann", "tea")),
    ],
)
def test_a_parameter_of_type_caller_is_no_argument(function, value, result):
    with called_by(b'"ann"'):
        assert call(function, value) == result


def test_the_whole_value_and_the_caller():
    with called_by(b'"ann"'):
        assert call(at_the_beginning, [1, 2], whole=True) == ("ann", ([1, 2],))
        assert call(in_the_middle, 7, whole=True) == (7, "ann", 2)


def test_without_an_identity_the_caller_is_unknown():
    with called_by(b""):
        assert call(by_itself) == (None, False, True)
        assert repr(caller()) == "Caller()"
    with called_by(b"null"):
        assert call(by_itself) == (None, False, True)
    assert Binding("f", in_the_middle).call([1]) == (1, None, 2)  # called directly, in a test for example
    with pytest.raises(RuntimeError, match="no call is running here"):
        caller()


@pytest.mark.parametrize(
    ("function", "value", "reason"),
    [
        (in_the_middle, {"a": 1, "who": "mallory"}, "who: unknown parameter (the parameters are a, b)"),
        (at_the_end, {"who": "mallory"}, "who: unknown parameter"),
        (by_itself, ["mallory"], "expected no arguments, got 1"),
        (by_itself, "mallory", "expected no arguments, got 1"),
        (by_itself, {"who": {"identity": "mallory"}}, "who: unknown parameter"),
        (in_the_middle, [1, 2, "mallory"], "expected 2 arguments (the parameters are a, b), got 3"),
        (in_the_middle, [1, "mallory"], "b: Expected int, got str"),
    ],
)
def test_a_client_cannot_pass_a_caller(function, value, reason):
    with called_by(b'"ann"'):
        assert refusal(function, value) == reason


def test_a_caller_is_immutable_and_comparable():
    ann = Caller({"sub": "ann"})
    with pytest.raises(AttributeError):
        ann.identity = "mallory"
    assert ann == Caller({"sub": "ann"}) != Caller({"sub": "bob"})
    assert ann != {"sub": "ann"}
    assert repr(ann) == "Caller({'sub': 'ann'})"


def test_the_parameter_is_not_in_the_signature():
    assert Binding("f", in_the_middle).signature == "(a: int, b: int = 2)"
    assert Binding("f", by_itself).signature == "()"


@dataclass
class Forged:
    who: Caller


def two(who: Caller, other: Caller):
    pass


def optional(who: Caller | None = None):
    pass


def variadic(*who: Caller):
    pass


def annotated(who: Annotated[Caller, "who"]):
    pass


def inside(request: Forged):
    pass


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (two, "expected at most one parameter of type Caller, got 2"),
        (optional, "expected a parameter annotated Caller, got who: "),
        (variadic, "expected a parameter annotated Caller, got \\*who: "),
        (annotated, "expected a parameter annotated Caller, got who: "),
        (inside, "JSON does not support the type .*Forged"),
    ],
)
def test_an_annotation_that_arguments_could_fill_is_refused(function, expected):
    with pytest.raises(TypeError, match=f"f: .*{expected}"):
        Binding("f", function)
