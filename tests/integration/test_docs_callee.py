"""docs/callee.md, run as it stands: its functions, its tests, its commands."""

from __future__ import annotations

import json
import sys

import pytest

from juggler.callee.testing import Caller
from juggler.errors import CallFailed
from tests.docs import python_blocks, run_blocks


@pytest.fixture
def page():
    return run_blocks("callee.md")


def test_its_functions_do_what_it_says(page):
    caller = Caller(page["rpc"])
    assert caller.call("shop.price", {"name": "tea"}) == 3
    with pytest.raises(CallFailed, match="count: Expected int, got str"):
        caller.call("shop.price", ["tea", "2"])
    assert caller.call("shop.total", [1, 2.5]) == 3.5
    assert caller.call("shop.echo", [1, None]) == [1, None]
    assert caller.call("shop.search", [["a"]]) == ["a: within 60 s"]
    assert caller.call("stock.count", "tea") == 5
    with pytest.raises(CallFailed, match="not enough money") as failed:
        caller.call("shop.pay", [5, 3])
    assert (failed.value.code, failed.value.data) == ("balance", {"missing": 2})


def test_its_tests_pass(page, juggler_memory, juggler_redis, tmp_path, monkeypatch):
    (tmp_path / "shop.py").write_text("\n".join(text for text in python_blocks("callee.md") if "def test_" not in text))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    page["test_in_memory"](juggler_memory)
    page["test_for_real"](juggler_redis)


def test_a_stack_in_memory_serves_threads_and_events(page, juggler_memory):
    rpc = page["rpc"]
    stack = juggler_memory({uri: rpc[uri] for uri in ("shop.announce", "shop.price")}, unknown_uris="refuse")
    with stack.client.subscribe("shop.news") as news:
        stack.client.call("shop.announce", "hi")
        assert json.loads(news.get(timeout=30).json) == {"text": "hi"}
