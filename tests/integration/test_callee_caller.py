"""Functions of all pools know their caller, from the client's token to ``callee.caller()``."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
import redis

from juggler.auth import bearer
from juggler.broker.redis import RedisBroker
from juggler.client import Client
from tests.integration.test_callee_command import running
from tests.stack import running_server

POOLS = (None, "thread", "process")

DESK = """
from callee import Call, Callee, Caller, caller

rpc = Callee()
POOLS = (None, "thread", "process")


def ask(text: str = "", *, who: Caller):
    return [who.identity, who.known, caller().identity]


def raw(call: Call):
    return [call.caller.identity, call.caller.known, caller().identity]


for pool in POOLS:
    rpc.register(f"ask.{pool}", ask, pool=pool)
    rpc.register(f"raw.{pool}", raw, pool=pool, raw=True)
"""
URIS = [f"{kind}.{pool}" for kind in ("ask", "raw") for pool in POOLS]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    path = tmp_path_factory.mktemp("desk")
    (path / "desk.py").write_text(DESK)
    return path


@contextmanager
def serving(desk, redis_url):
    with running("desk:rpc", "--redis", redis_url, "--pool-processes", "1", "--threads", "2", cwd=desk) as process:
        assert process.said.startswith("serving"), process.stderr.read()
        yield


def test_a_function_knows_its_caller_in_every_pool(desk, redis_url):
    hook = bearer({"1": {"sub": "ann"}, "2": "bob"}.get, optional=True)
    with serving(desk, redis_url), running_server(RedisBroker(redis_url), connect=hook) as server:
        for query, known in (("?token=1", {"sub": "ann"}), ("?token=2", "bob"), ("", None)):
            with Client(server.url + query) as client:
                for uri in URIS:
                    assert client.call(uri, timeout=60) == [known, known is not None, known], uri


def test_the_caller_of_a_go_server_is_unknown(desk, redis_url):
    conn = "00000000-0000-4000-8000-000000000030"
    with serving(desk, redis_url), redis.Redis.from_url(redis_url, protocol=2) as client:
        for number, uri in enumerate(URIS):
            msg = f"00000000-0000-4000-8000-{number:012}"
            client.set(f"juggler:calls:timeout:{{{uri}}}:{msg}", 60_000, px=60_000)
            call = {"conn_uuid": conn, "msg_uuid": msg, "uri": uri, "args": {"text": "by"}}
            client.lpush(f"juggler:calls:{{{uri}}}", json.dumps(call))
            _, result = client.brpop(f"juggler:results:{{{conn}}}", timeout=60)
            assert json.loads(result) == {**call, "args": [None, False, None]}
        client.flushall()
