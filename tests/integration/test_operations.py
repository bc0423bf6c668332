"""What docs/operations tells people to run, run: proxies in front of gunicorn, and the files for systemd."""

from __future__ import annotations

import configparser
import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.frames import Opcode

from juggler.broker.redis import RedisBroker
from juggler.process.embedded import free_port
from juggler.protocol.messages import MessageType
from tests.operations import needs
from tests.stack import Wire, serving
from tests.support import eventually

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "operations"
CALL, PUB, SUB, NACK, ACK, RES, EVNT = (MessageType(n) for n in (1, 2, 3, 7, 8, 9, 10))

TIMEOUT = 3
"""Seconds that a proxy waits in silence; the server looks for idle clients every second."""

# Refuses calls to "address", with the client's address for a reason.
APP = """
import os
from juggler.broker.redis import RedisBroker
from juggler.errors import NackCode, Refused
from juggler.server.processing import process_message
from juggler.protocol.messages import Call
from juggler.server import Server
from juggler.server.websocket import WebSocketOptions
from juggler.wsgi import Application

def handler(ctx, connection, message):
    if isinstance(message, Call) and message.uri == "address":
        raise Refused(NackCode.FORBIDDEN, connection.identity)
    process_message(ctx, connection, message)

broker = RedisBroker(os.environ["REDIS_URL"])
server = Server(
    caller_broker=broker,
    pubsub_broker=broker,
    connect=lambda request: request.address,
    handler=handler,
    websocket=WebSocketOptions(ping_interval=0.3),
)
application = Application(server, trusted_proxies=1)
"""


