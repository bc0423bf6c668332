"""Types of parameters, one by one: their schema accepts the values that the binding accepts, and no others."""

from __future__ import annotations

import collections.abc
import enum
import json
import sys
import uuid
from collections import namedtuple
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, NewType, Optional, TypedDict

import jsonschema_rs
import msgspec
import pytest
from msgspec import Meta
from typing_extensions import NotRequired, Required

from juggler.callee.binding import Binding
from juggler.callee.failures import InvalidArguments
from juggler.callee.thunk import Thunk
from juggler.cli.typescript import Function, types_of
from tests.json_schemas import validator

CONFORM = {"boundary": enum.CONFORM} if hasattr(enum, "CONFORM") else {}
STRICT = {"boundary": enum.STRICT} if hasattr(enum, "STRICT") else {}


class Bits(enum.IntFlag):
    READ = 1
    WRITE = 2
    RUN = 4


class Conforming(enum.IntFlag, **CONFORM):
    A = 1
    B = 2


class Strict(enum.IntFlag, **STRICT):
    A = 1
    B = 2


class Flags(enum.Flag):
    A = 1
    B = 2


class WithNone(enum.Flag):
    NONE = 0
    A = 1
    B = 2


class WithGaps(enum.Flag):
    A = 1
    B = 4
    BOTH = 5


class FarApart(enum.Flag):
    A = 1
    B = 2**20


class ManyFlags(enum.Flag):
    A, B, C, D, E, F, G, H, J, K = (1 << bit for bit in range(10))


class Level(enum.IntEnum):
    LOW = 1
    SAME = 1
    HIGH = 3
    NONE = 0
    NEGATIVE = -5


class Colour(str, enum.Enum):
    RED = "red"
    ONE = "1"


class AnyCase(enum.Enum):
    RED = "red"

    @classmethod
    def _missing_(cls, value):
        return cls.__members__.get(value.upper()) if isinstance(value, str) else None


class Rounded(enum.IntEnum):
    ONE = 1

    @classmethod
    def _missing_(cls, value):
        return cls.ONE if value > 0 else None


class Cat(msgspec.Struct, tag="cat"):
    lives: int = 9


class Dog(msgspec.Struct, tag="dog", forbid_unknown_fields=True):
    name: str


class First(msgspec.Struct, tag=1):
    a: int


class Second(msgspec.Struct, tag=2):
    b: str


class Row(msgspec.Struct, array_like=True, tag="row", forbid_unknown_fields=True):
    a: int
    b: int = 0


class Line(msgspec.Struct, array_like=True, tag="line"):
    a: int


class Renamed(msgspec.Struct, rename={"a": "b c"}):
    a: int


class Chain(msgspec.Struct):
    a: int = 0
    next: Optional[Chain] = None  # noqa: UP045


@dataclass
class Item:
    a: int
    b: list[int] = field(default_factory=list)
    c: ClassVar[int] = 3
    d: int = field(default=1, init=False)


class Options(TypedDict):
    a: int
    b: NotRequired[str]


class Partial(TypedDict, total=False):
    a: Required[int]
    b: str


class Point(NamedTuple):
    a: int
    b: str = ""


Pair = namedtuple("Pair", "a b")  # noqa: PYI024
Number = NewType("Number", int)

