"""Functions whose TypeScript types are tested; also what makes such types difficult."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, Optional, TypedDict

import msgspec
from msgspec import Meta

from callee import Callee, Caller

rpc = Callee()


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


@dataclass
class Item:
    """Something to buy. Not the end: */ export"""

    name: str
    count: Annotated[int, Meta(ge=1, description="How many.")] = 1
    sizes: list[Size] = field(default_factory=list)
    parent: Optional[Item] = None  # noqa: UP045
    price: Decimal = Decimal(0)


class Card(msgspec.Struct, tag="card"):
    number: str


class Cash(msgspec.Struct, tag="cash", tag_field="type"):
    amount: float


class Point(NamedTuple):
    x: float
    y: float = 0


Odd = TypedDict("Odd", {"content-type": str, "class": int, "ключ": str, "a b": "Odd | None", '"': int}, total=False)

# Names that TypeScript reserves, and two types of one name.
any_ = msgspec.defstruct("any", [("x", int)])
delete = msgspec.defstruct("delete", [("x", int)])
functions = msgspec.defstruct("Functions", [("x", int)])
other_item = msgspec.defstruct("Item", [("weight", float)], module="other")
generic = msgspec.defstruct("Größe", [("x", int)])


@rpc.register("shop.price")
def price(name: str, count: int = 1) -> float:
    """Return the price of articles."""
    return 2.5 * count


@rpc.register("shop.order")
def order(item: Item, *, paid: Card | Cash, at: Point | None = None) -> Item:
    return item


@rpc.register("shop.describe")
def describe(text: str) -> Generator[str, None, dict[str, int]]:
    yield text
    return {"words": 1}


@rpc.register("shop.count")
def count() -> int:
    return 1


@rpc.register("shop.all")
def all_(sizes: list[Size] | None = None) -> list[Item]:
    return []


@rpc.register("shop.total", whole=True)
def total(prices: list[float]) -> float:
    return sum(prices)


@rpc.register("shop.mine")
def mine(who: Caller, kind: Literal["new", "old"] = "new", /, **more: bool) -> None: ...


@rpc.register("shop.anything")
def anything(a, b=2): ...


@rpc.register("shop.raw", raw=True)
def raw(call): ...


@rpc.register("weird \"quoted\" 'uri' \\ ключ ${x}\u2028 */")
def odd(odd: Odd) -> Odd:
    """Close */ and \x00 and

    @param {string
    """
    return odd


@rpc.register("weird.names")
def names(a: any_, class_: delete, b: functions, c: other_item, d: generic) -> Any: ...  # type: ignore[valid-type]
