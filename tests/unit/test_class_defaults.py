"""Dataclasses are written with all fields, however their instances were made."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar

import msgspec
import pytest

from callee import Callee
from juggler.callee.testing import Caller
from juggler.errors import InvalidValue
from juggler.protocol.codec import decode_args, encode_args


@dataclass
class Line:
    sku: str
    count: int = 1
    kind: ClassVar[str] = "line"


@dataclass
class Order:
    name: str
    count: int = 1
    lines: list[Line] = field(default_factory=list)
    note: str | None = None
    total: Decimal = Decimal("1.50")
    state: str = field(default="new", init=False)
    any: Any = None


@dataclass(kw_only=True)
class Rush(Order):
    days: int = 2


@dataclass(frozen=True)
class Frozen:
    line: Line
    count: int = 3


@dataclass(slots=True)
class Slots:
    name: str
    count: int = 1
    state: str = field(default="new", init=False)


@dataclass
class Doubled:
    count: int
    twice: int = 0

    def __post_init__(self) -> None:
        self.twice = 2 * self.count


class Envelope(msgspec.Struct):
    content: Order | Line
    more: dict[str, list[Line]] = {}
    open: Any = None


class Boxed(msgspec.Struct):
    content: Order
    count: int = 1


class Sparse(msgspec.Struct, omit_defaults=True):
    line: Line
    count: int = 1


LINE = {"sku": "a", "count": 1}
ORDER = {"name": "x", "count": 1, "lines": [], "note": None, "total": 1.5, "state": "new", "any": None}


@pytest.mark.parametrize(
    ("kind", "args", "written"),
    [
        (Line, {"sku": "a"}, LINE),
        (Order, {"name": "x"}, ORDER),
        (Order, {"name": "x", "lines": [{"sku": "a"}], "count": 5}, ORDER | {"lines": [LINE], "count": 5}),
        (Rush, {"name": "x"}, ORDER | {"days": 2}),
        (Frozen, {"line": {"sku": "a"}}, {"line": LINE, "count": 3}),
        (Slots, {"name": "x"}, {"name": "x", "count": 1, "state": "new"}),
        (Doubled, {"count": 4}, {"count": 4, "twice": 8}),
        (list[Line], [{"sku": "a"}] * 2, [LINE, LINE]),
        (dict[str, Line], {"k": {"sku": "a"}}, {"k": LINE}),
        (tuple[int, Line], [1, {"sku": "a"}], [1, LINE]),
        (Boxed, {"content": {"name": "x"}}, {"content": ORDER, "count": 1}),
        # What the author of a Struct has asked for: fields at their defaults are left out.
        (Sparse, {"line": {"sku": "a"}}, {"line": LINE}),
    ],
)
def test_what_is_built_from_arguments_comes_back_whole(kind, args, written):
    def same(value):
        return value

    same.__annotations__ = {"value": kind}
    rpc = Callee()
    rpc.register("f", same, whole=True)
    assert Caller(rpc).call("f", args) == written


def line() -> Line:
    return msgspec.convert({"sku": "a"}, Line)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (line(), LINE),
        (Order("x"), ORDER),
        ({"k": [line(), (line(),)]}, {"k": [LINE, [LINE]]}),
        (({1: Frozen(line())}), {"1": {"line": LINE, "count": 3}}),
        (
            {Frozen.__name__: Envelope(line(), {"m": [line()]}, {"deep": [line()]})},
            {"Frozen": {"content": LINE, "more": {"m": [LINE]}, "open": {"deep": [LINE]}}},
        ),
        (Order("x", any=Envelope(line())), ORDER | {"any": {"content": LINE, "more": {}, "open": None}}),
    ],
)
def test_every_instance_in_a_value_is_whole(value, written):
    assert decode_args(encode_args(value)) == written


def test_nothing_else_of_an_instance_changes():
    made = line()
    made.count = 7
    encode_args([made])
    assert vars(made) == {"sku": "a", "count": 7}
    del made.sku
    with pytest.raises(AttributeError):
        _ = made.sku
    assert decode_args(encode_args(made)) == {"count": 7}


def test_a_circle_of_dataclasses_is_an_error():
    order = Order("x")
    order.any = [order]
    with pytest.raises(InvalidValue, match="nested too deeply, or circular"):
        encode_args(order)
