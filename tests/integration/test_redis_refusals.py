"""Redis refuses some subscriptions because of ACL rules: the others must not be affected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
import redis

from juggler.broker.redis import RedisBroker, pubsub
from juggler.errors import BrokerError, BrokerUnavailable
from juggler.process.embedded import EmbeddedRedis
from juggler.process.uuids import new_uuid
from juggler.protocol.messages import MessageType
from tests.recorders import Outcome, RecordedCall, RecordedSubscriber, pop_all
from tests.stack import Wire, running_server
from tests.support import eventually

CALL, ACK = MessageType.CALL, MessageType.ACK


class Limited:
    """A broker whose user may subscribe to some channels only, and an administrator."""

    def __init__(self, server: EmbeddedRedis) -> None:
        self.admin = redis.Redis.from_url(server.url, protocol=2)
        self.admin.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "~*", "+@all")
        self.allow("&ok*")
        self.broker = RedisBroker(server.url.replace("//", "//limited:secret@"), blocking_timeout=0.1)
        self.subscriber = RecordedSubscriber()

    def allow(self, *channels: str) -> None:
        """Set the permitted channels. Redis closes connections with subscriptions to others."""
        self.admin.execute_command("ACL", "SETUSER", "limited", "resetchannels", *channels)

    def subscribe(self, channel: str, subscriber: RecordedSubscriber | None = None) -> Outcome:
        outcome = Outcome()
        self.broker.subscribe(channel, False, subscriber or self.subscriber, outcome)
        return outcome

    def hears(self, channel: str) -> bool:
        before = len(self.subscriber.events)
        done = Outcome()
        self.broker.publish(channel, new_uuid(), b"1", done)
        return done.wait() is None and eventually(lambda: len(self.subscriber.events) > before)


@pytest.fixture
def limited(redis_server: EmbeddedRedis, redis_url: str) -> Iterator[Limited]:
    limited = Limited(redis_server)
    yield limited
    limited.broker.close()
    limited.admin.execute_command("ACL", "DELUSER", "limited")
    limited.admin.close()


def refused(outcome: Outcome) -> bool:
    return isinstance(outcome.wait(), BrokerError)


def test_only_the_forbidden_subscription_fails(limited):
    outcomes = [limited.subscribe(channel) for channel in ("ok1", "bad", "ok2")]
    assert [refused(outcome) for outcome in outcomes] == [False, True, False]
    assert limited.hears("ok1")
    assert limited.hears("ok2")


def test_a_forbidden_channel_works_once_it_is_permitted(limited):
    assert refused(limited.subscribe("bad"))
    limited.allow("&ok*", "&bad")
    assert not refused(limited.subscribe("bad"))
    assert limited.hears("bad")


def test_refusals_leave_nothing_behind(limited):
    assert all(refused(outcome) for outcome in [limited.subscribe(f"bad{n}") for n in range(20)])
    pubsub = limited.broker.pubsub
    assert not pubsub.topics
    assert not pubsub.subscription_count(limited.subscriber)
    # None waits for its confirmation, and none is subscribed to again on a new connection.
    limited.broker.connect()
    limited.broker.check_ready()
    limited.admin.client_kill_filter(_type="pubsub")
    eventually(lambda: not refused(limited.subscribe("ok")))
    limited.broker.check_ready()
    assert limited.admin.pubsub_channels() == [b"ok"]


def test_a_topic_that_is_forbidden_later_costs_no_other_its_subscription(limited):
    limited.allow("&ok*", "&bad")
    assert not any(refused(limited.subscribe(channel)) for channel in ("ok1", "bad", "ok2"))
    losses = limited.broker.pubsub.receiver.connection.losses
    limited.allow("&ok*")
    eventually(lambda: limited.broker.pubsub.receiver.connection.losses > losses)
    eventually(lambda: limited.broker.pubsub.receiver.connection.up)
    # Confirmed to a new subscriber, and so to the earlier one.
    assert not refused(limited.subscribe("ok1", RecordedSubscriber()))
    assert not refused(limited.subscribe("ok2", RecordedSubscriber()))
    assert limited.hears("ok1")
    assert limited.hears("ok2")
    assert refused(limited.subscribe("bad", RecordedSubscriber()))
    limited.allow("&ok*", "&bad")
    assert not refused(limited.subscribe("bad", RecordedSubscriber()))
    assert limited.hears("bad")


def test_a_permission_that_is_given_back_recreates_the_subscription(limited, monkeypatch):
    monkeypatch.setattr(pubsub, "RETRY_PERIOD", 0.5)
    limited.allow("&ok*", "&juggler.gap", "&bad")
    gaps = RecordedSubscriber()
    assert not refused(limited.subscribe("juggler.gap", gaps))
    assert not any(refused(limited.subscribe(channel)) for channel in ("ok1", "bad"))
    limited.broker.connect()
    limited.allow("&ok*", "&juggler.gap")
    eventually(lambda: len(gaps.events) == 1, message="the gap is reported although one topic is refused")
    limited.broker.check_ready()
    assert limited.hears("ok1")
    limited.allow("&ok*", "&juggler.gap", "&bad")
    eventually(lambda: len(gaps.events) == 2, message="the gap of the refused topic is reported")
    assert limited.hears("bad")
    limited.broker.check_ready()


def test_a_refused_ping_is_a_sign_of_life(limited):
    assert not refused(limited.subscribe("ok1"))
    limited.admin.execute_command("ACL", "SETUSER", "limited", "-ping")
    receiver = limited.broker.pubsub.receiver
    for _ in range(3):
        receiver.connection.check(1.0)  # what has arrived counts once
        receiver.connection.check(1.0)
        assert receiver.reply_due
        outcome = limited.subscribe("ok2")
        eventually(lambda: not receiver.reply_due)
        assert not refused(outcome), "the refusal is that of the PING"
        receiver.connection.check(10.0)
    assert receiver.connection.losses == 0
    limited.admin.execute_command("ACL", "SETUSER", "limited", "+ping")
    assert limited.hears("ok1")


@pytest.fixture
def full() -> Iterator[redis.Redis]:
    """Yield the client of a Redis of its own, to let it run out of memory."""
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url, protocol=2) as client:
        client.url = server.url
        yield client


def test_a_full_redis_refuses_requests_for_now_and_its_words_do_not_reach_clients(full):
    broker = RedisBroker(full.url)
    with running_server(broker) as running, Wire(running.url) as wire:

        def answer(type: MessageType) -> dict:
            return wire.request(type, **({"uri": "u", "timeout": 10**9} if type is CALL else {"channel": "c"}))

        assert answer(CALL)["meta"]["type"] == ACK
        full.config_set("maxmemory", 1)
        nack = answer(CALL)["payload"]
        assert (nack["code"], nack["message"]) == (503, "Redis refused the request")
        with pytest.raises(BrokerUnavailable, match="Redis refuses commands for now"):
            broker.check_ready()
        full.config_set("maxmemory", 0)
        assert answer(CALL)["meta"]["type"] == ACK


def test_a_result_that_a_full_redis_refuses_is_kept(full):
    with closing(RedisBroker(full.url)) as caller, closing(RedisBroker(full.url)) as callee:
        pending, done = RecordedCall(), Outcome()
        caller.call("u", b"1", 30.0, pending)
        (call,) = pop_all(callee.calls(["u"]), 1)
        full.config_set("maxmemory", 1)
        callee.result(call, b"2", done)
        eventually(lambda: full.info("errorstats").get("errorstat_OOM"))
        full.config_set("maxmemory", 0)
        assert pending.wait(2) == [("stored", None), ("result", b"2")]
        assert done.wait() is None
