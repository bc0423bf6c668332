"""The HTTP API: ``juggler api`` with a real Redis, callee and server. A property-based tool checks its document."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from juggler.client import Client
from juggler.errors import ConnectionClosed
from tests.docs import DOCS
from tests.integration.commands import callee_process, run, running, server_process
from tests.redis_servers import mortal_redis
from tests.support import eventually

KEY = "0123456789abcdef0123"
PAGE = (DOCS / "http-api.md").read_text("utf-8")


@contextmanager
def api_process(redis_url, *args, key=KEY):
    """An API on a free port, once it serves; yields the URL without the operation. It must exit gracefully."""
    with running("api", "--bind", "127.0.0.1:0", "--redis", redis_url, *args, JUGGLER_API_KEY=key) as process:
        line = process.stdout.readline()
        assert line.startswith("juggler api: "), process.stderr.read()
        yield line.split()[-1]
        process.terminate()
        assert process.wait(20) == 0


@pytest.fixture(scope="module")
def running_api(redis_server):
    """An API for all tests that start it without options."""
    with api_process(redis_server.url) as url:
        yield url


@pytest.fixture
def api(redis_url, running_api):
    """The API, with an empty Redis."""
    return running_api


def send(url, body=None, *, key=KEY, method="POST", kind="application/json", headers=()):
    """Send a request; return the status and the decoded body."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, method=method)
    request.add_header("Content-Type", kind)
    if key is not None:
        request.add_header("Authorization", f"Bearer {key}")
    for name, value in headers:
        request.add_header(name, value)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def message(url, body=None, **options):
    status, answer = send(url, body, **options)
    assert answer["error"]["code"] == status
    return status, answer["error"]["message"]


def test_events_reach_the_clients_of_a_server(api, redis_url):
    with (
        server_process(redis_url) as url,
        Client(url, max_events=2000) as client,
        client.subscribe("news") as news,
    ):
        assert send(f"{api}publish", {"channel": "news", "args": {"text": "tea — ☕"}}) == (200, {"receivers": 1})
        assert send(f"{api}publish", {"channel": "news"}) == (200, {"receivers": 1})
        batch = [{"channel": "news", "args": n} for n in range(1000)]
        assert send(f"{api}publish", batch) == (200, [{"receivers": 1}] * 1000)
        assert [news.get(5).args for _ in range(1002)] == [{"text": "tea — ☕"}, None, *range(1000)]


def test_args_pass_through_unchanged(api, redis_url):
    with callee_process(redis_url):
        body = b'{"uri": "test.echo", "args": "\\u2615 1.50"}'
        request = urllib.request.Request(f"{api}call", body, {"Authorization": f"Bearer {KEY}"})
        request.add_header("Content-Type", "application/json; charset=utf-8")
        with urllib.request.urlopen(request, timeout=30) as response:
            assert json.load(response) == {"failed": False, "result": "☕ 1.50"}


def test_calls(api, redis_url):
    with callee_process(redis_url):
        assert send(f"{api}call", {"uri": "test.reverse", "args": "tea"}) == (200, {"failed": False, "result": "aet"})
        status, answer = send(f"{api}call", {"uri": "test.reverse", "args": [1]})
        assert (status, answer["failed"]) == (200, True)
        assert answer["result"]["error"]["message"]
        status, answers = send(
            f"{api}call",
            [{"uri": "test.echo", "args": str(n)} for n in range(50)]
            + [{"uri": "nobody", "timeout": 0.1}, {"uri": "}"}],
        )
        assert status == 200
        assert answers[:50] == [{"failed": False, "result": str(n)} for n in range(50)]
        assert [each["error"]["code"] for each in answers[50:]] == [504, 400]
        assert message(f"{api}call", {"uri": "nobody", "timeout": 0.1}) == (504, "no result of nobody within 0.1 s")


