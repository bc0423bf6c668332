"""The JSON Schemas of functions: they accept the arguments that the functions accept, and describe results."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from functools import partial
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypedDict, TypeVar, Union

import msgspec
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from msgspec import Meta

from callee import Callee
from juggler.broker import Announcement, Caller
from juggler.callee.announcer import Announcer
from juggler.callee.binding import Binding
from juggler.callee.counts import Stats
from juggler.callee.failures import InvalidArguments
from juggler.callee.schemas import MAX_SIZE
from juggler.callee.text_patterns import DURATION, base64
from juggler.callee.thunk import Thunk
from juggler.errors import ConfigError
from tests.json_schemas import validator

T = TypeVar("T")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 3


@dataclass
class Item:
    """Something to buy."""

    name: str
    price: Decimal = Decimal("1.50")
    colours: list[Colour] = field(default_factory=list)
    parent: Optional[Item] = None  # noqa: UP045


class Cat(msgspec.Struct, tag="cat"):
    lives: int


class Dog(msgspec.Struct, tag="dog", forbid_unknown_fields=True):
    name: str


class Row(msgspec.Struct, array_like=True):
    id: int
    name: str = ""


class Point(NamedTuple):
    x: int
    y: int = 0


class Options(TypedDict, total=False):
    deep: bool


class Box(msgspec.Struct, Generic[T], rename="camel"):
    the_content: T


def schema(function: Callable[..., Any], **options: Any) -> Any:
    text = Thunk("f", function, **options).schema
    return json.loads(text) if text else None


def nothing(): ...
def one(a): ...
def two(a, b=2): ...
def optional(a=1, b="x"): ...
def rest(a, *more): ...
def numbers(*more: int): ...
def keywords(a: int, *, b: str = "b", **more: bool): ...
def needed(*, b: str): ...
def needed_too(a: int, *, b: str): ...
def by_position(a: int, b: int = 3, /, c: str = ""): ...
def with_caller(a: int, who: Caller, b: str = ""): ...
def hidden(a: int, who: Caller, **more: int): ...
def only_hidden(who: Caller): ...
def integer(a: int): ...
def number(a: float): ...
def text(a: str): ...
def truth(a: bool): ...
def null(a: None): ...
def maybe(a: int | None): ...
def maybe_not(a: int | None = None): ...
def bounded(a: Annotated[int, Meta(ge=0, lt=10)]): ...
def short(a: Annotated[str, Meta(min_length=2, max_length=4)]): ...
def matching(a: Annotated[str, Meta(pattern="^t")]): ...
def array(a: list[int]): ...
def pair(a: tuple[int, str]): ...
def mapping(a: dict[str, int]): ...
def numbered(a: dict[int, Decimal]): ...
def coloured(a: dict[Colour, dict[Literal["a"], int]] | str): ...
def priced(a: list[Decimal | None] | dict[str, tuple[Decimal, int]], b: Annotated[Decimal, Meta(title="B")] = 1): ...
def colour(a: Colour): ...
def level(a: Level = Level.LOW): ...
def literal(a: Literal["tea", "cup"] | None): ...
def item(a: Item): ...
def items(a: list[Item], b: Item | None = None): ...
def animal(a: Cat | Dog): ...
def animals(a: Cat | Dog | int | None): ...
def row(a: Row): ...
def point(a: Point): ...
def options(a: Options): ...
def box(a: Box[int] | str): ...
def either(a: str | list[str]): ...
def decimal(a: Decimal): ...
def exact(a: Decimal | None = None, b: float = 1.5): ...
def anything(a: Any, b: object = None): ...


FUNCTIONS = [
    *(nothing, one, two, optional, rest, numbers, keywords, needed, needed_too, by_position, with_caller, hidden),
    *(
        only_hidden,
        integer,
        number,
        text,
        truth,
        null,
        maybe,
        maybe_not,
        bounded,
        short,
        matching,
        array,
        pair,
        mapping,
    ),
    *(colour, level, literal, item, items, animal, animals, row, point, options, box, either, decimal, exact, anything),
    partial(keywords, 1),
    partial(keywords, b="x"),
]

WHOLE = [one, rest, numbers, integer, maybe_not, item, items, animals, row, either, decimal, anything]

LEAVES = st.sampled_from(
    [
        *(None, True, False, 0, 1, 3, -1, 12, 1.5, 10**20, "", "t", "tea", "tea-time", "red", "1.50", "type"),
        *(
            [],
            [1],
            [1, "a"],
            [1, 2, 3],
            ["tea"],
            [[1]],
            {},
            {"a": 1},
            {"1": 1.5},
            {"red": {"a": 1}},
            {"red": {"b": 1}},
            ["1", 2],
            {"a": ["1.5", 2]},
            {"deep": True},
            {"deep": 1},
        ),
        *({"name": "tea"}, {"name": 1}, {"name": "tea", "price": 2.5, "colours": ["red"], "parent": {"name": "x"}}),
        *({"name": "tea", "price": "1", "colours": ["green"]}, {"name": "tea", "parent": {}}, {"theContent": 1}),
        *({"type": "cat", "lives": 9}, {"type": "dog", "name": "Rex"}, {"type": "dog", "name": "Rex", "x": 1}),
        *({"type": "cow"}, {"type": "cat", "lives": "9"}),
    ]
)
NAMES = st.sampled_from(["a", "b", "c", "more", "who", "x"])
ARGUMENTS = st.one_of(
    LEAVES, st.lists(LEAVES, max_size=4), st.dictionaries(NAMES, LEAVES, max_size=3), st.dictionaries(NAMES, LEAVES)
)


def accepts(binding: Binding, value: Any) -> bool:
    try:
        binding.call(value)
    except InvalidArguments:
        return False
    return True


def named(function: Any) -> str:
    return getattr(function, "__name__", "partial")


@pytest.mark.parametrize("function", FUNCTIONS, ids=named)
def test_the_schema_accepts_the_arguments_that_the_function_accepts(function):
    binding = Binding("f", function)
    valid = validator(schema(function)["args"])

    @given(ARGUMENTS)
    def check(value):
        assert valid.is_valid(value) == accepts(binding, value), value

    check()


TYPES = st.recursive(
    st.sampled_from([int, str, bool, float, None, Colour, Level, Item, Options, Decimal, Row, Point, Cat | Dog, Any]),
    lambda inner: st.one_of(
        inner.map(lambda each: list[each]),
        inner.map(lambda each: dict[str, each]),
        inner.map(lambda each: dict[int, each]),
        inner.map(lambda each: tuple[each, ...]),
        inner.map(lambda each: Optional[each]),  # noqa: UP045
        st.tuples(inner, inner).map(lambda each: tuple[each]),
        st.tuples(inner, inner).map(lambda each: Union[each]),  # noqa: UP007
        inner.map(lambda each: Annotated[each, Meta(description="x")]),
    ),
    max_leaves=4,
)
NESTED = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["1", "a", "x"]), inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=60)
@given(TYPES, TYPES, st.lists(NESTED, min_size=1, max_size=10), st.booleans())
def test_schema_and_function_agree_on_any_type(first, second, values, is_whole):
    def function(a, b=None): ...

    function.__annotations__ = {"a": first, "b": second}
    try:
        binding = Binding("f", function, is_whole)
    except TypeError:
        reject()  # a union that msgspec does not support
    valid = validator(schema(function, whole=is_whole)["args"])
    for value in values:
        for arguments in (value, [value], {"a": value, "b": value}):
            assert valid.is_valid(arguments) == accepts(binding, arguments), arguments


@pytest.mark.parametrize("function", WHOLE, ids=named)
def test_the_schema_of_whole_arguments_is_that_of_the_value(function):
    binding = Binding("f", function, whole=True)
    described = schema(function, whole=True)
    valid = validator(described["args"])
    assert described["whole"] is True

    @given(ARGUMENTS)
    def check(value):
        assert valid.is_valid(value) == accepts(binding, value), value

    check()


def test_the_first_form_is_the_object_with_the_parameters_by_name():
    def buy(item: Item, count: Annotated[int, Meta(ge=1, description="How many.")] = 1, *, gift: bool = False) -> int:
        """Buy something.

        Args:
            item: what to buy
            count: described better by its annotation
            gift: whether to wrap it
        """

    args = schema(buy)["args"]
    assert args["description"] == "Buy something."
    assert args["anyOf"][0] == {
        "type": "object",
        "properties": {
            "item": {"$ref": "#/$defs/Item", "description": "what to buy"},
            "count": {"type": "integer", "minimum": 1, "description": "How many.", "default": 1},
            "gift": {"type": "boolean", "default": False, "description": "whether to wrap it"},
        },
        "required": ["item"],
        "additionalProperties": False,
    }
    assert list(args["anyOf"][0]["properties"]) == ["item", "count", "gift"]
    assert args["$defs"]["Item"]["description"] == "Something to buy."
    assert all(schema(function)["args"]["anyOf"][0]["type"] == "object" for function in FUNCTIONS)


def test_what_a_partial_function_has_bound_cannot_be_passed_again():
    thunk = Thunk("f", partial(keywords, 1))
    valid = validator(json.loads(thunk.schema)["args"])
    for name in ("a", "other"):
        assert (
            accepts(Binding("f", partial(keywords, 1)), {name: True}) == valid.is_valid({name: True}) == (name != "a")
        )


def test_a_partial_function_has_the_docstring_of_its_function():
    def buy(name: str, count: int) -> None:
        """Buy something."""

    thunk = Thunk("f", partial(partial(buy, "tea"), count=1))
    assert thunk.doc == "Buy something."
    assert json.loads(thunk.schema)["args"]["description"] == "Buy something."


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (date, {"type": "string", "format": "date"}),
        (datetime, {"type": "string", "format": "date-time"}),
        (time | int, {"anyOf": [{"type": "string", "format": "time"}, {"type": "integer"}]}),
        (dict[uuid.UUID, Any], {"type": "object", "propertyNames": {"format": "uuid"}}),
        (timedelta, {"type": "string", "pattern": DURATION, "examples": ["PT90S"]}),
        (uuid.UUID, {"type": "string", "format": "uuid"}),
        (bytes, {"type": "string", "contentEncoding": "base64", "pattern": base64()}),
        (Decimal, {"anyOf": [{"type": "number"}, {"type": "string", "format": "decimal"}]}),
        (Annotated[int, Meta(title="Age", examples=[3])], {"type": "integer", "title": "Age", "examples": [3]}),
    ],
)
def test_types_of_parameters(annotation, expected):
    def function(a):
        raise AssertionError

    function.__annotations__ = {"a": annotation}
    assert schema(function)["args"]["anyOf"][0]["properties"]["a"] == expected


# Results


class Opaque: ...


def drink() -> Item: ...
def cost() -> Decimal: ...
def lines() -> Iterator[str]: ...
def words() -> Generator[str, None, Item]: ...
def untyped(): ...
def opaque() -> Opaque: ...
def open_() -> msgspec.Raw: ...
def none() -> None: ...


def yields():
    yield 1


def yields_text() -> Iterator[str]:
    yield "a"


class Yielding:
    def __call__(self):
        yield 1


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (cost, {"result": {"type": "number", "format": "decimal"}}),
        (none, {"result": {"type": "null"}}),
        (untyped, {}),
        (opaque, {}),
        (open_, {}),
        (lines, {"stream": True, "part": {"type": "string"}, "result": {"type": "null"}}),
        (yields_text, {"stream": True, "part": {"type": "string"}, "result": {"type": "null"}}),
        (yields, {"stream": True}),
        (Yielding(), {"stream": True}),
    ],
    ids=lambda value: named(value) if callable(value) else "",
)
def test_results(function, expected):
    described = schema(function)
    del described["args"]
    assert described == expected


class Sparse(msgspec.Struct, omit_defaults=True, tag=True):
    a: int
    b: int = 1


class Unset(msgspec.Struct, tag="u"):
    a: int
    b: int | msgspec.UnsetType = msgspec.UNSET
    c: Point | None = None
    d: Row | None = None


def both() -> dict[str, Sparse | Unset | list[Options] | datetime | None]: ...


def test_fields_that_are_always_sent_are_required():
    defs = schema(both)["result"]["$defs"]
    assert defs["Sparse"]["required"] == ["type", "a"]
    assert defs["Unset"]["required"] == ["type", "a", "c", "d"]
    assert (defs["Point"]["minItems"], defs["Row"]["minItems"], defs["Options"]["required"]) == (2, 2, [])
    assert {"type": "string", "format": "date-time"} in schema(both)["result"]["additionalProperties"]["anyOf"]
    assert schema(drink)["result"]["$defs"]["Item"]["required"] == ["name", "price", "colours", "parent"]


def test_a_result_has_definitions_of_its_own():
    assert schema(drink)["result"]["$ref"] == "#/$defs/Item"
    assert schema(drink)["result"]["$defs"]["Item"]["properties"]["price"]["type"] == "number"
    described = schema(words)
    assert (described["part"], described["result"]["$ref"]) == ({"type": "string"}, "#/$defs/Item")


# What cannot be described


def item_of(type_: Any) -> type:
    return msgspec.defstruct("Item", [("content", type_)], module="same")


def test_two_types_of_one_name_leave_the_parameters_open():
    def function(a, b):
        raise AssertionError

    function.__annotations__ = {"a": item_of(int), "b": item_of(str)}
    assert schema(function)["args"]["anyOf"][0]["properties"] == {"a": {}, "b": {}}


def test_defaults_that_json_does_not_support_are_not_shown():
    def function(a=object(), b: float = float("nan"), c=None):  # noqa: B008
        raise AssertionError

    assert schema(function)["args"]["anyOf"][0]["properties"] == {
        "a": {},
        "b": {"type": "number"},
        "c": {"default": None},
    }


def test_functions_that_juggler_knows_nothing_of_have_no_schema():
    assert schema(max) is None
    assert schema(lambda call: call, raw=True) is None


def test_a_large_schema_is_left_out():
    def function(a):
        raise AssertionError

    function.__annotations__ = {"a": Literal[tuple(f"{number:0100}" for number in range(MAX_SIZE // 100))]}
    assert schema(function) is None
    assert Thunk("f", function).announcement().schema is msgspec.UNSET


@pytest.mark.parametrize("annotation", [msgspec.Raw, list[msgspec.Raw], Box[msgspec.Raw] | None])
def test_raw_parameters_are_refused_at_start(annotation):
    def function(a):
        raise AssertionError

    function.__annotations__ = {"a": annotation}
    rpc = Callee()
    rpc.register("f", function)
    with pytest.raises(ConfigError, match=r"^f: parameter a: arguments are decoded and cannot become msgspec\.Raw; "):
        rpc.check()


# Announcements


class Announced:
    """A broker that keeps announcements."""

    def __init__(self) -> None:
        self.by_uri: dict[str, Announcement] = {}

    def announce(self, callee_id: str, functions: dict[str, Announcement], lifetime: float) -> None:
        self.by_uri.update(functions)


def test_the_schemas_of_a_callee_are_bounded(caplog, monkeypatch):
    thunks = {f"f{number}": Thunk(f"f{number}", two) for number in range(4)}
    monkeypatch.setattr("juggler.callee.announcer.MAX_SCHEMAS", 3 * len(thunks["f0"].schema))
    announced: Any = Announced()
    announcer = Announcer("one", announced, thunks, Stats(tuple(thunks)))
    with caplog.at_level(logging.WARNING):
        announcer.start()
    announcer.close(withdraw=False)
    assert [uri for uri, each in announced.by_uri.items() if each.schema is not msgspec.UNSET] == ["f0", "f1", "f2"]
    assert [record.getMessage().split(" limit=")[0] for record in caplog.records] == ["callee: schemas left out"]


def test_announcements_of_older_callees_and_for_older_servers():
    class Older(msgspec.Struct, frozen=True):
        signature: str = ""
        doc: str = ""

    text = msgspec.json.encode(Thunk("f", two).announcement())
    assert json.loads(text)["schema"]["args"]["anyOf"][0]["required"] == ["a"]
    assert msgspec.json.decode(text, type=Older).signature == "(a, b=2)"
    old = msgspec.json.decode(msgspec.json.encode(Older("(a)")), type=Announcement)
    assert (old.signature, old.schema) == ("(a)", msgspec.UNSET)
    assert "schema" not in json.loads(msgspec.json.encode(old))