SCALARS = [
    *(int, float, str, bool, None, bytes, bytearray, date, datetime, time, timedelta, uuid.UUID, Decimal, Any, Number),
    *(Annotated[each, Meta(tz=tz)] for each in (datetime, time) for tz in (True, False)),
    *(Annotated[int, Meta(ge=0)], Annotated[int, Meta(gt=0, lt=5)], Annotated[int, Meta(multiple_of=3)]),
    *(Annotated[float, Meta(gt=0, le=1.5)], Annotated[float, Meta(multiple_of=0.5)]),
    *(Annotated[str, Meta(min_length=1, max_length=3)], Annotated[str, Meta(pattern="^a+$")]),
    *(Annotated[bytes, Meta(min_length=least, max_length=most)] for least in (None, 1, 2, 4) for most in (None, 4, 5)),
    *(Annotated[bytes, Meta(max_length=10**7)], Annotated[bytes, Meta(min_length=10**7)]),
    *(Literal["a", 1] | None, Literal[1, 2], Literal["a", "1"]),
    *(Bits, Conforming, Strict, Flags, WithNone, WithGaps, FarApart, ManyFlags, Level, Colour, AnyCase, Rounded),
    Annotated[Flags, Meta(description="x")],
]
UNIONS = [
    *(int | None, int | float, int | str, float | str | None, bool | int, list[int] | str, Literal["a"] | int),
    *(datetime | int, uuid.UUID | int, Decimal | None, Decimal | int, timedelta | int, bytes | int, time | None),
    *(Bits | str, Flags | None, Level | str, Colour | int, WithGaps | list[WithGaps], AnyCase | int, Rounded | str),
    *(set[int] | str, dict[str, int] | list[int], Chain | None | list[int]),
    *(Cat | Dog, First | Second, Row | Line, Cat | None, Cat | Dog | None, list[Cat] | Cat),
]
CONTAINERS = [
    *(
        list[int],
        set[int],
        frozenset[str],
        set[Decimal],
        set[Any],
        tuple[int, str],
        tuple[int, ...],
        tuple[()],
        tuple,
        list,
        set,
    ),
    *(collections.abc.Sequence[int], collections.abc.Set[int], collections.abc.Mapping[str, int]),
    *(Annotated[list, Meta(min_length=1, max_length=2)], Annotated[dict, Meta(min_length=1, max_length=1)]),
    *(Annotated[set[int], Meta(min_length=2)], Annotated[set[int], Meta(max_length=1)]),
    *(list[Bits], set[Flags], dict[str, WithGaps], tuple[Level, ...], list[timedelta | None]),
    *(Cat, Dog, First, Row, Line, Renamed, Chain, Item, Options, Partial, Point, Pair, list[Dog], list[Cat | Dog]),
]
KEYS = [
    *(int, float, str, bool, None, bytes, date, datetime, time, timedelta, uuid.UUID, Decimal, Number, Any),
    *(Annotated[datetime, Meta(tz=False)], Annotated[time, Meta(tz=False)]),
    *(Annotated[int, Meta(ge=0)], Annotated[int, Meta(gt=0)], Annotated[int, Meta(ge=-1, le=5, multiple_of=2)]),
    *(Annotated[str, Meta(min_length=2)], Annotated[str, Meta(pattern="^a+$")], Literal[1, "a"], tuple[int, int]),
    *(Bits, Flags, WithGaps, FarApart, ManyFlags, Level, Colour, AnyCase, Rounded),
    *(int | None, int | float, int | str, date | int, bool | int, Annotated[str, Meta(pattern="^a+$")] | int),
]
TYPES = [*SCALARS, *UNIONS, *CONTAINERS, *(dict[each, int] for each in KEYS)]

