"""Decimals keep their digits on the way to a function and back, and enums as keys are their values."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any

import pytest

from juggler.broker import IncomingCall
from juggler.callee import answer
from juggler.callee.thunk import Thunk
from juggler.errors import InvalidValue
from juggler.protocol.codec import encode_args

LONG = "12345678901234567.89"


class Size(Enum):
    SMALL = "small"


class Number(Enum):
    ONE = 1


class Level(IntEnum):
    LOW = 1


@dataclass
class Price:
    amount: Decimal
    factor: float = 1.0
    sizes: dict[Size, Decimal] | None = None


def run(function, args, **options):
    call = IncomingCall("", "", "f", args.encode(), 1e12)
    return answer.run(Thunk("f", function, **options), call).args.decode()


def same(amount: Decimal) -> Decimal:
    assert type(amount) is Decimal
    return amount


def total(prices: list[Price]) -> list[Price]:
    assert all(type(price.factor) is float for price in prices)
    return prices


def mixed(amount: Decimal | None, factor: float, other: Any, *more) -> list[object]:
    assert [type(each) for each in (factor, other[0], *more)] == [float] * (2 + len(more))
    return [amount, factor, other, *more]


@pytest.mark.parametrize(
    ("function", "args", "result", "options"),
    [
        (same, LONG, LONG, {}),
        (same, f'{{"amount":{LONG}}}', LONG, {}),
        (same, LONG, LONG, {"whole": True}),
        (same, '"0.10"', "0.10", {}),
        (same, "5", "5", {}),
        (same, "1e400", "1E+400", {}),
        (
            total,
            f'[[{{"amount":{LONG},"factor":1.5,"sizes":null}}]]',
            f'[{{"amount":{LONG},"factor":1.5,"sizes":null}}]',
            {},
        ),
        (
            total,
            f'[[{{"amount":1,"factor":1.5,"sizes":{{"small":{LONG}}}}}]]',
            f'[{{"amount":1,"factor":1.5,"sizes":{{"small":{LONG}}}}}]',
            {},
        ),
        (mixed, f"[{LONG},1.5,[2.5],3.5]", f"[{LONG},1.5,[2.5],3.5]", {}),
        (lambda value: [value, 0.1], "0.1", "[0.1,0.1]", {}),
    ],
)
def test_digits_are_kept(function, args, result, options):
    assert run(function, args, **options) == result


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [Decimal(LONG), (Decimal("-0.0"), 1.5)]}, f'{{"a":[{LONG},[-0.0,1.5]]}}'),
        ({Size.SMALL: 1, Number.ONE: 2, Level.LOW: 3}, '{"small":1,"1":3}'),
        ([{Size.SMALL: {Number.ONE: Decimal("0.10")}}], '[{"small":{"1":0.10}}]'),
        ({"a": Price(Decimal(LONG))}, f'{{"a":{{"amount":{LONG},"factor":1.0,"sizes":null}}}}'),
        ({Decimal(LONG)}, f"[{LONG}]"),
    ],
)
def test_values_are_exact_at_any_depth(value, text):
    assert encode_args(value).decode() == text


@pytest.mark.parametrize("value", [Decimal("NaN"), [Decimal("Infinity")], {"a": {Decimal("-Infinity")}}])
def test_decimals_that_are_not_numbers_are_refused(value):
    with pytest.raises(InvalidValue, match="NaN and Infinity are not JSON"):
        encode_args(value)
