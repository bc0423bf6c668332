"""A master dies and its replica takes over, with real servers and sentinels, under load."""

from __future__ import annotations

from contextlib import ExitStack, closing

import redis

from juggler.broker.redis import RedisBroker
from juggler.process.uuids import new_uuid
from juggler.protocol.codec import encode_event
from tests.integration.commands import callee_process, server_process
from tests.load import Load
from tests.recorders import Outcome, RecordedCall, RecordedSubscriber
from tests.redis_servers import mortal_redis, one_sentinel, sentinels
from tests.support import eventually


def test_service_moves_to_the_new_master(tmp_path):
    with (
        sentinels(tmp_path) as deployment,
        callee_process(deployment.url),
        server_process(deployment.url) as url,
        Load(url) as load,
    ):
        load.flows()
        deployment.master.kill()
        eventually(lambda: deployment.master_port() == deployment.replica.port, timeout=60)
        load.flows(timeout=60)
        # The old master comes back and becomes a replica, which is not used.
        deployment.master.start()
        eventually(deployment.master_is_demoted, timeout=60)
        load.flows()
        counts = load.counts()
    assert counts.refused > 0
    assert counts.expired <= load.most_under_way


def test_a_failover_on_demand_moves_the_service_too(tmp_path):
    with (
        sentinels(tmp_path) as deployment,
        callee_process(deployment.url),
        server_process(deployment.url) as url,
        Load(url) as load,
    ):
        load.flows()
        deployment.fail_over()
        load.flows(timeout=60)
        counts = load.counts()
    assert counts.expired <= load.most_under_way


def test_a_master_without_replicas_is_left_for_the_one_that_the_sentinels_report(tmp_path):
    """The former master is cut off from its replicas and sentinels, but not from the server."""
    with ExitStack() as stack:
        former, new = (stack.enter_context(mortal_redis(tmp_path)) for _ in range(2))
        former.start()
        new.start()
        port = stack.enter_context(one_sentinel(tmp_path, former.port, ""))
        broker = stack.enter_context(closing(RedisBroker(f"redis+sentinel://127.0.0.1:{port}/mymaster")))
        broker.connect()
        connection, subscriber, subscribed = broker.topology.link.connection, RecordedSubscriber(), Outcome()
        broker.subscribe("c", False, subscriber, subscribed)
        assert subscribed.wait() is None
        with former.client() as client:
            client.config_set("min-replicas-to-write", 1)
        for _ in range(2):
            assert not is_stored(broker)
        assert connection.losses == 0, "there is no other master"
        with redis.Redis(port=port, protocol=2) as sentinel:
            sentinel.execute_command("SENTINEL", "REMOVE", "mymaster")
            sentinel.execute_command("SENTINEL", "MONITOR", "mymaster", "127.0.0.1", new.port, 1)
        eventually(lambda: is_stored(broker))
        with new.client() as client:
            assert client.exists("juggler:calls:{u}")
            eventually(lambda: client.publish("c", encode_event(new_uuid(), b"1")), message="subscriptions follow")
            assert subscriber.wait(1)


def is_stored(broker):
    call = RecordedCall()
    broker.call("u", b"1", 5.0, call)
    return call.wait(1)[0] == ("stored", None)
