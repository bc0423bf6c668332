"""Processes of ``juggler-callee`` whose functions leak are replaced, and no call is lost."""

from __future__ import annotations

import json
import re
import signal
import time

import gevent
import pytest

from juggler.broker.redis import RedisBroker
from juggler.callee.wear import MB
from juggler.process.process_memory import resident
from tests.integration.commands import server_process
from tests.integration.test_callee_command import end, run, running
from tests.integration.test_callee_processes import children
from tests.load import Load
from tests.recorders import RecordedCall
from tests.support import eventually

LEAKY = """
import os
import time

from callee import Callee

rpc = Callee()
leaked = []


def leak(size: int, seconds: float = 0.0) -> int:
    leaked.append(b"x" * size)
    time.sleep(seconds)
    return os.getpid()


rpc.register("leak", leak)
rpc.register("thread.leak", leak, pool="thread")
rpc.register("process.leak", leak, pool="process")
"""
RECYCLING = re.compile(r'recycling a process .*pid=(\d+) reason="([\d,]+) (calls|MB)"')


@pytest.fixture
def leaky(tmp_path):
    (tmp_path / "leaky.py").write_text(LEAKY)
    return tmp_path


@pytest.fixture
def call(redis_url):
    """Call a function, and return a function that waits for the result."""
    broker = RedisBroker(redis_url)

    def call(uri, *args, timeout=30.0):
        pending = RecordedCall()
        broker.call(uri, json.dumps(args).encode(), timeout, pending)

        def result():
            (_, error), (kind, args) = pending.wait(2)
            assert (error, kind) == (None, "result")
            return json.loads(args)

        return result

    yield call
    broker.close()


def call_until(enough, call, uri, *args, concurrently=10):
    """Keep calls in flight until there are enough results; return them."""
    results = []
    deadline = time.monotonic() + 60

    def run():
        while not enough(results):
            assert time.monotonic() < deadline
            results.append(call(uri, *args)())

    gevent.joinall([gevent.spawn(run) for _ in range(concurrently)], raise_error=True)
    return results


def several(results):
    """Whether calls have run in several processes."""
    return len(set(results)) > 3


@pytest.mark.parametrize("options", [(), ("-p", "2")])
def test_processes_are_replaced_after_calls_and_none_is_lost(redis_url, options):
    limits = ("--max-calls-per-process", "100")
    with (
        running("callee.demo:rpc", *options, *limits, "--redis", redis_url) as process,
        server_process(redis_url) as url,
        Load(url) as load,
    ):
        first = set(children(process))
        eventually(lambda: not first & set(children(process)), timeout=60)
        load.flows()
        counts = load.counts()
        code, out, err = end(process, signal.SIGTERM)
    assert code == 0
    assert counts.expired == counts.refused == 0
    assert counts.acknowledged == counts.answered > 0
    assert f"{counts.answered} requests, {counts.answered} successes, 0 failures, 0 expiries" in out
    reasons = RECYCLING.findall(err)
    assert len(reasons) >= len(first)
    assert all(int(calls.replace(",", "")) >= 80 and what == "calls" for _, calls, what in reasons)


@pytest.mark.parametrize("uri", ["leak", "thread.leak", "process.leak"])
def test_processes_are_replaced_above_a_memory_limit(redis_url, leaky, call, uri):
    options = ("--max-memory-per-process", "120", "--pool-processes", "2", "--redis", redis_url)
    with running("leaky:rpc", *options, cwd=leaky) as process:
        call_until(several, call, uri, MB, 0.05)
        code, _, err = end(process, signal.SIGTERM)
    assert code == 0
    reasons = RECYCLING.findall(err)
    assert len(reasons) >= 2
    assert all(int(used) >= 96 and what == "MB" for _, used, what in reasons)


@pytest.mark.parametrize("uri", ["thread.leak", "process.leak"])
def test_processes_of_pools_are_replaced_after_calls(redis_url, leaky, call, uri):
    options = ("--max-calls-per-process", "20", "--pool-processes", "2", "--threads", "4", "--redis", redis_url)
    with running("leaky:rpc", *options, cwd=leaky) as process:
        pids = call_until(several, call, uri, 1, 0.02)
        (worker,) = children(process)
        # The worker itself runs no call, so it is never replaced.
        assert worker not in pids
        eventually(lambda: len(pids_of_pool(worker)) <= 2)
        code, _, err = end(process, signal.SIGTERM)
    assert code == 0
    assert {pid for pid, _, _ in RECYCLING.findall(err)} <= set(map(str, pids))


def pids_of_pool(worker):
    with open(f"/proc/{worker}/task/{worker}/children") as file:
        return file.read().split()


def test_a_long_call_is_completed_beyond_the_grace(redis_url, leaky, call):
    options = ("--max-calls-per-process", "2", "--grace", "0.1", "--redis", redis_url)
    with running("leaky:rpc", *options, cwd=leaky) as process:
        (first,) = children(process)
        long = call("leak", 1, 6.0)
        assert call("leak", 1)() == first
        eventually(lambda: call("leak", 1)() != first)
        # It has been replaced, and completes its call.
        assert first in children(process)
        assert long() == first
        eventually(lambda: first not in children(process))
        assert end(process, signal.SIGTERM)[0] == 0


def test_a_stop_ends_a_retired_process_after_the_grace(redis_url, leaky, call):
    options = ("--max-calls-per-process", "2", "--grace", "0.1", "--redis", redis_url)
    with running("leaky:rpc", *options, cwd=leaky) as process:
        (first,) = children(process)
        long = call("leak", 1, 25.0)
        assert call("leak", 1)() == first
        eventually(lambda: call("leak", 1)() != first)
        began = time.monotonic()
        code, _, err = end(process, signal.SIGTERM)
        assert time.monotonic() - began < 15
    assert code == 1
    assert "shutdown: calls abandoned" in err
    assert "the callee stopped" in long()["error"]["message"]


def test_a_memory_limit_that_no_process_can_keep_is_refused(redis_url):
    done = run("callee.demo:rpc", "--max-memory-per-process", "5", "--redis", redis_url)
    assert done.returncode == 2
    found = re.fullmatch(
        r"juggler-callee: --max-memory-per-process: expected at least (\d+), got 5: "
        r"the process uses \d+ MB before its first call\n",
        done.stderr,
    )
    least = found.group(1)
    with running("callee.demo:rpc", "--max-memory-per-process", str(int(least) + 5), "--redis", redis_url) as process:
        assert process.said.startswith("serving ")
        assert end(process, signal.SIGTERM)[0] == 0


def test_limits_are_off_by_default(redis_url, leaky, call):
    with running("leaky:rpc", "--redis", redis_url, cwd=leaky) as process:
        assert set(call_until(lambda results: len(results) >= 200, call, "leak", MB)) == {process.pid}
        assert resident(process.pid) > 200 * MB
        code, _, err = end(process, signal.SIGTERM)
    assert (code, err) == (0, "")
