"""The test runner itself: what leaks or hangs is caught, in a pytest of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HANGS = """
import gevent, pytest, time
from gevent.event import Event

pytestmark = pytest.mark.timeout(0.2)

def test_waits():
    Event().wait(30)

def test_sleeps():
    time.sleep(30)

def test_computes():
    while True: pass

def test_another_greenlet_computes():
    def compute():
        while True: pass
    gevent.spawn(compute).join()

def test_goes_on_afterwards():
    pass
"""

LEAKS = """
import gevent, pytest, redis, socket

kept = []

def test_greenlet():
    kept.append(gevent.spawn(gevent.sleep, 60))

def test_watcher():
    one, other = socket.socketpair()
    kept.append(gevent.get_hub().loop.io(one.fileno(), 1))
    kept[-1].start(lambda: None)
    one.close()
    other.close()

def test_socket():
    kept.append(socket.socket())

def set_key(url):
    with redis.Redis.from_url(url, protocol=2) as client:
        client.set("a:1", "x")

def test_key(redis_url):
    set_key(redis_url)

@pytest.mark.leaves_keys("a:*")
def test_declared_key(redis_url):
    set_key(redis_url)

def test_nothing(redis_url):
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        assert client.keys("*") == []
    gevent.spawn(gevent.sleep, 0.05)
"""


@pytest.fixture
def outcomes(tmp_path):
    """Run a module of tests and return its summary, a line for each test that did not pass, and what was printed."""

    def outcomes(source: str) -> tuple[list[str], str]:
        (tmp_path / "test_inner.py").write_text(source)
        command = [
            *(sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", str(ROOT / "setup.cfg")),
            *("-p", "no:cacheprovider", "-q", "-rfE", "--tb=line", str(tmp_path)),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        lines = [line.partition("test_inner.py::")[2] for line in done.stdout.splitlines() if "::" in line]
        return lines, done.stdout + done.stderr

    return outcomes


def test_a_test_that_hangs_fails_and_the_others_go_on(outcomes):
    lines, output = outcomes(HANGS)
    names = ["test_waits", "test_sleeps", "test_computes", "test_another_greenlet_computes"]
    assert [line.partition(" - ")[0] for line in lines] == names, output
    assert output.count("\nE   Failed: timeout: the test took longer than 0.2 s") == 4
    assert "4 failed, 1 passed" in output


def test_a_test_that_leaks_fails(outcomes):
    lines, output = outcomes(LEAKS)
    names = ["test_greenlet", "test_watcher", "test_socket", "test_key"]
    assert [line.partition(" - ")[0] for line in lines] == names, output
    assert "the test left greenlets: [<Greenlet" in output
    assert "the test left gevent watching descriptors that are closed: [" in output
    assert "the test left 1 sockets open" in output
    assert "the test left keys in Redis: ['a:1']" in output
    assert "6 passed, 4 errors" in output


def test_modules_are_patched_before_pytest_needs_them(outcomes):
    source = "from gevent import monkey\ndef test(): assert all(map(monkey.is_module_patched, ['ssl', 'socket']))\n"
    lines, output = outcomes(source)
    assert lines == []
    assert "MonkeyPatchWarning" not in output
    assert "1 passed" in output
