"""The soak passes, and fails on broken promises: one message in 1,000, canaries, eternal keys, sets that grow."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from contextlib import contextmanager
from math import inf

import gevent
import pytest
import redis

from juggler.handlers import chain
from juggler.protocol.messages import Evnt
from loadtest.disturbances import Disturbances
from loadtest.soak import crowd as crowd_module
from loadtest.soak import keys as keys_module
from loadtest.soak.crowd import Crowd
from loadtest.soak.keys import KeyWatch
from loadtest.soak.readiness import Readiness
from tests.integration.commands import ROOT
from tests.stack import running_server, serving
from tests.support import eventually

pytestmark = pytest.mark.xdist_group("load")


def soak(*options):
    command = [sys.executable, "-m", "loadtest.soak", "--subscribers", "60", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)


def test_a_short_soak():
    done = soak("--minutes", "0.05", "--many", "200")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("ok      all promises were kept, all resources are back to normal\n")
    for what in (
        "kill Redis",
        "kill a callee",
        "by SIGHUP",
        "kill a worker of the server",
        "a burst to 200 subscribers",
        "cancels: ",
        "slow reader: ",
        "learnt that their callee was killed: ",
    ):
        assert what in done.stdout
    rows = (
        "memory, server worker",
        "files, callee process",
        "juggler_connection_greenlets_active",
        "keys, ",
        "members, ",
    )
    for row in rows:
        assert re.search(f"^{row}", done.stdout, re.MULTILINE)


# Noticed at the end, and at once. The other kinds: tests/unit/test_loadtest_audit.py, tests/integration/test_load.py.
@pytest.mark.parametrize(
    ("kind", "event", "result"),
    [
        ("drop", "an event was missed", "an acknowledged call without a result|calls .* had no result in time"),
        ("misroute", "an event without a subscription", "a response (at another|to an unknown)|RES at another client"),
    ],
)
def test_one_message_in_a_thousand_is_noticed(kind, event, result):
    done = soak("--minutes", "0.1", "--calm", "--many", "0", "--sabotage", kind)
    assert done.returncode == 1, done.stdout + done.stderr
    for promise in (event, result):
        assert re.search(rf"^WRONG   \d+ (x )?({promise})", done.stdout, re.MULTILINE), done.stdout


# The crowd: canaries


@contextmanager
def crowded(handler=None):
    """A crowd of a few subscribers at a server, whose canaries are due after a second."""
    options = {} if handler is None else {"handler": chain(handler)}
    with running_server(**options) as running, serving(running.broker, ["test.echo"], lambda call: call.args):
        readiness = Readiness(running.url)
        crowd = Crowd([running.url], [readiness], Disturbances(), subscribers=5)
        try:
            yield crowd, readiness
        finally:
            crowd.stop()
            readiness.stop()


def without_canaries(next_handler):
    def handler(ctx, connection, message):
        if not isinstance(message, Evnt) or not message.channel.startswith("canary"):
            next_handler(ctx, connection, message)

    return handler


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(crowd_module, "CANARY_TIMEOUT", 2.0)
    monkeypatch.setattr(crowd_module, "LAST_EVENTS", 0.1)


def test_a_crowd(impatient):
    with crowded() as (crowd, _):
        eventually(lambda: crowd.accounts.deliveries > 5 * crowd_module.BURST and crowd.accounts.results)
    assert dict(crowd.accounts.violations.counts) == {}


def test_canaries_are_missing_although_the_server_is_ready(impatient):
    with crowded(without_canaries) as (crowd, readiness):
        eventually(lambda: "no canary, although the servers are ready" in crowd.accounts.violations.counts)
        assert readiness.unready_at == -inf


def test_canaries_may_be_missing_while_a_server_is_unready(impatient):
    with crowded(without_canaries) as (crowd, readiness):
        readiness.unready_at = inf
        started = time.monotonic()
        eventually(lambda: time.monotonic() > started + 4 and crowd.accounts.deliveries)
        assert "no canary, although the servers are ready" not in crowd.accounts.violations.counts


def test_readiness_of_a_server_that_is_gone():
    with running_server() as running:
        readiness = Readiness(running.url)
    try:
        eventually(lambda: readiness.unready_at > 0)
    finally:
        readiness.stop()


# Keys


@pytest.fixture
def watch(redis_url, monkeypatch):
    monkeypatch.setattr(keys_module, "INTERVAL", 0.05)
    with redis.Redis.from_url(redis_url) as client:
        watch = KeyWatch(redis_url, lambda: 2)
        yield watch, client
        watch.stop()
        client.flushall()


def read_again(watch):
    readings = watch.readings
    eventually(lambda: watch.readings >= readings + 3)


def test_keys_that_expire_and_keys_of_others(watch):
    watch, client = watch
    client.set("juggler:calls:timeout:{u}:1", 1, px=60_000)
    client.set("others", 1)
    for key in ("juggler:callees:{u}", "juggler:uris"):
        client.sadd(key, 1, 2)
        client.expire(key, 60)
    read_again(watch)
    assert dict(watch.violations.counts) == {}


@pytest.mark.parametrize("key", ["juggler:calls:{u}", "juggler:results:{c}", "juggler:uris", "shop:juggler:calls:{u}"])
def test_a_key_without_an_expiry(watch, key):
    watch, client = watch
    client.sadd(key, 1) if key.endswith("uris") else client.lpush(key, "x")
    read_again(watch)
    assert set(watch.violations.counts) == {"a key without an expiry"}


def test_a_set_of_callees_that_grows(watch):
    watch, client = watch
    client.sadd("juggler:callees:{u}", 1, 2, 3)
    client.expire("juggler:callees:{u}", 60)
    read_again(watch)
    assert set(watch.violations.counts) == {"a set of callees grows"}


def test_redis_may_be_down(mortal):
    watch = KeyWatch(mortal.url, lambda: 2)
    gevent.sleep(0)
    mortal.start()
    watch.read()
    watch.stop()
    assert watch.readings >= 1
