"""The gunicorn worker in a real gunicorn: a master, its workers, and Redis, each a process of its own."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import gevent
import pytest
import redis
from websockets.exceptions import ConnectionClosed, InvalidStatus

from juggler.broker.redis import RedisBroker
from juggler.process.embedded import free_port
from juggler.process.garbage import YOUNG_OBJECTS
from juggler.protocol.messages import MessageType
from tests.stack import Wire, lazy_subscriber, serving
from tests.support import eventually

ROOT = Path(__file__).parents[2]
CALL, PUB, SUB, NACK, ACK, RES, EVNT = (MessageType(n) for n in (1, 2, 3, 7, 8, 9, 10))
UUID = "00000000-0000-4000-8000-000000000001"
LONG = 60 * 10**9

# Each upgrade and /state return the worker's process id. The response of /slow waits for a file.
APP = """
import gc, json, os, time
from socket import IPPROTO_TCP, TCP_NODELAY, socket
from juggler.broker.redis import RedisBroker
from juggler.server import Server
from juggler.server.processing import process_message
from juggler.wsgi import UPGRADE, Application

def handler(ctx, connection, message):
    if getattr(message, "uri", "").startswith("bad"):
        raise ValueError("bad URI " + message.uri)
    process_message(ctx, connection, message)

broker = RedisBroker(os.environ["REDIS_URL"])
server = Server(caller_broker=broker, pubsub_broker=broker, handler=handler)
juggler = Application(server)
nodelay = []
slow = 0

def application(environ, start_response):
    global slow
    if environ["PATH_INFO"] == "/state":
        body = json.dumps({"gc": gc.get_threshold()[0], "slow": slow, "nodelay": nodelay}).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]
    if environ["PATH_INFO"] == "/slow":
        slow += 1
        start_response("200 OK", [("Content-Length", "4")])
        while not os.path.exists("go"):
            time.sleep(0.01)
        return [b"slow"]
    upgrade = environ.get(UPGRADE)
    if upgrade is not None:
        fileno = environ["gunicorn.sock"].fileno()
        def upgrade_and_tell(headers, options):
            websocket = upgrade([*headers, ("X-Pid", str(os.getpid()))], options)
            with socket(fileno=os.dup(fileno)) as sock:
                if isinstance(sock.getsockname(), tuple):
                    nodelay.append(sock.getsockopt(IPPROTO_TCP, TCP_NODELAY))
            return websocket
        environ[UPGRADE] = upgrade_and_tell
    return juggler(environ, start_response)
"""

CONF = """
control_socket_disable = True

def post_worker_init(worker):
    worker.log.info("Ready: %s", worker.pid)
