"""``juggler-callee`` with several processes, pools and reloads: started, killed and renewed for real."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import redis

from juggler.broker.redis import RedisBroker
from juggler.process.embedded import free_port
from loadtest.procfs import cpu_seconds
from tests.integration.commands import ROOT, server_process
from tests.integration.test_callee_command import end, run, running
from tests.load import Load
from tests.recorders import RecordedCall
from tests.redis_servers import mortal_redis
from tests.support import eventually

SHOP = """
import asyncio
import ctypes
import logging
import multiprocessing
import os
import queue
import subprocess
import sys
import threading
import time

from callee import CallError, Callee, publish, time_left

rpc = Callee()
VERSION = {version}


@rpc.register("version")
def version():
    return VERSION


@rpc.register("pid")
def pid():
    return os.getpid()


@rpc.register("fail")
def fail():
    raise ValueError("bad")


@rpc.register("die")
def die():
    os._exit(7)


@rpc.register("compute", pool="process")
def compute(n: int) -> int:
    return sum(range(n))


@rpc.register("process.pid", pool="process")
def process_pid():
    return os.getpid()


@rpc.register("process.die", pool="process")
def process_die():
    os._exit(7)


@rpc.register("process.fail", pool="process")
def process_fail(code: int):
    raise CallError("no", code=code) if code else ValueError("bad")


@rpc.register("process.publish", pool="process")
def process_publish(text: str, channel: str = "news") -> float:
    publish(channel, text)
    return time_left()


@rpc.register("process.odd", pool="process")
def process_odd(text: str):
    raise ValueError(text)


@rpc.register("terminate")
def terminate():
    child = subprocess.Popen(["sleep", "20"])
    child.terminate()
    return child.wait(5)


@rpc.register("process.terminate", pool="process")
def process_terminate():
    return terminate()


@rpc.register("block", pool="thread")
def block():
    ctypes.CDLL(None).usleep(8_000_000)


turns, lock = queue.Queue(), threading.Lock()


@rpc.register("thread.take", pool="thread")
def take():
    with lock:
        logging.warning("taking")
    return turns.get(timeout=30)


@rpc.register("thread.put", pool="thread")
def put(value: int):
    with lock:
        logging.warning("putting")
        turns.put(value)
    return os.getpid()


@rpc.register("thread.log", pool="thread")
def log_for(seconds: float):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        logging.debug("again")


@rpc.register("log")
def log():
    logging.debug("once")


def squared(n: int) -> int:
    return n * n


@rpc.register("thread.libraries", pool="thread")
def libraries():
    async def later() -> str:
        process = await asyncio.create_subprocess_exec("echo", "a", stdout=asyncio.subprocess.PIPE)
        return (await process.communicate())[0].decode().strip()

    with multiprocessing.Pool(2) as pool:
        squares = pool.map(squared, [1, 2, 3])
    return [asyncio.run(later()), subprocess.check_output(["echo", "b"], text=True).strip(), squares]


@rpc.register("thread.fail", pool="thread")
def thread_fail(kind: str):
    sys.exit("bad") if kind == "SystemExit" else process_fail(0)


@rpc.register("thread.die", pool="thread")
def thread_die():
    os._exit(7)


@rpc.register("thread.publish", pool="thread")
def thread_publish(channel: str) -> float:
    return process_publish("hi", channel)


def fork(how: str):
    if how == "pool":
        with multiprocessing.Pool(2) as pool:
            return pool.map(squared, range(5))
    if how == "process":
        process = multiprocessing.Process(target=time.sleep, args=(0.2,))
        process.start()
        process.join()
        return process.exitcode
    pid = os.fork()
    if how == "sleep":
        if pid == 0:
            time.sleep(30)
        return pid
    if pid == 0:
        # Anything that waits would let other greenlets run.
        time.sleep(0.2)
        if how == "exit":
            sys.exit(3)
        if how == "raise":
            raise ValueError("in the child")
        return "from the child"
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


rpc.register("greenlet.fork", fork)
rpc.register("thread.fork", fork, pool="thread")
rpc.register("process.fork", fork, pool="process")


@rpc.register("process.spin", pool="process", deadline="enforce")
def process_spin():
    while True:
        pass
