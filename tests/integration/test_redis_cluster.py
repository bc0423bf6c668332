"""A Redis Cluster that changes under load: slots move, a master dies, and every call completes once."""

from __future__ import annotations

import random
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent
import pytest
from redis.crc import key_slot

from juggler.broker import IncomingCall
from juggler.broker.redis import RedisBroker
from juggler.broker.redis.keys import Names
from juggler.errors import BrokerError, BrokerUnavailable, ConfigError
from juggler.process.uuids import new_uuid
from juggler.protocol.codec import encode_event
from tests.recorders import Outcome, RecordedCall, RecordedSubscriber, pop_all
from tests.redis_cluster import Node, RedisCluster
from tests.stack import serving
from tests.support import eventually

REDIS_DOC = (Path(__file__).parents[2] / "docs" / "redis.md").read_text("utf-8")

# In the first, second and third part of the slots.
URIS = ["u1", "u2", "u3"]


@pytest.fixture
def make_broker(redis_cluster) -> Iterator:
    with brokers(redis_cluster) as make:
        yield make
    # Keys that could not be deleted while a slot moved expire.
    eventually(lambda: not redis_cluster.keys())


@contextmanager
def brokers(cluster: RedisCluster) -> Iterator:
    """Yield a factory of brokers, and close them all."""
    made: list[RedisBroker] = []

    def make(url: str = cluster.url, **options) -> RedisBroker:
        made.append(RedisBroker(url, **{"blocking_timeout": 0.2, **options}))
        return made[-1]

    try:
        yield make
    finally:
        for broker in made:
            broker.close()


def calls_key(uri: str) -> bytes:
    return f"juggler:calls:{{{uri}}}".encode()


def has_completed(call: RecordedCall) -> bool:
    return len(call.told) == 2 or (len(call.told) == 1 and call.told[0][1] is not None)


class Load:
    """Calls from many greenlets, sequential in each, until `stop`. Each call has its own argument.

    ``results_keys`` are the lists that results go to.
    """

    def __init__(self, broker: RedisBroker, results_keys: set[bytes], greenlets: int = 20) -> None:
        self.broker = broker
        self.results_keys = results_keys
        self._stopped = False
        self.calls: list[RecordedCall] = []
        self._greenlets = [gevent.spawn(self._run, n) for n in range(greenlets)]

    def _run(self, number: int) -> None:
        while not self._stopped:
            call = RecordedCall()
            self.calls.append(call)
            self.broker.call(URIS[number % len(URIS)], b"%d" % len(self.calls), 1.5, call)
            call.expected = b"%d" % len(self.calls)
            eventually(lambda call=call: has_completed(call))
            gevent.sleep(0.001 if call.told[0][1] is None else 0.02)

    def end(self) -> None:
        """Make no more calls. Idempotent."""
        self._stopped = True

    def stop(self) -> Counter[str]:
        """Stop, check that each call has completed once and with its own result, and count the outcomes."""
        self.end()
        gevent.joinall(self._greenlets, raise_error=True)
        outcomes: Counter[str] = Counter()
        for call in self.calls:
            (name, error), *rest = call.told
            assert name == "stored"
            if error is not None:
                assert isinstance(error, BrokerUnavailable), error
                assert not rest
                outcomes["refused"] += 1
                continue
            ((kind, *result),) = rest
            assert kind == "expired" or result == [call.expected]
            outcomes[kind] += 1
        print(outcomes)
        return outcomes


@contextmanager
def load(make_broker) -> Iterator[Load]:
    """Run load against a callee that serves all of `URIS`."""
    caller, callee = make_broker(), make_broker()
    results_keys: set[bytes] = set()

    def echo(call: IncomingCall) -> bytes:
        results_keys.add(Names().results(call.conn_uuid))
        return call.args

    with serving(callee, URIS, echo):
        running = Load(caller, results_keys)
        try:
            eventually(lambda: len(running.calls) > 200)
            yield running
        finally:
            running.end()


