"""The commands server and demo, as processes."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
from contextlib import ExitStack, closing, contextmanager
from itertools import takewhile
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from juggler.client import Client
from juggler.errors import ConnectionClosed, HandshakeRefused
from tests.integration.commands import TIMEOUT, run, run_python, running
from tests.support import eventually


@contextmanager
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def url_in(line: str) -> str:
    return re.search(r"ws://\S+", line).group()


def descendants(pid: int) -> set[int]:
    children = {
        int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
    }
    return children.union(*(descendants(child) for child in children))


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists() and "Z" not in state(pid)}


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


# server


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_serves_and_shuts_down_gracefully(redis_url, number):
    with running("server", "--bind", "127.0.0.1:0", "--path", "/rpc", REDIS_URL=redis_url) as process:
        url = url_in(process.stdout.readline())
        assert url.endswith("/rpc")
        with Client(url, reconnect=False) as client, client.subscribe("news") as news:
            client.publish("news", 1)
            assert news.get(5).args == 1
            process.send_signal(number)
            with pytest.raises(ConnectionClosed, match="1001 the server is shutting down"):
                news.get(5)
        output, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, output, errors) == (0, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_waits_for_redis_stops_at_a_signal(number):
    with (
        free_port() as port,
        running("server", "--bind", "127.0.0.1:0", REDIS_URL=f"redis://127.0.0.1:{port}") as process,
    ):
        assert "retrying in" in process.stderr.readline()
        process.send_signal(number)
        output, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, output) == (0, "")
    assert "Traceback" not in errors


@pytest.mark.leaves_keys("juggler:calls:*")
def test_a_second_ctrl_c_does_not_wait_for_calls(redis_url):
    with running("server", "--bind", "127.0.0.1:0", REDIS_URL=redis_url) as process:
        url = url_in(process.stdout.readline())
        with Client(url) as client:
            client.start_call("unregistered", timeout=30)
            client.publish("sync")
            process.send_signal(signal.SIGINT)
            eventually(lambda: is_refused(url))
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT) == 130


def is_refused(url: str) -> bool:
    """Return whether the server refuses new connections."""
    try:
        Client(url).close()
    except (ConnectionClosed, HandshakeRefused):
        return True
    return False


def test_the_redis_option_overrides_the_environment(redis_url):
    args = ("server", "--bind", "127.0.0.1:0", "--redis", redis_url)
    with (
        running(*args, REDIS_URL="redis://127.0.0.1:1") as process,
        Client(url_in(process.stdout.readline())) as client,
    ):
        client.publish("news")


def test_pages_of_other_origins_are_refused_unless_allowed(redis_url):
    args = ("server", "--bind", "127.0.0.1:0", "--redis", redis_url, "--allow-origin", "https://*.example.com")
    with running(*args) as process:
        url = url_in(process.stdout.readline())
        Client(url, headers={"Origin": "https://www.example.com"}).close()
        with pytest.raises(HandshakeRefused, match="403"):
            Client(url, headers={"Origin": "https://example.org"})


def test_other_hosts_are_refused_on_loopback_unless_allowed(redis_url):
    args = ("server", "--bind", "127.0.0.1:0", "--redis", redis_url)

    def status(process: subprocess.Popen[str]) -> int:
        connection = http.client.HTTPConnection(urlsplit(url_in(process.stdout.readline())).netloc, timeout=10)
        with closing(connection):
            connection.request("GET", "/juggler.js", headers={"Host": "evil.example"})
            return connection.getresponse().status

    with running(*args) as process:
        assert status(process) == 403
    with running(*args, "--allow-host", "evil.example") as process:
        assert status(process) == 200


@pytest.mark.parametrize(("soft", "hard", "most"), [(100, 4096, 3), (103, 103, 3), (130, 130, 30)])
def test_open_files_suffice_for_the_connections_or_bound_them(redis_url, soft, hard, most):
    args = ("server", "--bind", "127.0.0.1:0", "--redis", redis_url)
    limited = ("sh", "-c", f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$@"', "sh")
    enough = hard == 4096
    with (
        running(*args, "--max-connections", "3" if enough else "1000", prefix=limited) as process,
        ExitStack() as stack,
    ):
        url = url_in(process.stdout.readline())
        for _ in range(most):
            stack.enter_context(Client(url))
        with pytest.raises(HandshakeRefused, match=f"503.*limit of {most} connections"):
            Client(url)
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
        with closing(connection):
            connection.request("GET", "/readyz")
            assert connection.getresponse().status == 200


def test_a_port_in_use_names_the_option(redis_url):
    with taken_port() as bind:
        done = run("server", "--bind", bind, "--redis", redis_url)
    assert done.returncode == 2
    reason = f"cannot listen on {bind}: Address already in use; choose another with --bind"
    assert done.stderr == f"juggler server: {reason}\n"


def test_unreachable_redis_names_the_remedies():
    with free_port() as port:
        done = run("server", "--bind", "127.0.0.1:0", "--redis", f"redis://:secret@127.0.0.1:{port}", "--fail-fast")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    for word in ("no Redis at redis://", f"127.0.0.1:{port}", "start Redis", "--redis", "REDIS_URL", "juggler demo"):
        assert word in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--redis", "http://127.0.0.1"], "juggler server: "),
        (["--bind", "9000"], "expected HOST:PORT"),
        (["--bind", "127.0.0.1:70000"], "expected HOST:PORT"),
        (["--allow-origin", "nonsense"], "juggler server: "),
        (["--allow-host", "http://a"], "juggler server: "),
        (["--path", "ws"], "each starting with /, got"),
    ],
)
def test_invalid_options_are_named(redis_url, args, expected):
    done = run("server", "--redis", redis_url, *args)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


# demo


def lines_until_ready(process: subprocess.Popen[str]) -> list[str]:
    lines = []
    while not lines or not lines[-1].startswith("Ctrl-C"):
        line = process.stdout.readline()
        assert line, process.stderr.read()
        lines.append(line)
    return lines


def test_the_demo_answers_and_leaves_nothing_behind():
    with running("demo", "--bind", "127.0.0.1:0") as process:
        lines = lines_until_ready(process)
        assert [line.split()[0] for line in lines[:4]] == ["redis", "server", "callee", "call"]
        assert lines[3].endswith("'olleh' -> 'hello'\n")
        url = url_in(lines[1])
        with Client(url) as client:
            assert client.call("test.echo", [1]) == [1]
        children = descendants(process.pid)
        assert len(children) >= 5
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, errors
        assert not alive(children)
        with pytest.raises(ConnectionClosed, match="cannot connect"):
            Client(url)


STORM = """
import os, signal, threading
from juggler.cli.demo_command import stop_on_signals

