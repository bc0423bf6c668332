"""docs/backend.md, run as it stands against the callees of the example. Only the address is put in."""

from __future__ import annotations

import re
from contextlib import ExitStack

import pytest
import redis

from juggler.backend import Backend
from juggler.errors import CallFailed
from tests.docs import DOCS, run_blocks
from tests.integration.commands import run_python, running_python, server_process

(ACL,) = re.findall(r"^ACL SETUSER (.*)$", (DOCS / "backend.md").read_text(), re.MULTILINE)
MAIN = """
import asyncio, sys
from tests.docs import run_blocks

url, shown = sys.argv[1:]
print(asyncio.run(run_blocks("backend.md", {shown: url})["main"](url)))
"""
SHOWN = "redis://127.0.0.1:6379"


@pytest.fixture
def shop(redis_url):
    with running_python("-m", "callee.cli", "examples.backends.callees:rpc", "--redis", redis_url) as process:
        assert process.stdout.readline(), process.stderr.read()
        yield redis_url


def test_the_page_works(shop):
    names = run_blocks("backend.md", {SHOWN: shop})
    with names["backend"]:
        assert (names["price"], names["cup"], names["receivers"], names["counts"]) == (3, 7, 0, [0, 0])
        assert isinstance(names["failed"], CallFailed)
        assert names["placed"] == "tea for {'user': 17}"
        assert (names["lines"], names["number"]) == (["tea: 3", "cup: 7"], 2)
    done = run_python("-c", MAIN, shop, SHOWN)
    assert done.stdout == "([3, 7], ['tea: 3', 'cup: 7'])\n", done.stderr


def test_the_documented_permissions_are_enough(mortal):
    mortal.start()
    with redis.Redis(port=mortal.port) as client, ExitStack() as stack:
        client.execute_command("ACL", "SETUSER", *ACL.split())
        command = ("-m", "callee.cli", "examples.backends.callees:rpc", "--redis", mortal.url)
        process = stack.enter_context(running_python(*command))
        assert process.stdout.readline(), process.stderr.read()
        stack.enter_context(server_process(mortal.url))
        backend = stack.enter_context(Backend(mortal.url.replace("//", "//juggler-backend:password@")))
        assert backend.call("shop.price", "tea") == 3
        with backend.stream("shop.report", window=1) as stream:
            assert len(list(stream)) == 2
        stack.enter_context(backend.stream("shop.report", window=1)).close()
        pending = backend.start_call("nobody")
        pending.cancel()
        assert backend.publish_many([("a", 1), ("b", 2)]) == [0, 0]
        assert backend.disconnect(identity="ann").answered == 1
        client.sadd("juggler:servers", "gone")
        assert backend.connections().servers == 1
        assert client.acl_log() == []