def all_are_served(broker: RedisBroker) -> bool:
    calls = []
    for uri in URIS:
        call = RecordedCall()
        broker.call(uri, b"1", 1.0, call)
        calls.append(call)
    for call in calls:
        eventually(lambda call=call: has_completed(call))
    return all(call.told[-1] == ("result", b"1") for call in calls)


def next_master(cluster: RedisCluster, key: bytes) -> Node:
    return cluster.masters[(cluster.masters.index(cluster.master_of(key)) + 1) % len(cluster.masters)]


def test_the_uris_are_on_different_masters(redis_cluster):
    assert [redis_cluster.master_of(calls_key(uri)) for uri in URIS] == redis_cluster.masters


def test_one_node_is_enough_to_find_all(redis_cluster, make_broker):
    broker = make_broker(f"redis+cluster://127.0.0.1:{redis_cluster.masters[1].port}")
    with serving(broker, URIS, lambda call: call.args):
        assert all_are_served(broker)


def test_unreachable_nodes_do_not_matter(redis_cluster, make_broker):
    broker = make_broker(f"redis+cluster://127.0.0.1:1,127.0.0.1:{redis_cluster.masters[1].port}")
    broker.connect()
    with serving(broker, URIS, lambda call: call.args):
        assert all_are_served(broker)


def test_a_single_server_is_no_cluster(mortal):
    mortal.start()
    broker = RedisBroker(mortal.url.replace("redis:", "redis+cluster:"))
    with pytest.raises(BrokerUnavailable, match="cluster support disabled"):
        broker.connect()
    broker.close()


def test_results_arrive_through_all_masters(redis_cluster, make_broker):
    broker = make_broker()
    broker.connect()
    calls = [RecordedCall() for _ in range(6)]
    for call in calls:
        broker.call("u", b"1", 5.0, call)
    popped = pop_all(broker.calls(["u"]), 6)
    masters = Counter(
        redis_cluster.master_of(f"juggler:results:{{{incoming.conn_uuid}}}".encode()) for incoming in popped
    )
    assert masters == dict.fromkeys(redis_cluster.masters, 2)
    for incoming in popped:
        broker.result(incoming, b"1", Outcome())
    for call in calls:
        assert call.wait(2)[1] == ("result", b"1")


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_no_more_than_the_limit_leaves_redis(redis_cluster, make_broker, limit):
    broker = make_broker()
    broker.connect()
    for uri in URIS * 10:
        call = RecordedCall()
        broker.call(uri, b"1", 5.0, call)
        call.wait(1)
    consumer = broker.calls(URIS)
    popped = []
    while len(popped) < 30:
        batch = consumer.pop(limit)
        assert 0 < len(batch) <= limit
        popped += batch
        left = sum(node.run("LLEN", calls_key(uri)) for uri, node in zip(URIS, redis_cluster.masters, strict=True))
        assert len(popped) + left == 30
    assert Counter(incoming.uri for incoming in popped) == dict.fromkeys(URIS, 10)


@pytest.mark.parametrize("limit", [1, 100])
def test_a_call_does_not_wait_for_other_slots(make_broker, limit):
    broker = make_broker(blocking_timeout=5.0)
    broker.connect()
    consumer = broker.calls(URIS)
    delays = []
    for _ in range(30):
        call = RecordedCall()
        popping = gevent.spawn(pop_all, consumer, 1, limit)
        gevent.sleep(0.003)
        started = time.monotonic()
        broker.call(random.choice(URIS), b"1", 10.0, call)
        assert len(popping.get(timeout=30)) == 1
        delays.append(time.monotonic() - started)
    print(f"limit {limit}: {sorted(delays)[15] * 1000:.2f} ms, at most {max(delays) * 1000:.2f}")
    assert sorted(delays)[15] < 0.1


