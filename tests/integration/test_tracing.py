"""Traceparents from clients to functions and events, and the spans of programs that use OpenTelemetry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from juggler.backend import Backend
from juggler.broker.redis import RedisBroker
from juggler.process import tracing
from juggler.protocol.messages import MessageType
from tests.integration.commands import environment
from tests.integration.test_callee_command import running
from tests.integration.test_juggler1 import Wire1, kind
from tests.stack import Wire, running_server

ROOT = Path(__file__).parents[2]
CALL, PUB, SUB, NACK, RES, EVNT, PART = (MessageType(n) for n in (1, 2, 3, 7, 9, 10, 33))
NS = 1_000_000_000
POOLS = ("None", "thread", "process")
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
MALFORMED = ["", TRACE[:-1], TRACE.upper(), f"{TRACE}-x", f"00-{'0' * 32}{TRACE[35:]}", 7, None, {"a": 1}, "\ud800"]

TRACED = """
from callee import Call, Callee, publish, trace

rpc = Callee()


def its_trace():
    publish("news", 1)
    return trace()


def raw(call: Call):
    return call.trace


def parts():
    yield trace()


for pool in (None, "thread", "process"):
    rpc.register(f"trace.{pool}", its_trace, pool=pool)
    rpc.register(f"raw.{pool}", raw, pool=pool, raw=True)
    rpc.register(f"parts.{pool}", parts, pool=pool)
