"""Both Python clients cancel calls and read results in parts, from a real server and worker."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager

import gevent
import gevent.subprocess
import pytest
from gevent.event import Event

from juggler.broker.memory import MemoryBroker
from juggler.callee import Callee, cancelled
from juggler.callee.worker import Worker
from juggler.client import Client
from juggler.errors import CallFailed, Cancelled, ConnectionClosed, Expired, NotSupported
from tests.stack import running_server
from tests.support import eventually

OLD = {"application": {"subprotocols": ["juggler.0"]}}


class Desk:
    """Functions, and what they have done."""

    def __init__(self) -> None:
        self.rpc = Callee()
        self.yielded = 0
        self.closed = Event()
        self.heard = Event()
        self.rpc.register("numbers", self.numbers)
        self.rpc.register("endless", self.endless)
        self.rpc.register("failing", self.failing)
        self.rpc.register("silent", self.silent)
        self.rpc.register("wait", self.wait)
        self.rpc.register("stop", self.stop, cancel="raise")

    def numbers(self, n: int):
        yield from range(n)
        return {"n": n}

    def endless(self):
        try:
            while True:
                self.yielded += 1
                yield self.yielded
        finally:
            self.closed.set()

    def failing(self, n: int):
        yield from range(n)
        raise LookupError("no more")

    def silent(self):
        yield 1
        gevent.sleep(60)

    def wait(self):
        while not cancelled():
            gevent.sleep(0.005)
        self.heard.set()
        return "heard"

    def stop(self):
        gevent.sleep(60)


@contextmanager
def serving(**options):
    desk = Desk()
    broker = MemoryBroker(blocking_timeout=0.05)
    worker = Worker(desk.rpc, broker, mask_errors=False, grace=0.1)
    greenlet = gevent.spawn(worker.run)
    with running_server(broker, **options) as server:
        try:
            yield desk, server
        finally:
            worker.stop()
            greenlet.join(5)


def test_parts_arrive_one_by_one_and_then_the_result():
    with serving() as (_, server), Client(server.url) as client:
        for n, window in ((0, 64), (1, 1), (300, 1), (1000, 7), (1000, 64)):
            with client.stream("numbers", n, window=window) as stream:
                assert list(stream) == list(range(n))
                assert stream.result() == {"n": n}
                assert (stream.uri, next(stream, "end")) == ("numbers", "end")


def test_the_result_can_be_read_without_the_parts():
    with serving() as (_, server), Client(server.url) as client:
        assert client.stream("numbers", 500, window=3).result() == {"n": 500}


def test_an_error_follows_the_parts_before_it():
    with serving() as (_, server), Client(server.url) as client:
        stream = client.stream("failing", 3)
        assert [next(stream) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(CallFailed, match="no more"):
            next(stream)
        with pytest.raises(CallFailed, match="no more"):
            stream.result()


def test_a_function_is_at_most_a_window_ahead_of_its_reader():
    with serving() as (desk, server), Client(server.url) as client:
        with client.stream("endless", window=8) as stream:
            for number in range(1, 100):
                assert next(stream) == number
                # Those that were read, a window, and the one that waits for credit.
                assert desk.yielded <= number + 8 + 1
        assert desk.closed.wait(10)


@pytest.mark.parametrize("leave", ["break", "exception", "close", "drop"])
def test_leaving_the_loop_cancels_the_call(leave):
    with serving() as (desk, server), Client(server.url) as client:
        if leave == "drop":
            for part in client.stream("endless"):
                if part == 3:
                    break
        else:
            with pytest.raises(ZeroDivisionError), client.stream("endless") as stream:  # noqa: PT012
                for part in stream:
                    if part == 3 and leave == "close":
                        stream.close()
                        with pytest.raises(Cancelled):
                            stream.result()
                    if part >= 3:
                        raise ZeroDivisionError
        assert desk.closed.wait(10)
        (connection,) = server.server.connections
        eventually(lambda: connection.calls_in_flight == 0)
        assert client.call("numbers", 2) == [0, 1]


def test_the_timeout_counts_from_part_to_part():
    with serving() as (_, server), Client(server.url) as client:
        stream = client.stream("silent", timeout=0.3)
        assert next(stream) == 1
        with pytest.raises(Expired):
            next(stream)


def test_a_slow_reader_does_not_expire():
    with serving() as (desk, server), Client(server.url) as client:
        with client.stream("endless", timeout=0.2, window=2) as stream:
            assert next(stream) == 1
            until = time.monotonic() + 0.5
            eventually(lambda: time.monotonic() > until)
            assert [next(stream) for _ in range(5)] == [2, 3, 4, 5, 6]
        assert desk.closed.wait(10)


def test_a_lost_connection_ends_a_stream():
    with serving() as (_, server), Client(server.url) as client:
        stream = client.stream("silent")
        assert next(stream) == 1
        for connection in list(server.server.connections):
            connection.close(4000, "lost")
        with pytest.raises(ConnectionClosed):
            next(stream)


@pytest.mark.parametrize(("arguments", "message"), [({"window": 0}, "window"), ({"mode": "some"}, "mode")])
def test_arguments_out_of_range(arguments, message):
    with serving() as (_, server), Client(server.url) as client, pytest.raises(ValueError, match=message):
        client.stream("numbers", 1, **arguments)


def test_a_server_without_parts_is_refused_at_once():
    with serving(**OLD) as (_, server), Client(server.url) as client:
        with pytest.raises(NotSupported, match=r"parts: not supported by the server, which speaks only juggler\.0"):
            client.stream("numbers", 1)
        assert client.call("numbers", 2) == [0, 1]


def test_a_cancelled_call_is_over_for_the_client_and_its_function_is_informed():
    with serving() as (desk, server), Client(server.url) as client:
        pending = client.start_call("wait")
        eventually(lambda: server.server.connections)
        pending.cancel()
        with pytest.raises(Cancelled):
            pending.result()
        assert client.call("numbers", 1) == [0]
        (connection,) = server.server.connections
        eventually(lambda: connection.calls_in_flight == 0)
        assert desk.heard.is_set() or server.server.metrics.cancelled == 1


@pytest.mark.parametrize("uri", ["wait", "stop"])
def test_a_client_may_wait_for_how_a_cancelled_function_ends(uri):
    with serving() as (_, server), Client(server.url) as client:
        pending = client.start_call(uri)
        client.call("numbers", 1)  # by now the call runs
        pending.cancel(wait=True)
        if uri == "wait":
            assert pending.result() == "heard"
        else:
            with pytest.raises(CallFailed) as failed:
                pending.result()
            assert (failed.value.type, failed.value.code) == ("Cancelled", 499)
        pending.cancel()
        pending.cancel(wait=True)


def test_with_an_older_server_a_cancel_only_ends_the_wait():
    with serving(**OLD) as (desk, server), Client(server.url) as client:
        pending = client.start_call("wait")
        with pytest.raises(NotSupported, match="cancel: not supported"):
            pending.cancel(wait=True)
        pending.cancel()
        with pytest.raises(Cancelled):
            pending.result()
        assert not desk.heard.is_set()


ASYNC = """
import asyncio
import json
import sys