def test_a_silent_node_does_not_keep_the_others_calls(redis_cluster, make_broker):
    broker = make_broker()
    with serving(broker, URIS, lambda call: call.args):
        eventually(lambda: all_are_served(broker))
        redis_cluster.masters[0].signal(signal.SIGSTOP)
        try:
            for _ in range(5):
                call = RecordedCall()
                # Until the cluster detects the failure, the other nodes serve their slots.
                broker.caller.call(URIS[1], b"1", 1.0, call)
                call.wait(1)
        finally:
            redis_cluster.masters[0].signal(signal.SIGCONT)
        eventually(lambda: all_are_served(broker))


def test_calls_complete_once_while_slots_move(redis_cluster, make_broker):
    with load(make_broker) as running:
        for _ in range(2):
            for uri in URIS:
                key = calls_key(uri)
                target = next_master(redis_cluster, key)
                source, slot = redis_cluster.begin_move(key, target)
                before = len(running.calls)
                eventually(lambda before=before: len(running.calls) > before + 100)
                redis_cluster.end_move(source, slot, target)
        for uri, home in zip(URIS, redis_cluster.masters, strict=True):
            redis_cluster.move(calls_key(uri), home)
        assert all_are_served(running.broker)
        outcomes = running.stop()
    assert outcomes["result"] > 500
    assert outcomes["expired"] + outcomes["refused"] < outcomes["result"] / 20


def test_results_are_read_while_their_slots_move(redis_cluster, make_broker):
    with load(make_broker) as running:
        eventually(lambda: len(running.results_keys) == len(redis_cluster.masters))
        keys = list(running.results_keys)
        homes = [redis_cluster.master_of(key) for key in keys]
        for key in keys:
            redis_cluster.move(key, next_master(redis_cluster, key))
        assert all_are_served(running.broker)
        for key, home in zip(keys, homes, strict=True):
            redis_cluster.move(key, home)
        assert all_are_served(running.broker)
        outcomes = running.stop()
        eventually(lambda: len(running.broker.caller.connections()) == len(redis_cluster.masters))
        assert all_are_served(running.broker)
    assert outcomes["expired"] + outcomes["refused"] < outcomes["result"] / 20


def test_losses_stay_counted_when_connections_are_replaced(redis_cluster, make_broker):
    with load(make_broker) as running:
        broker = running.broker
        eventually(lambda: len(running.results_keys) == len(redis_cluster.masters))
        connections = broker.connections()
        for connection in connections:
            connection.drop("for the test")
        eventually(lambda: all(connection.up for connection in connections))
        before = broker.stats().losses
        assert before["results"] == len(redis_cluster.masters)
        keys = list(running.results_keys)
        homes = [redis_cluster.master_of(key) for key in keys]
        for key in keys:
            redis_cluster.move(key, next_master(redis_cluster, key))
        assert all_are_served(broker)
        eventually(lambda: not set(connections) >= set(broker.connections()))
        after = broker.stats().losses
        # Connections that the broker closes itself are none that it lost.
        assert after == before
        for key, home in zip(keys, homes, strict=True):
            redis_cluster.move(key, home)
        assert all_are_served(broker)
        running.stop()