"""


class Folder:
    def __init__(self, path, write):
        self.path, self.write = path, write


@pytest.fixture
def shop(tmp_path):
    """The folder of a callee's module, which can be written again as another version."""

    def write(version):
        # Python compares time and size of a source with those of its compiled form.
        text = SHOP.replace("{version}", repr(version)) + "#" * version + "\n"
        (tmp_path / "shop.py").write_text(text)

    write(1)
    return Folder(tmp_path, write)


def children(process):
    """The process ids of a supervisor's children."""
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in text.split()]


def get(address, path):
    """The status and body of a page."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


# Several processes


def test_several_processes_serve_and_say_so_once(redis_url, ask):
    with running("callee.demo:rpc", "-p", "2", "-c", "3", REDIS_URL=redis_url) as process:
        assert process.said == (
            f"serving test.echo, test.reverse, test.delay, 2 processes of 3 concurrent calls, from {redis_url}\n"
        )
        assert len(children(process)) == 2
        assert [ask("test.echo", number) for number in range(5)] == list(range(5))
        code, out, _ = end(process, signal.SIGTERM)
    assert (code, out) == (0, "stopped: 5 requests, 5 successes, 0 failures, 0 expiries\n")


def test_a_process_that_dies_is_replaced(redis_url, ask, shop):
    with running("shop:rpc", "-p", "2", "--redis", redis_url, cwd=shop.path) as process:
        before = children(process)
        ask("die", None, wait=False)
        eventually(lambda: len(children(process)) == 1)
        assert ask("pid", None) in before
        eventually(lambda: len(children(process)) == 2)
        new = next(pid for pid in children(process) if pid not in before)
        eventually(lambda: ask("pid", None) == new)
        code, _, err = end(process, signal.SIGTERM)
    assert code == 0
    assert re.search(r'supervisor: process exited .*pid=\d+ status="exit code 7" restart_in=0\.\d+', err)


def test_the_processes_end_with_their_supervisor(redis_url):
    with running("callee.demo:rpc", "-p", "2", "--redis", redis_url) as process:
        pids = children(process)
        process.kill()
        process.wait()
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.leaves_keys("juggler:results:*")
def test_a_second_signal_ends_all_at_once(redis_url, ask, signum):
    with running("callee.demo:rpc", "-p", "2", "--redis", redis_url) as process:
        pids = children(process)
        ask("test.delay", "60000", wait=False)
        assert ask("test.echo", 1) == 1
        process.send_signal(signum)
        # By then one of them, which runs no call, has ended: the first signal was seen.
        eventually(lambda: len(children(process)) == 1)
        assert end(process, signum)[0] == -signum
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_calls_that_do_not_end_are_told_by_the_exit_code(redis_url, ask):
    with running("callee.demo:rpc", "-p", "2", "--grace", "0.1", "--redis", redis_url) as process:
        pending = ask("test.delay", "60000", wait=False)
        assert ask("test.echo", 1) == 1
        code, _, err = end(process, signal.SIGTERM)
    assert code == 1
    assert re.search(r'shutdown: calls abandoned .*calls=1 grace=0.1 uris="test.delay \(1\)"', err)
    assert b"the callee stopped" in pending.wait(2)[1][1]


def test_a_callee_that_cannot_start_ends_all_with_one_reason_each(redis_url):
    done = run("no_such_module:rpc", "-p", "2", "--redis", redis_url)
    assert done.returncode == 2
    assert set(done.stderr.splitlines()) == {
        "juggler-callee: cannot import 'no_such_module': ModuleNotFoundError: No module named 'no_such_module'"
    }


# Nothing is lost in a rolling restart


def test_a_rolling_restart_under_load_loses_no_call(redis_url):
    with (
        running("callee.demo:rpc", "-p", "2", "--redis", redis_url) as process,
        server_process(redis_url) as url,
        Load(url) as load,
    ):
        load.flows()
        for _ in range(3):
            before = set(children(process))
            process.send_signal(signal.SIGHUP)
            eventually(lambda before=before: not before & set(children(process)))
            load.flows()
        counts = load.counts()
        code, out, _ = end(process, signal.SIGTERM)
    assert code == 0
    assert counts.expired == counts.refused == 0
    assert counts.acknowledged == counts.answered > 0
    assert f"{counts.answered} requests, {counts.answered} successes, 0 failures, 0 expiries" in out


# Reloading


@pytest.mark.parametrize("processes", ["1", "2"])
def test_sighup_brings_the_new_code(redis_url, ask, shop, processes):
    with running("shop:rpc", "-p", processes, "--redis", redis_url, cwd=shop.path) as process:
        assert ask("version", None) == 1
        shop.write(2)
        process.send_signal(signal.SIGHUP)
        eventually(lambda: ask("version", None) == 2)
        end(process, signal.SIGTERM)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_code_that_cannot_be_imported_is_not_taken(redis_url, ask, shop, processes):
    with running("shop:rpc", "-p", processes, "--redis", redis_url, cwd=shop.path) as process:
        assert ask("version", None) == 1
        (shop.path / "shop.py").write_text("1 / 0\n")
        process.send_signal(signal.SIGHUP)
        line = ""
        while "old" not in line:
            line = process.stderr.readline()
        assert re.search(
            "reload: failed, the old code keeps serving|reload failed, the old processes keep serving", line
        )
        assert ask("version", None) == 1
        assert end(process, signal.SIGTERM)[0] == 0


def test_a_changed_file_brings_the_new_code(redis_url, ask, shop):
    with running("shop:rpc", "--reload", "--redis", redis_url, cwd=shop.path) as process:
        assert ask("version", None) == 1
        shop.write(2)
        eventually(lambda: ask("version", None) == 2)
        assert end(process, signal.SIGTERM)[0] == 0


# Pools


@pytest.fixture
def pool(redis_url, shop):
    """The shop's callee, with one process for what computes."""
    with running("shop:rpc", "--show-errors", "--pool-processes", "1", "--redis", redis_url, cwd=shop.path) as process:
        yield process
        if process.poll() is None:
            end(process, signal.SIGTERM)