from juggler.client import AsyncClient
from juggler.errors import CallFailed, Cancelled, Expired, NotSupported


async def name_of(awaitable):
    try:
        return await awaitable
    except (CallFailed, Cancelled, Expired, NotSupported, asyncio.TimeoutError) as error:
        return type(error).__name__


async def collect(stream):
    return [part async for part in stream]


async def main(url):
    said = {}
    async with AsyncClient(url) as client:
        async with client.stream("numbers", 500, window=5) as stream:
            said["parts"] = sum([part async for part in stream])
            said["result"] = await stream.result()
        seen = []
        try:
            async for part in client.stream("failing", 3):
                seen.append(part)
        except CallFailed as error:
            seen.append(str(error))
        said["failing"] = seen
        async with client.stream("endless") as stream:
            async for part in stream:
                if part == 5:
                    break
        said["closed"] = await name_of(stream.result())
        said["late"] = await name_of(collect(client.stream("silent", timeout=0.2)))
        said["task"] = await name_of(asyncio.wait_for(client.call("wait"), 0.2))
        pending = await client.start_call("stop")
        await client.call("numbers", 1)
        pending.cancel(wait=True)
        said["stopped"] = await name_of(pending.result())
    print(json.dumps(said))


asyncio.run(main(sys.argv[1]))
"""


def test_the_asyncio_client_does_the_same():
    with serving() as (desk, server):
        done = gevent.subprocess.run(
            [sys.executable, "-c", ASYNC, server.url], stdout=subprocess.PIPE, timeout=60, check=True
        )
        assert json.loads(done.stdout) == {
            "parts": sum(range(500)),
            "result": {"n": 500},
            "failing": [0, 1, 2, "no more"],
            "closed": "Cancelled",
            "late": "Expired",
            "task": "TimeoutError",
            "stopped": "CallFailed",
        }
        assert desk.closed.wait(10)
        assert desk.heard.wait(10)