"""


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    path = tmp_path_factory.mktemp("traced")
    (path / "traced.py").write_text(TRACED)
    return path


def payloads(wire: Wire, *kinds: MessageType):
    """Return the payloads of the next messages of these types, in any order."""
    found: dict[int, dict] = {}
    while len(found) < len(kinds):
        message = wire.receive()
        if kind(message) in kinds:
            found[kind(message)] = message["payload"]
    return [found[each] for each in kinds]


def test_a_traceparent_reaches_the_function_and_its_events(traced, redis_url):
    options = ("--redis", redis_url, "--pool-processes", "1", "--threads", "1")
    with (
        running("traced:rpc", *options, cwd=traced) as process,
        running_server(RedisBroker(redis_url)) as server,
        Wire(server.url) as old,
        Wire1(server.url) as wire,
    ):
        assert process.said.startswith("serving"), process.stderr.read()
        for client in (old, wire):
            client.request(SUB, channel="news", pattern=False)
            for pool in POOLS:
                client.send(CALL, uri=f"trace.{pool}", timeout=60 * NS, trace=TRACE)
                result, event = payloads(client, RES, EVNT)
                assert (result["args"], event["trace"]) == (TRACE, TRACE)
                client.send(CALL, uri=f"raw.{pool}", timeout=60 * NS, trace=TRACE)
                assert payloads(client, RES)[0]["args"] == TRACE
            for malformed in MALFORMED:
                client.send(CALL, uri="trace.None", timeout=60 * NS, trace=malformed)
                result, event = payloads(client, RES, EVNT)
                assert result["args"] == ""
                assert "trace" not in event
        for pool in POOLS:
            wire.send(CALL, uri=f"parts.{pool}", timeout=60 * NS, parts={"mode": "all", "window": 1}, trace=TRACE)
            assert payloads(wire, PART, RES)[0]["args"] == TRACE


def test_a_traceparent_reaches_subscribers_of_channels_and_patterns(redis_url):
    with running_server(RedisBroker(redis_url)) as server, Wire(server.url) as one, Wire1(server.url) as two:
        one.request(SUB, channel="news", pattern=False)
        two.request(SUB, channel="new*", pattern=True)
        for sent, expected in ((TRACE, TRACE), *((each, None) for each in MALFORMED)):
            two.send(PUB, channel="news", args=1, trace=sent)
            for wire in (one, two):
                assert payloads(wire, EVNT)[0].get("trace") == expected


def test_a_backend_sends_the_trace_of_the_current_span(traced, redis_url):
    context = SpanContext(int(TRACE[3:35], 16), int(TRACE[36:52], 16), is_remote=True, trace_flags=TraceFlags(1))
    with (
        running("traced:rpc", "--redis", redis_url, cwd=traced) as process,
        running_server(RedisBroker(redis_url)) as server,
        Wire(server.url) as wire,
        Backend(redis_url) as backend,
    ):
        assert process.said.startswith("serving"), process.stderr.read()
        wire.request(SUB, channel="news", pattern=False)
        for expected in (TRACE, ""):
            with use_span(NonRecordingSpan(context)) if expected else nullcontext():
                assert backend.call("raw.None") == expected
                backend.publish("news", 1)
            assert payloads(wire, EVNT)[0].get("trace", "") == expected


# OpenTelemetry.


class Spans:
    """The spans that the processes of a program have noted."""

    def __init__(self, directory: Path) -> None:
        self.all = [json.loads(line) for path in directory.iterdir() for line in path.read_text().splitlines()]
        self.by_id = {span["id"]: span for span in self.all}

    def one(self, name: str, kind: str | None = None) -> dict:
        (span,) = [each for each in self.all if each["name"] == name and kind in (None, each["kind"])]
        return span

    def line(self, span: dict) -> list[tuple[str, str]]:
        """Return a span and its ancestors, as names and kinds."""
        found = []
        while True:
            found.append((span["name"], span["kind"]))
            if span["parent"] is None:
                return found
            span = self.by_id[span["parent"]]


@pytest.mark.leaves_keys("juggler:results:*")  # of calls that nothing waits for
def test_spans_lead_from_the_client_to_the_function_and_its_events(tmp_path, redis_url):
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.tracing_stack", redis_url],
        env={**os.environ, "TRACES": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    spans = Spans(tmp_path)
    told = {each["pool"]: each for each in map(json.loads, done.stdout.splitlines())}
    for pool in POOLS:
        root = spans.one(f"root {pool}")
        (work,) = [each for each in spans.all if each["name"] == "work" and each["trace"] == root["trace"]]
        uri = f"work.{pool}"
        assert spans.line(work) == [
            ("work", "INTERNAL"),
            (f"process {uri}", "CONSUMER"),
            (uri, "SERVER"),
            (uri, "CLIENT"),
            (f"root {pool}", "INTERNAL"),
        ]
        assert (work["pid"] == root["pid"]) is (pool == "None")
        server = spans.by_id[spans.by_id[work["parent"]]["parent"]]
        assert told[pool]["caller"].split("-")[1:3] == [root["trace"], server["id"]]
        assert told[pool]["event"].split("-")[1:3] == [root["trace"], work["id"]]
    assert ("root async", "INTERNAL") in [spans.line(each)[-1] for each in spans.all if each["name"] == "work"]

    published = [each for each in spans.all if each["name"] == "publish"]
    assert sorted(spans.line(each) for each in published) == [
        [("publish", "PRODUCER"), ("publish", "PRODUCER"), ("root publish", "INTERNAL")],
        [("publish", "PRODUCER"), ("root publish", "INTERNAL")],
    ]
    assert told["publish"]["event"].split("-")[2] in {each["id"] for each in published}

    for kind_of_span in ("CLIENT", "SERVER"):
        failed = spans.one("fail", kind_of_span)
        assert (failed["status"], failed["attributes"]["error.type"]) == ("ERROR", "CallFailed")
        assert spans.one("parts", kind_of_span)["status"] == "UNSET"
    attributes = spans.one("process fail")["attributes"]
    assert (attributes["rpc.method"], attributes["messaging.operation.type"]) == ("fail", "process")
    assert spans.one("process fail")["status"] == "ERROR"
    assert ("process parts", "CONSUMER") in [spans.line(each)[1] for each in spans.all if each["name"] == "work"]
    ends = {
        each["attributes"]["error.type"] for each in spans.all if (each["name"], each["kind"]) == ("sleep", "CLIENT")
    }
    assert ends == {"Expired", "ConnectionClosed"}
    assert len([each for each in spans.all if (each["name"], each["kind"]) == ("sleep", "SERVER")]) == 2


def records(path: Path) -> list[dict]:
    """Return the records of a log in JSON. Processes of pools write other lines."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]


def logged(path: Path, event: str, **fields: str) -> list[dict]:
    """Return the records of a log with this event and these fields."""
    return [each for each in records(path) if each["event"] == event and fields.items() <= each.items()]


@contextmanager
def traced_commands(directory: Path, redis_url: str, traces: Path | None, format: str = "json"):
    """Run a server and a callee as commands, with their logs in files; yield the URL of the server."""
    variables = environment(REDIS_URL=redis_url, **({} if traces is None else {"TRACES": str(traces)}))
    server = ["juggler.cli.main", "server", "tests.integration.traced_server:server", "--bind", "127.0.0.1:0"]
    callee = ["callee.cli", "tests.integration.traced_callee:rpc", "--threads", "1", "--pool-processes", "1"]
    with ExitStack() as stack:
        for name, command in (("callee", callee), ("server", server)):
            process = subprocess.Popen(
                [sys.executable, "-m", *command, "--log-format", format],
                cwd=ROOT,
                env=variables,
                stdout=subprocess.PIPE,
                stderr=stack.enter_context(open(directory / name, "w")),
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.terminate)
            first = process.stdout.readline()
        yield first.split()[-1].replace("http://", "ws://").removesuffix("/ws") + "/ws"


