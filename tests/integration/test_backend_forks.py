"""Backends that exist, and are in use, when their process forks: os.fork, multiprocessing, gunicorn --preload."""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from juggler.process.embedded import free_port
from tests.integration.commands import run_python, running_python
from tests.integration.test_backend import functions
from tests.support import eventually

# Threads call, wait and read parts while children are forked; each child does the same with the same backend.
FORKS = """
import os, stat, sys, threading
from juggler.backend import Backend
from juggler.errors import BrokerError

backend = Backend(sys.argv[1], max_connections=32)
seen = []
steps = {}
over = threading.Event()

def work(number):
    n = 0
    while not over.is_set():
        n += 1
        value = [os.getpid(), number, n]
        assert backend.call("echo", value) == value
        with backend.stream("numbers", 5) as stream:
            assert list(stream) == [0, 1, 2, 3, 4]
        steps[number] = n
    seen.append(n)

def sockets():
    return [fd for fd in map(int, os.listdir("/proc/self/fd")) if is_socket(fd)]

def is_socket(fd):
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False  # the directory

def child():
    assert sockets() == [], "the child has sockets of its parent"
    for use in (pending.result, pending.cancel, stream.__next__, stream.close):
        try:
            use()
        except BrokerError as error:
            assert "before a fork" in str(error)
        else:
            raise AssertionError(use)
    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    for n in range(50):
        assert backend.call("echo", [os.getpid(), n]) == [os.getpid(), n]
        assert backend.publish_many([("a", n), ("b", n)]) == [0, 0]
    over.set()
    for thread in threads:
        thread.join()
    assert len(seen) == 4, seen

pending = backend.start_call("wait", 0.5)
stream = backend.stream("numbers", 1000, window=2)
assert next(stream) == 0
threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(4)]
for thread in threads:
    thread.start()
while len(steps) < 4 or min(steps.values()) < 20:
    backend.call("echo", 1)  # until there are connections for all
children = []
for _ in range(6):
    assert backend.call("echo", 1) == 1
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            seen.clear()
            child()
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    children.append(pid)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
assert codes == [0] * 6, codes
over.set()
for thread in threads:
    thread.join()
assert len(seen) == 4, seen
assert next(stream) == 1
stream.close()
assert pending.result() == "done"
backend.close()
print("good")
"""

POOL = """
import multiprocessing, os, sys
from juggler.backend import Backend

backend = Backend(sys.argv[1])

def task(n):
    pending = backend.start_call("echo", n, timeout=10)
    return os.getpid(), pending.uuid, pending.result(), backend.publish("done", n)

if __name__ == "__main__":
    assert backend.call("echo", "first") == "first"
    with multiprocessing.get_context("fork").Pool(3) as pool:
        results = pool.map(task, range(200), chunksize=1)
    assert [n for _, _, n, _ in results] == list(range(200))
    assert len({uuid for _, uuid, _, _ in results}) == 200
    assert os.getpid() not in {result[0] for result in results}
    assert backend.call("echo", "last") == "last"
    print("good")
"""

PATCHED = "from gevent import monkey; monkey.patch_all()\n"

FLASK = """
import os
from flask import Flask, jsonify
from juggler.backend import Backend

backend = Backend(os.environ["JUGGLER_REDIS"])
assert backend.call("echo", "preload") == "preload"
app = Flask(__name__)


@app.get("/<int:n>")
def call(n):
    return jsonify([os.getpid(), backend.call("echo", n), backend.publish("news", n)])
"""


@pytest.mark.parametrize("before", ["", PATCHED], ids=["threads", "greenlets"])
def test_a_fork_while_threads_call(redis_url, before):
    with functions(redis_url):
        done = run_python("-W", "ignore::DeprecationWarning", "-c", before + FORKS, redis_url)
    assert (done.returncode, done.stdout) == (0, "good\n"), done.stderr[-3000:]


def test_a_pool_of_processes(redis_url, tmp_path):
    (tmp_path / "tasks.py").write_text(POOL)
    with functions(redis_url):
        done = run_python(str(tmp_path / "tasks.py"), redis_url)
    assert (done.returncode, done.stdout) == (0, "good\n"), done.stderr[-3000:]


@pytest.mark.parametrize("worker", [("-k", "sync", "-w", "3"), ("-k", "gthread", "-w", "2", "--threads", "4")])
def test_gunicorn_with_preload(redis_url, tmp_path, worker):
    (tmp_path / "shop.py").write_text(FLASK)
    url = f"http://127.0.0.1:{free_port()}"
    command = ("-m", "gunicorn", "shop:app", "--preload", "--bind", url.removeprefix("http://"), *worker)

    def get(n: int) -> list[int]:
        with urllib.request.urlopen(f"{url}/{n}", timeout=20) as response:
            return json.load(response)

    def is_up() -> bool:
        try:
            return get(0)[1] == 0
        except OSError:
            return False

    with (
        functions(redis_url),
        running_python(*command, "--chdir", str(tmp_path), JUGGLER_REDIS=redis_url) as gunicorn,
        ThreadPoolExecutor(8) as threads,
    ):
        eventually(is_up)
        results = list(threads.map(get, range(300)))
        gunicorn.terminate()
        assert gunicorn.wait(20) == 0
    assert [(n, receivers) for _, n, receivers in results] == [(n, 0) for n in range(300)]
    pids = {pid for pid, _, _ in results}
    assert gunicorn.pid not in pids
    assert len(pids) > 1
