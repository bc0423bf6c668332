"""Redis refuses some subscriptions because of ACL rules: the others must not be affected."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from juggler.broker.redis import RedisBroker
from juggler.errors import BrokerError
from juggler.process.embedded import EmbeddedRedis
from juggler.process.uuids import new_uuid
from tests.recorders import Outcome, RecordedSubscriber
from tests.support import eventually


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
