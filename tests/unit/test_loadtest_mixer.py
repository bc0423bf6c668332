"""loadtest.locust.mixer and client: steps of a mixed client, and expected results. No connection is made."""

from __future__ import annotations

import json
import random
import time
from collections import Counter

import pytest

from juggler.callee.demo import rpc
from juggler.callee.testing import Caller
from juggler.errors import Expired
from juggler.locust.client import age, stamped
from juggler.locust.request_checks import Fate
from juggler.process.uuids import new_uuid
from juggler.protocol.messages import Call
from loadtest.locust.mixer import MAX_IN_FLIGHT, Mixer, channels, expect


class Pending:
    done = False

    def __init__(self, client):
        self.client = client

    def response(self):
        self.client.waited += 1
        raise Expired("no result in time")


class Subscription:
    def __init__(self, keys, key):
        self.keys, self.key = keys, key

    def close(self):
        self.keys.remove(self.key)


class Client:
    """Records its calls, publications and subscriptions."""

    def __init__(self):
        self.calls, self.published, self.subscribed, self.waited = [], [], set(), 0

    def start_call(self, uri, args, timeout):
        self.calls.append((uri, args, timeout))
        return Pending(self)

    def publish(self, channel, args):
        self.published.append((channel, args))

    def subscribe(self, channel, pattern, max_events):
        assert (channel, pattern) not in self.subscribed
        self.subscribed.add((channel, pattern))
        return Subscription(self.subscribed, (channel, pattern))


@pytest.fixture
def mixed():
    client, mixer = Client(), Mixer(channels("load", 3), random.Random(1), size=30)
    for _ in range(3000):
        mixer.step(client)
    return client


def test_it_performs_every_kind_of_step(mixed):
    uris = Counter(uri for uri, _, _ in mixed.calls)
    assert set(uris) == {"test.echo", "test.reverse", "test.delay"}
    assert {channel for channel, _ in mixed.published} == {"load.0", "load.1", "load.2"}
    assert mixed.subscribed <= {("load.0", False), ("load.1", False), ("load.2", False), ("load.*", True)}
    assert all("sent_at" in args for _, args in mixed.published)


def test_one_call_in_ten_is_made_to_expire(mixed):
    doomed = [call for call in mixed.calls if expected(*call) is Fate.EXPIRES]
    assert 0.07 < len(doomed) / len(mixed.calls) < 0.13


def test_it_waits_when_too_many_calls_are_in_flight(mixed):
    assert mixed.waited == len(mixed.calls) - MAX_IN_FLIGHT


def expected(uri, args, timeout):
    return expect(Call(uuid=new_uuid(), uri=uri, args=json.dumps(args).encode(), timeout=timeout))


def test_it_expects_what_the_demo_answers(mixed):
    caller = Caller(rpc)
    some = {uri: (args, timeout) for uri, args, timeout in mixed.calls if timeout > 1}
    assert len(some) == 3
    for uri, (args, timeout) in some.items():
        assert caller.call(uri, args) == expected(uri, args, timeout)
    assert expected("other", None, 1) is Fate.ANY


def test_the_age_of_an_event():
    assert age(b'{"text":"x"}') is None
    assert age(b'"sent_at"') is None
    assert age(b'{"sent_at":"x"}') is None
    assert 4.9 < age(f'{{"sent_at":{time.time() - 5}}}'.encode()) < 60
    assert age(f'{{"sent_at":{time.time() + 5}}}'.encode()) == 0
    assert stamped(a=1).keys() == {"sent_at", "a"}
