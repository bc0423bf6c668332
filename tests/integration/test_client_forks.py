"""Clients that exist when their process forks, as with gunicorn's --preload or Celery."""

from __future__ import annotations

import ssl
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import trustme
from websockets.exceptions import ConnectionClosed as WebsocketClosed

from tests.integration.scripted import CALL, SUB, serving

ROOT = Path(__file__).parents[2]
FORKED = "ConnectionClosed: 1006 the client was created before a fork; create one in each process"

# The child uses all of the client while the parent does; each prints what came of it.
HELPERS = """
import asyncio, os, socket, sys

url, authority = sys.argv[1:]

def outcomes(functions):
    for function in functions:
        try:
            print("child:", function(), flush=True)
        except Exception as error:
            print(f"child: {type(error).__name__}: {error}", flush=True)

def fork(functions, meanwhile):
    waits, go = socket.socketpair()
    child = os.fork()
    if child == 0:
        go.close()
        waits.recv(1)  # greenlets, if any, run
        outcomes(functions)
        os._exit(0)
    meanwhile()
    go.close()
    assert os.waitpid(child, 0) == (child, 0)
"""

BLOCKING = (
    HELPERS
    + """
import ssl
from juggler.client import Client

def from_a_new_client():
    with Client(url, ssl=context) as own:
        own.subscribe("news")
        return own.call("test.echo", "new")

def go_on():
    assert [client.call("test.echo", n) for n in range(1, 50)] == list(range(1, 50))

context = ssl.create_default_context(cafile=authority) if authority else None
with Client(url, timeout=2, ssl=context) as client, client.subscribe("news") as news:
    pending = client.start_call("test.echo", 0)
    assert news.get(5).args == 0
    fork([
        lambda: client.call("test.echo"),
        lambda: client.subscribe("more"),
        lambda: client.send_raw("x"),
        lambda: client.wait_connected(5),
        lambda: pending.result(5),
        lambda: news.get(5),
        news.close,
        client.close,
        lambda: client.connected,
        from_a_new_client,
    ], go_on)
    assert [news.get(5).args for _ in range(1, 50)] == list(range(1, 50))
    assert pending.result() == 0
    assert client.call("test.echo", 50) == 50
    print("parent:", client.connected)
"""
)

ASYNCIO = (
    HELPERS
    + """
from juggler.client import AsyncClient

unused = AsyncClient(url)

async def main():
    client = AsyncClient(url, timeout=2)
    async with client, await client.subscribe("news") as news:
        pending = await client.start_call("test.echo", 0)
        assert (await news.get(5)).args == 0

        def run(request):
            def in_a_new_loop():
                asyncio._set_running_loop(None)
                return asyncio.run(request())
            return in_a_new_loop

        async def first():
            async with unused:
                await unused.subscribe("news")
                return await unused.call("test.echo", "new")

        fork([
            run(lambda: client.call("test.echo")),
            run(lambda: client.subscribe("more")),
            run(lambda: client.send_raw("x")),
            run(lambda: client.wait_connected(5)),
            run(lambda: pending.result(5)),
            run(lambda: news.get(5)),
            run(news.close),
            run(client.close),
            lambda: client.connected,
            run(first),
        ], lambda: None)
        assert [await client.call("test.echo", n) for n in range(1, 50)] == list(range(1, 50))
        assert [(await news.get(5)).args for _ in range(1, 50)] == list(range(1, 50))
        assert await pending.result() == 0
        print("parent:", client.connected)

asyncio.run(main())
"""
)


def publish_each_call(peer):
    with suppress(WebsocketClosed):
        peer.acknowledge(SUB)
        while True:
            request = peer.acknowledge()
            if request["meta"]["type"] == CALL:
                peer.event("news", request["payload"]["args"])
                peer.res(request, request["payload"]["args"])


@pytest.mark.parametrize(
    ("program", "is_secure"),
    [
        (BLOCKING, False),
        (BLOCKING, True),
        ("from gevent import monkey; monkey.patch_all()\n" + BLOCKING, False),
        ("from gevent import monkey; monkey.patch_all()\n" + BLOCKING, True),
        (ASYNCIO, False),
    ],
    ids=["threads", "threads, TLS", "greenlets", "greenlets, TLS", "asyncio"],
)
def test_a_child_does_not_use_the_connection_of_its_parent(tmp_path, program, is_secure):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    context = None
    if is_secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
    with serving(publish_each_call, ssl=context) as url:
        if is_secure:
            url = url.replace("ws://127.0.0.1", "wss://localhost")
        done = subprocess.run(
            [
                sys.executable,
                "-W",
                "ignore::DeprecationWarning",
                "-c",
                program,
                url,
                str(tmp_path / "authority.pem") if is_secure else "",
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    used = [FORKED] * 6 + ["None", "None", "False", "new"]
    assert done.stdout.splitlines() == [*(f"child: {each}" for each in used), "parent: True"], done.stderr
    assert not done.stderr