@pytest.mark.parametrize("sharded", [False, True])
def test_service_comes_back_when_a_master_is_lost(sharded):
    cluster = RedisCluster(masters=3, replicas=1)
    try:
        with brokers(cluster) as make_broker, load(make_broker) as running:
            pubsub = make_broker(sharded_pubsub=sharded)
            subscriber, done = RecordedSubscriber(), Outcome()
            channel = URIS[0]
            assert cluster.master_of(channel.encode()) is cluster.masters[0]
            pubsub.subscribe(channel, False, subscriber, done)
            assert done.wait() is None
            gaps, done = RecordedSubscriber(), Outcome()
            pubsub.subscribe("juggler.gap", False, gaps, done)
            assert done.wait() is None
            before = running.broker.stats().losses
            lost_at = time.monotonic()
            lost_master = f"commands 127.0.0.1:{cluster.masters[0].port}"
            cluster.masters[0].kill()
            eventually(lambda: not all_are_served(running.broker), message="the loss is noticed")
            eventually(lambda: all_are_served(running.broker), message="service comes back")
            print(f"{time.monotonic() - lost_at:.1f} s")
            assert cluster.master_of(calls_key(URIS[0])) is cluster.replicas[0]
            # The lost master has left; what it has cost stays counted.
            eventually(lambda: lost_master not in running.broker.stats().links)
            after = running.broker.stats().losses
            assert after[lost_master] > before[lost_master] == 0
            assert all(after[name] >= losses for name, losses in before.items())
            outcomes = running.stop()
            assert outcomes["result"] > 200
            assert outcomes["refused"] > 0
            eventually(lambda: publish(pubsub, channel) is None)
            eventually(lambda: not publish(pubsub, channel) and subscriber.events)
            if sharded:
                assert pubsub.pubsub.gaps > 0
                eventually(lambda: gaps.events, message="the gap is reported")
    finally:
        cluster.stop()


def publish(broker: RedisBroker, channel: str) -> BrokerError | None:
    done = Outcome()
    broker.publish(channel, new_uuid(), b"1", done)
    return done.wait()


def test_the_node_for_events_may_go_away(redis_cluster, make_broker):
    broker = make_broker()
    broker.connect()
    subscriber, done = RecordedSubscriber(), Outcome()
    broker.subscribe("c", False, subscriber, done)
    assert done.wait() is None
    before = broker.topology.pubsub.subscribed_node
    connection = broker.pubsub.receiver.connection
    connection.drop("for the test")
    eventually(lambda: connection.up)
    assert broker.topology.pubsub.subscribed_node != before
    eventually(lambda: not publish(broker, "c") and subscriber.events)
    redis_cluster.settle()


def test_an_event_that_the_next_node_delivers_once_more_is_dropped(redis_cluster, make_broker):
    """The nodes pass on publications at their own pace: a node may receive one after the reconnect."""
    broker = make_broker()
    broker.connect()
    subscriber, done = RecordedSubscriber(), Outcome()
    broker.subscribe("c", False, subscriber, done)
    assert done.wait() is None
    first, second = (encode_event(new_uuid(), args) for args in (b"1", b"2"))
    redis_cluster.masters[0].run("PUBLISH", "c", first)
    subscriber.wait(1)
    connection = broker.pubsub.receiver.connection
    connection.drop("for the test")
    eventually(lambda: connection.up)
    confirmed = Outcome()
    broker.subscribe("c", False, RecordedSubscriber(), confirmed)
    assert confirmed.wait() is None
    for event in (first, second):
        redis_cluster.masters[0].run("PUBLISH", "c", event)
    assert [args for _, _, args in subscriber.wait(2)] == [b"1", b"2"]
    redis_cluster.settle()


