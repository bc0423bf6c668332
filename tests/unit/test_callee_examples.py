"""Examples of arguments show what a function takes, and the function accepts them."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypedDict, TypeVar, Union

import msgspec
import pytest
from msgspec import Meta

from callee import Callee
from juggler.callee.examples import MAX_LENGTH
from juggler.callee.testing import Caller
from juggler.errors import CallFailed

T = TypeVar("T")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    HIGH = 3
    LOW = 1


@dataclass
class Line:
    sku: str
    count: Annotated[int, Meta(ge=1)] = 2
    colour: Colour = Colour.BLUE


@dataclass
class Order:
    lines: list[Line]
    wanted: date | None = None
    tags: list[str] = field(default_factory=list)
    total: Decimal = Decimal("1.50")
    previous: Optional[Order] = None  # noqa: UP045


class Address(TypedDict, total=False):
    street: str
    level: Level


class Person(msgspec.Struct, rename="camel", omit_defaults=True):
    first_name: str
    home_address: Address
    age: int = 30
    nick: str | msgspec.UnsetType = msgspec.UNSET


class Cat(msgspec.Struct, tag="cat"):
    lives: int = 9


class Dog(msgspec.Struct, tag="dog"):
    name: str


class Point(NamedTuple):
    x: int
    y: float = 2.0


class Row(msgspec.Struct, array_like=True):
    id: int
    name: str = "n"


class Node(msgspec.Struct):
    kids: list[Node]
    named: dict[str, Node]
    up: Node | None
    size: int = 5


class Box(msgspec.Struct, Generic[T]):
    content: T


class Endless(msgspec.Struct):
    next: Endless


ORDER = {
    "lines": [{"sku": "text", "count": 2, "colour": "blue"}],
    "wanted": "2026-01-31",
    "tags": ["text"],
    "total": "1.50",
    "previous": None,
}

EXAMPLES: list[tuple[Any, Any]] = [
    (int, 1),
    (float, 1.5),
    (bool, True),
    (str, "text"),
    (Any, "text"),
    (None, None),
    (Decimal, 1.5),
    (bytes, "dGV4dA=="),
    (date, "2026-01-31"),
    (datetime, "2026-01-31T12:00:00Z"),
    (Annotated[datetime, Meta(tz=False)], "2026-01-31T12:00:00"),
    (time, "12:00:00Z"),
    (timedelta, "PT90S"),
    (uuid.UUID, "00000000-0000-4000-8000-000000000000"),
    (Colour, "red"),
    (Level, 3),
    (Literal["red", "green"], "red"),
    (Literal[None, 7], 7),  # noqa: PYI061
    (Optional[int], 1),  # noqa: UP045
    (Union[None, str, int], "text"),  # noqa: UP007
    (int | None, 1),
    (Annotated[int, Meta(ge=10)], 10),
    (Annotated[int, Meta(gt=5, multiple_of=4)], 8),
    (Annotated[int, Meta(lt=0)], -1),
    (Annotated[float, Meta(gt=0, lt=1)], 0.5),
    (Annotated[str, Meta(min_length=6)], "textxx"),
    (Annotated[str, Meta(max_length=2)], "te"),
    (Annotated[str, Meta(pattern="^ab", examples=["ab-1"])], "ab-1"),
    (list[int], [[1]]),
    (list, [["text"]]),
    (set[str], [["text"]]),
    (frozenset[int], [[1]]),
    (tuple[int, ...], [[1]]),
    (tuple[int, str], [[1, "text"]]),
    (Annotated[list[int], Meta(min_length=2)], [[1, 1]]),
    (Annotated[list[int], Meta(max_length=0)], [[]]),
    (Sequence[Line], [[ORDER["lines"][0]]]),
    (dict[str, list[Colour]], [{"text": ["red"]}]),
    (Mapping[int, bool], [{"1": True}]),
    (Line, [ORDER["lines"][0]]),
    (Order, [ORDER]),
    (list[Order], [[ORDER]]),
    (Address, [{"street": "text", "level": 3}]),
    (Person, [{"firstName": "text", "homeAddress": {"street": "text", "level": 3}, "age": 30, "nick": "text"}]),
    (Cat | Dog, [{"type": "cat", "lives": 9}]),
    (Dog | None, [{"type": "dog", "name": "text"}]),
    (Point, [[1, 2.0]]),
    (Row, [[1, "n"]]),
    (Node, [{"kids": [], "named": {}, "up": None, "size": 5}]),
    (Box[Line], [{"content": ORDER["lines"][0]}]),
]


def example(function, **options):
    """Return the example of a function, which must accept it."""
    rpc = Callee()
    rpc.register("f", function, **options)
    found = rpc["f"].announcement().example
    assert found == rpc["f"].example
    if found:
        Caller(rpc).call("f", json.loads(found))
    return found


@pytest.mark.parametrize(("annotation", "shown"), EXAMPLES, ids=[str(annotation) for annotation, _ in EXAMPLES])
def test_each_kind_of_type_has_an_example(annotation, shown):
    def function(parameter):
        pass

    function.__annotations__ = {"parameter": annotation}
    assert json.loads(example(function)) == shown


def plain(name, count: int = 1, order: Line = Line("tea"), /, note: str | None = None, later: Any = None): ...  # noqa: B008


def by_name(name: str, *, orders: list[Line], limit: int = 10): ...


def optional_by_name(*, limit: int = 10): ...


def only_default(limit: int = 10): ...


def variadic(first: int, *rest: int, **more: int): ...


def all_of_it(prices: list[float]): ...


def nothing(): ...


def unknown_default(a=object(), b=float("nan")): ...  # noqa: B008


@pytest.mark.parametrize(
    ("function", "options", "text"),
    [
        (
            plain,
            {},
            '["text", 1, {"sku": "tea", "count": 2, "colour": "blue"}, "text", null]',
        ),
        (by_name, {}, '{"name": "text", "orders": [{"sku": "text", "count": 2, "colour": "blue"}], "limit": 10}'),
        (optional_by_name, {}, '{"limit": 10}'),
        (only_default, {}, "10"),
        (variadic, {}, "1"),
        (all_of_it, {}, "[[1.5]]"),
        (all_of_it, {"whole": True}, "[1.5]"),
        (variadic, {"whole": True}, "1"),
        (lambda *prices: None, {"whole": True}, ""),
        (nothing, {}, ""),
        (unknown_default, {}, "[null, null]"),
        (lambda call: None, {"raw": True}, ""),
    ],
)
def test_parameters_are_arranged_as_the_function_takes_them(function, options, text):
    assert example(function, **options) == text


def test_a_type_that_never_ends_has_no_example():
    def function(parameter: Endless): ...

    assert example(function) == ""


def test_an_example_is_not_too_long():
    names = [f"field_number_{number}" for number in range(20)]
    inner = msgspec.defstruct("Inner", [(name, str) for name in names], module=__name__)
    middle = msgspec.defstruct("Middle", [(name, list[inner]) for name in names], module=__name__)
    outer = msgspec.defstruct("Outer", [("all", list[middle])], module=__name__)
    sys.modules[__name__].Inner = inner

    def function(parameter): ...

    function.__annotations__ = {"parameter": outer}
    text = example(function)
    assert json.loads(text) == [{"all": [{name: [] for name in names}]}]
    assert len(text) <= MAX_LENGTH
    function.__annotations__ = {"parameter": msgspec.defstruct("Wide", [("x" * 30 + str(n), int) for n in range(99)])}
    assert example(function) == ""


def test_text_of_users_is_shown_as_it_is():
    def function(text: str = 'ünï "☃"\n'): ...

    assert example(function) == '"ünï \\"☃\\"\\n"'


def test_an_example_that_does_not_fit_is_an_error_of_the_call_alone():
    rpc = Callee()
    rpc.register("f", lambda text: None)

    def function(text: Annotated[str, Meta(pattern="^[0-9]+$")]): ...

    rpc.register("digits", function)
    assert rpc["digits"].example == '"text"'
    with pytest.raises(CallFailed, match="text: Expected str matching regex"):
        Caller(rpc).call("digits", "text")