def storm():
    for _ in range(20_000):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)

with stop_on_signals() as stop:
    threading.Thread(target=storm).start()
    while threading.active_count() > 1:
        stop.wait(0.001)
    print("stopped" if stop.wait(5) else "not stopped")
"""


def test_the_demo_refuses_unknown_functions_at_once():
    with running("demo", "--bind", "127.0.0.1:0") as process:
        url = url_in("".join(takewhile(lambda line: not line.startswith("Ctrl-C"), process.stdout)))
        done = run("call", "test.ehco", "1", JUGGLER_URL=url)
        assert (done.returncode, done.stderr) == (3, "juggler call: 404 no callee serves 'test.ehco'\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 0


def test_signals_in_the_middle_of_signals_stop_the_demo():
    done = run_python("-c", STORM)
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")


def test_processes_of_a_killed_demo_do_not_survive():
    with running("demo", "--bind", "127.0.0.1:0") as process:
        lines_until_ready(process)
        children = descendants(process.pid)
        process.kill()
        process.wait()
        eventually(lambda: not alive(children), message="a process is still alive")


@pytest.mark.parametrize("part", ["callee.cli", "juggler.cli.main", "-server "])
def test_the_demo_exits_when_a_process_does(part):
    with running("demo", "--bind", "127.0.0.1:0") as process:
        lines_until_ready(process)
        children = descendants(process.pid)
        (victim,) = [pid for pid in children if is_running(pid, part)]
        os.kill(victim, signal.SIGKILL)
        _, errors = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 1
        assert "exited unexpectedly (exit status -9)" in errors
        assert not alive(children)


def is_running(pid: int, part: str) -> bool:
    return part in Path(f"/proc/{pid}/cmdline").read_text()


def test_the_demo_uses_a_given_redis(redis_url):
    with running("demo", "--bind", "127.0.0.1:0", REDIS_URL=redis_url) as process:
        assert lines_until_ready(process)[0].split() == ["redis", redis_url.partition("//")[2]]


def test_the_demo_names_the_remedy_for_a_port_in_use():
    with taken_port() as bind:
        done = run("demo", "--bind", bind)
    assert done.returncode == 2
    assert "Address already in use; choose another with --bind" in done.stderr
