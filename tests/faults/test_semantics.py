"""What a client and a function see of a failure, in how many seconds: the rows of docs/semantics.md that need it."""

from __future__ import annotations

import re
import signal
import time
from contextlib import closing, suppress
from urllib.parse import urlsplit

import gevent
import pytest

from juggler.client import Client
from juggler.errors import CallFailed, ConnectionClosed, Expired, Nacked
from tests.docs import DOCS, ROOT
from tests.faults.network import network
from tests.integration.commands import running
from tests.support import eventually

NOTES = "tests.faults.functions:rpc"
PAGE = (DOCS / "semantics.md").read_text("utf-8")
AT_ONCE = 1.0
"""Seconds that are enough for what happens at once, although others use the machine."""


@pytest.fixture
def connect(processes):
    """Connect a client; it is closed with the test."""

    def open_client(url, **options):
        return processes.enter_context(closing(Client(url, **options)))

    return open_client


def ended(pending, timeout=30):
    """Wait for the end of a call; return the error, and how long it took."""
    since = time.monotonic()
    with pytest.raises(Exception) as raised:  # noqa: PT011 (the tests check the type)
        pending.result(timeout)
    return raised.value, time.monotonic() - since


def test_each_proof_of_the_page_exists():
    proofs = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(proofs) > 20
    for path, name in proofs:
        assert re.search(rf"^ *def {name}\(", (ROOT / path).read_text("utf-8"), re.MULTILINE), f"{path}::{name}"
    assert len(proofs) == PAGE.count("`tests/")


def wait_for_queue(admin, uri):
    """Wait until one call to a URI is queued."""
    eventually(lambda: admin.llen(f"juggler:calls:{{{uri}}}") == 1)


def wait_for_report(mortal):
    """Wait until a callee reports to the server that a call has run for two seconds. Meanwhile, none may complete."""
    with mortal.client() as admin, admin.monitor() as monitor, gevent.Timeout(20):
        while not monitor.next_command()["command"].startswith("LPUSH juggler:results:"):
            pass


def test_a_server_is_killed(mortal, start_server, start_callee, connect, notes, processes):
    """Calls in flight fail at once. The running function completes, a queued call runs later; each runs once."""
    url, process = start_server()
    client = connect(url)
    start_callee("-c", "1", target=NOTES, NOTES=notes.path)
    client.call("note", 0)
    started = client.start_call("wait", 1.5)
    queued = client.start_call("note", 1)
    with mortal.client() as admin, client.subscribe("news") as news:
        wait_for_queue(admin, "note")
        process.kill()
        for pending in (started, queued):
            error, seconds = ended(pending)
            assert isinstance(error, ConnectionClosed)
            assert seconds < AT_ONCE
        with pytest.raises(ConnectionClosed):
            client.call("note", 2)
        # Another server on the same port: the client comes back by itself, and counts the gap.
        address = urlsplit(url).netloc
        again = processes.enter_context(running("server", "--bind", address, REDIS_URL=mortal.url))
        assert "ws://" in again.stdout.readline()
        assert client.wait_connected(20)
        eventually(lambda: news.gaps == 1)
        client.publish("news", "hello")
        assert news.get(timeout=10).args == "hello"
    eventually(lambda: [value for _, value in notes()] == [0, 1], message="the queued call has run, once")


def test_a_callee_is_killed(mortal, start_server, start_callee, connect, notes):
    """A call that has run for two seconds fails within seven; a younger one expires; a queued one waits."""
    url, _ = start_server()
    client = connect(url)
    victim = start_callee("-c", "2", target=NOTES, NOTES=notes.path)
    long = client.start_call("wait", 60.0)
    wait_for_report(mortal)
    young = client.start_call("wait", 60.0, timeout=3)
    queued = client.start_call("note", "queued", timeout=60)
    with mortal.client() as admin:
        wait_for_queue(admin, "note")
    victim.kill()
    error, seconds = ended(long)
    assert (type(error), error.type) == (CallFailed, "CalleeGone")
    assert seconds < 7
    error, _ = ended(young)
    assert isinstance(error, Expired)
    start_callee(target=NOTES, NOTES=notes.path)
    assert queued.result(20) == "queued"


def test_a_callee_stands_still(mortal, start_server, start_callee, connect):
    """A long call fails within seven seconds, although its process may go on."""
    url, _ = start_server()
    client = connect(url)
    callee = start_callee(target=NOTES, NOTES="/dev/null")
    pending = client.start_call("wait", 60.0)
    wait_for_report(mortal)
    callee.send_signal(signal.SIGSTOP)
    error, seconds = ended(pending)
    callee.send_signal(signal.SIGCONT)
    assert (type(error), error.type) == (CallFailed, "CalleeGone")
    assert seconds < 7


def test_the_network_between_client_and_server_is_cut(start_server, connect, start_callee):
    """The client notices by pings, fails its calls and reconnects when the network is back."""
    url, _ = start_server("--ping-interval", "1", "--ping-timeout", "1")
    start_callee()
    with network(urlsplit(url).port) as net:
        client = connect(net.url.replace("redis://", "ws://") + "/ws", ping_interval=1.0, ping_timeout=1.0)
        assert client.call("test.echo", 1) == 1
        pending = client.start_call("test.delay", "60000", timeout=60)
        net.is_down = True
        error, seconds = ended(pending)
        assert isinstance(error, ConnectionClosed)
        assert seconds < 2 + AT_ONCE + 1
        net.heal()
        assert client.wait_connected(20)
        assert client.call("test.echo", 2) == 2


def test_a_server_stops(start_server, start_callee, connect, notes):
    """Calls in flight complete, then the connection is closed with 1001."""
    url, process = start_server("--grace", "5")
    start_callee(target=NOTES, NOTES=notes.path)
    busy, idle = connect(url, reconnect=False), connect(url, reconnect=False)
    assert busy.call("note", 1) == idle.call("note", 1) == 1
    pending = busy.start_call("wait", 1.0)
    process.send_signal(signal.SIGTERM)
    assert pending.result(10) == 1.0
    assert process.wait(10) == 0
    for client in (busy, idle):
        with pytest.raises(ConnectionClosed) as closed:
            client.call("note", 2)
        assert closed.value.code == 1001


def test_redis_is_gone(mortal, start_server, start_callee, connect):
    """Requests are refused at once, connections stay, and everything works again within seconds."""
    url, _ = start_server()
    start_callee()
    client = connect(url)
    with client.subscribe("news") as news:
        in_flight = client.start_call("test.delay", "500", timeout=3)
        assert client.call("test.echo", 1) == 1  # so the call before it has been stored
        mortal.kill()
        eventually(lambda: refusal(client) == 503)
        since = time.monotonic()
        assert refusal(client) == 503
        assert time.monotonic() - since < AT_ONCE
        mortal.start()
        since = time.monotonic()
        eventually(lambda: refusal(client) == 0)
        assert time.monotonic() - since < 2 + AT_ONCE
        eventually(lambda: not published(client) and news.get(timeout=0.5))
        assert news.gaps == 0, "the connection of the client was not lost"
    # It was in flight when Redis was killed.
    with suppress(CallFailed, Expired):
        assert in_flight.result(10) == 500


def refusal(client):
    """Call; return the code of the refusal, or 0."""
    try:
        client.call("test.echo", 1, timeout=5)
    except Nacked as refused:
        return refused.code
    except Expired:
        return -1
    return 0


def published(client):
    try:
        client.publish("news", 1)
    except Nacked as refused:
        return refused.code
    return 0
