"""``juggler-callee`` as people run it: a process of its own, and Redis."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from juggler.process.embedded import EmbeddedRedis, bundled_server, free_port
from tests.support import eventually

ROOT = Path(__file__).parents[2]


def command(*args):
    return [sys.executable, "-m", "callee.cli", *args]


def environment(**more):
    inherited = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    return {**inherited, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", **more}


@contextmanager
def running(*args, cwd=ROOT, **more) -> Iterator[subprocess.Popen]:
    """The command, once it serves; ``process.said`` is its first line."""
    with subprocess.Popen(
        command(*args), cwd=cwd, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            process.said = process.stdout.readline()
            yield process
        finally:
            process.kill()


def run(*args, **more):
    return subprocess.run(
        command(*args), cwd=ROOT, env=environment(**more), capture_output=True, text=True, timeout=100, check=False
    )


def end(process, *signals):
    """Send the signals and return the exit code and what was printed since."""
    for each in signals:
        process.send_signal(each)
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err


def test_results_over_the_capacity_are_not_queued(redis_url):
    conn, uri = "00000000-0000-4000-8000-000000000030", "test.echo"
    options = ("--result-capacity", "2", "--blocking-timeout", "0.1")
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        with running("callee.demo:rpc", *options, REDIS_URL=redis_url) as process:
            for number in range(5):
                client.set(f"juggler:calls:timeout:{{{uri}}}:{number}", 60_000, px=60_000)
                call = {"conn_uuid": conn, "msg_uuid": str(number), "uri": uri, "args": number}
                client.lpush(f"juggler:calls:{{{uri}}}", json.dumps(call))
            eventually(lambda: not client.llen(f"juggler:calls:{{{uri}}}"))
            code, _, err = end(process, signal.SIGTERM)
        assert (code, err.count("list capacity exceeded")) == (0, 3)
        assert [json.loads(result)["args"] for result in client.lrange(f"juggler:results:{{{conn}}}", 0, -1)] == [1, 0]
        client.flushall()


def test_serves_the_demo_and_stops_in_order(redis_url, ask):
    with running("callee.demo:rpc", "-c", "7", REDIS_URL=redis_url) as process:
        assert process.said == (f"serving test.echo, test.reverse, test.delay, 7 concurrent calls, from {redis_url}\n")
        assert ask("test.echo", {"a": [1]}) == {"a": [1]}
        assert ask("test.reverse", "abc") == "cba"
        assert ask("test.delay", "5") == 5
        told = {"message": "text: Expected str, got int", "type": "InvalidArguments", "code": 400}
        assert ask("test.reverse", 1) == {"error": told}
        assert end(process, signal.SIGTERM)[:2] == (
            0,
            "stopped: 4 requests, 3 successes, 1 failures, 0 expiries\n",
        )


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_calls_end(redis_url, ask, signum):
    with running("callee.demo:rpc", "--redis", redis_url, "--verbose") as process:
        pending = ask("test.delay", "500", wait=False)
        assert ask("test.echo", 1) == 1
        code, out, _ = end(process, signum)
    assert (code, out) == (0, "stopped: 2 requests, 2 successes, 0 failures, 0 expiries\n")
    assert pending.wait(2)[1] == ("result", b"500")


def test_calls_that_do_not_end_in_time_are_given_up(redis_url, ask):
    with running("callee.demo:rpc", "--redis", redis_url, "--grace", "0.1") as process:
        pending = ask("test.delay", "60000", wait=False)
        assert ask("test.echo", 1) == 1
        code, _, err = end(process, signal.SIGTERM)
    assert code == 1
    assert re.search(r'shutdown: calls abandoned .*calls=1 grace=0.1 uris="test.delay \(1\)"', err)
    assert b"the callee stopped" in pending.wait(2)[1][1]


@pytest.mark.leaves_keys("juggler:results:*")
def test_a_second_signal_ends_at_once(redis_url, ask):
    with running("callee.demo:rpc", "--redis", redis_url) as process:
        ask("test.delay", "60000", wait=False)
        assert ask("test.echo", 1) == 1
        process.send_signal(signal.SIGINT)
        eventually(lambda: ignores_no_more(process))
        assert end(process, signal.SIGINT)[0] == -signal.SIGINT


def ignores_no_more(process):
    """Whether the process no longer catches SIGINT: its first one has been handled."""
    (caught,) = [line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "SigCgt" in line]
    return not int(caught.split()[1], 16) & (1 << (signal.SIGINT - 1))


def test_the_users_module_is_found_in_the_current_directory_and_patched(redis_url, ask, tmp_path):
    (tmp_path / "shop.py").write_text(
        "from callee import Callee\n"
        "from gevent import monkey\n"
        "class app: rpc = Callee()\n"
        "patched = monkey.is_module_patched('socket')\n"
        "app.rpc.register('shop.patched', lambda _: patched)\n"
    )
    with running("shop:app.rpc", "--redis", redis_url, cwd=tmp_path, REDIS_URL="redis://127.0.0.1:1"):
        assert ask("shop.patched", None) is True


def test_it_goes_on_when_redis_has_dropped_it(redis_url, ask):
    with running("callee.demo:rpc", "--redis", redis_url) as process:
        assert ask("test.echo", 1) == 1
        with redis.Redis.from_url(redis_url, protocol=2) as client:
            # Those that wait in a blocking pop are the callee's, and the caller's for results: both come back.
            for connection in client.client_list():
                if connection["cmd"] in ("blmpop", "brpop"):
                    client.client_kill_filter(_id=connection["id"])
        assert ask("test.echo", 2) == 2
        code, _, err = end(process, signal.SIGTERM)
    assert code == 0
    assert "consumer: connection to Redis lost" in err
    assert err.count("consumer: taking calls again") == 1


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("output", ["full disk", "closed pipe"])
def test_output_that_cannot_be_written_does_not_stop_it(redis_url, ask, output, processes):
    if output == "full disk":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, descriptor = os.pipe()
        os.close(reader)
    process = subprocess.Popen(
        command("callee.demo:rpc", "-p", processes),
        env=environment(REDIS_URL=redis_url),
        stdout=descriptor,
        stderr=descriptor,
    )
    os.close(descriptor)
    try:
        assert ask("test.echo", 1) == 1
        process.terminate()
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()


def test_many_delays_are_named_shortly(redis_url):
    with running("callee.demo:rpc", "--redis", redis_url, JUGGLER_DEMO_DELAYS="20") as process:
        assert "test.delay.6 and 13 more, 100 concurrent calls" in process.said


def test_a_password_is_not_shown():
    with EmbeddedRedis(bundled_server()) as server, redis.Redis.from_url(server.url, protocol=2) as client:
        client.config_set("requirepass", "secret")
        with running("callee.demo:rpc", "--redis", server.url.replace("//", "//:secret@")) as process:
            assert process.said.endswith(f" from unix://:***@{server.socket}\n")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nothing"], "'nothing': expected MODULE:OBJECT, for example callee.demo:rpc"),
        (["no_such_module:rpc"], "cannot import 'no_such_module': ModuleNotFoundError: No module named"),
        (["callee.demo:nothing"], "'callee.demo:nothing': module 'callee.demo' has no attribute 'nothing'"),
        (["callee.demo:delay"], "'callee.demo:delay': expected a callee.Callee, got function"),
        (["callee.demo:rpc", "--redis", "http://127.0.0.1"], "expected a scheme of"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_in_one_line(args, words):
    done = run(*args)
    assert done.returncode == 2
    assert done.stderr.startswith("juggler-callee: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert "Traceback" in run(*args, "--verbose").stderr


def test_no_redis_names_the_ways_out():
    url = f"redis://127.0.0.1:{free_port()}"
    done = run("callee.demo:rpc", "--fail-fast", REDIS_URL=url)
    assert (done.returncode, done.stdout) == (2, "")
    ways_out = "start one, or name another with --redis or REDIS_URL"
    assert done.stderr.startswith(f"juggler-callee: no Redis at {url}: {ways_out} (")
    assert done.stderr.count("\n") == 1


def test_wrong_options_are_refused():
    assert run("callee.demo:rpc", "-c", "0").returncode == 2
    assert "0.0 is not in the range" in run("callee.demo:rpc", "--share", "0").stderr
    assert run().returncode == 2
    assert "REDIS_URL" in run("--help").stdout