class TestSharded:
    @pytest.fixture
    def broker(self, redis_cluster, make_broker):
        broker = make_broker(redis_cluster.url + "?sharded=1")
        broker.connect()
        return broker

    def test_events_of_all_slots_arrive(self, broker, make_broker):
        subscriber = RecordedSubscriber()
        for uri in URIS:
            done = Outcome()
            broker.subscribe(uri, False, subscriber, done)
            assert done.wait() is None
        publisher = make_broker(sharded_pubsub=True)
        for uri in URIS:
            assert publish(publisher, uri) is None
        assert sorted(subscriber.wait(3)) == sorted((uri, "", b"1") for uri in URIS)

    def test_only_the_node_of_the_channel_has_the_subscription(self, redis_cluster, broker):
        subscriber, done = RecordedSubscriber(), Outcome()
        broker.subscribe(URIS[1], False, subscriber, done)
        assert done.wait() is None
        assert [node.run("PUBSUB", "SHARDCHANNELS") for node in redis_cluster.masters] == [[], [URIS[1].encode()], []]
        broker.unsubscribe(URIS[1], False, subscriber, Outcome())
        eventually(lambda: not redis_cluster.masters[1].run("PUBSUB", "SHARDCHANNELS"))

    def test_patterns_are_refused(self, broker):
        done = Outcome()
        broker.subscribe("u*", True, RecordedSubscriber(), done)
        error = done.wait()
        assert isinstance(error, BrokerError)
        assert error.code == 400

    def test_subscriptions_move_with_their_slots(self, redis_cluster, broker):
        subscriber, done = RecordedSubscriber(), Outcome()
        broker.subscribe(URIS[2], False, subscriber, done)
        assert done.wait() is None
        home = redis_cluster.master_of(URIS[2].encode())
        for target in (redis_cluster.masters[0], home):
            redis_cluster.move(URIS[2].encode(), target)
            # The node reports the move: there was no publication that it could redirect.
            eventually(lambda target=target: target.run("PUBSUB", "SHARDCHANNELS"))
            seen = len(subscriber.events)
            eventually(lambda seen=seen: not publish(broker, URIS[2]) and len(subscriber.events) > seen)
        assert broker.pubsub.gaps >= 1
        late, done = RecordedSubscriber(), Outcome()
        broker.subscribe(URIS[2], False, late, done)
        assert done.wait() is None
        assert publish(broker, URIS[2]) is None
        assert len(late.wait(1)) == 1

    def test_it_needs_a_cluster(self, redis_url):
        with pytest.raises(ConfigError, match="needs a cluster"):
            RedisBroker(redis_url, sharded_pubsub=True)


@pytest.fixture
def documented_users(redis_cluster) -> Iterator[tuple[str, str]]:
    """The URLs of a server and a callee, each with the permissions documented for a cluster."""
    rights = re.search(r"it is a cluster \| `(.*?)`, and for callees `(.*?)`", REDIS_DOC)
    both, callees = (text.replace("\\|", "|").split() for text in rights.groups())
    lines = [line.split() for line in re.findall(r"^ACL SETUSER (.*)$", REDIS_DOC, re.MULTILINE)]
    users = [[*lines[0], *both], [*lines[1], *both, *callees]]
    for node in redis_cluster.masters:
        for user in users:
            node.run("ACL", "SETUSER", *user)
        node.run("ACL", "LOG", "RESET")
    yield tuple(redis_cluster.url.replace("//", f"//{user[0]}:password@") for user in users)
    for node in redis_cluster.masters:
        node.run("ACL", "DELUSER", *(user[0] for user in users))


def test_the_documented_permissions_are_enough(redis_cluster, make_broker, documented_users):
    server, callee = (make_broker(url) for url in documented_users)
    server.connect()
    with serving(callee, URIS, lambda call: call.args):
        for _ in range(3):
            assert all_are_served(server)
    consumer = callee.calls(URIS)
    assert consumer.pop(1) == []
    subscriber, done = RecordedSubscriber(), Outcome()
    server.subscribe("c", False, subscriber, done)
    assert done.wait() is None
    eventually(lambda: publish(server, "c") is None and subscriber.events)
    assert [node.run("ACL", "LOG") for node in redis_cluster.masters] == [[], [], []]


def test_a_slot_that_has_no_master_is_unavailable(redis_cluster, make_broker):
    broker = make_broker()
    broker.connect()
    node, slot = redis_cluster.masters[0], key_slot(calls_key(URIS[0]))
    for each in redis_cluster.masters:
        each.run("CLUSTER", "DELSLOTS", slot)
    try:
        call = RecordedCall()
        broker.call(URIS[0], b"1", 1.0, call)
        ((_, error),) = call.wait(1)
        assert isinstance(error, BrokerUnavailable)
    finally:
        for each in redis_cluster.masters:
            each.run("CLUSTER", "SETSLOT", slot, "NODE", node.id)
    eventually(lambda: all(each.info()["cluster_state"] == "ok" for each in redis_cluster.masters))