"""


class Gunicorn:
    """A gunicorn in a directory of its own."""

    def __init__(
        self, directory: Path, redis_url: str, *args: str, bind: str = "", worker: str = "", metrics: bool = False
    ) -> None:
        self.directory = directory
        self.port = free_port()
        (directory / "app.py").write_text(APP)
        (directory / "gunicorn.conf.py").write_text(CONF)
        command = [sys.executable, "-m", "gunicorn", "-k", worker or "juggler.worker.GeventWorker"]
        command += ["-b", bind or f"127.0.0.1:{self.port}", "--access-logfile", "access.log", *args, "app:application"]
        environment = {}
        if metrics:
            address = f"127.0.0.1:{free_port()}"
            self.metrics_url = f"http://{address}"
            command[5:5] = ["-b", address]
            environment["JUGGLER_LISTEN_METRICS_BIND"] = address
        warnings = "error,ignore::ResourceWarning"  # gunicorn leaves sockets and files open at exit
        environment |= {**os.environ, "REDIS_URL": redis_url, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": warnings}
        with self._path("stderr").open("w") as err, self._path("stdout").open("w") as out:
            self.process = subprocess.Popen(command, cwd=directory, env=environment, stdout=out, stderr=err)

    def _path(self, name: str) -> Path:
        return self.directory / name

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def said(self) -> list[str]:
        """Lines on stderr and stdout."""
        return (self._path("stderr").read_text() + self._path("stdout").read_text()).splitlines()

    @property
    def workers(self) -> list[int]:
        """Process ids of the workers that have started, oldest first."""
        return [int(line.rpartition(" ")[2]) for line in self.said if "Ready:" in line]

    def accesses(self) -> Counter[tuple[str, int]]:
        """Return the number of lines in the access log by request line and status."""
        found = re.findall(r'"([^"]*)" (\d+) ', self._path("access.log").read_text())
        return Counter((line, int(status)) for line, status in found)

    def get(self, path: str) -> bytes:
        """Request a path on a new connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.get("/state"))
        return state

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 10.0) -> int:
        return self.process.wait(timeout)

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.send(number)
        self.wait()
        self.check_end()

    @property
    def complaints(self) -> list[str]:
        """Lines that are not gunicorn's usual ones."""
        return [line for line in self.said if "[INFO]" not in line]

    def check_end(self) -> None:
        """Check that it has exited with status 0, logged no complaints, and left nothing behind."""
        assert self.process.returncode == 0
        assert not self.complaints
        for pid in self.workers:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", self.port)).close()


Start = Callable[..., Gunicorn]


@pytest.fixture
def start(tmp_path: Path, redis_url: str) -> Iterator[Start]:
    """Return a function that starts a gunicorn with additional arguments. It is killed unless the test stops it."""
    started: list[Gunicorn] = []

    def start(*args: str, workers: int = 1, **options: Any) -> Gunicorn:
        gunicorn = Gunicorn(tmp_path, redis_url, "-w", str(workers), *args, **options)
        started.append(gunicorn)
        eventually(lambda: len(gunicorn.workers) == workers, message="workers that are ready")
        return gunicorn

    yield start
    for gunicorn in started:
        if gunicorn.process.poll() is None:
            for pid in [*gunicorn.workers, gunicorn.process.pid]:
                os.kill(pid, signal.SIGKILL)
            gunicorn.wait()


@pytest.fixture
def gunicorn(start: Start) -> Iterator[Gunicorn]:
    """A gunicorn with two workers, which must exit gracefully after the test."""
    gunicorn = start("--graceful-timeout", "5", workers=2)
    yield gunicorn
    if gunicorn.process.poll() is None:
        gunicorn.send(signal.SIGTERM)
        gunicorn.wait()
    gunicorn.check_end()


@pytest.fixture
def echo(redis_url: str) -> Iterator[None]:
    """Serve calls to ``echo``."""
    broker = RedisBroker(redis_url)
    with serving(broker, ["echo"], lambda call: call.args):
        yield
    broker.close()


def pid_of(wire: Wire) -> int:
    response = wire.websocket.response
    assert response is not None
    return int(response.headers["X-Pid"])


@contextmanager
def one_on_each(url: str, workers: int = 2, **options: Any) -> Iterator[list[Wire]]:
    """Connect until every worker has a client, and yield one client of each."""
    with ExitStack() as stack:
        clients: dict[int, Wire] = {}

        def connect() -> bool:
            wire = stack.enter_context(Wire(url, **options))
            clients[pid_of(wire)] = wire
            return len(clients) == workers

        eventually(connect, message=f"clients on {workers} workers")
        yield list(clients.values())


def call(wire: Wire, uri: str, args: Any = None) -> None:
    """Call with the same UUID as all other clients, and receive the ACK."""
    payload = {"uri": uri, "timeout": LONG, "args": args}
    wire.websocket.send(json.dumps({"meta": {"type": 1, "uuid": UUID}, "payload": payload}))
    assert wire.receive()["meta"]["type"] == ACK


def result(wire: Wire) -> Any:
    payload = wire.receive()["payload"]
    assert payload["for"] == UUID
    return payload["args"]