DATES = ["2026-01-31", "2026-02-30", "2026-1-1", "20260131"]
ZONES = ["", "Z", "z", "+02:00", "+0200", "-00:00", "+25:00", "+02"]
TIMES = [
    "12:00:00",
    "12:00:00.123456789",
    "12:00:00,5",
    "12:00:00.",
    "12:00",
    "24:00:00",
    "12:60:00",
    "12:00:60",
    "1:00:00",
]
TEXTS = [
    *(
        "",
        "a",
        "A",
        "b",
        "ab",
        "aaa",
        "abcd",
        "red",
        "RED",
        "x",
        "cat",
        "line",
        "null",
        "true",
        "false",
        "True",
        " ",
        "-",
    ),
    *(
        "0",
        "1",
        "-1",
        "3",
        "01",
        "-01",
        "00",
        "-0",
        "+1",
        " 1",
        "1 ",
        "1.",
        ".5",
        "1.0",
        "1.50",
        "1e3",
        "1E+3",
        "1_0",
        "0x1",
    ),
    *("nan", "NaN", "-inf", "Infinity", "+nan", "9" * 17, "\u0661", "5", "-4", "-5", "8", "2", "4", "-8", "1048577"),
    *(
        "YQ==",
        "YWI=",
        "YWJj",
        "YWJjZA==",
        "YWJjZGU=",
        "YWJjZGVm",
        "YQ",
        "YQ=",
        "Y===",
        "====",
        "YW\nJj",
        "_-==",
        "+/==",
        "YQ==YQ==",
    ),
    *("PT0S", "P1D", "P1DT1H", "-P1D", "+P1D", "p1dt1h", "PT1H1S", "P1.5D", "PT1.5M", "PT1H1.5S", "P01D", "P1DT1M1S"),
    *(
        "P",
        "PT",
        "P1DT",
        "PT1S1H",
        "P1.5DT1H",
        "PT1.5H1S",
        "PT1.S",
        "PT.5S",
        "PT1,5S",
        "P1W",
        "P1Y",
        "P1M",
        "PT1D",
        "P1H",
    ),
    *("--P1D", "P1D ", "P\u0661D", "PT1e3S", "P1D1D"),
    *(
        str(uuid.UUID(int=1)),
        str(uuid.UUID(int=2**127))[:-1],
        f"{{{uuid.UUID(int=3)}}}",
        f"urn:uuid:{uuid.UUID(int=3)}",
    ),
    *DATES,
    *(clock + zone for clock in TIMES for zone in ZONES),
    *(f"2026-01-31{sep}12:00:00{zone}" for sep in "Tt _" for zone in ZONES),
    *(f"{day}T{clock}{zone}" for day in DATES for clock in TIMES for zone in ("", "Z")),
    *("0000-01-01T00:00:00", "2026-04-31T00:00:00", "2026-13-01T00:00:00", "2024-02-29T00:00:00"),
]
NUMBERS = [0, 1, 2, 3, 4, 5, 6, 7, 8, -1, -2, -3, -4, -5, -6, -7, -8, -9, 1023, 1024, -1024, -1025, 2**20, 2**20 + 1]
NUMBERS += [2**21, -(2**20), -(2**21), 2**63, 2**64, -(2**63) - 1, 10**30, 1.5, 0.5, 0.3, -1.5]
LISTS = [
    [],
    [1],
    [1, 1],
    [1, 2],
    [1, 2, 3],
    ["a"],
    ["a", "a"],
    [1, "a"],
    [1.5],
    ["1.5", 1.5],
    [1.5, "1.50"],
    [None],
    [8],
]
LISTS += [
    ["row", 1],
    ["row", 1, 2],
    ["row", 1, 2, 3],
    ["row"],
    ["line", 1, 2, 3],
    ["line", "x"],
    ["x", 1],
    [3, 3],
    [{}],
]
LISTS += [[{"lives": 1}], [{"type": "cat"}], [{"type": "dog", "name": "x"}], [{"name": "x"}], ["PT1S", None], [1, 1.5]]
OBJECTS = [
    *({}, {"a": 1}, {"a": "1"}, {"b": "x"}, {"a": 1, "b": "x"}, {"a": 1, "b": [1]}, {"a": 1, "b": [1], "c": 5, "d": 9}),
    *({"a": 1, "d": "x"}, {"a": 1, "z": 2}, {"b c": 1}, {"a": None}, {"1": 1, "2": 1}, {"1": "x"}, {"a": 1, "b": 2}),
    *({"next": {"next": None}}, {"next": {"a": "x"}}, {"next": 1}, {"x": 3}, {"x": 5}, {"x": -3}),
    *(
        {"type": 1, "a": 1},
        {"type": 2, "b": "x"},
        {"type": 3},
        {"type": 1},
        {"type": True, "a": 1},
        {"a": 1, "type": "1"},
    ),
    *({"type": "cat"}, {"type": "cat", "lives": 1}, {"lives": 1}, {"lives": "x"}, {"type": "cow"}, {"type": "dog"}),
    *({"type": "dog", "name": "x"}, {"name": "x"}, {"type": "dog", "name": "x", "z": 1}, {"name": "x", "z": 1}),
    *({text: 1} for text in TEXTS),
]
VALUES = [None, True, False, *NUMBERS, *TEXTS, *LISTS, *OBJECTS]


def function_of(annotation: Any) -> Any:
    def function(a): ...

    function.__annotations__ = {"a": annotation}
    return function


class Described:
    """A parameter: what its binding accepts, and what its schema does, with and without the validation of formats."""

    def __init__(self, annotation: Any) -> None:
        function = function_of(annotation)
        self._binding = Binding("f", function, True)
        self.schema = json.loads(Thunk("f", function, whole=True).schema)["args"]
        self._strict = validator(self.schema)
        self._lax = validator(self.schema, formats=False)

    def accepts(self, value: Any) -> bool:
        decoder = msgspec.json.Decoder(float_hook=Decimal if self._binding.is_exact else None)
        try:
            self._binding.call(decoder.decode(json.dumps(value)))
        except InvalidArguments:
            return False
        return True

    def is_narrow(self, value: Any) -> bool:
        """Whether the schema refuses a value that the binding accepts. Formats are hints."""
        return self.accepts(value) and not self._lax.is_valid(value)

    def is_wide(self, value: Any) -> bool:
        """Whether the schema accepts a value that the binding refuses."""
        return self._strict.is_valid(value) and not self.accepts(value)


