"""Lists of results that no server reads and that callees of the Go package have filled get an expiry."""

from __future__ import annotations

import json
import re
from contextlib import closing

import pytest
import redis

from juggler.broker.redis import RedisBroker
from juggler.client import Client
from juggler.process.uuids import new_uuid
from tests.integration.commands import running, server_process
from tests.support import eventually

HOUR_MS = 3_600_000


def go_result(client: redis.Redis, conn_uuid: str, msg_uuid: str, prefix: str = "", ttl: int = 2000) -> str:
    """Store a result as callees of the Go package do, and return the key of its list."""
    key = f"{prefix}juggler:results:{{{conn_uuid}}}"
    client.set(f"{prefix}juggler:results:timeout:{{{conn_uuid}}}:{msg_uuid}", ttl, px=ttl)
    client.lpush(key, json.dumps({"conn_uuid": conn_uuid, "msg_uuid": msg_uuid, "uri": "u", "args": 1}))
    return key


def has_expiry(client: redis.Redis, key: str) -> bool:
    return 0 < client.pttl(key) <= HOUR_MS


@pytest.fixture
def client(redis_url):
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        yield client


@pytest.mark.parametrize("options", [{}, {"legacy": True}, {"key_prefix": "a*[b]:"}], ids=str)
def test_a_list_without_an_expiry_gets_one(redis_url, client, options):
    key = go_result(client, new_uuid(), new_uuid(), options.get("key_prefix", ""))
    lasting = go_result(client, new_uuid(), new_uuid(), options.get("key_prefix", ""))
    client.pexpire(lasting, 100_000)
    other = "other:juggler:results:{x}"
    client.lpush(other, "1")
    assert client.pttl(key) == -1
    with closing(RedisBroker(redis_url, **options)) as broker:
        broker.connect()
        eventually(lambda: has_expiry(client, key))
        assert client.pttl(lasting) <= 100_000
        assert client.pttl(other) == -1
    client.delete(other, key, lasting)


def test_lists_among_many_keys_are_found(redis_url, client, monkeypatch):
    monkeypatch.setattr("juggler.broker.redis.stale_results.PERIOD", 0.5)
    with client.pipeline(transaction=False) as pipe:
        for number in range(5000):
            pipe.set(f"key:{number}", 1, px=60_000)
        pipe.execute()
    keys = [go_result(client, new_uuid(), new_uuid()) for _ in range(20)]
    with closing(RedisBroker(redis_url)) as broker:
        broker.connect()
        eventually(lambda: all(has_expiry(client, key) for key in keys))
        # The next scan finds what is pushed later.
        late = go_result(client, new_uuid(), new_uuid())
        eventually(lambda: has_expiry(client, late))
    client.flushall()


def test_what_is_pushed_for_a_killed_server_expires(redis_url, client):
    """Calls are answered as callees of the Go package do: before another server starts, and afterwards."""

    def answer() -> str:
        call = json.loads(client.rpop("juggler:calls:{u}"))
        return go_result(client, call["conn_uuid"], call["msg_uuid"])

    with running("server", "--bind", "127.0.0.1:0", "--redis", redis_url) as server:
        url = re.search(r"ws://\S+", server.stdout.readline()).group()
        with Client(url) as juggler:
            for number in range(2):
                juggler.start_call("u", number)
            eventually(lambda: client.llen("juggler:calls:{u}") == 2)
            server.kill()
            server.wait()
    key = answer()
    assert client.pttl(key) == -1
    with server_process(redis_url):
        eventually(lambda: has_expiry(client, key))
        client.delete(key)
        assert answer() == key
        eventually(lambda: has_expiry(client, key))
    client.flushall()


def test_lists_on_all_nodes_of_a_cluster_get_an_expiry(redis_cluster):
    keys = [f"juggler:results:{{{new_uuid()}}}".encode() for _ in range(30)]
    for key in keys:
        redis_cluster.master_of(key).run("LPUSH", key, "{}")
    with closing(RedisBroker(redis_cluster.url)) as broker:
        broker.connect()
        eventually(lambda: all(0 < redis_cluster.ttls()[key] <= HOUR_MS for key in keys), timeout=60)
