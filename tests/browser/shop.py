"""Functions with all kinds of parameters, for the playground."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from callee import Callee, publish


class Colour(Enum):
    RED = "red"
    GREEN = "green"


@dataclass
class Item:
    sku: Annotated[str, Meta(min_length=1, max_length=20)]
    count: Annotated[int, Meta(ge=1, le=99)] = 1
    colour: Colour = Colour.RED


class Card(Struct, tag="card"):
    number: str


class Invoice(Struct, tag="invoice"):
    address: str


@dataclass
class Node:
    name: str
    children: list[Node] = field(default_factory=list)


rpc = Callee()


@rpc.register("orders.place")
def place(customer: str, items: list[Item], pay: Card | Invoice, express: bool = False, note: str | None = None) -> Any:
    """Place an order.

    It is published on the channel orders.placed.
    """
    publish("orders.placed", {"customer": customer})
    return {"customer": customer, "items": items, "pay": pay, "express": express, "note": note}


@rpc.register("orders.quote")
def quote(
    sku: Annotated[str, Meta(min_length=1, max_length=20)],
    count: Annotated[int, Meta(ge=1, le=99)] = 1,
    delivery: Literal["standard", "express"] = "standard",
) -> Any:
    """Return the price of an order, and publish it on orders.quoted."""
    total = 4.5 * count
    publish("orders.quoted", {"sku": sku, "total": total})
    line = {"sku": sku, "count": count, "price": 4.5}
    return {"lines": [line], "total": total, "delivery": {"how": delivery, "day": "2026-12-01"}, "discount": None}


@rpc.register("orders.watch")
def watch(states: int = 3) -> Any:
    """Yield the states of an order."""
    for number in range(states):
        yield {"state": number}
    return "delivered"


@rpc.register("tree.depth")
def depth(root: Node, mode: Literal["depth", "breadth"] = "depth") -> int:
    """Return the depth of a tree."""
    return 1 + max((depth(child) for child in root.children), default=0)


@rpc.register("users.login")
def login(user: str, password: str = "") -> str:
    """Log in."""
    return user


@rpc.register("sys.echo", whole=True)
def echo(value: Any) -> Any:
    """Return the argument."""
    return value


@rpc.register("sys.sleep", pool="thread")
def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


@rpc.register("sys.large")
def large(rows: int, characters: int) -> Any:
    """Return a large value."""
    text = "x" * characters
    return {
        "rows": [{"id": 2**60 + row, "name": f"row {row}", "tags": ["a", {"b": row}]} for row in range(rows)],
        "text": text,
    }
