"""Settings of the commands: juggler config, your own server, several workers, logs."""

from __future__ import annotations

import json
import re
import signal
import socket
import urllib.request
from urllib.parse import urlsplit

import pytest

from juggler.client import Client
from juggler.errors import ConnectionClosed, Nacked
from juggler.process.garbage import YOUNG_OBJECTS
from tests.integration.commands import TIMEOUT, callee_process, run, running
from tests.stack import Wire

APP = """
import os
from juggler.broker.redis import RedisBroker
from juggler.errors import Refused
from juggler.server.processing import chain
from juggler.server import Server
from juggler.wsgi import Application

def refuse(next_handler):
    def handler(ctx, connection, message):
        if message.type.is_request and getattr(message, "channel", "") == "secret":
            raise Refused(403, "not you")
        next_handler(ctx, connection, message)
    return handler

broker = RedisBroker(os.environ["REDIS_URL"])
server = Server(caller_broker=broker, pubsub_broker=broker, handler=chain(refuse))
application = Application(server, path="/mine")
number = 5
"""


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "myapp.py").write_text(APP)
    monkeypatch.setenv("PYTHONPATH", ":".join(__import__("sys").path))
    return tmp_path


def url_of(process) -> str:
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return re.search(r"ws://\S+", line).group()


def test_show_prints_settings_with_sources_and_masks_secrets(tmp_path):
    file = tmp_path / "j.toml"
    file.write_text('[redis]\nurl = "redis://ann:s3cret@h:1/0?password=s3cret"\n[server]\nmax_calls = 5\n')
    done = run("config", "show", "--config", str(file), JUGGLER_LOG_LEVEL="debug")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(rf"^server.max_calls +5 +{re.escape(str(file))} line 4$", done.stdout, re.MULTILINE)
    assert re.search(r"^log.level +debug +JUGGLER_LOG_LEVEL$", done.stdout, re.MULTILINE)
    assert re.search(r"^server.max_waiting +1000 +default$", done.stdout, re.MULTILINE)
    assert "redis://ann:***@h:1/0?***" in done.stdout
    assert "s3cret" not in done.stdout
    shown = json.loads(run("config", "show", "--json", JUGGLER_CONFIG=str(file)).stdout)
    assert shown["server.max_calls"] == {"value": 5, "source": f"{file} line 4"}


def test_check_prints_every_error_and_exits_with_2(tmp_path):
    file = tmp_path / "j.toml"
    file.write_text("[server]\nmax_calls = 'x'\nmax_cals = 1\n")
    done = run("config", "check", "--config", str(file))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"config: [server] max_calls: expected an integer greater than 0, got 'x' ({file} line 2)",
        f"config: [server] max_cals: unknown key; did you mean max_calls? ({file} line 3)",
    ]
    file.write_text('[redis]\nurl = "http://h"\n')
    assert run("config", "check", "--config", str(file)).returncode == 2
    file.write_text("[server]\nmax_calls = 5\n")
    done = run("config", "check", "--config", str(file))
    assert (done.returncode, done.stdout) == (0, "the configuration is valid\n")
    done = run("server", "--config", str(tmp_path / "absent.toml"))
    assert (done.returncode, done.stderr) == (
        2,
        f"config: cannot read {tmp_path}/absent.toml: No such file or directory\n",
    )


def test_a_server_uses_file_environment_and_flags(tmp_path, redis_url):
    file = tmp_path / "j.toml"
    file.write_text('[server]\nmax_uri_length = 3\n[listen]\npath = ["/a", "/b"]\n[debug]\nclose_uri = "bye"\n')
    args = ("server", "--config", str(file), "--bind", "127.0.0.1:0", "--max-channel-length", "4")
    with running(*args, REDIS_URL=redis_url, JUGGLER_WEBSOCKET_READ_LIMIT="200") as process:
        url = url_of(process)
        for path, request in (("/a", {"channel": "long!"}), ("/b", {"channel": "long!"})):
            with Wire(re.sub("/a$", path, url)) as wire:
                nack = wire.request(2, **request)["payload"]
                assert nack["message"] == "channel: expected at most 4 characters, got 5"
                assert wire.request(1, uri="long")["payload"]["code"] == 400
                wire.send(2, channel="c", args="x" * 200)
                assert wire.closed()[0] == 1009
        with Wire(url) as wire:
            wire.send(1, uri="bye")
            assert wire.closed() == (1000, "requested by the client")