def lost(wire: Wire) -> None:
    """Wait until the connection is lost without a close frame."""
    with pytest.raises(ConnectionClosed) as end:
        wire.websocket.recv(timeout=30)
    assert end.value.rcvd is None


# Several workers


def test_events_and_results_find_their_way_between_workers(gunicorn, echo):
    with one_on_each(gunicorn.url) as (one, other):
        for subscriber, publisher in ((one, other), (other, one)):
            channel = f"of-{pid_of(subscriber)}"
            assert subscriber.request(SUB, channel=channel)["meta"]["type"] == ACK
            publisher.request(PUB, channel=channel, args=1)
            assert subscriber.receive()["payload"]["args"] == 1
        for number in range(20):
            call(one, "echo", {"one": number})
            call(other, "echo", {"other": number})
            assert result(one) == {"one": number}
            assert result(other) == {"other": number}


@pytest.mark.leaves_keys("juggler:calls:*")
@pytest.mark.parametrize("options", [(), ("--preload",)])
def test_workers_share_neither_results_nor_identifiers(start, redis_url, options, echo):
    gunicorn = start(*options, workers=2)
    with one_on_each(gunicorn.url) as clients, redis.Redis.from_url(redis_url, protocol=2) as client:
        for wire in clients:
            call(wire, "echo", 1)
            assert result(wire) == 1
            call(wire, "nobody")
        waiting = [json.loads(each) for each in client.lrange("juggler:calls:{nobody}", 0, -1)]
        assert len({each["conn_uuid"] for each in waiting}) == 2
        # The server's own identifiers end with random digits of the process.
        assert len({each["msg_uuid"][-12:] for each in waiting}) == 2
        acks = [wire.request(SUB, channel="c")["meta"]["uuid"] for wire in clients]
        assert len(set(acks)) == 2
        gunicorn.stop(signal.SIGQUIT)


def test_small_messages_are_not_held_back(start):
    gunicorn = start()
    with Wire(gunicorn.url):
        assert gunicorn.state()["nodelay"] == [1]
        assert gunicorn.state()["gc"] == YOUNG_OBJECTS
    gunicorn.stop()


# Logs


def test_the_access_log_has_no_tokens_and_no_control_characters(start):
    gunicorn = start()
    user = base64.b64encode(b"me\n2026 forged\x1b[2J:password").decode()
    lines = [
        "GET /state?token=s3cret HTTP/1.1",
        "Host: localhost",
        f"Authorization: Basic {user}",
        "User-Agent: \x1b[2J\x9b31m",
        "Referer: http://localhost/?token=s3cret",
        "Connection: close",
    ]
    with socket.create_connection(("127.0.0.1", gunicorn.port)) as client:
        client.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        while client.recv(4096):
            pass
    with Wire(f"{gunicorn.url}?token=s3cret"):
        pass
    expected = {("GET /state?... HTTP/1.1", 200): 1, ("GET /ws?... HTTP/1.1", 101): 1}
    eventually(lambda: gunicorn.accesses() == expected, message="two lines")
    text = (gunicorn.directory / "access.log").read_text()
    assert "s3cret" not in text
    assert all(line.isprintable() for line in text.split("\n"))
    assert text.count("\n") == 2
    gunicorn.stop()


def test_errors_of_handlers_cannot_forge_log_lines(start):
    gunicorn = start()
    with Wire(gunicorn.url) as wire:
        wire.send(CALL, uri="bad\n2026-11-27 [ERROR] forged\x1b[2J", timeout=LONG)
        eventually(lambda: any("forged" in line for line in gunicorn.said))
    lines = [line for line in gunicorn.complaints if "forged" in line]
    assert all(line.startswith("    ") and line.isprintable() for line in lines), lines


