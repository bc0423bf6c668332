"""One connection does not take all workers of a callee while others call: over a real Redis."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import gevent
import pytest
import redis
from gevent.event import Event

from callee import Callee
from juggler.broker.redis import RedisBroker
from juggler.callee.pool_consumer import LOOK_PERIOD
from juggler.callee.worker import Worker
from juggler.process.uuids import new_uuid
from tests.integration.test_callee_command import running
from tests.recorders import RecordedCall
from tests.support import eventually

MANY = [f"test.many.{number}" for number in range(250)]


class Slow:
    """A function whose calls block until they are let through."""

    def __init__(self) -> None:
        self.began: list[int] = []
        self._gates: dict[int, Event] = {}
        self._is_open = False

    def __call__(self, number: int) -> int:
        self.began.append(number)
        if not self._is_open:
            gate = self._gates[number] = Event()
            gate.wait()
        return number

    def leave(self, number: int) -> None:
        """Let one call through."""
        self._gates[number].set()

    def open(self) -> None:
        """Let all calls through."""
        self._is_open = True
        for gate in self._gates.values():
            gate.set()


class Fleet:
    """A caller, and callees that share its Redis. Each owner of calls is a connection."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        self.stack = stack
        self.url = url
        self.slow = Slow()
        self.rpc = Callee()
        self.rpc.register("slow", self.slow)
        self.rpc.register("quick", lambda n: n)
        self.caller = self.broker()

    def broker(self) -> RedisBroker:
        return self.stack.enter_context(closing(RedisBroker(self.url, blocking_timeout=0.1)))

    def start(self, **options) -> Worker:
        worker = Worker(self.rpc, self.broker(), grace=0.1, announce=False, **options)
        greenlet = gevent.spawn(worker.run)

        def stop() -> None:
            worker.stop()
            greenlet.join(10)

        self.stack.callback(stop)
        return worker

    def call(self, owner: str, uri: str = "quick", args: Any = 1) -> RecordedCall:
        pending = RecordedCall()
        pending.owner = owner
        self.caller.call(uri, json.dumps(args).encode(), 60.0, pending)
        return pending

    def ask(self, owner: str, uri: str = "quick") -> float:
        """Make a call, check its result and return how long it took."""
        began = time.monotonic()
        assert self.call(owner, uri).wait(2)[1] == ("result", b"1")
        return time.monotonic() - began


@contextmanager
def fleet_on(url: str) -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(url, stack)


@pytest.fixture
def fleet(redis_url) -> Iterator[Fleet]:
    with fleet_on(redis_url) as fleet:
        yield fleet


@pytest.fixture
def cluster_fleet(redis_cluster) -> Iterator[Fleet]:
    with fleet_on(redis_cluster.url) as fleet:
        yield fleet