def test_a_function_for_processes_runs_in_one(pool, ask):
    assert "100 concurrent calls, 10 in threads, 1 in processes" in pool.said
    pid = ask("process.pid", None)
    assert pid not in (pool.pid, os.getpid())
    assert ask("process.pid", None) == pid
    assert ask("compute", [100_000]) == sum(range(100_000))
    assert ask("compute", ["x"])["error"]["message"] == "n: Expected int, got str"


def test_errors_in_a_process_are_told_and_logged(pool, ask):
    assert ask("process.fail", [5])["error"] == {"message": "no", "type": "CallError", "code": 5}
    assert ask("process.fail", [0])["error"] == {"message": "bad", "type": "ValueError"}
    _, _, err = end(pool, signal.SIGTERM)
    assert "Traceback" in err
    assert err.count("ValueError: bad") == 1
    assert err.count("raise CallError") == 1  # a line of the traceback of the other


def test_a_process_that_dies_costs_its_call_only(pool, ask):
    first = ask("process.pid", None)
    assert ask("process.die", None)["error"] == {
        "message": "the process running the function exited unexpectedly (exit code 7)",
        "type": "ProcessDied",
    }
    assert ask("process.pid", None) != first


def test_a_computation_is_killed_at_its_deadline(pool, ask, redis_url):
    first = ask("process.pid", None)
    broker = RedisBroker(redis_url)
    pending = RecordedCall()
    broker.call("process.spin", b"null", 0.3, pending)
    pending.wait(2)
    broker.close()
    eventually(lambda: not Path(f"/proc/{first}").exists())
    assert ask("compute", [10]) == 45


def test_a_function_in_a_process_publishes(pool, ask, redis_url):
    with redis.Redis.from_url(redis_url, protocol=2) as client, client.pubsub() as listener:
        listener.subscribe("news")
        listener.get_message(timeout=30)
        assert 5 < ask("process.publish", ["hi"]) <= 10
        assert b'"args":"hi"' in listener.get_message(timeout=30)["data"]


def test_the_processes_of_a_pool_end_with_the_callee(pool, ask):
    pid = ask("process.pid", None)
    assert end(pool, signal.SIGTERM)[0] == 0
    assert not Path(f"/proc/{pid}").exists()


def test_a_process_that_died_while_it_was_idle_costs_no_call(pool, ask):
    first = ask("process.pid", None)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not is_running(first))
    assert ask("process.pid", None) not in (first, None)


