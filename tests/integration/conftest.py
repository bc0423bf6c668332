"""Fixtures of the integration tests."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from juggler.broker.redis import RedisBroker
from tests.recorders import RecordedCall
from tests.redis_servers import MortalRedis, mortal_redis


@pytest.fixture
def ask(redis_url):
    """Call a function through Redis and return the result, decoded: ``ask(uri, value)``."""
    broker = RedisBroker(redis_url)

    def ask(uri, value, wait=True):
        pending = RecordedCall()
        broker.call(uri, json.dumps(value).encode(), 10.0, pending)
        if not wait:
            return pending
        (_, error), (kind, args) = pending.wait(2)
        assert (error, kind) == (None, "result")
        return json.loads(args)

    yield ask
    broker.close()


@pytest.fixture
def mortal(tmp_path) -> Iterator[MortalRedis]:
    """A Redis server that is not started yet, and that may be killed."""
    with mortal_redis(tmp_path) as server:
        yield server
