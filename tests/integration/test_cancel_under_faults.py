"""Random cancels while connections to Redis are cut and Redis is killed. Each call ends once and runs at most once."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import closing, contextmanager

import gevent
import redis

from juggler.broker.redis import RedisBroker
from juggler.callee import Callee, cancelled
from juggler.callee.worker import Worker
from juggler.client import Client
from juggler.errors import CallFailed, Cancelled, ConnectionClosed, Expired, Nacked
from tests.stack import running_server
from tests.support import eventually

CALLS = 400
TIMEOUT = 3.0
ENDS = (CallFailed, Cancelled, ConnectionClosed, Expired, Nacked)


class Desk:
    """Functions, and how often each call has run."""

    def __init__(self) -> None:
        self.runs: Counter[int] = Counter()
        self.running = 0
        self.rpc = Callee()
        self.rpc.register("poll", self.poll)
        self.rpc.register("sleep", self.sleep, cancel="raise")
        self.rpc.register("parts", self.parts)

    @contextmanager
    def counted(self, number: int):
        self.runs[number] += 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def poll(self, number: int, seconds: float):
        with self.counted(number):
            for _ in range(int(seconds / 0.005)):
                if cancelled():
                    return -1
                gevent.sleep(0.005)
        return number

    def sleep(self, number: int, seconds: float):
        with self.counted(number):
            gevent.sleep(seconds)
        return number

    def parts(self, number: int, seconds: float):
        with self.counted(number):
            for part in range(10):
                gevent.sleep(seconds / 10)
                yield part
        return number


@contextmanager
def stack(url: str):
    desk = Desk()
    ours, theirs = RedisBroker(url), RedisBroker(url, blocking_timeout=0.1)
    worker = Worker(desk.rpc, theirs, concurrency=20, grace=0.5)
    greenlet = gevent.spawn(worker.run)
    with running_server(ours, max_calls=CALLS) as server, Client(server.url) as client:
        try:
            yield desk, server, client
        finally:
            worker.stop()
            greenlet.join(10)
            theirs.close()


def one_call(client: Client, rng: random.Random, number: int) -> str:
    """Make a call, cancel it with a probability of two thirds at a random time, and return how it ended."""
    uri = rng.choice(["poll", "sleep", "parts"])
    try:
        pending = client.start_call(uri, [number, rng.uniform(0, 0.2)], timeout=TIMEOUT)
        if rng.random() < 0.67:
            gevent.sleep(rng.uniform(0, 0.15))
            pending.cancel(wait=rng.random() < 0.5)
        value = pending.result()
    except ENDS as error:
        return type(error).__name__
    assert value in (number, -1, list(range(10)))
    return "result"


def test_each_call_ends_once(mortal):
    mortal.start()
    rng = random.Random(20)
    with stack(mortal.url) as (desk, server, client):
        ended: Counter[str] = Counter()

        def make(number: int) -> None:
            gevent.sleep(rng.uniform(0, 5))
            ended[one_call(client, rng, number)] += 1

        calls = [gevent.spawn(make, number) for number in range(CALLS)]
        for _ in range(4):
            gevent.sleep(0.7)
            with mortal.client() as admin:
                admin.client_kill_filter(_type="normal", skipme=True)
        mortal.kill()
        gevent.sleep(0.4)
        mortal.start()
        with gevent.Timeout(60):
            gevent.joinall(calls, raise_error=True)

        assert ended.total() == CALLS
        assert ended["result"] > 20, ended
        assert ended["Cancelled"] > 20, ended
        assert ended["CallFailed"] > 5, ended  # those whose end was waited for
        assert max(desk.runs.values()) == 1
        eventually(lambda: desk.running == 0)
        (connection,) = server.server.connections
        eventually(lambda: connection.calls_in_flight == 0)
        assert client.call("poll", [CALLS, 0]) == CALLS
    with closing(redis.Redis.from_url(mortal.url, protocol=2)) as admin:
        assert [key for key in admin.keys("*") if admin.ttl(key) == -1] == []