def test_log_lines_have_the_identifiers_of_the_current_span(tmp_path, redis_url):
    traces = tmp_path / "traces"
    traces.mkdir()
    with traced_commands(tmp_path, redis_url, traces) as url, Wire(url) as wire:
        for function in ("answer", "fail", "refuse"):
            for pool in POOLS:
                wire.request(CALL, uri=f"{function}.{pool}", timeout=60 * NS)
                payloads(wire, RES)
        for uri in ("forbidden", "broken"):
            wire.send(CALL, uri=uri, trace=TRACE)
            assert kind(wire.receive()) == NACK
        wire.request(PUB, channel="c")
    spans = Spans(traces)
    server, callee = tmp_path / "server", tmp_path / "callee"

    for uri in ("answer.None", "forbidden", "broken"):
        span = spans.one(uri, "SERVER")
        ids = {"trace_id": span["trace"], "span_id": span["id"]}
        assert logged(server, "in the handler", **ids)
        message = logged(server, "message: processed", type="CALL", uri=uri, **ids)
        assert len(message) == (uri != "forbidden")  # which is logged as its NACK
    for uri, error in (("forbidden", "403"), ("broken", "ValueError")):
        span = spans.one(uri, "SERVER")
        assert (span["status"], span["attributes"]["error.type"], span["trace"]) == ("ERROR", error, TRACE[3:35])
        assert span["parent"] == TRACE[36:52]
    (failure,) = logged(server, "handler: failed")
    assert (failure["trace_id"], failure["span_id"]) == (TRACE[3:35], spans.one("broken", "SERVER")["id"])
    (published,) = logged(server, "message: processed", type="PUB")
    assert published["span_id"] == spans.one("publish")["id"]

    for pool in POOLS:
        for function in ("fail", "refuse"):
            span = spans.one(f"process {function}.{pool}")
            assert span["parent"] == spans.one(f"{function}.{pool}", "SERVER")["id"]
            (failure,) = logged(callee, "call: failed", uri=f"{function}.{pool}")
            assert (failure["trace_id"], failure["span_id"]) == (span["trace"], span["id"])
    span = spans.one("process answer.None")
    assert logged(callee, "in the function", trace_id=span["trace"], span_id=span["id"])
    answers = [each for each in records(server) if each.get("type") in ("ACK", "RES")]
    assert answers
    assert not any("trace_id" in each for each in answers)


def test_log_lines_as_text_have_them_too_and_without_opentelemetry_the_trace_of_the_caller(tmp_path, redis_url):
    with traced_commands(tmp_path, redis_url, None, "text") as url, Wire(url) as wire:
        for trace in (TRACE, ""):
            wire.request(CALL, uri="fail.None", timeout=60 * NS, trace=trace)
            payloads(wire, RES)
    logs = {name: (tmp_path / name).read_text() for name in ("server", "callee")}
    of_the_call = [line for line in logs["callee"].splitlines() if "call: failed" in line]
    ids = f" trace_id={TRACE[3:35]} span_id={TRACE[36:52]}"
    assert [ids in line for line in of_the_call] == [True, False]
    assert "message: processed" in logs["server"]
    assert "trace_id" not in logs["server"]


@pytest.mark.parametrize("module", [None, types.ModuleType("opentelemetry.trace")])
def test_a_module_that_is_being_imported_by_another_thread_is_not_used(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", module)
    assert tracing.find_tracer() is None
    assert tracing.current_trace() == ""


UNTRACED = """
import sys

import juggler.server, juggler.callee.worker
from juggler.callee import Callee
from juggler.callee.testing.stacks import memory_stack
from juggler.process import tracing

rpc = Callee()
rpc.register("double", lambda x: 2 * x)
with memory_stack(rpc) as stack:
    assert stack.client.call("double", 2) == 4
    stack.client.publish("news")
assert tracing.tracer is None
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""


def test_nothing_is_imported_for_programs_that_do_not_trace():
    done = subprocess.run(
        [sys.executable, "-c", f"from gevent import monkey; monkey.patch_all()\n{UNTRACED}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