def test_a_client_error_is_one_log_line_with_its_connection(redis_url):
    args = ("server", "--bind", "127.0.0.1:0", "--redis", redis_url, "--log-format", "json")
    with running(*args) as process:
        with Wire(url_of(process)) as wire:
            wire.websocket.send("{")
            assert wire.closed()[0] == 4400
        entry = json.loads(process.stderr.readline())
        assert (entry["level"], entry["logger"]) == ("info", "juggler.connection")
        assert re.fullmatch("[0-9a-f-]{36}", entry["connection"])
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=TIMEOUT)[1] == ""


def test_an_invalid_http_request_is_one_log_line(redis_url):
    with running("server", "--bind", "127.0.0.1:0", "--redis", redis_url, "--log-format", "json") as process:
        url = urlsplit(url_of(process))
        with socket.create_connection((url.hostname, url.port)) as sock:
            sock.sendall(b"\0%s\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 400 ")
        entry = json.loads(process.stderr.readline())
        assert (entry["level"], entry["logger"]) == ("info", "juggler.websocket")
        assert entry["event"] == "http: invalid request"
        assert entry["error"].endswith(r"request line: expected an HTTP/1.1 request, got '\x00%s\r\n'")
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=TIMEOUT)[1] == ""


def test_connections_and_messages_are_logged_if_wanted(redis_url):
    args = ("server", "--bind", "127.0.0.1:0", "--redis", redis_url, "--log-format", "json", "--close-uri", "bye")
    with running(*args, "--log-connections", "--log-messages") as process:
        with Wire(url_of(process)) as wire:
            client = f"127.0.0.1:{wire.websocket.local_address[1]}"
            uuid = wire.send(1, uri="bye")
            assert wire.closed()[0] == 1000
        opened, message, closed = (json.loads(process.stderr.readline()) for _ in range(3))
        assert (opened["event"], opened["client"]) == ("connection: connected", client)
        assert (message["event"], message["message"]) == ("message: processed", uuid)
        assert (closed["event"], closed["code"]) == ("connection: closed", 1000)
        assert len({entry["connection"] for entry in (opened, message, closed)}) == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_limits_of_requests_are_options(redis_url, workers):
    args = ("server", "--bind", "127.0.0.1:0", "--redis", redis_url, "--workers", workers)
    with running(*args, "--request-timeout", "0.5", "--max-header-size", "300") as process:
        url = urlsplit(url_of(process))
        address = (url.hostname, url.port)
        for size, status in ((100, b"200"), (400, b"431")):
            with socket.create_connection(address) as sock:
                sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: %s\r\n\r\n" % (b"x" * size))
                assert sock.recv(12) == b"HTTP/1.1 " + status
        with socket.create_connection(address) as slow:
            slow.settimeout(TIMEOUT)
            slow.sendall(b"GET /ws HTTP/1.1\r\nHost: localhost\r\n")
            assert slow.recv(12) == b"HTTP/1.1 408"
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0


@pytest.mark.leaves_keys("juggler:calls:*")
@pytest.mark.parametrize(("name", "path"), [("myapp:server", "/ws"), ("myapp:application", "/mine")])
def test_your_own_server(in_tmp, redis_url, name, path):
    with running("server", name, "--bind", "127.0.0.1:0", REDIS_URL=redis_url) as process:
        url = url_of(process).replace("/ws", path)
        with Client(url) as client:
            client.publish("open")
            with pytest.raises(Nacked, match="403 not you"):
                client.publish("secret")
            process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed, match="1001"):
                client.call("unregistered", timeout=10)
        assert process.wait(TIMEOUT) == 0


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["myapp"], "'myapp': expected MODULE:OBJECT, for example myapp:server"),
        (["absent:server"], "cannot import 'absent': ModuleNotFoundError: No module named 'absent'"),
        (["myapp:absent"], "'myapp:absent': module 'myapp' has no attribute 'absent'"),
        (["myapp:number"], "'myapp:number': expected a Server or a WSGI application, got int"),
        (["myapp:server", "--log-messages"], "--log-messages: myapp:server is a Server; set this in Python"),
        (["myapp:server", "--max-calls", "5"], "--max-calls: myapp:server is a Server; set this in Python"),
        (["myapp:application", "--path", "/x"], "--path: myapp:application is a WSGI application; set this in Python"),
        (
            ["myapp:application", "--no-metrics"],
            "--metrics: myapp:application is a WSGI application; set this in Python",
        ),
    ],
)
def test_an_invalid_application_is_a_one_line_error(in_tmp, redis_url, args, reason):
    done = run("server", *args, "--bind", "127.0.0.1:0", REDIS_URL=redis_url)
    assert (done.returncode, done.stderr) == (2, f"juggler server: {reason}\n")


