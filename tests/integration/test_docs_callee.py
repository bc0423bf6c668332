"""docs/callee.md, run as it stands: its functions, its tests, its commands."""

from __future__ import annotations

import json
import re
import shlex
import sys

import pytest

from juggler.callee.testing import Caller
from juggler.errors import CallFailed
from juggler.process.embedded import free_port
from tests.docs import DOCS, python_blocks, run_blocks
from tests.integration.commands import TIMEOUT, run, run_python, running_python, server_process
from tests.support import eventually

PAGE = (DOCS / "callee.md").read_text()


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
    with pytest.raises(CallFailed) as failed:
        caller.call("shop.take", "tea")
    assert failed.value.data == {"out_of_stock": "tea"}


def test_its_schema_is_that_of_its_function(page):
    (shown,) = re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert json.loads(page["rpc"]["shop.watch"].schema) == json.loads(shown)


def test_its_functions_know_their_caller(page):
    assert Caller(page["rpc"], caller="ann").call("shop.basket") == {"of": "ann", "name": "tea"}
    with pytest.raises(CallFailed, match="log in first"):
        Caller(page["rpc"]).call("shop.basket")


def test_its_session_is_committed_or_rolled_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = run_blocks("callee.md")
    ann = Caller(page["rpc"], caller="ann")
    ann.call("account.open", 10)
    assert ann.call("account.pay", 7) == 3
    with pytest.raises(CallFailed, match="not enough money"):
        ann.call("account.pay", 4)
    assert ann.call("account.pay", 3) == 0
    page["engine"].dispose()


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """The examples of the page, in order, in one file."""
    (tmp_path / "shop.py").write_text("\n\n".join(python_blocks("callee.md")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))


def test_its_tests_pass(shop):
    done = run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", "shop.py")
    assert (done.returncode, "3 passed" in done.stdout) == (0, True), done.stdout + done.stderr


@pytest.mark.leaves_keys("juggler:calls:*")
def test_its_commands_work(shop, redis_url):
    lines = [
        line for text in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) for line in text.splitlines()
    ]
    serve, call, production, limited, uris = (shlex.split(line) for line in lines)
    assert (serve[0], call[:2], production[0], limited[0], uris[:2]) == (
        "juggler-callee",
        ["juggler", "call"],
        "juggler-callee",
        "juggler-callee",
        ["juggler", "uris"],
    )
    for command in (serve, production, limited):
        command = [word.replace(":9100", f":{free_port()}") for word in command[1:]]
        with running_python("-m", "juggler.callee", *command, REDIS_URL=redis_url) as process:
            assert process.stdout.readline().startswith("serving shop.price, shop.order, shop.total, shop.echo")
            with server_process(redis_url) as url:
                assert run(*call[1:], JUGGLER_URL=url).stdout == "6\n"
                assert run("call", "shop.report", "[4]", JUGGLER_URL=url).stdout == "14\n"
            eventually(lambda: "shop.price\t" in run(*uris[1:], REDIS_URL=redis_url).stdout)
            process.terminate()
            _, errors = process.communicate(timeout=TIMEOUT)
            assert (process.returncode, "Traceback" in errors) == (0, False), errors


def test_a_stack_in_memory_serves_threads_and_events(page, juggler_memory):
    rpc = page["rpc"]
    stack = juggler_memory({uri: rpc[uri] for uri in ("shop.announce", "shop.price")}, unknown_uris="refuse")
    with stack.client.subscribe("shop.news") as news:
        stack.client.call("shop.announce", "hi")
        assert json.loads(news.get(timeout=30).json) == {"text": "hi"}