def check_shared(fleet: Fleet, workers: int = 10, **options) -> None:
    """Check that the slow calls of one connection take half of the workers while another one calls."""
    fleet.start(concurrency=workers, **options)
    fleet.ask("bob")
    slow = [fleet.call("ann", "slow", number) for number in range(50)]
    eventually(lambda: len(fleet.slow.began) == workers // 2)
    assert sorted(fleet.ask("bob") for _ in range(20))[10] < 0.5
    assert sorted(fleet.slow.began) == list(range(workers // 2))
    fleet.slow.open()
    assert [call.wait(2)[1] for call in slow] == [("result", b"%d" % number) for number in range(50)]


def test_one_connection_does_not_take_all_workers(fleet):
    check_shared(fleet)


def test_nor_those_of_a_callee_with_many_uris(fleet):
    for uri in MANY:
        fleet.rpc.register(uri, lambda n: n)
    check_shared(fleet)


def test_nor_those_of_a_callee_of_a_cluster(cluster_fleet):
    check_shared(cluster_fleet)


def test_a_lone_connection_takes_all_workers_and_then_others_come_first(fleet):
    fleet.start(concurrency=10)
    slow = [fleet.call("ann", "slow", number) for number in range(50)]
    eventually(lambda: len(fleet.slow.began) == 10)
    other = fleet.call("bob")
    other.wait(1)
    since = time.monotonic()
    eventually(lambda: time.monotonic() - since > 2 * LOOK_PERIOD)
    fleet.slow.leave(3)
    assert other.wait(2)[1] == ("result", b"1")
    # 40 older calls of the same connection wait.
    assert len(fleet.slow.began) == 10
    fleet.slow.open()
    assert all(call.wait(2)[1][0] == "result" for call in slow)


def test_two_connections_with_many_calls_have_half_of_the_workers_each(fleet):
    fleet.start(concurrency=10)
    fleet.ask("cy")
    calls = [fleet.call("ann", "slow", number) for number in range(20)]
    calls += [fleet.call("bob", "slow", number) for number in range(100, 120)]
    eventually(lambda: len(fleet.slow.began) == 10)
    assert sorted(fleet.slow.began) == [*range(5), *range(100, 105)]
    other = fleet.call("cy")
    other.wait(1)
    fleet.slow.leave(0)
    assert other.wait(2)[1] == ("result", b"1")
    fleet.slow.open()
    assert all(call.wait(2)[1][0] == "result" for call in calls)


def test_a_share_of_one_disables_it(fleet):
    fleet.start(concurrency=10, share=1.0)
    fleet.ask("bob")
    calls = [fleet.call("ann", "slow", number) for number in range(50)]
    eventually(lambda: len(fleet.slow.began) == 10)
    fleet.slow.open()
    assert all(call.wait(2)[1][0] == "result" for call in calls)


@pytest.mark.parametrize("share", [0, -0.5, 1.01, float("nan")])
def test_a_share_out_of_range_is_refused(fleet, share):
    with pytest.raises(ValueError, match="share: expected more than 0 and at most 1"):
        fleet.start(share=share)


def go_call(client: redis.Redis, conn_uuid: str, uri: str, args: int) -> str:
    """Store a call as servers of the Go package do: with the UUID of the connection."""
    msg_uuid = new_uuid()
    client.set(f"juggler:calls:timeout:{{{uri}}}:{msg_uuid}", 60_000, px=60_000)
    payload = {"conn_uuid": conn_uuid, "msg_uuid": msg_uuid, "uri": uri, "args": args}
    client.lpush(f"juggler:calls:{{{uri}}}", json.dumps(payload))
    return msg_uuid


@pytest.mark.leaves_keys("juggler:results:*")
def test_connections_of_go_servers_have_shares(fleet, redis_url):
    ann, bob = new_uuid(), new_uuid()
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        fleet.start(concurrency=4)
        go_call(client, bob, "quick", 0)
        assert client.brpop(f"juggler:results:{{{bob}}}", 10)
        for number in range(20):
            go_call(client, ann, "slow", number)
        eventually(lambda: len(fleet.slow.began) == 2)
        for number in range(5):
            go_call(client, bob, "quick", number)
            assert json.loads(client.brpop(f"juggler:results:{{{bob}}}", 10)[1])["args"] == number
        assert fleet.slow.began == [0, 1]
        fleet.slow.open()
        eventually(lambda: len(fleet.slow.began) == 20)
        eventually(lambda: client.llen(f"juggler:results:{{{ann}}}") == 20)
        client.flushall()


def test_no_waiting_call_is_lost_with_a_callee_that_is_killed(fleet, redis_url):
    with running("callee.demo:rpc", "--redis", redis_url, "-c", "4") as killed:
        assert killed.said
        assert fleet.call("bob", "test.echo").wait(2)[1][0] == "result"
        hog = [fleet.call("ann", "test.delay", str(600 + number)) for number in range(12)]
        queue = "juggler:calls:{test.delay}"
        with redis.Redis.from_url(redis_url, protocol=2) as client:
            eventually(lambda: client.llen(queue) == 10)  # two run, the share
            killed.send_signal(signal.SIGKILL)
            killed.wait()
            assert client.llen(queue) == 10
    with running("callee.demo:rpc", "--redis", redis_url):
        assert all(call.wait(2)[1][0] == "result" for call in hog[2:])
    assert [len(call.told) for call in hog[:2]] == [1, 1]
    fleet.caller.abandon("ann")
