"""Lists and sets without an expiry do not stay in Redis."""

from __future__ import annotations

import json
import re
import socket
from contextlib import closing

import pytest
import redis

from juggler.broker.redis import RedisBroker
from juggler.broker.redis.commands import push, set_timeout
from juggler.broker.redis.keys import Names
from juggler.client import Client
from juggler.process.uuids import new_uuid
from juggler.protocol.codec import encode_call
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


@pytest.mark.parametrize("prefix", ["", "a*[b]:"])
def test_every_collection_gets_an_expiry(redis_url, client, prefix):
    lists = [f"{prefix}juggler:control:{{x}}", f"{prefix}juggler:results:{{x}}"]
    sets = [f"{prefix}juggler:callees:{{a}}b}}", f"{prefix}juggler:uris"]
    for key in lists:
        client.lpush(key, "1")
    for key in sets:
        client.sadd(key, "1")
    with closing(RedisBroker(redis_url, key_prefix=prefix)) as broker:
        broker.connect()
        eventually(lambda: all(has_expiry(client, key) for key in lists + sets))
    client.flushall()


def cut_push(client: redis.Redis, uri: str, ttl_ms: int) -> None:
    """Push a call on a connection that is cut before the commands that set the expiry of the list."""
    msg_uuid = new_uuid()
    keys = Names().call_keys(uri, msg_uuid)
    packed = set_timeout(keys[0], ttl_ms) + push(keys[1], [encode_call(new_uuid(), msg_uuid, uri, b"1")])
    pushed = client.llen(keys[1]) + 1
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(client.connection_pool.connection_kwargs["path"])
        sock.sendall(packed)
    eventually(lambda: client.llen(keys[1]) == pushed)


@pytest.mark.parametrize("legacy", [False, True])
def test_calls_of_a_process_that_was_killed_within_a_push_are_removed(redis_url, client, legacy):
    """Those still wanted stay: a list of calls gets no expiry, which would be that of all its calls."""
    for _ in range(20):
        cut_push(client, "u", 60_000)
    cut_push(client, "u", 1)
    cut_push(client, "{gone}", 1)
    assert client.pttl("juggler:calls:{u}") == -1
    with closing(RedisBroker(redis_url, legacy=legacy)) as broker:
        broker.connect()
        eventually(lambda: client.llen("juggler:calls:{u}") == 20 and not client.exists("juggler:calls:{{gone}}"))
        assert client.pttl("juggler:calls:{u}") == -1
        for key in client.scan_iter("juggler:calls:timeout:*"):
            client.delete(key)
        eventually(lambda: not client.keys("*"), timeout=30)


def test_a_list_of_calls_with_an_expiry_is_left_alone(redis_url, client):
    cut_push(client, "u", 1)
    client.pexpire("juggler:calls:{u}", HOUR_MS)
    key = go_result(client, new_uuid(), new_uuid())
    with closing(RedisBroker(redis_url)) as broker:
        broker.connect()
        eventually(lambda: has_expiry(client, key))
        assert client.llen("juggler:calls:{u}") == 1
    client.flushall()


def test_missing_permission_is_logged_once(redis_url, client, caplog):
    """Only once, however many keys there are."""
    keys = [go_result(client, new_uuid(), new_uuid()) for _ in range(20)]
    client.acl_setuser("lacking", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-pttl"])
    try:
        with closing(RedisBroker(redis_url.replace("unix://", "unix://lacking:x@"))) as broker:
            broker.connect()
            eventually(lambda: "scanning for old keys is not permitted" in caplog.text)
            eventually(lambda: len(client.acl_log()) > 0)
        assert caplog.text.count("is not permitted") == 1
        assert {client.pttl(key) for key in keys} == {-1}
    finally:
        client.acl_deluser("lacking")
        client.acl_log_reset()
        client.flushall()


def test_lists_among_many_keys_are_found(redis_url, client, monkeypatch):
    monkeypatch.setattr("juggler.broker.redis.stale_keys.PERIOD", 0.5)
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