def has_limits(annotation: Any) -> bool:
    """Whether a type has rules that JSON Schema does not have. Likewise ``1.0``, which is an integer there."""
    return any(
        name in str(annotation) for name in ("AnyCase", "Rounded", "dict[tests.unit.test_callee_schema_types.ManyFlags")
    )


@pytest.mark.parametrize("annotation", TYPES, ids=str)
def test_the_schema_accepts_what_the_binding_accepts(annotation):
    described = Described(annotation)
    assert [value for value in VALUES if described.is_narrow(value)] == []
    if not has_limits(annotation):
        assert [value for value in VALUES if described.is_wide(value)] == []


COMPLEMENTS = [-8, -7, -4, -3] if sys.version_info >= (3, 11) else [-6, -5, -2, -1]
"""Negative values that `WithGaps` accepts: before Python 3.11, the complements of its combinations."""

WRAPPERS = (
    lambda each: list[each],
    lambda each: dict[str, each],
    lambda each: tuple[each, ...],
    lambda each: Optional[each],  # noqa: UP045
)
# Made once: types that are made and dropped in large numbers have crashed msgspec 0.22.
COMPOSED = [WRAPPERS[n % len(WRAPPERS)](each) for n, each in enumerate(TYPES) if not has_limits(each)]


@pytest.mark.parametrize("annotation", COMPOSED, ids=str)
def test_a_composed_type_accepts_what_its_schema_accepts(annotation):
    described = Described(annotation)
    for value in VALUES:
        for each in (value, [value], {"a": value}):
            assert not described.is_narrow(each), each
            assert not described.is_wide(each), each


@pytest.mark.parametrize(
    ("annotation", "definition", "typescript"),
    [
        (Bits, {"type": "integer", "examples": [1, 2, 4]}, "number"),
        (Flags, {"type": "integer", "minimum": -4, "maximum": 3, "examples": [1, 2]}, "number"),
        (WithGaps, {"enum": [0, 1, 4, 5, *COMPLEMENTS]}, " | ".join(map(str, [0, 1, 4, 5, *COMPLEMENTS]))),
        (Level, {"enum": [-5, 0, 1, 3]}, "-5 | 0 | 1 | 3"),
        (AnyCase, {"type": "string", "examples": ["red"]}, "string"),
        (Rounded, {"type": "integer", "examples": [1]}, "number"),
    ],
)
def test_schemas_and_types_of_enums(annotation, definition, typescript):
    function = function_of(annotation)
    schema = json.loads(Thunk("f", function).schema)
    (found,) = schema["args"]["$defs"].values()
    assert {name: found[name] for name in found if name not in ("title", "description")} == definition
    assert f"export type {annotation.__name__} = {typescript};" in types_of([Function("f", "", schema)])


def test_results_have_members_alone_but_combinations_of_flags():
    def function() -> tuple[AnyCase, Flags, set[int], Cat, timedelta]:
        raise AssertionError

    schema = json.loads(Thunk("f", function).schema)["result"]
    defs = schema["$defs"]
    assert (defs["AnyCase"]["enum"], defs["Flags"]["type"], defs["Cat"]["required"]) == (
        ["red"],
        "integer",
        ["type", "lives"],
    )
    assert schema["prefixItems"][2] == {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    sent = json.loads(msgspec.json.encode((AnyCase.RED, Flags.A | Flags.B, {1}, Cat(), -timedelta(seconds=1.5))))
    assert jsonschema_rs.Draft202012Validator(schema, validate_formats=True).is_valid(sent)


@pytest.mark.parametrize("value", [[[1]], [{}]])
def test_items_of_a_set_that_cannot_be_hashed_are_refused(value):
    binding = Binding("f", function_of(set[Any]), True)
    with pytest.raises(InvalidArguments, match=r"^a: unhashable type"):
        binding.call(value)
