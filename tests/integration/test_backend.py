"""Backends: publish, call, stream and cancel, against a real Redis and real processes.

The tests run twice: in this process, which gevent has patched, and in an unpatched one, with those of `AsyncBackend`.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from juggler.backend import Backend
from juggler.client import Client
from juggler.errors import (
    BrokerError,
    BrokerUnavailable,
    CallFailed,
    Cancelled,
    CapacityExceeded,
    Expired,
    InvalidValue,
)
from tests.integration.commands import run_python, running, running_python, server_process
from tests.integration.unpatched import UNPATCHED, pass_unpatched
from tests.support import eventually, keys_of_calls

if not UNPATCHED:

    def test_all_of_these_pass_in_an_unpatched_process():
        pass_unpatched(__file__)


@contextmanager
def functions(redis_url: str, notes: Path | str = "/dev/null", *args: str) -> Iterator[int]:
    """Run a callee process, and yield its identifier."""
    command = ("-m", "callee.cli", "tests.integration.backend_functions:rpc", "--redis", redis_url)
    with running_python(*command, *args, JUGGLER_TEST_NOTES=str(notes)) as process:
        assert process.stdout.readline(), process.stderr.read()
        yield process.pid


OWN = ("--key-prefix", "own:")


@pytest.fixture(scope="module")
def callee(redis_server, tmp_path_factory) -> Iterator[Path]:
    """A callee process for all tests that do not kill it; yields the file of its notes."""
    notes = tmp_path_factory.mktemp("callee") / "notes"
    with functions(redis_server.url, notes):
        yield notes


@pytest.fixture
def notes(callee) -> Path:
    """What the functions of the callee note."""
    callee.write_text("")
    return callee


@pytest.fixture
def backend(redis_url, callee) -> Iterator[Backend]:
    with Backend(redis_url) as backend:
        yield backend


def test_importing_needs_no_gevent():
    code = "import juggler.backend, sys; juggler.backend.Backend, juggler.backend.AsyncBackend; "
    code += "juggler.backend.Backend(); assert 'gevent' not in sys.modules"
    assert run_python("-W", "error", "-c", code).returncode == 0


# Events


def test_events_reach_the_clients_of_a_server(redis_url):
    with (
        Backend(redis_url) as backend,
        server_process(redis_url) as url,
        Client(url) as client,
        client.subscribe("news") as news,
    ):
        assert backend.publish("others", 1) == 0
        assert backend.publish("news", {"text": "tea — ☕"}) == 1
        assert backend.publish_json("news", b'{"a":  1.50}') == 1
        assert backend.publish_many([("news", 1), ("others", 2), ("news", [3])]) == [1, 0, 1]
        assert [news.get(5).args for _ in range(4)] == [{"text": "tea — ☕"}, {"a": 1.5}, 1, [3]]


def test_ten_thousand_events_in_one_batch_arrive_in_order(redis_url):
    with (
        Backend(redis_url) as backend,
        server_process(redis_url) as url,
        Client(url, max_events=20_000) as client,
        client.subscribe("news") as news,
    ):
        assert backend.publish_many(("news", n) for n in range(10_000)) == [1] * 10_000
        assert [news.get(10).args for _ in range(10_000)] == list(range(10_000))
        assert news.gaps == news.dropped == 0


def test_the_largest_batch_does_not_overflow_a_server_that_reads_nothing(redis_url):
    text = "x" * 700
    with (
        Backend(redis_url) as backend,
        redis.Redis.from_url(redis_url) as client,
        running("server", "--bind", "127.0.0.1:0", "--redis", redis_url) as server,
    ):
        url = re.search(r"ws://\S+", server.stdout.readline()).group()
        with Client(url) as listener, listener.subscribe("news"):
            (subscribed,) = _subscribers(client)
            server.send_signal(signal.SIGSTOP)
            try:
                assert backend.publish_many([("news", text)] * 10_000) == [1] * 10_000
                with pytest.raises(BrokerError, match="expected at most 8388608 bytes"):
                    backend.publish_many([("news", text + "x" * 10)] * 10_000)
                (waiting,) = _subscribers(client).values()
            finally:
                server.send_signal(signal.SIGCONT)
            # Redis closes the connection beyond 32 MiB, or beyond 8 MiB for a minute.
            assert 4 * 2**20 < waiting < 16 * 2**20
            eventually(lambda: _subscribers(client) == {subscribed: 0})


def _subscribers(client: redis.Redis) -> dict[str, int]:
    """Return the subscribed connections, and the bytes that Redis keeps for each."""
    return {each["id"]: int(each["omem"]) for each in client.client_list() if each["sub"] != "0"}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([("news", 1)] * 10_001, "batch: expected at most 10000 events; publish them in several batches"),
        ([("news", "x" * 1_000_000)] * 9, "batch: expected at most 8388608 bytes, got more with event 9"),
        ([("news", 1), ("juggler.gap", 1)], "channel 'juggler.gap': names that begin with 'juggler' or '__' are"),
        ([("news", 1), ("", 1)], "invalid channel '': must not be empty"),
        ([("news", 1), ("x" * 9000, 1)], "must have at most 8192 characters, got 9000"),
    ],
    ids=["number", "bytes", "reserved", "empty", "long"],
)
def test_a_batch_with_an_invalid_event_publishes_nothing(redis_url, events, expected):
    with Backend(redis_url) as backend, redis.Redis.from_url(redis_url) as client, client.pubsub() as listener:
        listener.subscribe("news", "last")
        with pytest.raises(BrokerError, match=expected):
            backend.publish_many(events)
        backend.publish("last")
        received = [listener.get_message(timeout=5) for _ in range(3)]
    assert [each["channel"] for each in received if each["type"] == "message"] == [b"last"]


@pytest.mark.parametrize("value", [float("nan"), b"bytes", object(), {"a": {1, float("inf")}}])
def test_values_that_json_cannot_represent_are_refused(backend, value):
    with pytest.raises(InvalidValue):
        backend.publish("news", value)
    with pytest.raises(InvalidValue, match=r"^event 2 of the batch: "):
        backend.publish_many([("news", 1), ("news", value)])
    with pytest.raises(InvalidValue):
        backend.call("echo", value)
    with pytest.raises(InvalidValue):
        backend.call("echo", 1, by=value)


@pytest.mark.parametrize("text", [b"", b"{", b"NaN", b"1 2", b"\xff"])
def test_texts_that_are_no_json_are_refused(backend, text):
    for function in (backend.publish_json, backend.start_call_json, backend.stream_json):
        with pytest.raises(InvalidValue):
            function("echo", text)


# Calls


def test_calls(backend):
    assert backend.call("echo", {"a": [1, None, "☕"]}) == {"a": [1, None, "☕"]}
    assert len(backend.call("size", 5_000_000)) == 5_000_000
    pending = backend.start_call_json("echo", b'{"a":  1.50}')
    assert pending.result_json() == b'{"a":1.5}'
    assert pending.result() == {"a": 1.5}
    assert (pending.response().for_, pending.response().uri) == (pending.uuid, "echo")
    with pytest.raises(CallFailed) as failure:
        backend.call("fail")
    assert (failure.value.message, failure.value.code, failure.value.data) == ("no tea", 418, {"left": 0})


def test_the_identity_of_a_call_is_that_of_the_backend_unless_the_call_has_one(redis_url, callee):
    with Backend(redis_url) as plain, Backend(redis_url, by={"user": 1}) as named:
        assert plain.call("who") is None
        assert plain.call("who", by="ann") == "ann"
        assert named.call("who") == {"user": 1}
        assert named.call("who", by=0) == 0
        with pytest.raises(InvalidValue, match="at most 4096 bytes of JSON, got 5002"):
            plain.call("who", by="x" * 5000)
    with pytest.raises(InvalidValue, match="at most 4096 bytes"):
        Backend(redis_url, by="x" * 5000)


def test_a_call_that_no_callee_serves_expires_and_leaves_nothing_behind(redis_url):
    with Backend(redis_url) as backend, redis.Redis.from_url(redis_url) as client:
        began = time.monotonic()
        with pytest.raises(Expired, match=r"^no result of nobody within 0\.3 s$"):
            backend.call("nobody", 1, timeout=0.3)
        assert 0.3 <= time.monotonic() - began < 3
        eventually(lambda: not keys_of_calls(client))


def test_waiting_may_be_interrupted_and_continued(backend):
    pending = backend.start_call("wait", 0.5)
    for timeout in (0, 0.05):
        with pytest.raises(TimeoutError, match=r"^no result of wait yet$"):
            pending.result(timeout)
    assert pending.result() == "done"
    assert pending.result(0) == "done"


@pytest.mark.parametrize("timeout", [0, -1, 24 * 3600 + 1, float("nan")])
def test_timeouts_that_are_out_of_range_are_refused(backend, timeout):
    with pytest.raises(ValueError, match=r"^timeout: expected more than 0 and at most 86400 seconds, got "):
        backend.call("echo", 1, timeout)


@pytest.mark.parametrize("uri", ["", "}x", "x" * 9000, "\ud800"])
def test_invalid_uris_are_refused(backend, uri):
    with pytest.raises(BrokerError, match=r"^invalid URI ") as error:
        backend.call(uri)
    assert error.value.code == 400


def test_arguments_that_are_too_large_are_refused(backend):
    with pytest.raises(BrokerError, match="expected at most 16777216 bytes of JSON, got 17000002") as error:
        backend.call("echo", "x" * 17_000_000)
    assert error.value.code == 413


def test_calls_beyond_the_capacity_of_the_queue_are_refused(redis_url):
    with Backend(redis_url, call_capacity=2) as backend, redis.Redis.from_url(redis_url) as client:
        pending = [backend.start_call("busy", n) for n in range(2)]
        with pytest.raises(CapacityExceeded):
            backend.call("busy")
        assert len(client.keys("juggler:calls:timeout:*")) == 2
        for each in pending:
            each.cancel()
        eventually(lambda: not keys_of_calls(client))


def test_many_threads_share_a_backend(redis_url, callee):
    results: dict[int, list[int]] = {}
    with Backend(redis_url, max_connections=8) as backend:

        def work(number: int) -> None:
            results[number] = [backend.call("echo", number * 1000 + n) for n in range(20)]

        threads = [threading.Thread(target=work, args=(number,)) for number in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        with redis.Redis.from_url(redis_url) as client:
            own = [each for each in client.client_list() if each["id"] != str(client.client_id())]
    assert results == {number: [number * 1000 + n for n in range(20)] for number in range(30)}
    assert len(own) < 30


def test_without_a_free_connection_a_call_is_refused_in_time(redis_url, callee):
    with Backend(redis_url, max_connections=2, pool_timeout=0.2) as backend:
        first = backend.start_call("wait", 1)
        waiting = threading.Thread(target=first.result)
        waiting.start()
        eventually(lambda: _blocked(redis_url))
        with pytest.raises(BrokerError, match=r"all 1 connections that wait .* more than 0\.2 s \(max_conn") as error:
            backend.call("echo", 1)
        assert error.value.code == 429
        assert backend.publish("news") == 0
        waiting.join()
        assert backend.call("echo", 1) == 1


def _blocked(redis_url: str) -> bool:
    with redis.Redis.from_url(redis_url) as client:
        return any(each["cmd"] == "brpop" for each in client.client_list())


# Cancel


def test_a_queued_call_is_cancelled_before_it_runs(redis_url):
    with Backend(redis_url) as backend, redis.Redis.from_url(redis_url) as client:
        pending, waited = backend.start_call("nobody"), backend.start_call("nobody")
        pending.cancel()
        with pytest.raises(Cancelled, match=r"^the call of nobody was cancelled"):
            pending.result()
        waited.cancel(wait=True)
        with pytest.raises(CallFailed) as failure:
            waited.result(5)
        assert (failure.value.type, failure.value.code) == ("Cancelled", 499)
        pending.cancel()
        eventually(lambda: not keys_of_calls(client))


@pytest.mark.parametrize("wait", [False, True])
def test_a_thread_that_waits_hears_of_the_cancel(redis_url, wait):
    outcomes = []
    with Backend(redis_url) as backend:
        pending = backend.start_call("nobody")

        def work() -> None:
            try:
                pending.result()
            except Exception as error:
                outcomes.append((type(error), time.monotonic()))

        thread = threading.Thread(target=work)
        thread.start()
        eventually(lambda: _blocked(redis_url))
        cancelled_at = time.monotonic()
        pending.cancel(wait)
        thread.join(10)
    ((kind, at),) = outcomes
    assert kind is (CallFailed if wait else Cancelled)
    assert at - cancelled_at < 0.5


def test_a_running_function_hears_of_the_cancel(redis_url, notes):
    with Backend(redis_url) as backend:
        with redis.Redis.from_url(redis_url) as client:
            eventually(lambda: client.exists("juggler:callees:{wait}"))  # announced again after the last test
        pending = backend.start_call("wait", 30)
        eventually(lambda: _taken(redis_url))
        pending.cancel()
        with pytest.raises(Cancelled):
            pending.result()
        eventually(lambda: notes.read_text() == "cancelled\n")
        waited = backend.start_call("wait", 30)
        eventually(lambda: _taken(redis_url))
        waited.cancel(wait=True)
        assert waited.result(10) == "done"


def _taken(redis_url: str) -> bool:
    with redis.Redis.from_url(redis_url) as client:
        return not client.keys("juggler:calls:timeout:*")


# Streams


def test_streams(backend):
    with backend.stream("numbers", 1000, window=8) as stream:
        assert list(stream) == list(range(1000))
        assert stream.result() == {"n": 1000}
        assert stream.response().for_ == stream.uuid
    with backend.stream("numbers", 5000, window=1024) as stream:
        assert next(stream) == 0
        assert stream.result() == {"n": 5000}
    with backend.stream("echo", 5) as stream:
        assert (list(stream), stream.result()) == ([], 5)
    with backend.stream("failing", 3) as stream:
        assert [next(stream), next(stream), next(stream)] == [0, 1, 2]
        with pytest.raises(CallFailed, match="no more"):
            next(stream)
        with pytest.raises(CallFailed, match="no more"):
            stream.result()
        assert stream.response().failed


def test_a_slow_reader_of_the_latest_parts_misses_others(backend):
    with backend.stream("endless", window=1, mode="latest") as stream:
        parts = []
        for part in stream:
            parts.append(part)
            if len(parts) == 5:
                break
            time.sleep(0.05)
    assert parts == sorted(set(parts))
    assert parts[-1] > 10


def test_closing_a_backend_ends_its_streams_and_threads(redis_url, callee):
    backend = Backend(redis_url)
    stream = backend.stream("endless", window=1)
    assert next(stream) == 1
    keepers = [each for each in threading.enumerate() if each.name == "juggler-backend-keeper"]
    assert keepers
    backend.close()
    for keeper in keepers:
        keeper.join(5)
        assert not keeper.is_alive()
    with pytest.raises(BrokerUnavailable, match="the backend is closed"):
        next(stream)
    stream.close()


def test_several_threads_wait_for_one_call(backend):
    pending = backend.start_call("wait", 0.3)
    results = []
    threads = [threading.Thread(target=lambda: results.append(pending.result())) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == ["done"] * 5


@pytest.mark.parametrize("options", [{"window": 0}, {"window": 1025}, {"window": True}, {"mode": "some"}])
def test_options_of_streams_that_are_out_of_range_are_refused(backend, options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: expected "):
        backend.stream("numbers", 1, **options)


def test_leaving_a_stream_cancels_its_call(redis_url, notes):
    with Backend(redis_url) as backend:
        with backend.stream("endless", window=4) as stream:
            for part in stream:
                if part == 10:
                    break
        eventually(lambda: notes.read_text().startswith("closed after "))
        assert int(notes.read_text().split()[-1]) <= 10 + 2 * 4 + 1
        with pytest.raises(Cancelled):
            stream.result()
        dropped = backend.stream("endless")
        assert next(dropped) == 1
        del dropped
        eventually(lambda: notes.read_text().count("closed") == 2)


def test_a_slow_reader_slows_the_function_down_and_nothing_expires(redis_url, callee):
    with Backend(redis_url) as backend:
        with backend.stream("numbers", 12, timeout=1, window=2) as stream:
            parts = []
            for part in stream:
                parts.append(part)
                time.sleep(6.5 if part == 2 else 0.3)
        assert parts == list(range(12))


def test_a_callee_that_dies_ends_its_stream_within_seven_seconds(redis_url):
    with (
        functions(redis_url, "/dev/null", "--key-prefix", "own:"),
        Backend(redis_url, key_prefix="own:") as backend,
        backend.stream("silent") as stream,
    ):
        os.kill(next(stream), signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(CallFailed) as failure:
            next(stream)
        assert failure.value.type == "CalleeGone"
        assert time.monotonic() - began < 7


def test_a_callee_that_dies_ends_its_long_calls(redis_url):
    with (
        functions(redis_url, "/dev/null", "--key-prefix", "own:") as pid,
        Backend(redis_url, key_prefix="own:") as backend,
    ):
        pending = backend.start_call("wait", 60)
        with pytest.raises(TimeoutError):
            pending.result(3)  # after 2 s, the callee reports the call
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(CallFailed) as failure:
            pending.result()
        assert failure.value.type == "CalleeGone"
        assert time.monotonic() - began < 7


def test_a_stream_that_takes_too_long_ends(redis_url, notes):
    with Backend(redis_url, max_stream_time=0.5) as backend:
        with backend.stream("endless") as stream, pytest.raises(CallFailed) as failure:
            for _ in stream:
                pass
        assert failure.value.type == "StreamTooLong"
        eventually(lambda: notes.read_text().startswith("closed after "))