def test_each_request_has_one_line_in_the_access_log(gunicorn):
    with Wire(gunicorn.url) as wire:
        wire.request(SUB, channel="c")
        gunicorn.get("/state")
        with pytest.raises(InvalidStatus):
            Wire(gunicorn.url, subprotocols=["other"])
        lines = ["GET /ws HTTP/1.1", 101], ["GET /state HTTP/1.1", 200], ["GET /ws HTTP/1.1", 400]
        expected = {tuple(line): 1 for line in lines}
        eventually(lambda: gunicorn.accesses() == expected, message="the lines, while the websocket is open")
    gunicorn.stop()
    assert gunicorn.accesses() == expected


HEAD = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
)
KEY = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: juggler.0\r\n\r\n"
RESET = struct.pack("ii", 1, 0)  # for SO_LINGER: close with a reset
GARBAGE = {
    b"xx\r\n\r\n": b"400",
    b"\r\n": b"400",
    b"\x16\x03\x01" * 100 + b"\r\n": b"400",
    b"GET / HTTP/9\r\n\r\n": b"400",
    b"GET / HTTP/x.y\r\n\r\n": b"400",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n": b"400",
    b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n": b"400",
    b"GET /%s HTTP/1.1\r\n\r\n" % (b"x" * 20_000): b"414",
    HEAD + b"Sec-WebSocket-Key: short\r\n\r\n": b"400",
    HEAD + KEY + b"garbage": b"101",
    b"GET /state HTTP/1.1\r\nHost: localhost\r\n\r\n%s\r\n" % b"x": b"200",
}


def test_garbage_on_the_port_logs_no_traceback(gunicorn):
    for garbage, status in GARBAGE.items():
        with socket.create_connection(("127.0.0.1", gunicorn.port)) as sock:
            sock.settimeout(5)
            sock.sendall(garbage)
            sock.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: sock.recv(4096), b""))
            assert answer.startswith(b"HTTP/1.1 " + status), garbage
        with socket.create_connection(("127.0.0.1", gunicorn.port)) as sock:
            sock.sendall(garbage)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    # The log line of the second, invalid request of a connection does not show the first one.
    eventually(lambda: gunicorn.accesses()["- - -", 400] >= 8)
    assert not gunicorn.accesses()["GET /state HTTP/1.1", 400]


def test_a_client_that_leaves_during_its_request_logs_no_traceback(start):
    gunicorn = start()
    with socket.create_connection(("127.0.0.1", gunicorn.port)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost")
        gunicorn.state()  # The only worker has read the request.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    gunicorn.stop()


# Shutdown


def test_sigterm_drains_calls_and_closes_websockets(gunicorn, redis_url):
    broker = RedisBroker(redis_url)
    with one_on_each(gunicorn.url) as clients, one_on_each(gunicorn.url) as idle:
        for number, wire in enumerate(clients):
            call(wire, "late", number)
        gunicorn.send(signal.SIGTERM)
        for wire in idle:
            assert wire.closed() == (1001, "the server is shutting down")
        with pytest.raises(OSError, match="refused"):
            Wire(gunicorn.url)
        with serving(broker, ["late"], lambda call: call.args):
            for number, wire in enumerate(clients):
                assert result(wire) == number
                assert wire.closed() == (1001, "the server is shutting down")
        assert gunicorn.wait() == 0
    broker.close()


@pytest.mark.alone
def test_sigterm_waits_for_plain_requests_but_not_for_idle_connections(start):
    gunicorn = start("--graceful-timeout", "5")
    idle = http.client.HTTPConnection("127.0.0.1", gunicorn.port, timeout=30)
    idle.request("GET", "/state")
    assert idle.getresponse().read()
    slow = gevent.spawn(gunicorn.get, "/slow")
    eventually(lambda: gunicorn.state()["slow"] == 1)
    begin = time.monotonic()
    gunicorn.send(signal.SIGTERM)
    eventually(lambda: "Handling signal: term" in "".join(gunicorn.said))
    (gunicorn.directory / "go").touch()
    assert slow.get(timeout=30) == b"slow"
    assert gunicorn.wait() == 0
    assert time.monotonic() - begin < 3
    idle.close()
    gunicorn.check_end()


@pytest.mark.leaves_keys("juggler:calls:*")
@pytest.mark.alone
def test_nothing_that_clients_do_holds_it_beyond_the_graceful_timeout(start):
    gunicorn = start("--graceful-timeout", "2")
    with Wire(gunicorn.url) as waiting, lazy_subscriber(gunicorn.url, "c"):
        waiting.request(CALL, uri="nobody", timeout=LONG)
        begin = time.monotonic()
        gunicorn.send(signal.SIGTERM)
        assert waiting.closed() == (1001, "the server is shutting down")
        assert time.monotonic() - begin > 0.4  # for the call
        assert gunicorn.wait() == 0
        assert time.monotonic() - begin < 2
    gunicorn.check_end()


@pytest.mark.leaves_keys("juggler:calls:*")
@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGINT])
@pytest.mark.alone
def test_sigquit_and_sigint_end_it_at_once(start, number):
    gunicorn = start("--graceful-timeout", "10")
    with Wire(gunicorn.url) as wire:
        wire.request(CALL, uri="nobody", timeout=LONG)
        begin = time.monotonic()
        gunicorn.send(number)
        lost(wire)
        assert gunicorn.wait() == 0
        assert time.monotonic() - begin < 2
    gunicorn.check_end()