def test_users_are_disconnected_and_unsubscribed(api, redis_url, tmp_path):
    (tmp_path / "app.py").write_text(
        "import os\nfrom juggler import Application, RedisBroker, Server\nfrom juggler.auth import bearer\n"
        "broker = RedisBroker(os.environ['REDIS_URL'])\n"
        "server = Server(caller_broker=broker, pubsub_broker=broker, connect=bearer(lambda token: {'sub': token}))\n"
        "application = Application(server)\n"
    )
    environ = {"REDIS_URL": redis_url, "PYTHONPATH": str(tmp_path)}
    with running("server", "app:application", "--bind", "127.0.0.1:0", **environ) as process:
        url = process.stdout.readline().split()[-1]
        assert url, process.stderr.read()
        with (
            Client(f"{url}?token=ann", reconnect=False) as ann,
            Client(f"{url}?token=bob", reconnect=False) as bob,
            ann.subscribe("news") as news,
        ):
            eventually(lambda: send(f"{api}connections", {})[1]["connections"] == 2)
            status, found = send(f"{api}connections", {"identity": {"sub": "ann"}})
            assert (status, found["servers"], found["answered"], found["connections"]) == (200, 1, 1, 1)
            (listed,) = found["listed"]
            assert (listed["identity"], listed["subscriptions"]) == ({"sub": "ann"}, 1)
            done = {"servers": 1, "answered": 1, "connections": 1, "errors": []}
            assert send(f"{api}unsubscribe", {"identity": {"sub": "ann"}, "channel": "news"}) == (200, done)
            (listed,) = send(f"{api}connections", {"identity": {"sub": "ann"}})[1]["listed"]
            assert listed["subscriptions"] == 0
            kick = [{"connection": listed["id"], "reason": "logged out"}, {"identity": {"sub": "eve"}}]
            assert send(f"{api}disconnect", kick) == (200, [done, {**done, "connections": 0}])
            with pytest.raises(ConnectionClosed, match=r"4410.*logged out"):
                ann.call("nobody", timeout=5)
            assert send(f"{api}connections", {})[1]["connections"] == 1
            assert bob.publish("news", 1) is None
            assert news.gaps == 0


@pytest.mark.parametrize("key", [None, "", "0123456789abcdef012", KEY + "4", KEY.upper(), "é" * 16])
def test_a_wrong_key_is_refused(api, key):
    headers = () if key is None else [("Authorization", f"Bearer {key}".encode("latin-1"))]
    status, answer = send(f"{api}publish", {"channel": "news"}, key=None, headers=headers)
    assert (status, answer["error"]["code"]) == (401, 401)
    assert key is None or not key or key not in answer["error"]["message"]


def test_another_scheme_is_refused(api):
    assert message(f"{api}publish", {}, key=None, headers=[("Authorization", f"Basic {KEY}")]) == (
        401,
        "expected 'Authorization: Bearer KEY'",
    )


def test_each_key_of_a_file_is_valid(redis_url, tmp_path):
    (tmp_path / "keys").write_text(f"{KEY}\n\nanother-0123456789\n")
    with api_process(redis_url, "--key-file", str(tmp_path / "keys"), key="") as url:
        assert send(f"{url}publish", {"channel": "news"})[0] == 200
        assert send(f"{url}publish", {"channel": "news"}, key="another-0123456789")[0] == 200
        assert send(f"{url}publish", {"channel": "news"}, key="")[0] == 401