def get(port: int, path: str) -> int:
    """Request a path on a connection of its own, and return the status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def answers(port: int, path: str = "/readyz") -> bool:
    try:
        return get(port, path) == 200
    except OSError:
        return False


@contextmanager
def process(command: list[str], directory: Path, name: str, **environment: str) -> Iterator[None]:
    """Run a command in the foreground, and end it with SIGTERM."""
    with (directory / f"{name}.log").open("w") as log:
        running = subprocess.Popen(
            command, cwd=directory, env={**os.environ, **environment}, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


@pytest.fixture
def metrics() -> int:
    """The port of the figures of `backend`."""
    return free_port()


@pytest.fixture
def backend(tmp_path: Path, redis_url: str, metrics: int) -> Iterator[int]:
    """The port of a gunicorn that runs with the documented configuration."""
    (tmp_path / "app.py").write_text(APP)
    port = free_port()
    environment = {"BIND": f"127.0.0.1:{port}", "JUGGLER_LISTEN_METRICS_BIND": f"127.0.0.1:{metrics}", "WORKERS": "2"}
    command = [sys.executable, "-m", "gunicorn", "-c", str(DOCS / "gunicorn.conf.py"), "--graceful-timeout", "4"]
    command += ["app:application"]
    with process(command, tmp_path, "gunicorn", REDIS_URL=redis_url, PYTHONPATH=str(ROOT), **environment):
        eventually(lambda: answers(port), message="gunicorn is ready")
        broker = RedisBroker(redis_url)
        with serving(broker, ["echo"], lambda call: call.args):
            yield port
        broker.close()


def adapt(name: str, directory: Path, replacements: dict[str, str]) -> Path:
    """Copy a file with other ports and paths; each has to be in it."""
    text = (DOCS / name).read_text()
    for old, new in replacements.items():
        assert old in text, old
        text = text.replace(old, new)
    (directory / name).write_text(text)
    return directory / name


@pytest.fixture(params=["nginx", "haproxy"])
def proxy(request: pytest.FixtureRequest, tmp_path: Path, backend: int) -> Iterator[int]:
    """The port of a proxy with the documented configuration, and short timeouts."""
    command, port = needs(request.param), free_port()
    ports = {"127.0.0.1:8000": f"127.0.0.1:{backend}", "127.0.0.1:8001": f"127.0.0.1:{backend}"}
    if request.param == "nginx":
        paths = {"/run/nginx.pid": f"{tmp_path}/nginx.pid", "/var/log/nginx/": f"{tmp_path}/"}
        conf = adapt(
            "nginx.conf", tmp_path, ports | paths | {"listen 80": f"listen 127.0.0.1:{port}", "75s": f"{TIMEOUT}s"}
        )
        run = [command, "-p", str(tmp_path), "-c", str(conf)]
        check, run = [*run, "-t"], [*run, "-g", "daemon off;"]
    else:
        conf = adapt(
            "haproxy.cfg",
            tmp_path,
            ports | {"bind :80": f"bind 127.0.0.1:{port}", "75s": f"{TIMEOUT}s", "maxconn 20000": "maxconn 100"},
        )
        check, run = [command, "-c", "-f", str(conf)], [command, "-db", "-f", str(conf)]
    checked = subprocess.run(check, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    with process(run, tmp_path, "proxy"):
        eventually(lambda: answers(port), message="the proxy is ready")
        yield port


def test_calls_and_events_pass(proxy):
    with Wire(f"ws://127.0.0.1:{proxy}/ws") as wire:
        assert wire.request(CALL, uri="echo", args={"a": 1})["meta"]["type"] == ACK
        assert wire.receive()["payload"]["args"] == {"a": 1}
        assert wire.request(SUB, channel="c")["meta"]["type"] == ACK
        wire.send(PUB, channel="c", args=2)
        assert {wire.receive()["meta"]["type"] for _ in range(2)} == {ACK, EVNT}


def test_pings_keep_an_idle_client_longer_than_the_timeout(proxy):
    with Wire(f"ws://127.0.0.1:{proxy}/ws") as wire:
        pings: list[float] = []
        receive = wire.websocket.protocol.recv_frame

        def count(frame):
            if frame.opcode == Opcode.PING:
                pings.append(time.monotonic())
            receive(frame)

        wire.websocket.protocol.recv_frame = count
        eventually(lambda: pings and pings[-1] - pings[0] > TIMEOUT, 4 * TIMEOUT, "pings for longer than the timeout")
        assert wire.request(SUB, channel="c")["meta"]["type"] == ACK


def test_tokens_are_not_logged(proxy, tmp_path):
    with Wire(f"ws://127.0.0.1:{proxy}/ws?token=s3cret", additional_headers={"Referer": "http://x/?token=s3cret"}):
        pass
    assert get(proxy, "/%0aforged?token=s3cret") == 404

    def logged() -> dict[str, str]:
        return {path.name: path.read_text() for path in tmp_path.glob("*.log")}

    # The proxy does not pass on the other path.
    eventually(lambda: "/ws HTTP/1.1" in logged()["gunicorn.log"])
    for name, text in logged().items():
        assert "s3cret" not in text, name
        assert not [line for line in text.splitlines() if line.startswith("forged")], name


NEEDED = ("/juggler.js", "/juggler.d.ts", "/healthz", "/readyz")
OTHERS = ("/metrics", "/debug/vars", "/metrics%a0", "/%6detrics", "//metrics", "/ws/../metrics", "/x")


def test_the_proxy_passes_on_what_clients_need_and_nothing_else(proxy, metrics):
    assert get(metrics, "/metrics") == 200
    statuses = {path: get(proxy, path) for path in (*NEEDED, *OTHERS)}
    assert statuses == dict.fromkeys(NEEDED, 200) | dict.fromkeys(OTHERS, 404)


def test_the_clients_address_is_what_the_proxy_says(proxy):
    with Wire(f"ws://127.0.0.1:{proxy}/ws", additional_headers={"X-Forwarded-For": "192.0.2.7"}) as wire:
        refusal = wire.request(CALL, uri="address")
        assert refusal["meta"]["type"] == NACK
        assert refusal["payload"]["message"] == "127.0.0.1"


def test_gunicorn_takes_the_configuration(tmp_path):
    (tmp_path / "app.py").write_text("def application(environ, start_response): ...")
    command = [sys.executable, "-m", "gunicorn", "-c", str(DOCS / "gunicorn.conf.py"), "--check-config"]
    subprocess.run([*command, "app:application"], cwd=tmp_path, check=True)


@pytest.mark.parametrize("name", ["juggler.service", "juggler-callee.service"])
def test_units_leave_time_for_a_graceful_end(name):
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string((DOCS / name).read_text())
    service = unit["Service"]
    grace = re.search(r"--grace (\d+)", service["ExecStart"])
    if grace is None:
        grace = re.search(r"graceful_timeout = (\d+)", (DOCS / "gunicorn.conf.py").read_text())
    assert grace is not None
    assert int(service["TimeoutStopSec"]) > int(grace[1])
    assert service["KillMode"] == "mixed"
    assert service["Restart"] == "always"
    assert int(service["LimitNOFILE"]) >= 10_000


@pytest.mark.parametrize("name", ["juggler.service", "juggler-callee.service"])
def test_systemd_understands_the_units(tmp_path, name):
    unit = re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={sys.executable}", (DOCS / name).read_text())
    (tmp_path / name).write_text(unit)
    verified = subprocess.run(
        [needs("systemd-analyze"), "verify", str(tmp_path / name)], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, name in verified.stderr) == (0, False), verified.stderr
