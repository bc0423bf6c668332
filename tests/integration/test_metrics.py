"""Metrics of a real server under real clients."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import gevent
import pytest

from juggler.broker.redis import RedisBroker
from juggler.callee.metric_names import CALLEE
from juggler.process.embedded import EmbeddedRedis, bundled_server, free_port
from juggler.process.metrics import Snapshot
from juggler.process.metrics.exposition import prometheus
from juggler.protocol.messages import MessageType
from juggler.server.processing import process_message
from tests.integration.test_gunicorn import ROOT, Gunicorn
from tests.stack import Wire, running_server, serving
from tests.support import eventually

METRICS = {"metrics": True}


def get(url: str, path: str) -> str:
    base = url.replace("ws://", "http://").removesuffix("/ws")
    with urllib.request.urlopen(base + path, timeout=30) as answer:
        return answer.read().decode()


def variables(url: str) -> dict[str, int]:
    return json.loads(get(url, "/debug/vars"))["juggler"]


def test_a_call_is_counted():
    with running_server(application=METRICS) as running, serving(running.broker, ["f"], lambda call: call.args):
        with Wire(running.url) as wire:
            wire.request(MessageType.CALL, uri="f", args=1)
            wire.receive()
            found = variables(running.url)
            assert [found[n] for n in ("MsgsCALL", "MsgsACK", "MsgsRES", "Msgs", "Results")] == [1, 1, 1, 3, 1]
            assert found["ActiveConns"] == found["TotalConns"] == 1
            assert (found["ActiveConnGoros"], found["TotalConnGoros"]) == (0, 1)
            text = get(running.url, "/metrics")
            assert 'juggler_messages_total{direction="in",type="CALL"} 1.0' in text
            assert 'juggler_call_duration_seconds_count{uri="f"} 1.0' in text
            assert "juggler_connections 1.0" in text
        eventually(lambda: variables(running.url)["ActiveConns"] == 0)
        assert 'juggler_closes_total{code="1000"} 1.0' in get(running.url, "/metrics")


def test_what_is_no_message_is_counted():
    with running_server(application=METRICS) as running, Wire(running.url) as wire:
        wire.websocket.send("{")
        wire.closed()
        assert variables(running.url)["MsgsUnknown"] == 1


def test_a_handler_that_fails_is_counted():
    def fail(ctx, connection, message):
        raise ValueError("on purpose")

    with running_server(handler=fail, application=METRICS) as running, Wire(running.url) as wire:
        wire.send(MessageType.PUB, channel="c")
        wire.closed()
        assert variables(running.url)["RecoveredPanics"] == 1


def test_the_figures_are_those_of_all_workers_and_outlive_them(tmp_path):
    with EmbeddedRedis(bundled_server()) as redis:
        gunicorn = Gunicorn(tmp_path, redis.url, "-w", "2", metrics=True)
        try:
            eventually(lambda: len(gunicorn.workers) == 2)
            with ExitStack() as stack:
                for _ in range(8):
                    stack.enter_context(Wire(gunicorn.url)).request(MessageType.PUB, channel="c")
                eventually(lambda: variables(gunicorn.metrics_url)["MsgsPUB"] == 8)
                assert variables(gunicorn.metrics_url)["ActiveConns"] == 8
                assert "juggler_workers 2.0" in get(gunicorn.metrics_url, "/metrics")
                os.kill(gunicorn.workers[0], signal.SIGKILL)
                eventually(lambda: len(gunicorn.workers) == 3)
            eventually(lambda: variables(gunicorn.metrics_url)["ActiveConns"] == 0)
            eventually(lambda: "juggler_workers 2.0" in get(gunicorn.metrics_url, "/metrics"))
            assert variables(gunicorn.metrics_url)["MsgsPUB"] == 8
            assert variables(gunicorn.metrics_url)["TotalConns"] == 8
        finally:
            gunicorn.send(signal.SIGTERM)
            gunicorn.wait()


def test_workers_that_were_replaced_leave_no_gauges(tmp_path):
    with EmbeddedRedis(bundled_server()) as redis:
        gunicorn = Gunicorn(tmp_path, redis.url, "-w", "2", metrics=True)
        try:
            eventually(lambda: len(gunicorn.workers) == 2)
            old = gunicorn.workers
            with Wire(gunicorn.url) as wire:
                wire.request(MessageType.PUB, channel="c")
            gunicorn.send(signal.SIGHUP)
            eventually(lambda: len(gunicorn.workers) == 4)
            eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in old))
            eventually(lambda: "juggler_workers 2.0" in get(gunicorn.metrics_url, "/metrics"), timeout=3)
            assert variables(gunicorn.metrics_url)["MsgsPUB"] == 1
        finally:
            gunicorn.send(signal.SIGTERM)
            gunicorn.wait()


def stats(url: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "juggler.cli.main", "stats", url, "--interval", "0.1", "--count", "1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_the_command_shows_what_a_server_does():
    with (
        running_server(application=METRICS) as running,
        serving(running.broker, ["f"], lambda call: call.args),
        Wire(running.url) as wire,
    ):
        wire.request(MessageType.CALL, uri="f")
        wire.receive()
        done = stats(running.url.replace("ws://", "http://").replace("/ws", ""))
        assert (done.returncode, done.stderr) == (0, "")
        assert "connections" in done.stdout
        assert "f /s" in done.stdout


def test_the_command_shows_text_of_callees_as_it_is():
    uri = "[/bold]" + 30 * "long."
    with (
        running_server(application=METRICS) as running,
        serving(running.broker, [uri], lambda call: call.args),
        Wire(running.url) as wire,
    ):
        wire.request(MessageType.CALL, uri=uri)
        wire.receive()
        done = stats(running.url.replace("ws://", "http://").replace("/ws", ""))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{uri} /s\t" in done.stdout


def test_the_command_reports_a_missing_server_in_one_line():
    done = stats(f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1


def test_the_length_of_a_queue():
    with EmbeddedRedis(bundled_server()) as redis:
        broker = RedisBroker(redis.url)
        with running_server(broker, application=METRICS) as running, Wire(running.url) as wire:
            with serving(broker, ["f"], lambda call: call.args):
                wire.request(MessageType.CALL, uri="f")
                wire.receive()
            for _ in range(3):
                wire.request(MessageType.CALL, uri="f", timeout=5 * 10**9)
            text = get(running.url, "/metrics")
            assert 'juggler_redis_up{link="commands"} 1.0' in text
            queued = float(text.partition('juggler_queue_length{uri="f"} ')[2].split()[0])
            assert 0 < queued <= 3


NAMES = r"juggler_[a-z_]+"


def test_the_documents_name_what_there_is():
    with EmbeddedRedis(bundled_server()) as redis:
        broker = RedisBroker(redis.url)
        with running_server(broker, application=METRICS) as running, serving(broker, ["f"], lambda call: call.args):
            with Wire(running.url) as wire:
                wire.request(MessageType.CALL, uri="f")
                wire.receive()
            text = get(running.url, "/metrics")
    told = set(re.findall(rf"^# TYPE ({NAMES}) ", text, re.MULTILINE))
    by_callees = prometheus(Snapshot(), CALLEE).decode()
    told |= set(re.findall(rf"^# TYPE ({NAMES}) ", by_callees, re.MULTILINE))
    documented = set(re.findall(rf"^\| `({NAMES})", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    assert documented == told


LINKS = ("commands", "results", "control", "pubsub")


def test_each_link_to_redis_is_reported_and_losses_counted(redis_url):
    broker = RedisBroker(redis_url)
    assert broker.stats().links == {}  # a link that was never used is not down
    with running_server(broker, application=METRICS) as running, Wire(running.url) as wire:
        wire.request(MessageType.SUB, channel="c")
        wire.request(MessageType.CALL, uri="nobody", timeout=10**8)
        eventually(lambda: broker.stats().links == dict.fromkeys(LINKS, True))
        broker.pubsub.receiver.connection.drop("on purpose")
        eventually(lambda: broker.stats().losses == {**dict.fromkeys(LINKS, 0), "pubsub": 1})
        eventually(lambda: broker.stats().links["pubsub"])
        eventually(lambda: not broker.caller.pending)


def test_what_is_over_the_write_limit_counts_as_the_nack_that_it_becomes():
    with (
        running_server(write_limit=300) as running,
        serving(running.broker, ["u"], lambda call: b'"%b"' % (b"x" * 300)),
        Wire(running.url) as wire,
    ):
        wire.request(MessageType.CALL, uri="u")
        assert wire.receive()["payload"]["code"] == 413
        metrics = running.server.metrics
        assert (metrics.nacks[413], metrics.written[MessageType.NACK], metrics.written[MessageType.RES]) == (1, 1, 0)
        assert metrics.write_limit_exceeded == 1


def test_clients_cannot_make_labels_by_inventing_close_codes():
    with running_server(application=METRICS) as running:
        for code in (1000, 3999, 4500):
            with Wire(running.url) as wire:
                wire.websocket.close(code)
        eventually(lambda: not running.server.connections)
        assert running.server.metrics.counters()["juggler_closes"] == {"1000": 1, "other": 2}


@pytest.mark.parametrize("path", ["/metrics", "/debug/vars", "/metrics\xa0", "/%6detrics", "/debug%2fvars"])
def test_by_default_the_public_port_serves_no_figures(path):
    with running_server() as running, pytest.raises(urllib.error.HTTPError, match="404"):
        get(running.url, urllib.parse.quote(path, safe="/%"))


def test_the_address_of_the_figures_serves_nothing_else(tmp_path):
    with EmbeddedRedis(bundled_server()) as redis:
        gunicorn = Gunicorn(tmp_path, redis.url, metrics=True)
        try:
            eventually(lambda: gunicorn.workers)
            for path in ("/ws", "/healthz", "/juggler.js", "/state"):
                with pytest.raises(urllib.error.HTTPError, match="404"):
                    get(gunicorn.metrics_url, path)
            for path in ("/metrics", "/debug/vars"):
                with pytest.raises(urllib.error.HTTPError, match="404"):
                    get(gunicorn.url, path)
            rebound = urllib.request.Request(f"{gunicorn.metrics_url}/metrics", headers={"Host": "evil.example"})
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(rebound, timeout=30)
            assert stats(gunicorn.metrics_url).returncode == 0
            wrong = stats(gunicorn.url.replace("ws:", "http:").replace("/ws", ""))
            assert wrong.returncode == 5
            assert "--metrics-bind" in wrong.stderr
        finally:
            gunicorn.send(signal.SIGTERM)
            gunicorn.wait()


@pytest.mark.parametrize(("threshold", "slow"), [(0.02, 1), (None, 0), (60, 0)])
def test_what_counts_as_slow_is_an_option(threshold, slow):
    def handler(ctx, connection, message):
        if message.type is MessageType.SUB:
            gevent.sleep(0.03)
        process_message(ctx, connection, message)

    with running_server(application=METRICS, handler=handler, slow_threshold=threshold) as running:
        with Wire(running.url) as wire:
            wire.request(MessageType.SUB, channel="c")
            wire.request(MessageType.PUB, channel="d")
        found = variables(running.url)
        assert (found["SlowProcessMsg"], found["SlowProcessMsgSUB"]) == (slow, slow)
