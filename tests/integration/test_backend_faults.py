"""Backends while Redis is away, dies, is silent, or refuses them: each a clear error within a bound."""

from __future__ import annotations

import signal
import threading
import time

import pytest
import redis

from juggler.backend import Backend
from juggler.errors import (
    BrokerError,
    BrokerUnavailable,
    ConfigError,
    Expired,
    OutcomeUnknown,
)
from tests.integration.test_backend import functions
from tests.integration.unpatched import UNPATCHED, pass_unpatched
from tests.support import eventually

if not UNPATCHED:

    def test_all_of_these_pass_in_an_unpatched_process():
        pass_unpatched(__file__)


def test_redis_away_and_back(mortal):
    with Backend(mortal.url) as backend:
        for use in (
            lambda: backend.publish("news"),
            lambda: backend.publish_many([("news", 1)]),
            lambda: backend.call("echo"),
            lambda: backend.start_call("echo"),
            lambda: backend.stream("numbers", 1),
        ):
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable, match=rf"no connection to Redis at {mortal.url}: ") as error:
                use()
            assert (type(error.value), error.value.code) == (BrokerUnavailable, 503)
            assert time.monotonic() - began < 2
        for _ in range(2):
            mortal.start()
            with functions(mortal.url):
                assert backend.call("echo", 1) == 1
                assert backend.publish("news") == 0
            mortal.kill()
            with pytest.raises(BrokerUnavailable):
                backend.publish("news")


def test_redis_dies_while_results_are_awaited(mortal):
    mortal.start()
    outcomes = {}
    with functions(mortal.url), Backend(mortal.url) as backend:

        def call() -> None:
            outcomes["call"] = _outcome(lambda: backend.call("wait", 30))

        def stream() -> None:
            with backend.stream("endless", window=2) as parts:
                outcomes["stream"] = _outcome(lambda: [time.sleep(0.01) for _ in parts])

        threads = [threading.Thread(target=each) for each in (call, stream)]
        for thread in threads:
            thread.start()
        with redis.Redis.from_url(mortal.url) as client:
            eventually(lambda: client.keys("juggler:calls:{wait}") or client.keys("juggler:callee:*"))
            eventually(lambda: not client.keys("juggler:calls:timeout:*"))
        mortal.kill()
        began = time.monotonic()
        for thread in threads:
            thread.join(30)
        assert time.monotonic() - began < 12
        for error in outcomes.values():
            assert isinstance(error, OutcomeUnknown), error
            assert str(error).startswith("no connection to Redis while waiting for the result of ")
            assert error.code == 504
        assert len(outcomes) == 2


def test_a_short_outage_is_survived_while_a_result_is_awaited(mortal):
    mortal.start()
    with functions(mortal.url), Backend(mortal.url) as backend:
        pending = backend.start_call("wait", 2)
        with redis.Redis.from_url(mortal.url) as client:
            eventually(lambda: not client.keys("juggler:calls:timeout:*"))
        mortal.kill()
        mortal.start()
        assert pending.result() == "done"


def _outcome(use) -> Exception | None:
    try:
        use()
    except Exception as error:
        return error
    return None


def test_a_silent_redis(mortal):
    mortal.start()
    with Backend(mortal.url) as backend:
        assert backend.publish("news") == 0
        mortal.signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(OutcomeUnknown, match="the connection to Redis was lost"):
                backend.publish("news")
            with pytest.raises(BrokerUnavailable):
                backend.call("echo", 1)
            assert time.monotonic() - began < 15
        finally:
            mortal.signal(signal.SIGCONT)
        eventually(lambda: backend.publish("news") == 0)


@pytest.mark.parametrize(
    "url", ["redis://:wrong@127.0.0.1:{}", "redis://ann:wrong@127.0.0.1:{}", "redis://127.0.0.1:{}"]
)
def test_a_wrong_password(mortal, url):
    mortal.start("--requirepass", "secret")
    with Backend(url.format(mortal.port)) as backend:
        for use in (lambda: backend.publish("news"), lambda: backend.call("echo")):
            with pytest.raises(ConfigError, match=r"^Redis at redis://.*127\.0\.0\.1:\d+ refuses access: ") as error:
                use()
            assert ":wrong" not in repr(error.value)


@pytest.mark.parametrize("url", ["http://:secret@x", "redis://:secret@x?what=1", "redis://:sec/ret@x:y", "secret"])
def test_an_invalid_url(url):
    with pytest.raises(ConfigError, match="Redis URL") as error:
        Backend(url)
    assert "secret" not in str(error.value)
    assert "sec/ret" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_connections": 1}, "max_connections: expected at least 2, got 1"),
        ({"pool_timeout": -1}, "pool_timeout: expected at least 0 seconds, got -1"),
        ({"call_timeout": 0}, "timeout: expected more than 0"),
        ({"call_capacity": -1}, "call_capacity: expected at least 0, got -1"),
        ({"max_stream_time": 0}, "max_stream_time: expected more than 0 seconds, got 0"),
        ({"key_prefix": "{x}"}, "key_prefix: expected no braces"),
    ],
)
def test_invalid_options(options, reason):
    with pytest.raises(ValueError, match=reason):
        Backend(**options)


def test_missing_permissions(mortal):
    mortal.start()
    with redis.Redis(port=mortal.port) as client:
        client.execute_command("ACL", "SETUSER", "ann", "on", ">word", "~juggler:*", "&*", "+ping", "+pexpire")
    with Backend(f"redis://ann:word@127.0.0.1:{mortal.port}") as backend:
        for use in (lambda: backend.publish("news"), lambda: backend.call("echo")):
            with pytest.raises(BrokerError, match=r"^the Redis user lacks a permission: .*permissions") as error:
                use()
            assert error.value.code == 500
            assert "permissions" not in error.value.reason


def test_a_full_redis(mortal):
    mortal.start("--maxmemory", "2mb", "--maxmemory-policy", "noeviction")
    with Backend(mortal.url) as backend:

        def fill() -> None:
            for _ in range(20):
                backend.start_call("echo", "x" * 1_000_000)

        with pytest.raises(BrokerUnavailable, match="Redis refused the request: "):
            fill()


def test_a_closed_backend(mortal):
    mortal.start()
    backend = Backend(mortal.url)
    pending = backend.start_call("nobody")
    backend.close()
    backend.close()
    for use in (lambda: backend.publish("news"), lambda: backend.call("echo"), pending.result):
        with pytest.raises(BrokerUnavailable, match=r"^the backend is closed$"):
            use()


def test_a_result_that_is_lost_expires(mortal):
    mortal.start()
    with Backend(mortal.url) as backend:
        pending = backend.start_call("nobody", timeout=1)
        with redis.Redis.from_url(mortal.url) as client:
            client.flushall()
        with pytest.raises(Expired):
            pending.result()