@pytest.mark.leaves_keys("juggler:*")
def test_a_worker_that_dies_is_replaced_and_leaves_nothing_for_ever(start, redis_url, echo):
    gunicorn = start(workers=2)
    with one_on_each(gunicorn.url) as (dying, living):
        living.request(SUB, channel="c")
        for wire in (dying, living):
            call(wire, "nobody")
        os.kill(pid_of(dying), signal.SIGKILL)
        lost(dying)
        call(living, "echo", "still here")
        assert result(living) == "still here"
        eventually(lambda: len(gunicorn.workers) == 3)
        with one_on_each(gunicorn.url) as (one, other):
            assert pid_of(dying) not in {pid_of(one), pid_of(other)}
            for wire in (one, other):
                wire.request(PUB, channel="c", args=pid_of(wire))
                assert living.receive()["payload"]["args"] == pid_of(wire)
        with redis.Redis.from_url(redis_url, protocol=2) as client:
            keys = client.keys("*")
            assert keys
            # Timeout keys expire with their calls, lists an hour after the last push.
            assert all(0 < client.ttl(key) <= (120 if b":timeout:" in key else 3600) for key in keys)
        gunicorn.send(signal.SIGQUIT)
        gunicorn.wait()
    assert [line for line in gunicorn.complaints if "was sent SIGKILL" not in line] == []


@pytest.mark.alone
def test_sighup_lets_new_workers_serve_while_the_old_ones_drain(start, redis_url):
    gunicorn = start("--graceful-timeout", "30", workers=2)  # the old ones wait until the new ones have started
    broker = RedisBroker(redis_url)
    with one_on_each(gunicorn.url) as old, one_on_each(gunicorn.url) as idle:
        gone = {pid_of(wire) for wire in old}
        for wire in old:
            call(wire, "late", pid_of(wire))
        gunicorn.send(signal.SIGHUP)
        for wire in idle:
            assert wire.closed()[0] == 1001
        with one_on_each(gunicorn.url) as new:
            # Both are new: the old ones accept no clients while their calls are in flight.
            assert not gone & {pid_of(wire) for wire in new}
            with serving(broker, ["late"], lambda call: call.args):
                for wire in old:
                    assert result(wire) == pid_of(wire)
                    assert wire.closed()[0] == 1001
            new[0].request(SUB, channel="c")
            new[1].request(PUB, channel="c", args="new")
            assert new[0].receive()["payload"]["args"] == "new"
    broker.close()
    gunicorn.stop()


