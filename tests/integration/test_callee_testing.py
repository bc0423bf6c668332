"""The stacks of the test kit, in a program and a pytest without monkey-patching."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SHOP = """
import os
import time

import gevent
from callee import Callee, Cancelled, caller, cancelled, progress, publish

rpc = Callee()
noted = []


@rpc.register("price")
def price(name: str) -> int:
    return len(name)


@rpc.register("wait", pool="thread")
def wait():
    time.sleep(0.05)
    publish("news", "waited")
    return "waited"


@rpc.register("compute", pool="process", deadline="enforce")
def compute(n: int) -> int:
    return sum(range(n))


@rpc.register("pid")
def pid():
    return os.getpid()


@rpc.register("count")
def count(n: int):
    try:
        for number in range(n):
            yield number
            gevent.sleep(0)
        return "counted"
    finally:
        noted.append("closed")


@rpc.register("rows", pool="thread")
def rows():
    progress("half")
    gevent.sleep(0.2)
    return "imported"


@rpc.register("inform")
def inform():
    noted.append("started")
    while not cancelled():
        gevent.sleep(0.01)
    return "noticed"


@rpc.register("raise", cancel="raise")
def raise_():
    noted.append("started")
    try:
        gevent.sleep(60)
    except Cancelled:
        noted.append("raised")
        raise


opened = []


@rpc.around
def around():
    opened.append(caller().identity)
    try:
        yield
    finally:
        opened.pop()


@rpc.register("who", pool="process")
def who():
    return [caller().identity, opened]
"""

TESTS = """
import os
import time

import pytest

from juggler.callee.testing import Caller
from juggler.errors import CallFailed, Cancelled
from shop import noted, rpc


def wait_for(*expected):
    until = time.monotonic() + 20
    while noted != [*expected]:
        assert time.monotonic() < until, noted
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def nothing_noted():
    noted.clear()


def test_in_memory(juggler_memory):
    from gevent import monkey

    assert not monkey.is_module_patched("socket")
    stack = juggler_memory(rpc)
    assert stack.client.call("price", "tea") == 3
    assert stack.client.call("pid") == os.getpid()
    with pytest.raises(CallFailed, match="name: Expected str, got int"):
        stack.client.call("price", 1)
    assert stack.client.call("compute", 4) == 6
    with stack.client.subscribe("news") as news:
        assert stack.client.call("wait") == "waited"
        assert news.get(timeout=30).args == "waited"


def test_twice(juggler_memory):
    one, two = juggler_memory(rpc), juggler_memory(rpc, max_calls=5)
    assert one.url != two.url
    assert one.client.call("price", "tea") == two.client.call("price", "tea")


def test_a_connect_hook(juggler_memory):
    from juggler.client import Client
    from juggler.errors import JugglerError

    def hook(request):
        return {"Bearer secret": "ann"}.get(request.header("Authorization"))

    headers = {"Authorization": "Bearer secret"}
    stack = juggler_memory(rpc, connect=hook, client_options={"headers": headers})
    assert stack.client.call("price", "tea") == 3
    assert stack.client.call("who") == ["ann", ["ann"]]
    with pytest.raises(JugglerError, match="401"), Client(stack.url):
        pass


def test_a_caller_hook(juggler_memory):
    stack = juggler_memory(rpc, caller=lambda connection: {"at": connection.address})
    assert stack.client.call("who") == [{"at": "127.0.0.1"}, [{"at": "127.0.0.1"}]]
    assert juggler_memory(rpc).client.call("who") == [None, [None]]


def test_parts_and_cancels_in_memory(juggler_memory):
    client = juggler_memory(rpc).client
    with client.stream("count", 100, window=5) as stream:
        assert list(stream) == list(range(100))
        assert stream.result() == "counted"
    wait_for("closed")
    with client.stream("count", 10**9) as stream:
        assert [next(stream), next(stream)] == [0, 1]
    wait_for("closed", "closed")
    with client.stream("rows") as stream:
        assert (next(stream), stream.result()) == ("half", "imported")

    noted.clear()
    pending = client.start_call("inform")
    wait_for("started")
    pending.cancel(wait=True)
    assert pending.result() == "noticed"
    noted.clear()
    pending = client.start_call("raise")
    wait_for("started")
    pending.cancel()
    with pytest.raises(Cancelled):
        pending.result()
    wait_for("started", "raised")


def test_parts_and_cancels_in_place():
    caller = Caller(rpc)
    with caller.stream("count", 5) as stream:
        assert (list(stream), stream.result()) == ([0, 1, 2, 3, 4], "counted")
    with caller.stream("count", 10**9) as stream:
        assert [next(stream), next(stream)] == [0, 1]
    assert noted == ["closed", "closed"]
    with caller.stream("rows") as stream:
        assert (next(stream), stream.result()) == ("half", "imported")
    assert caller.call("inform", cancel_after=0.05) == "noticed"
    with pytest.raises(CallFailed) as failed:
        caller.call("raise", cancel_after=0.05)
    assert (failed.value.type, failed.value.code) == ("Cancelled", 499)
    assert noted[-1] == "raised"


def test_with_redis(juggler_redis):
    stack = juggler_redis("shop:rpc", "-c", "5")
    assert stack.client.call("price", "tea") == 3
    assert stack.client.call("pid") != os.getpid()
"""


def test_the_fixtures_are_there_for_everybody(tmp_path):
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "test_shop.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout


def test_a_project_that_does_not_use_it_does_not_import_gevent(tmp_path):
    (tmp_path / "test_other.py").write_text("import sys\n\n\ndef test_it():\n    assert 'gevent' not in sys.modules\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:locust", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_callee_that_cannot_be_served_is_an_error_at_once(juggler_memory, juggler_redis):
    from callee import Callee
    from juggler.errors import ConfigError

    with pytest.raises(ValueError, match="at least one URI"):
        juggler_memory(Callee())
    with pytest.raises(ConfigError, match="exited with exit code 2"):
        juggler_redis("no_such_module:rpc")