@pytest.mark.parametrize(
    ("operation", "body", "expected", "text"),
    [
        ("publish", b"", 400, "body: "),
        ("publish", b'{"channel": NaN}', 400, "malformed"),
        ("publish", b"\xff", 400, "body: "),
        ("publish", b"[" * 100_000, 400, "body: "),
        ("publish", b'{"channel": "a", "args": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "body: "),
        ("publish", {"channel": 1}, 400, "channel"),
        ("publish", {"channel": ""}, 400, "channel"),
        ("publish", {"channel": "x" * 8193}, 400, "channel"),
        ("publish", {"channel": "a", "arg": 1}, 400, "unknown field `arg`"),
        ("publish", {"channel": "juggler.gap"}, 403, "'juggler.gap'"),
        ("publish", [{"channel": "a"}, {"channel": "__a"}], 403, "'__a'"),
        ("publish", [], 400, "expected 1 to 1000 entries"),
        ("publish", [{"channel": "a"}] * 1001, 413, "expected at most 1000 entries, got 1001"),
        ("call", {"uri": "a", "timeout": 0}, 400, "timeout"),
        ("call", {"uri": "a", "timeout": 61}, 400, "timeout: expected at most 60 seconds, got 61"),
        ("call", {"uri": "}a"}, 400, "'}a'"),
        ("call", {"uri": "a", "by": "x" * 5000}, 400, "4096"),
        ("disconnect", {}, 400, "expected either identity or connection"),
        ("disconnect", {"identity": None}, 400, "null"),
        ("disconnect", {"identity": 1, "code": 1000}, 400, "code"),
        ("disconnect", {"identity": 1, "reason": "é" * 100}, 400, "reason"),
        ("disconnect", {"connection": "ann"}, 400, "connection"),
        ("unsubscribe", {"identity": 1}, 400, "expected either channel or pattern"),
        ("unsubscribe", [{"identity": 1, "channel": "a"}, {"channel": "a"}], 400, "expected either identity"),
        ("connections", {"limit": 1001}, 400, "limit"),
        ("connections", [{}], 400, "object"),
        ("nothing", {}, 404, "publish, call"),
    ],
    ids=lambda value: None if isinstance(value, (str, int)) else repr(value)[:30],
)
def test_invalid_requests_are_refused(api, operation, body, expected, text):
    status, answer = message(f"{api}{operation}", body)
    assert (status, text in answer) == (expected, True), answer


def test_methods_and_types(api):
    assert message(f"{api}publish", method="GET") == (405, "expected POST, got GET")
    assert message(f"{api}publish", {}, kind="text/plain")[0] == 415
    assert send(api.replace("/api/v1/", "/healthz"), method="GET", key=None) == (200, {"status": "alive"})


def test_a_large_body_is_refused_before_it_is_read(api):
    host, port = re.search(r"//([\d.]+):(\d+)/", api).groups()
    with socket.create_connection((host, int(port)), 10) as sock:
        head = f"POST /api/v1/publish HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n"
        sock.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 9000000\r\n\r\n".encode())
        assert sock.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_chunked_body_is_bounded(api):
    host, port = re.search(r"//([\d.]+):(\d+)/", api).groups()
    with socket.create_connection((host, int(port)), 10) as sock:
        head = f"POST /api/v1/publish HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n"
        sock.sendall(f"{head}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        try:
            for _ in range(300):
                sock.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        except OSError:
            return  # it was closed
        assert b" 413 " in sock.recv(100)


def test_without_redis_it_answers_503_and_works_again(tmp_path):
    with mortal_redis(tmp_path) as redis_server:
        redis_server.start()
        with api_process(redis_server.url) as url:
            assert send(f"{url}publish", {"channel": "news"})[0] == 200
            redis_server.kill()
            for operation, body in (
                ("publish", {"channel": "a"}),
                ("call", {"uri": "a"}),
                ("disconnect", {"identity": 1}),
            ):
                assert message(f"{url}{operation}", body)[0] == 503, operation
            redis_server.start()
            eventually(lambda: send(f"{url}publish", {"channel": "news"})[0] == 200)


@pytest.mark.parametrize(
    ("key", "args", "expected"),
    [
        ("", (), "no API key: set JUGGLER_API_KEY or --key-file"),
        ("short", (), "API key: expected at least 16 characters"),
        ("x" * 15 + " x", (), "API key: expected"),
        (KEY, ("--bind", "nowhere"), "nowhere"),
        (KEY, ("--redis", "http://127.0.0.1"), "http"),
        (KEY, ("--max-timeout", "0"), "--max-timeout"),
    ],
)
def test_invalid_options_are_one_line(key, args, expected):
    done = run("api", "--bind", "127.0.0.1:0", *args, JUGGLER_API_KEY=key)
    assert (done.returncode, done.stdout) == (2, "")
    assert expected in done.stderr
    assert not key or key not in done.stderr


def test_the_document_is_true(redis_url, tmp_path):
    with api_process(redis_url, "--max-timeout", "0.05") as url:
        config = os.path.join(os.path.dirname(os.path.dirname(__file__)), "schemathesis.toml")
        command = (sys.executable, "-m", "schemathesis.cli", "--config-file", config, "run", f"{url}openapi.json")
        options = ("--header", f"Authorization: Bearer {KEY}", "--max-examples", "10", "--phases", "coverage,fuzzing")
        done = subprocess.run(
            [*command, *options, "--generation-database", "none", "--seed", "1"],
            capture_output=True,
            text=True,
            timeout=150,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
        assert re.search(r"Tested: +5", done.stdout)


def test_the_page_is_true(redis_url):
    function = re.search(r"^api\(\) .*$", PAGE, re.MULTILINE).group()
    session = re.findall(r"^\$ (.*)\n(.*)$", PAGE, re.MULTILINE)
    assert len(session) >= 6
    with api_process(redis_url) as url, callee_process(redis_url):
        function = function.replace("http://127.0.0.1:9002/api/v1/", url)
        for command, expected in session:
            done = subprocess.run(
                ["bash", "-c", f"{function}\n{command}"],
                capture_output=True,
                text=True,
                timeout=30,
                env={**os.environ, "JUGGLER_API_KEY": KEY},
            )
            assert json.loads(done.stdout) == json.loads(expected), command