def is_running(pid):
    """Whether a process lives, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("options", "variables", "is_shown"),
    [
        ((), {}, False),
        (("--show-errors",), {}, True),
        (("--reload",), {}, True),
        ((), {"JUGGLER_CALLEE_SHOW_ERRORS": "1"}, True),
        (("--show-errors", "--mask-errors"), {}, False),
        (("--reload",), {"JUGGLER_CALLEE_MASK_ERRORS": "1"}, False),
    ],
)
def test_exceptions_are_hidden_from_callers_by_default(options, variables, is_shown, redis_url, ask, shop):
    with running("shop:rpc", *options, REDIS_URL=redis_url, cwd=shop.path, **variables) as process:
        errors = [ask("fail", None), ask("process.fail", [0]), ask("thread.fail", "ValueError")]
        own = ask("process.fail", [5])
        _, _, log = end(process, signal.SIGTERM)
    assert own["error"] == {"message": "no", "type": "CallError", "code": 5}
    for error in (each["error"] for each in errors):
        if is_shown:
            assert error == {"message": "bad", "type": "ValueError"}
        else:
            assert error["type"] == "Internal"
            identifier = error["message"].removeprefix("internal error, call ")
            assert f"call={identifier} error=bad" in log


def test_text_that_no_log_can_carry_costs_no_process(pool, ask):
    first = ask("process.pid", None)
    assert ask("process.odd", ["\ud800"])["error"]["type"] == "ValueError"
    assert ask("process.pid", None) == first


def test_a_computation_ends_with_a_worker_that_is_killed(pool, ask):
    pid = ask("process.pid", None)
    before = cpu_seconds(pid)
    ask("process.spin", None, wait=False)
    eventually(lambda: cpu_seconds(pid) > before + 0.2)
    pool.kill()
    pool.wait()
    eventually(lambda: not is_running(pid))


def test_threads_share_locks_queues_and_loggers(pool, ask):
    for number in range(5):
        taken = ask("thread.take", None, wait=False)
        assert ask("thread.put", number) not in (pool.pid, os.getpid())
        assert json.loads(taken.wait(2)[1][1]) == number


def test_no_more_calls_run_in_threads_than_there_are(redis_url, ask, shop):
    with running("shop:rpc", "--threads", "2", "--redis", redis_url, cwd=shop.path) as process:
        calls = [ask("thread.take", None, wait=False) for _ in range(2)]
        for _ in calls:
            while "taking" not in process.stderr.readline():
                pass
        late = ask("thread.put", 1, wait=False)
        assert ask("version", None) == 1
        assert late.wait(1) == [("stored", None)]
        # The process of the threads is not a part of the worker: it can be replaced.
        (child,) = children(process)
        os.kill(child, signal.SIGKILL)
        for call in calls:
            assert json.loads(call.wait(2)[1][1])["error"]["type"] == "ProcessDied"
        assert json.loads(late.wait(2)[1][1]) not in (child, process.pid)
        assert ask("thread.take", None) == 1
        assert end(process, signal.SIGTERM)[0] == 0


def test_a_thread_that_logs_does_not_starve_greenlets(pool, ask):
    logging = ask("thread.log", 3, wait=False)
    began = time.monotonic()
    for _ in range(20):
        ask("log", None)
    assert time.monotonic() - began < 2.5
    logging.wait(2)


def test_asyncio_subprocess_and_multiprocessing_work_in_threads(pool, ask):
    assert ask("thread.libraries", None) == ["a", "b", [1, 4, 9]]


def test_errors_in_a_thread_answer_its_call(pool, ask):
    assert ask("thread.fail", "ValueError")["error"] == {"message": "bad", "type": "ValueError"}
    assert ask("thread.fail", "SystemExit")["error"] == {"message": "bad", "type": "SystemExit"}
    assert ask("thread.die", None)["error"]["type"] == "ProcessDied"
    assert ask("thread.fail", "ValueError")["error"]["type"] == "ValueError"


def test_a_function_in_a_thread_publishes(pool, ask, redis_url):
    with redis.Redis.from_url(redis_url, protocol=2) as client, client.pubsub() as listener:
        listener.subscribe("news")
        listener.get_message(timeout=30)
        assert 5 < ask("thread.publish", "news") <= 10
        assert b'"args":"hi"' in listener.get_message(timeout=30)["data"]
    assert "must not be empty" in ask("thread.publish", "")["error"]["message"]


@pytest.mark.parametrize("kind", ["greenlet", "thread", "process"])
def test_a_process_that_a_function_forks_is_no_worker(pool, ask, kind):
    expected = {"return": 0, "exit": 3, "raise": 1, "process": 0}
    if kind != "greenlet":
        expected["pool"] = [0, 1, 4, 9, 16]  # gevent cannot run the threads of a multiprocessing.Pool
    others = [ask("version", None, wait=False) for _ in range(20)]
    forking = [ask(f"{kind}.fork", how, wait=False) for how in expected]
    others += [ask("version", None, wait=False) for _ in range(20)]
    assert [json.loads(call.wait(2)[1][1]) for call in forking] == list(expected.values())
    assert {json.loads(call.wait(2)[1][1]) for call in others} == {1}
    code, out, err = end(pool, signal.SIGTERM)
    total = 40 + len(expected)
    assert (code, out) == (0, f"stopped: {total} requests, {total} successes, 0 failures, 0 expiries\n")
    assert "ValueError: in the child" in err


@pytest.mark.parametrize("kind", ["greenlet", "thread", "process"])
def test_a_forked_process_that_outlives_its_worker_keeps_no_connection(pool, ask, kind, redis_url):
    left = ask(f"{kind}.fork", "sleep")
    try:
        pool.kill()
        pool.wait()
        with redis.Redis.from_url(redis_url, protocol=2) as client:
            # The results of `ask` are left.
            eventually(lambda: sum("b" in each["flags"] for each in client.client_list()) == 1)
            assert is_running(left)
    finally:
        os.kill(left, signal.SIGKILL)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_programs_that_functions_start_can_be_terminated(redis_url, ask, shop, processes):
    with running("shop:rpc", "-p", processes, "--redis", redis_url, cwd=shop.path) as process:
        assert ask("terminate", None) == -signal.SIGTERM
        assert ask("process.terminate", None) == -signal.SIGTERM
        assert end(process, signal.SIGTERM)[0] == 0


def test_a_thread_that_does_not_return_holds_up_nobody(redis_url, ask, shop):
    with running("shop:rpc", "--grace", "0.2", "--redis", redis_url, cwd=shop.path) as process:
        ask("block", None, wait=False)
        assert ask("version", None) == 1
        began = time.monotonic()
        assert end(process, signal.SIGTERM)[0] == 1
        assert time.monotonic() - began < 6


# Signals at odd times


def test_a_stop_during_a_reload_is_a_stop(redis_url, ask, shop):
    with running("shop:rpc", "--redis", redis_url, cwd=shop.path) as process:
        assert ask("version", None) == 1
        process.send_signal(signal.SIGHUP)
        assert end(process, signal.SIGTERM)[0] == 0


def test_a_hangup_while_it_restarts_does_not_kill_it(redis_url, ask, shop):
    # Before any line of ours has run.
    (shop.path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if os.path.exists('again') and '--check' not in sys.argv:\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
    )
    with running("shop:rpc", "--redis", redis_url, cwd=shop.path, PYTHONPATH=str(shop.path)) as process:
        assert ask("version", None) == 1
        shop.write(2)
        (shop.path / "again").touch()
        process.send_signal(signal.SIGHUP)
        eventually(lambda: ask("version", None) == 2)
        assert end(process, signal.SIGTERM)[0] == 0


def test_a_reload_during_a_reload_is_not_forgotten(redis_url, ask, shop):
    with running("shop:rpc", "-p", "2", "--redis", redis_url, cwd=shop.path) as process:
        assert ask("version", None) == 1
        shop.write(2)
        process.send_signal(signal.SIGHUP)
        line = ""
        while "reloading" not in line:
            line = process.stderr.readline()
        shop.write(3)
        process.send_signal(signal.SIGHUP)
        eventually(lambda: ask("version", None) == 3)
        assert end(process, signal.SIGTERM)[0] == 0


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("redis_is_up", [True, False])
def test_a_terminal_that_closes_stops_it(redis_url, processes, redis_is_up):
    url = redis_url if redis_is_up else f"redis://127.0.0.1:{free_port()}"
    terminal, theirs = pty.openpty()

    def take_terminal():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    with subprocess.Popen(
        [sys.executable, "-m", "callee.cli", "callee.demo:rpc", "-p", processes, "--redis", url],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=take_terminal,
    ) as process:
        os.close(theirs)
        assert process.stdout.readline()
        pids = children(process)
        process.send_signal(signal.SIGHUP)  # a reload
        if redis_is_up:
            while "reload" not in process.stdout.readline():
                pass
        os.close(terminal)
        assert process.wait(30) == 0
    assert not any(is_running(pid) for pid in pids)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_processes_that_wait_for_redis_stop_at_once(processes):
    url = f"redis://127.0.0.1:{free_port()}"
    with subprocess.Popen(
        [sys.executable, "-m", "callee.cli", "callee.demo:rpc", "-p", processes, "--redis", url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert "no Redis at" in process.stderr.readline()
        pids = children(process)
        began = time.monotonic()
        assert end(process, signal.SIGTERM)[0] == 0
        assert time.monotonic() - began < 5
    assert not any(is_running(pid) for pid in pids)


def test_new_code_without_a_uri_that_was_asked_for_is_not_taken(redis_url, ask, shop):
    with running("shop:rpc", "--only", "version", "--redis", redis_url, cwd=shop.path) as process:
        assert ask("version", None) == 1
        text = (shop.path / "shop.py").read_text()
        # Of another size, as in `shop`.
        (shop.path / "shop.py").write_text(text.replace('"version"', '"another.version"'))
        process.send_signal(signal.SIGHUP)
        assert "reload: failed, the old code keeps serving" in process.stderr.readline()
        assert ask("version", None) == 1
        assert end(process, signal.SIGTERM)[0] == 0


# Health and figures


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_health_file_that_cannot_be_written_is_no_end(redis_url, ask, tmp_path, processes):
    folder = tmp_path / "health"
    folder.mkdir()
    file = folder / "file"
    with running("callee.demo:rpc", "--health-file", str(file), "-p", processes, "--redis", redis_url) as process:
        eventually(file.exists)
        shutil.rmtree(folder)
        assert "health: cannot write the health file" in process.stderr.readline()
        folder.mkdir()
        eventually(file.exists)
        assert end(process, signal.SIGTERM)[0] == 0


@pytest.mark.parametrize("processes", ["1", "2"])
def test_health_and_figures_are_told(redis_url, ask, processes, tmp_path):
    address, file = f"127.0.0.1:{free_port()}", tmp_path / "healthy"
    options = ("--listen", address, "--health-file", str(file), "-p", processes, "--redis", redis_url)
    with running("callee.demo:rpc", *options) as process:
        eventually(lambda: get(address, "/healthz") == (200, "consuming\n"))
        for number in range(3):
            ask("test.echo", number)

        def counted():
            text = get(address, "/metrics")[1]
            return re.search(r'^juggler_callee_requests_total\{uri="test.echo"\} 3.0$', text, re.MULTILINE)

        eventually(counted)
        text = get(address, "/metrics")[1]
        assert f"juggler_callee_processes {processes}.0" in text
        assert 'juggler_callee_duration_seconds_count{uri="test.echo"} 3.0' in text
        assert 'juggler_callee_wait_seconds_count{uri="test.echo"} 3.0' in text
        ask("test.reverse", 1)

        def variables():
            return json.loads(get(address, "/debug/vars")[1])

        eventually(lambda: variables()["callee"].get("Failed") == 1)
        found = variables()
        assert (found["juggler"]["Calls"], found["juggler"]["ExpiredCalls"]) == (4, 0)
        assert found["callee"] == {
            "Requests": 4,
            "Requests.test.echo": 3,
            "Requests.test.reverse": 1,
            "Succeeded": 3,
            "Succeded.test.echo": 3,
            "Succeded.test.reverse": 0,
            "Failed": 1,
            "Failed.test.echo": 0,
            "Failed.test.reverse": 1,
            "Expired": 0,
            "Expired.test.echo": 0,
            "Expired.test.reverse": 0,
        }
        documented = re.findall(r"`callee`: (\w+), (\w+)\.<URI>", (ROOT / "docs/metrics.md").read_text())
        names = {name.removesuffix(".test.echo") for name in found["callee"] if "reverse" not in name}
        assert {name for pair in documented for name in pair} == names
        assert get(address, "/")[0] == 404
        before = file.stat().st_mtime
        eventually(lambda: file.stat().st_mtime > before)
        assert end(process, signal.SIGTERM)[0] == 0


@pytest.mark.parametrize("listen", ["{port}", ":{port}", "[::1]:{port}"])
def test_health_is_served_on_loopback_and_names_no_version(redis_url, listen):
    port = free_port()
    with running("callee.demo:rpc", "--listen", listen.format(port=port), "--redis", redis_url) as process:
        host = "::1" if "::1" in listen else "127.0.0.1"
        shown = f"[{host}]" if ":" in host else host
        assert f"health: listening [juggler.callee] url=http://{shown}:{port}\n" in process.stderr.readline()
        for path in ("/healthz", "/metrics", "/debug/vars", "/other"):
            with socket.create_connection((host, port), timeout=30) as client, client.makefile("rb") as stream:
                client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                head = stream.read().lower()
            assert b"date:" in head
            assert b"server:" not in head
            assert b"python" not in head


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_stuck_callee_is_not_healthy(redis_url, ask, shop, processes):
    address = f"127.0.0.1:{free_port()}"
    with running("shop:rpc", "--listen", address, "-p", processes, "--redis", redis_url, cwd=shop.path) as process:
        eventually(lambda: get(address, "/healthz") == (200, "consuming\n"))
        pid = ask("pid", None)
        os.kill(pid, signal.SIGSTOP)
        _, text = eventually(lambda: (page := get(address, "/healthz"))[0] == 503 and page)
        assert f"process {pid}: no report for" in text
        os.kill(pid, signal.SIGCONT)
        eventually(lambda: get(address, "/healthz")[0] == 200)
        assert end(process, signal.SIGTERM)[0] == 0


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_callee_without_redis_is_not_healthy_and_comes_back(processes, tmp_path):
    address = f"127.0.0.1:{free_port()}"
    with mortal_redis(tmp_path) as server:
        server.start()
        options = ("--listen", address, "-p", processes, "--redis", server.url)
        with running("callee.demo:rpc", *options) as process:
            eventually(lambda: get(address, "/healthz")[0] == 200)
            server.kill()
            eventually(lambda: get(address, "/healthz")[0] == 503)
            assert "cannot take calls" in get(address, "/healthz")[1]
            server.start()
            eventually(lambda: get(address, "/healthz") == (200, "consuming\n"))
            assert end(process, signal.SIGTERM)[0] == 0


def test_a_port_in_use_is_said(redis_url):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("callee.demo:rpc", "--listen", f"127.0.0.1:{port}", "--redis", redis_url)
    assert done.returncode == 2
    assert done.stderr == f"juggler-callee: cannot listen on 127.0.0.1:{port}: Address already in use\n"


# Choosing, checking, variables


def test_uris_can_be_chosen(redis_url, ask):
    with running("callee.demo:rpc", "--only", "test.*", "--without", "test.r*", "--redis", redis_url) as process:
        assert process.said.startswith("serving test.echo, test.delay, ")
        assert end(process, signal.SIGTERM)[0] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--only", "shop.*"], "'shop.*': no URI matches; registered are test.echo, test.reverse, test.delay"),
        (["--without", "test.*"], "no URI is left to serve: --only and --without exclude all of them"),
        (["--health-file", "/no/such/file"], "cannot write the health file '/no/such/file'"),
        (["--redis", "redis://127.0.0.1", "--key-prefix", "{"], "key_prefix: expected no braces"),
    ],
)
def test_what_cannot_be_meant_is_said(redis_url, options, words):
    done = run("callee.demo:rpc", *options, REDIS_URL=redis_url)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_callee_can_be_checked_without_redis():
    done = run("callee.demo:rpc", "--check")
    assert (done.returncode, done.stdout) == (0, "callee.demo:rpc: test.echo, test.reverse, test.delay\n")
    assert run("callee.demo:nothing", "--check").returncode == 2


def test_options_can_be_variables(redis_url):
    with running("callee.demo:rpc", REDIS_URL=redis_url, JUGGLER_CALLEE_CONCURRENCY="5") as process:
        assert "5 concurrent calls" in process.said
        assert end(process, signal.SIGTERM)[0] == 0


def test_a_time_limit_can_be_set(redis_url, ask):
    with running("callee.demo:rpc", "--time-limit", "0.05", "--redis", redis_url) as process:
        assert ask("test.delay", "5000")["error"]["type"] == "TimeLimitExceeded"
        assert end(process, signal.SIGTERM)[0] == 0


def test_logs_can_be_json(redis_url, ask):
    with running("callee.demo:rpc", "--log-format", "json", "--redis", redis_url) as process:
        ask("test.reverse", 1)
        _, _, err = end(process, signal.SIGTERM)
    assert '"event": "call: failed"' in err
    assert '"level": "info"' in err
