"""Orders in a database: each call has a SQLAlchemy session, which is committed, or rolled back if the call fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Annotated

from msgspec import Meta
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.schema import CreateTable

from callee import Callee, Caller, CallError

PRICES = {"tea": 3, "coffee": 4}

Names = Annotated[list[str], Meta(min_length=1, max_length=100)]


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    number: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]


# Each process that imports this module has an engine of its own: the callee, and those of its pools.
engine = create_engine(os.environ.get("ORDERS_DATABASE", "sqlite:///orders.db"))
with engine.begin() as connection:
    connection.execute(CreateTable(Order.__table__, if_not_exists=True))  # type: ignore[arg-type]

rpc = Callee()
current: ContextVar[Session] = ContextVar("session")
"""The session of the running call."""


@rpc.around
def session() -> Iterator[None]:
    """Open a session and a transaction around each call."""
    with Session(engine) as opened, opened.begin():
        current.set(opened)
        yield


# SQLite blocks without gevent's knowledge, so this function runs in threads. With a driver that gevent patches, such
# as psycopg for PostgreSQL, functions in greenlets may block as well.


@rpc.register("orders.place", pool="thread")
def place(names: Names, who: Caller) -> list[int]:
    """Order some things; return the numbers of the orders. If one is not in stock, nothing is ordered."""
    if not who.known:
        raise CallError("log in first", code=401)
    return [order(name, who.identity) for name in names]


def order(name: str, customer: str) -> int:
    if name not in PRICES:
        raise CallError(f"not in stock: {name}", code=404)  # rolls back what the call has inserted
    order = Order(customer=customer, name=name)
    current.get().add(order)
    current.get().flush()  # assigns the number
    return order.number


@rpc.register("orders.mine")
def mine(who: Caller) -> list[tuple[int, str]]:
    """Return number and name of the caller's orders. The query is short enough for a greenlet."""
    orders = current.get().scalars(select(Order).where(Order.customer == who.identity).order_by(Order.number))
    return [(order.number, order.name) for order in orders]


@rpc.register("orders.report", pool="process")
def report() -> dict[str, int]:
    """Return the turnover of each thing. Computations run in processes."""
    counts = current.get().execute(select(Order.name, func.count()).group_by(Order.name).order_by(Order.name))
    return {name: count * PRICES[name] for name, count in counts}
