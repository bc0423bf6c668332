"""Clients that call for large results and never read them cost a process a limited amount of memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import gevent
import pytest

from callee import Callee
from juggler.broker.memory import MemoryBroker
from juggler.callee.worker import Worker
from juggler.client import Client
from juggler.errors import CloseCode
from juggler.process.process_memory import resident
from juggler.protocol.messages import MessageType
from loadtest.raw_connection import RawConnection, request
from tests.integration.commands import running
from tests.integration.test_callee_command import running as running_callee
from tests.stack import running_server
from tests.support import eventually

MIB = 1024 * 1024
SIZE = 500_000
LIMIT = 16 * MIB
CALLS = 20

BIG = """
from callee import Callee

rpc = Callee()


@rpc.register("big")
def big(size: int) -> str:
    return "x" * size
"""


def call_without_reading(stack: ExitStack, url: str, size: int = SIZE) -> RawConnection:
    """Call for large results and read none."""
    lazy = stack.enter_context(RawConnection(url))
    lazy.upgrade()
    for _ in range(CALLS):
        lazy.send(request(MessageType.CALL, uri="big", args=[size], timeout=60 * 10**9))
    return lazy


def outcome(lazy: RawConnection) -> int | None:
    """Read all results, or until the server closes. Return the close code, ``None`` for all results."""
    results = 0
    while lazy.close_code is None and results < CALLS:
        results += sum(b'"type":9' in text.replace(b" ", b"")[:100] for text in lazy.receive())
    return lazy.close_code


@contextmanager
def big_results() -> Iterator[MemoryBroker]:
    """A broker with a callee in this process."""
    rpc = Callee()
    rpc.register("big", lambda size: "x" * size)
    broker = MemoryBroker(blocking_timeout=0.1)
    worker = Worker(rpc, broker)
    serving = gevent.spawn(worker.run)
    with closing(broker):
        yield broker
        worker.stop()
        serving.join()


def test_the_largest_queues_are_closed_and_others_work_on():
    highest = 0
    with (
        big_results() as broker,
        running_server(broker, total_answer_limit=LIMIT) as running,
        ExitStack() as stack,
        Client(running.url) as reader,
    ):

        def sample() -> None:
            nonlocal highest
            while True:
                highest = max(highest, sum(each.websocket.queued_bytes for each in running.server.connections))
                gevent.sleep(0.001)

        sampler = gevent.spawn(sample)
        lazy = [call_without_reading(stack, running.url) for _ in range(6)]
        for _ in range(30):
            assert reader.call("big", [SIZE]) == "x" * SIZE
        eventually(lambda: running.server.metrics.closes[CloseCode.PEER_TOO_SLOW])
        sampler.kill()
        outcomes = [outcome(each) for each in lazy]
        assert reader.call("big", [1]) == "x"
    assert LIMIT / 2 < highest <= LIMIT + 2 * SIZE
    # 10 MB each: some are closed, and those that are not lose nothing.
    assert set(outcomes) == {CloseCode.PEER_TOO_SLOW, None}


@pytest.mark.alone
@pytest.mark.leaves_keys("juggler:*")
def test_the_memory_of_a_server_is_bounded(redis_url, tmp_path):
    (tmp_path / "big.py").write_text(BIG)
    server_options = ("--total-answer-limit", str(LIMIT), "--bind", "127.0.0.1:0", "--redis", redis_url)
    with (
        running("server", *server_options) as server,
        running_callee("big:rpc", "--redis", redis_url, cwd=tmp_path),
        ExitStack() as stack,
    ):
        url = re.search(r"ws://\S+", server.stdout.readline()).group()
        with Client(url) as reader:
            assert reader.call("big", [1]) == "x"
            before = highest = resident(server.pid)
            # Without a limit they cost 400 MB.
            lazy = [call_without_reading(stack, url) for _ in range(40)]
            for _ in range(50):
                assert reader.call("big", [SIZE]) == "x" * SIZE
                highest = max(highest, resident(server.pid))
        assert CloseCode.PEER_TOO_SLOW in map(outcome, lazy)
    assert highest - before < 4 * LIMIT
