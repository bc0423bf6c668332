"""Backends on every kind of Redis, with faults of each: restarts, failovers, slots that move, passwords, TLS."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import ExitStack

import pytest
import redis
import trustme

from juggler.backend import AsyncBackend, Backend
from juggler.client import Client
from juggler.errors import (
    BrokerUnavailable,
    CallFailed,
    CapacityExceeded,
    Expired,
    JugglerError,
)
from tests.integration.commands import run_python, server_process
from tests.integration.test_backend import functions
from tests.integration.unpatched import UNPATCHED, pass_unpatched
from tests.redis_servers import one_sentinel, sentinels, tls_proxy
from tests.support import eventually


def check(url: str, *args: str, **options) -> None:
    """Check that events, calls and streams work with both backends, and with a server and callees at this URL."""
    with (
        functions(url, "/dev/null", *args),
        server_process(url, *args) as server,
        Client(server) as client,
        client.subscribe("news") as news,
        Backend(url, **options) as backend,
    ):
        use(backend)
        asyncio.run(use_async(url, **options)) if UNPATCHED else None
        backend.publish_many([("news", n) for n in range(600)])
        eventually(lambda: news.get(5).args == 599)


def use(backend: Backend) -> None:
    assert [backend.call("echo", n) for n in range(20)] == list(range(20))
    assert [backend.start_call("echo", n).result() for n in range(5)] == list(range(5))
    with backend.stream("numbers", 100, window=8) as stream:
        assert list(stream) == list(range(100))
    backend.publish("others", 1)
    pending = backend.start_call("nobody")
    pending.cancel(wait=True)
    with pytest.raises(CallFailed, match="cancelled"):
        pending.result()
    with pytest.raises(Expired):
        backend.call("nobody", timeout=0.1)


async def use_async(url: str, **options) -> None:
    async with AsyncBackend(url, **options) as backend:
        assert await asyncio.gather(*(backend.call("echo", n) for n in range(20))) == list(range(20))
        async with backend.stream("numbers", 100, window=8) as stream:
            assert [part async for part in stream] == list(range(100))
        await backend.publish_many([("others", n) for n in range(600)])
        with pytest.raises(Expired):
            await backend.call("nobody", timeout=0.1)


TLS_REFUSED = "CERTIFICATE_VERIFY_FAILED|no sentinel of .* knows a master"

# For the asyncio backend, in a process without gevent: the proxy that terminates TLS is in this one.
# On a busy machine, the sentinel behind it may not answer within its second.
OVER_TLS = """
import asyncio, sys
from juggler.backend import AsyncBackend
from juggler.errors import BrokerUnavailable

async def main():
    async with AsyncBackend(sys.argv[1]) as backend:
        for attempt in range(20):
            try:
                return print([await backend.call("echo", n) for n in range(9)])
            except BrokerUnavailable as error:
                print(error, file=sys.stderr)

asyncio.run(main())
"""

if not UNPATCHED:

    def test_all_of_these_pass_in_an_unpatched_process():
        pass_unpatched(__file__)

    @pytest.mark.parametrize("scheme", ["rediss", "rediss+sentinel"])
    def test_tls(mortal, tmp_path, scheme):
        authority = trustme.CA()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        mortal.start()
        with ExitStack() as stack:
            place = f"127.0.0.1:{stack.enter_context(tls_proxy(context, mortal.port))}"
            if scheme == "rediss+sentinel":
                asked = stack.enter_context(one_sentinel(tmp_path, int(place.rpartition(":")[2]), ""))
                place = f"127.0.0.1:{stack.enter_context(tls_proxy(context, asked))}/mymaster"
            stack.enter_context(functions(mortal.url))
            trusting = f"{scheme}://{place}?ssl_ca_certs={tmp_path}/ca.pem"
            backend = stack.enter_context(Backend(trusting))
            eventually(lambda: _answers(backend), timeout=60)
            use(backend)
            done = run_python("-W", "error", "-c", OVER_TLS, trusting)
            assert done.stdout == f"{list(range(9))}\n", done.stderr
            with Backend(f"{scheme}://{place}") as distrusting, pytest.raises(BrokerUnavailable, match=TLS_REFUSED):
                distrusting.publish("news")

else:

    def test_a_password_a_database_and_a_key_prefix(mortal):
        mortal.start("--requirepass", "s/e@c?r%t")
        url = mortal.url.replace("//", "//:s/e@c%3Fr%25t@") + "/2?client_name=shop"
        check(url, "--key-prefix", "shop:", key_prefix="shop:")
        with redis.Redis(port=mortal.port, password="s/e@c?r%t", db=2) as client:
            assert all(key.startswith(b"shop:juggler:") for key in client.scan_iter())

    def test_a_unix_socket(mortal, tmp_path):
        path = tmp_path / "redis.sock"
        mortal.start("--unixsocket", str(path))
        check(f"unix://{path}?db=3")

    def test_sentinels_and_a_failover(tmp_path):
        with sentinels(tmp_path) as deployment, functions(deployment.url), Backend(deployment.url) as backend:
            use(backend)
            asyncio.run(use_async(deployment.url))
            deployment.master.kill()
            eventually(lambda: deployment.master_port() == deployment.replica.port, timeout=60)
            eventually(lambda: _answers(backend), timeout=60)
            use(backend)
            asyncio.run(use_async(deployment.url))

    def test_a_failover_on_demand_moves_idle_connections_to_the_new_master(tmp_path):
        with sentinels(tmp_path) as deployment, functions(deployment.url), Backend(deployment.url) as backend:
            use(backend)
            deployment.fail_over()
            eventually(lambda: _answers(backend), timeout=60)
            use(backend)

    @pytest.mark.parametrize("options", ["", "?sharded=1"])
    def test_a_cluster(redis_cluster, options):
        check(f"{redis_cluster.url}{options}")
        assert not [key for key in redis_cluster.keys() if not key.startswith(OF_PROCESSES)]  # noqa: SIM118
        redis_cluster.flush()

    def test_slots_that_move_while_a_backend_uses_them(redis_cluster):
        key = b"juggler:calls:{echo}"
        source = redis_cluster.master_of(key)
        target, third = (node for node in redis_cluster.masters if node is not source)
        with functions(redis_cluster.url), Backend(redis_cluster.url) as backend:
            assert backend.call("echo", 1) == 1
            redis_cluster.move(key, target)
            assert backend.call("echo", 2) == 2
            # While the slot migrates, its keys are on either node.
            moving = redis_cluster.begin_move(key, third)
            assert backend.call("echo", 3) == 3
            redis_cluster.end_move(*moving, third)
            assert backend.call("echo", 4) == 4
        with Backend(redis_cluster.url, call_capacity=1) as backend:
            pending = backend.start_call("nobody")
            with pytest.raises(CapacityExceeded):
                backend.call("nobody")
            pending.cancel()
            assert not [key for key in redis_cluster.keys() if not key.startswith(OF_PROCESSES)]  # noqa: SIM118
        redis_cluster.move(key, source)
        redis_cluster.flush()


OF_PROCESSES = (b"juggler:callee", b"juggler:server", b"juggler:uris", b"juggler:results:{", b"juggler:calls:{")
"""Keys of processes that were killed, and lists, which expire."""


def _answers(backend: Backend) -> bool:
    try:
        return backend.call("echo", 1, timeout=2) == 1
    except JugglerError:
        return False
