"""The orders of examples/: a session around each call in every pool, committed, or rolled back and always closed."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from sqlalchemy import create_engine, func, select

from juggler.client import Client
from juggler.errors import CallFailed
from tests.integration.commands import TIMEOUT, demo_process

POOLS = (None, "thread", "process")

# The example, with functions for tests: they place orders in every pool and look at its connections.
PROBES = """
import os
import threading
from contextvars import ContextVar

import greenlet

from examples.orders.callees import current, engine, order, rpc

begun = ContextVar("begun")


def here():
    return [os.getpid(), threading.get_ident(), id(greenlet.getcurrent())]


@rpc.around
def in_one_place():
    begun.set(here())
    try:
        yield
    finally:
        assert begun.get() == here()


def place(name, fail=False, result=None):
    assert begun.get() == here()
    number = order(name, "probe")
    if fail:
        raise KeyError(name)
    return object() if result else number


def sessions():
    # The connection of the call is checked out by its first statement.
    return [engine.pool.checkedout(), current.get().in_transaction(), os.getpid()]


for pool in (None, "thread", "process"):
    rpc.register(f"place.{pool}", place, pool=pool)
    rpc.register(f"sessions.{pool}", sessions, pool=pool)
"""


@contextmanager
def orders(tmp_path, monkeypatch, target="examples.orders.callees:rpc"):
    """The orders; yields the URL of their websocket."""
    (tmp_path / "probes.py").write_text(PROBES)
    monkeypatch.syspath_prepend(tmp_path)
    environment = {"ORDERS_DATABASE": f"sqlite:///{tmp_path}/orders.db", "PYTHONPATH": f"{tmp_path}:."}
    with demo_process(target, "--app", "examples.orders.app:application", **environment) as url:
        yield url


@pytest.fixture
def count(tmp_path):
    """Return the number of orders of one name."""
    from examples.orders.callees import Order  # creates its database

    engine = create_engine(f"sqlite:///{tmp_path}/orders.db")

    def count(name):
        with engine.connect() as connection:
            return connection.scalar(select(func.count()).where(Order.name == name))

    yield count
    engine.dispose()


@pytest.fixture(autouse=True)
def own_database(tmp_path, monkeypatch):
    monkeypatch.setenv("ORDERS_DATABASE", f"sqlite:///{tmp_path}/imported.db")


def test_orders_belong_to_the_customer_of_the_token(tmp_path, monkeypatch):
    with (
        orders(tmp_path, monkeypatch) as url,
        Client(url + "?token=0f3a9c") as ann,
        Client(url + "?token=77b0e1") as bob,
        Client(url) as stranger,
    ):
        assert ann.call("orders.place", {"names": ["tea", "coffee"]}, timeout=TIMEOUT) == [1, 2]
        assert bob.call("orders.place", [["tea"]]) == [3]
        assert ann.call("orders.mine") == [[1, "tea"], [2, "coffee"]]
        assert bob.call("orders.mine") == [[3, "tea"]]
        for forged in ({"names": ["tea"], "who": "ann"}, [["tea"], "ann"]):
            with pytest.raises(CallFailed, match=r"unknown parameter|expected 1 argument"):
                bob.call("orders.place", forged)
        with pytest.raises(CallFailed, match="log in first") as failed:
            stranger.call("orders.place", [["tea"]])
        assert failed.value.code == 401
        assert stranger.call("orders.report", timeout=TIMEOUT) == {"coffee": 4, "tea": 6}


def test_an_order_of_which_a_part_is_not_in_stock_is_none(tmp_path, monkeypatch, count):
    with orders(tmp_path, monkeypatch) as url, Client(url + "?token=0f3a9c") as ann:
        with pytest.raises(CallFailed, match="not in stock: gold"):
            ann.call("orders.place", [["tea", "gold"]], timeout=TIMEOUT)
        assert ann.call("orders.mine") == []
        assert count("tea") == 0


def test_sessions_are_committed_rolled_back_and_closed_in_every_pool(tmp_path, monkeypatch, count):
    with orders(tmp_path, monkeypatch, "probes:rpc") as url, Client(url) as client:
        processes = set()
        for pool in POOLS:
            before = count("tea")
            client.call(f"place.{pool}", ["tea"], timeout=TIMEOUT)
            assert count("tea") == before + 1, pool
            for args in ({"name": "tea", "fail": True}, {"name": "tea", "result": "object"}, {"name": "gold"}):
                with pytest.raises(CallFailed):
                    client.call(f"place.{pool}", args)
            for args in ({"nothing": 1}, [1, 2, 3, 4]):
                with pytest.raises(CallFailed, match=r"missing|expected 3 arguments"):
                    client.call(f"place.{pool}", args)
            assert count("tea") == before + 1, pool
            # After all these calls no session is left open: the only transaction is that of this call.
            checked_out, in_transaction, pid = client.call(f"sessions.{pool}")
            assert (checked_out, in_transaction) == (0, True), pool
            processes.add(pid)
        assert len(processes) == 3