# Other sockets


def test_a_unix_socket(start, tmp_path, echo):
    gunicorn = start(bind=f"unix:{tmp_path / 'sock'}")

    def connect(**options: Any) -> Wire:
        return Wire("ws://app.example/ws", unix=True, path=str(tmp_path / "sock"), **options)

    with connect(origin="https://app.example") as wire:
        call(wire, "echo", 1)
        assert result(wire) == 1
    with pytest.raises(InvalidStatus) as refused:
        connect(origin="https://evil.example")
    assert refused.value.response.status_code == 403
    gunicorn.stop()
    assert not (tmp_path / "sock").exists()
    assert gunicorn.accesses() == {("GET /ws HTTP/1.1", 101): 1, ("GET /ws HTTP/1.1", 403): 1}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a self-signed certificate for localhost."""
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    command += " -addext subjectAltName=DNS:localhost"
    files = ["-keyout", path, "-out", path.with_suffix(".crt")]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return path


def test_tls(start, certificate, echo):
    public = certificate.with_suffix(".crt")
    gunicorn = start("--certfile", str(public), "--keyfile", str(certificate))
    url = f"wss://localhost:{gunicorn.port}/ws"
    address = ("127.0.0.1", gunicorn.port)
    context = ssl.create_default_context(cafile=str(public))
    with Wire(url, ssl=context, sock=socket.create_connection(address)) as wire:
        wire.request(SUB, channel="c")
        wire.send(PUB, channel="c", args=1)
        assert {wire.receive()["meta"]["type"] for _ in range(2)} == {ACK, EVNT}
        call(wire, "echo", "x" * 100_000)
        assert result(wire) == "x" * 100_000
        with socket.create_connection(address) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            plain.settimeout(5)
            with suppress(ConnectionResetError):
                assert not plain.recv(100).startswith(b"HTTP")
        with socket.create_connection(address) as silent:
            gunicorn.send(signal.SIGTERM)
            assert wire.closed() == (1001, "the server is shutting down")
            assert gunicorn.wait() == 0
            silent.close()
    gunicorn.check_end()


def test_a_tls_handshake_that_never_comes_does_not_take_a_place(start, certificate, tmp_path):
    (tmp_path / "impatient.py").write_text(
        "from juggler import worker\n\n\nclass Worker(worker.GeventWorker):\n    handshake_timeout = 0.3\n"
    )
    public = certificate.with_suffix(".crt")
    options = ["--certfile", str(public), "--keyfile", str(certificate), "--worker-connections", "2"]
    gunicorn = start(*options, worker="impatient.Worker")
    address = ("127.0.0.1", gunicorn.port)
    with ExitStack() as silent:
        for _ in range(2):
            silent.enter_context(socket.create_connection(address))
        context = ssl.create_default_context(cafile=str(public))
        with Wire(f"wss://localhost:{gunicorn.port}/ws", ssl=context, sock=socket.create_connection(address)) as wire:
            wire.request(SUB, channel="c")
    gunicorn.stop()
    assert not any("Traceback" in line for line in gunicorn.said)


def test_websockets_leave_room_for_health_checks(start):
    gunicorn = start("--worker-connections", "3")
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(Wire(gunicorn.url)).request(SUB, channel="c")
        with pytest.raises(InvalidStatus) as refused:
            Wire(gunicorn.url)
        assert refused.value.response.status_code == 503
        assert gunicorn.get("/healthz") == b"alive\n"
    gunicorn.stop()


# Limits


def test_a_subclass_of_the_worker_in_gunicorn_s_file_sets_limits(tmp_path, redis_url, start):
    blocks = re.findall(r"```python\n(# gunicorn.conf.py\n.*?)```", (ROOT / "docs/server.md").read_text(), re.DOTALL)
    (block,) = [each for each in blocks if "max_header_size" in each]
    assert "max_header_size = 64 * 1024" in block
    (tmp_path / "limits.py").write_text(
        block.replace("64 * 1024", "300").replace("request_timeout = 30", "request_timeout = 0.5")
    )
    gunicorn = start(worker="limits.PatientWorker")
    for size, status in [(100, b"404"), (400, b"431")]:
        with socket.create_connection(("127.0.0.1", gunicorn.port)) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: %s\r\n\r\n" % (b"x" * size))
            assert sock.recv(12) == b"HTTP/1.1 " + status
    with socket.create_connection(("127.0.0.1", gunicorn.port)) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        assert slow.recv(12) == b"HTTP/1.1 408"
    gunicorn.stop()


# gunicorn's settings


def test_a_worker_restarts_after_its_maximum_of_requests(start, echo):
    gunicorn = start("--max-requests", "5", "--graceful-timeout", "5")
    with Wire(gunicorn.url) as wire:
        for _ in range(4):
            gunicorn.get("/healthz")
        assert wire.closed() == (1001, "the server is shutting down")
    eventually(lambda: len(gunicorn.workers) == 2)
    with Wire(gunicorn.url) as wire:
        call(wire, "echo", 1)
        assert result(wire) == 1
    gunicorn.stop()


def test_reload_runs_the_new_code_soon(start, tmp_path):
    gunicorn = start("--reload", "--reload-engine", "poll")
    with Wire(gunicorn.url) as wire:
        wire.request(SUB, channel="c")
        began = time.monotonic()
        (tmp_path / "app.py").write_text(APP + "\n")
        assert wire.closed()[0] == 1001
        eventually(lambda: len(gunicorn.workers) == 2)
        assert time.monotonic() - began < 8
    gunicorn.send(signal.SIGTERM)
    gunicorn.wait()


def test_the_length_of_a_request_line_is_gunicorn_s(start):
    gunicorn = start("--limit-request-line", "100")
    for length, status in [(80, b"404"), (100, b"414")]:
        with socket.create_connection(("127.0.0.1", gunicorn.port)) as sock:
            sock.sendall(b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"x" * length))
            assert sock.recv(12) == b"HTTP/1.1 " + status
    gunicorn.stop()


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (
            ["--proxy-protocol", "auto"],
            "proxy_protocol: not supported by juggler.worker.GeventWorker; let the proxy set",
        ),
        (["--forwarded-allow-ips", "*"], "forwarded_allow_ips: not supported"),
        (["--limit-request-fields", "10"], "limit_request_fields: not supported"),
        (["--limit-request-field_size", "10"], "limit_request_field_size: not supported"),
        (["--limit-request-line", "0"], "limit_request_line: expected 1 to 8190, got 0"),
    ],
)
def test_settings_without_effect_are_refused_at_start(tmp_path, redis_url, args, reason):
    gunicorn = Gunicorn(tmp_path, redis_url, *args)
    assert gunicorn.wait() == 1
    assert any(reason in line for line in gunicorn.said)
    assert not gunicorn.workers


# Other workers


@pytest.mark.parametrize("worker", ["gevent", "gthread", "sync"])
def test_workers_that_cannot_upgrade_say_which_one_can(start, worker):
    gunicorn = start(worker=worker)
    with pytest.raises(InvalidStatus) as refused:
        Wire(gunicorn.url)
    assert refused.value.response.status_code == 501
    assert "gunicorn -k juggler.worker.GeventWorker" in refused.value.response.body.decode()
    gunicorn.stop()


def test_another_worker_that_upgrades_names_the_one_to_use(start):
    gunicorn = start(worker="geventwebsocket.gunicorn.workers.GeventWebSocketWorker")
    with Wire(gunicorn.url) as wire:
        code, reason = wire.closed()
    assert code == 1011
    assert "gunicorn -k juggler.worker.GeventWorker" in reason
    gunicorn.stop()
