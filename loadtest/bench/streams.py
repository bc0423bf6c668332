"""``streams``: what juggler.1 adds to calls: parts of a result, cancels, and a client that reads slowly."""

from __future__ import annotations

import json
import select
import time
import uuid
from collections.abc import Iterator
from typing import Any

from juggler.callee import Callee
from juggler.protocol.messages import MessageType
from loadtest.bench.generator.histogram import Histogram
from loadtest.bench.harness import benchmark
from loadtest.bench.harness.benchmark import Benchmark
from loadtest.bench.harness.load import Sample
from loadtest.bench.harness.measured_stack import MeasuredStack
from loadtest.bench.harness.progress import Progress
from loadtest.bench.harness.report import Row, row_of
from loadtest.errors import LoadTestError
from loadtest.raw_connection import RawConnection, request

SUBPROTOCOL = {"Sec-WebSocket-Protocol": "juggler.1"}
TARGET = "loadtest.bench.streams:rpc"
PART_SIZE = 100
WINDOW = 1024
SLOW_SIZE = 100_000
SLOW_WINDOW = 16
SLOW_RATE = 1e9 / 600
"""Bytes a second that the slow client reads: 1 GB in 10 minutes."""

LONGEST_WAIT = 60.0
"""Seconds for which a function waits for its cancel."""

rpc = Callee()


@rpc.register("bench.parts")
def parts(size: int) -> Iterator[str]:
    """Send parts of a size for ever."""
    part = "x" * size
    while True:
        yield part


@rpc.register("bench.wait", cancel="raise")
def wait() -> None:
    """Wait for the cancel."""
    time.sleep(LONGEST_WAIT)


@rpc.register("bench.echo")
def echo(value: str) -> str:
    """Return the argument."""
    return value


class _Client:
    """A connection under juggler.1 with one call at a time."""

    def __init__(self, url: str) -> None:
        self.connection = RawConnection(url, buffer=None)
        self.connection.upgrade(SUBPROTOCOL)
        self._texts: list[bytes] = []

    def call(self, uri: str, args: Any, **more: Any) -> str:
        """Send a CALL and return its UUID."""
        call = str(uuid.uuid4())
        timeout = int(LONGEST_WAIT * 1e9)
        self.connection.send(request(MessageType.CALL, uuid_=call, uri=uri, args=args, timeout=timeout, **more))
        return call

    def send(self, type: MessageType, call: str, **payload: Any) -> None:
        """Send a request that refers to a call."""
        self.connection.send(request(type, **{"for": call}, **payload))

    def receive(self) -> tuple[int, dict[str, Any], int]:
        """Return the type, the payload and the size of the next message."""
        while not self._texts:
            self._texts = self.connection.receive()
        text = self._texts.pop(0)
        message = json.loads(text)
        type, payload = message["meta"]["type"], message["payload"]
        if type == MessageType.NACK:
            raise LoadTestError(f"a request was refused: {text.decode()[:200]}")
        return type, payload, len(text)

    def wait_for_result(self, failed: bool = False) -> None:
        """Wait for the RES.

        Raises:
            LoadTestError: it has failed, or with ``failed`` it has not.
        """
        while True:
            type, payload, _ = self.receive()
            if type == MessageType.RES:
                if payload.get("failed", False) is not failed:
                    raise LoadTestError(f"unexpected result: {payload}")
                return

    def has_more(self) -> bool:
        """Return whether a message can be received without waiting."""
        return bool(self._texts or select.select([self.connection], [], [], 0)[0])


class _Stream:
    """A stream, and the credit for it."""

    def __init__(self, client: _Client, size: int, window: int) -> None:
        self._client = client
        self._window = window
        self._granted = self.seen = 0
        self._call = client.call("bench.parts", size, parts={"mode": "all", "window": window})

    def read(self) -> int:
        """Receive a message, extend the credit when half of it is used, and return the size of the message."""
        type, payload, size = self._client.receive()
        if type == MessageType.PART:
            self.seen += len(payload.get("parts") or [None])
        if self.seen >= self._granted + self._window // 2:
            self._granted = self.seen
            self._client.send(MessageType.CRDT, self._call, until=self.seen + self._window)
        return size


def _parts(stack: MeasuredStack, seconds: float) -> Sample:
    stream = _Stream(_Client(stack.url), PART_SIZE, WINDOW)
    _read_for(stream, min(1.0, seconds / 4))
    before, seen, began = stack.cpu(), stream.seen, time.monotonic()
    _read_for(stream, seconds)
    after, count = stack.cpu(), stream.seen - seen
    cpu = {role: after[role] - then for role, then in before.items()}
    return Sample(count, count / (time.monotonic() - began), Histogram(), cpu)


def _read_for(stream: _Stream, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        stream.read()


def _cancels(stack: MeasuredStack, seconds: float) -> Sample:
    client, latency = _Client(stack.url), Histogram()
    began = time.monotonic()
    while time.monotonic() < began + seconds or not latency.count:
        call = client.call("bench.wait", None)
        client.receive()  # the ACK, held while no result arrives: the function runs by then
        cancelled_at = time.monotonic_ns()
        client.send(MessageType.CNCL, call, wait=True)
        client.wait_for_result(failed=True)
        latency.record(time.monotonic_ns() - cancelled_at)
    return Sample(latency.count, latency.count / (time.monotonic() - began), latency, {})


def _calls(stack: MeasuredStack, seconds: float, *, slow: bool) -> Sample:
    """Call again and again, beside a client that reads a stream of large parts slowly, or alone."""
    client, latency, reader = _Client(stack.url), Histogram(), _Client(stack.url)
    stream = _Stream(reader, SLOW_SIZE, SLOW_WINDOW) if slow else None
    began = due = time.monotonic()
    before = stack.cpu()
    while time.monotonic() < began + seconds:
        if stream is not None and time.monotonic() >= due and reader.has_more():
            due += stream.read() / SLOW_RATE
        sent_at = time.monotonic_ns()
        client.call("bench.echo", "hello")
        client.wait_for_result()
        latency.record(time.monotonic_ns() - sent_at)
    after = stack.cpu()
    cpu = {role: after[role] - then for role, then in before.items()}
    return Sample(latency.count, latency.count / (time.monotonic() - began), latency, cpu)


def run(progress: Progress, *, seconds: float) -> Iterator[Row]:
    """Parts of 100 bytes to one client, cancels of a running function, and calls beside a slow reader.

    A cancel lasts until the client has the result of the function that it has interrupted. The slow reader reads a
    stream of parts of 100 KB with a window of 16, 1 GB in 10 minutes; the calls beside it are those of another client,
    one at a time.
    """
    progress.step("streams: starting")
    with MeasuredStack(target=TARGET) as stack:
        progress.step(f"streams: parts of {PART_SIZE} bytes, {seconds:g} s")
        yield row_of(f"parts of {PART_SIZE} bytes to one client", "done", _parts(stack, seconds))
        progress.step(f"streams: cancels, {seconds:g} s")
        yield row_of("a cancel, to the end of its call", "done", _cancels(stack, seconds))
        for slow, label in ((False, "a call, alone"), (True, "a call, beside a slow reader")):
            progress.step(f"streams: {label}, {seconds:g} s")
            yield row_of(label, "done", _calls(stack, seconds, slow=slow))


BENCHMARK = Benchmark(
    "streams",
    "parts a second and their CPU time, the latency of a cancel, and of a call beside a slow reader",
    [benchmark.seconds(3.0)],
    run,
)
