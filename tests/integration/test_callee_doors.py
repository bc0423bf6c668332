"""``juggler.callee`` does not depend on the name ``callee``, which another distribution on PyPI has as well."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.test_callee_command import end

ROOT = Path(__file__).parents[2]

SHOP = """
import os
from callee import nothing_of_juggler
from juggler.callee import CallError, Callee, current_call, publish

rpc = Callee()
assert nothing_of_juggler


@rpc.register("double")
def double(n: int) -> int:
    return 2 * n


@rpc.register("process.double", pool="process")
def process_double(n: int) -> list:
    return [2 * n, os.getpid(), current_call().uri]
"""

IN_A_PROGRAM = """
import callee
assert not hasattr(callee, "Callee")

import gevent
from juggler.broker.memory import MemoryBroker
from juggler.callee import Callee
from juggler.callee.testing import Caller, memory_stack
from juggler.callee.worker import Worker
from shop import rpc

assert Caller(rpc).call("double", 4) == 8

threads = Callee()
threads.register("double", lambda n: 2 * n, pool="thread")
with memory_stack(threads) as stack:
    assert stack.client.call("double", 3) == 6

broker = MemoryBroker(blocking_timeout=0.02)
worker = Worker(rpc, broker, source="shop:rpc", processes=1)
gevent.spawn_later(0, worker.stop)
assert worker.run() == 0
broker.close()
print("all of it works")
"""


@pytest.fixture
def environment(tmp_path):
    """An environment in which ``import callee`` finds another distribution's package, and ``shop`` a callee."""
    (tmp_path / "callee").mkdir()
    (tmp_path / "callee" / "__init__.py").write_text("nothing_of_juggler = True\n")
    (tmp_path / "shop.py").write_text(SHOP)
    return {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "PYTHONWARNINGS": "error"}


def test_a_program_works_beside_another_package_of_that_name(environment, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", IN_A_PROGRAM], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("all of it works\n", 0), done.stderr


@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_command_works_beside_another_package_of_that_name(environment, tmp_path, redis_url, ask, processes):
    command = [
        *(sys.executable, "-c", "import callee; from juggler.callee.cli import main; main()"),
        *("shop:rpc", "--pool-processes", "1", "--processes", processes, "--redis", redis_url),
    ]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline().startswith("serving double, process.double, ")
            assert ask("double", [21]) == 42
            doubled, pid, uri = ask("process.double", [21])
            assert (doubled, uri) == (42, "process.double")
            assert pid not in (process.pid, os.getpid())
            code, out, err = end(process, signal.SIGTERM)
            assert (code, out) == (0, "stopped: 2 requests, 2 successes, 0 failures, 0 expiries\n"), err
        finally:
            process.kill()


def test_the_short_name_of_the_command_works():
    done = subprocess.run(
        [sys.executable, "-m", "callee.cli", "callee.demo:rpc", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("callee.demo:rpc: test.echo, test.reverse, test.delay\n", 0)