def test_the_garbage_collector_runs_less_often(in_tmp, redis_url):
    (in_tmp / "told.py").write_text(
        "import gc\n"
        "def application(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [str(gc.get_threshold()[0]).encode()]\n"
    )
    with running("server", "told:application", "--bind", "127.0.0.1:0") as process:
        url = re.search(r"http://\S+", process.stdout.readline()).group()
        assert int(urllib.request.urlopen(url, timeout=30).read()) == YOUNG_OBJECTS


@pytest.mark.leaves_keys("juggler:calls:*")
def test_several_workers_serve_and_shut_down_gracefully(redis_url):
    args = ("server", "--workers", "2", "--bind", "127.0.0.1:0", "--redis", redis_url, "--grace", "5")
    with running(*args, "--metrics-bind", "127.0.0.1:0") as process:
        url = url_of(process)
        metrics = process.stdout.readline().split()[-1]
        with callee_process(redis_url), Client(url) as client:
            assert client.call("test.echo", [1]) == [1]
            with urllib.request.urlopen(metrics, timeout=30) as answer:
                assert b"juggler_connections" in answer.read()
            process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed, match="1001"):
                client.call("unregistered", timeout=10)
        assert process.wait(TIMEOUT) == 0


def test_invalid_workers_are_not_started(in_tmp):
    done = run("server", "--workers", "2", "--bind", "127.0.0.1:0", "--redis", "http://h")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("juggler server: Redis URL 'http://h': expected a scheme of")
    assert done.stderr.count("\n") == 1
    done = run("server", "myapp:absent", "--workers", "2", REDIS_URL="redis://h")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "juggler server: 'myapp:absent': module 'myapp' has no attribute 'absent'\n"


@pytest.mark.parametrize("named", [["--fail-fast", "--redis"], ["--fail-fast", "--pubsub-redis"]])
def test_several_workers_report_unreachable_redis(redis_url, named):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{nobody.getsockname()[1]}"
        done = run("server", "--workers", "2", "--bind", "127.0.0.1:0", *named, url, REDIS_URL=redis_url)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"juggler server: no Redis at {url}: ")
    assert done.stderr.count("\n") == 1


def test_your_own_server_prints_its_address(in_tmp, redis_url):
    with running("server", "myapp:application", "--bind", "127.0.0.1:0", REDIS_URL=redis_url) as process:
        assert re.fullmatch(r"juggler server: ws://127\.0\.0\.1:\d+/mine\n", process.stdout.readline())
    args = ("server", "myapp:application", "--workers", "2", "--bind", "127.0.0.1:0")
    with running(*args, REDIS_URL=redis_url) as process:
        line = process.stdout.readline()
        assert re.fullmatch(r"juggler server: http://127\.0\.0\.1:\d+ \(2 workers\)\n", line)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0


@pytest.mark.parametrize("url", ["redis://[::1", "redis://:s3cret@h/0#s3cret", "redis://:a/s3cret@h", "s3cret"])
def test_an_invalid_url_is_shown_without_its_secrets(url):
    done = run("config", "show", JUGGLER_REDIS_URL=url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "***" in done.stdout
    assert "s3cret" not in done.stdout


def test_several_workers_need_a_free_port(redis_url):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("server", "--workers", "2", "--bind", bind, "--redis", redis_url)
    assert done.returncode == 2
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr
