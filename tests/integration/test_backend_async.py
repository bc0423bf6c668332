"""The asyncio backend, against a real Redis and real callees. These tests run in an unpatched process."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time

import pytest
import redis

from juggler.backend import AsyncBackend
from juggler.client import Client
from juggler.errors import (
    BrokerError,
    BrokerUnavailable,
    CallFailed,
    Cancelled,
    CapacityExceeded,
    ConfigError,
    Expired,
    InvalidValue,
    OutcomeUnknown,
)
from tests.integration.commands import server_process
from tests.integration.test_backend import functions
from tests.integration.unpatched import UNPATCHED, pass_unpatched
from tests.support import eventually, keys_of_calls

if not UNPATCHED:

    def test_all_of_these_pass_in_an_unpatched_process():
        pass_unpatched(__file__)

else:

    def run(coroutine):
        return asyncio.run(asyncio.wait_for(coroutine, 60))

    async def until(condition):
        """Wait for a condition."""
        for _ in range(2000):
            if condition():
                return
            await asyncio.sleep(0.005)
        raise AssertionError("the condition does not come true")

    def taken(redis_url):
        with redis.Redis.from_url(redis_url) as client:
            return not client.keys("juggler:calls:timeout:*")

    def test_events(redis_url):
        async def main():
            async with AsyncBackend(redis_url) as backend:
                assert await backend.publish("others") == 0
                assert await backend.publish_json("news", b"1") == 1
                assert await backend.publish_many(("news", n) for n in range(10_000)) == [1] * 10_000
                for wrong in ([("news", 1)] * 10_001, [("news", "x" * 9_000_000)], [("__x", 1)]):
                    with pytest.raises(BrokerError):
                        await backend.publish_many(wrong)
                with pytest.raises(InvalidValue):
                    await backend.publish("news", float("nan"))

        with server_process(redis_url) as url, Client(url, max_events=20_000) as client:
            news = client.subscribe("news")
            run(main())
            assert [news.get(5).args for _ in range(10_001)] == [1, *range(10_000)]

    def test_calls(redis_url):
        async def main():
            async with AsyncBackend(redis_url, by="ann", max_connections=8) as backend:
                results = await asyncio.gather(*(backend.call("echo", n) for n in range(300)))
                assert results == list(range(300))
                assert len(await backend.call("size", 5_000_000)) == 5_000_000
                assert [await backend.call("who"), await backend.call("who", by=["bob"])] == ["ann", ["bob"]]
                with pytest.raises(CallFailed, match="no tea"):
                    await backend.call("fail")
                with pytest.raises(Expired):
                    await backend.call("nobody", timeout=0.2)
                for uri in ("", "}x"):
                    with pytest.raises(BrokerError, match="invalid URI"):
                        await backend.call(uri)
                pending = await backend.start_call_json("echo", b"[1.50]")
                assert await asyncio.gather(*(pending.result() for _ in range(5))) == [[1.5]] * 5
                assert await pending.result_json() == b"[1.5]"
                slow = await backend.start_call("wait", 0.5)
                with pytest.raises(TimeoutError):
                    await slow.result(0.05)
                assert await slow.result() == "done"

        with functions(redis_url):
            run(main())

    def test_capacity(redis_url):
        async def main():
            async with AsyncBackend(redis_url, call_capacity=1) as backend:
                pending = await backend.start_call("busy")
                with pytest.raises(CapacityExceeded):
                    await backend.call("busy")
                pending.cancel()
                with pytest.raises(Cancelled):
                    await pending.result()
                waited = await backend.start_call("busy")
                waiting = asyncio.create_task(waited.result())
                await asyncio.sleep(0)
                waited.cancel(wait=True)
                began = time.monotonic()
                with pytest.raises(CallFailed, match="cancelled"):
                    await waiting
                assert time.monotonic() - began < 0.9

        run(main())
        with redis.Redis.from_url(redis_url) as client:
            eventually(lambda: not keys_of_calls(client))

    def test_a_cancelled_task_cancels_its_call(redis_url, tmp_path):
        notes = tmp_path / "notes"

        async def main():
            async with AsyncBackend(redis_url) as backend:
                task = asyncio.create_task(backend.call("wait", 30))
                await until(lambda: taken(redis_url))
                await asyncio.sleep(0.05)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await until(lambda: notes.exists() and notes.read_text() == "cancelled\n")
                reader = asyncio.create_task(backend.stream("silent").result())
                await asyncio.sleep(0.3)
                reader.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reader
                assert await backend.call("echo", 1) == 1

        with functions(redis_url, notes):
            run(main())

    def test_streams(redis_url, tmp_path):
        notes = tmp_path / "notes"

        async def main():
            async with AsyncBackend(redis_url) as backend:
                async with backend.stream("numbers", 1000, window=8) as stream:
                    assert [part async for part in stream] == list(range(1000))
                    assert await stream.result() == {"n": 1000}
                async with backend.stream("failing", 2) as stream:
                    assert [await stream.__anext__(), await stream.__anext__()] == [0, 1]
                    with pytest.raises(CallFailed, match="no more"):
                        await stream.__anext__()
                async with backend.stream("endless", window=4) as stream:
                    async for part in stream:
                        if part == 10:
                            break
                await until(lambda: notes.exists() and notes.read_text().count("closed") == 1)
                dropped = backend.stream("endless")
                assert await dropped.__anext__() == 1
                del dropped
                await until(lambda: notes.read_text().count("closed") == 2)
                with pytest.raises(ValueError, match="window: expected 1 to 1024"):
                    backend.stream("numbers", 1, window=0)

        with functions(redis_url, notes):
            run(main())

    def test_a_slow_reader_slows_the_function_down_and_nothing_expires(redis_url):
        async def main():
            parts = []
            async with AsyncBackend(redis_url) as backend, backend.stream("numbers", 8, 1, window=2) as stream:
                async for part in stream:
                    parts.append(part)
                    await asyncio.sleep(6.5 if part == 2 else 0)
            assert parts == list(range(8))

        with functions(redis_url):
            run(main())

    def test_a_callee_that_dies_ends_its_stream(redis_url):
        async def main():
            async with AsyncBackend(redis_url) as backend, backend.stream("silent") as stream:
                os.kill(await stream.__anext__(), signal.SIGKILL)
                began = time.monotonic()
                with pytest.raises(CallFailed) as failure:
                    await stream.result()
                assert failure.value.type == "CalleeGone"
                assert time.monotonic() - began < 7

        with functions(redis_url):
            run(main())

    def test_without_a_free_connection_a_call_is_refused_in_time(redis_url):
        async def main():
            async with AsyncBackend(redis_url, max_connections=2, pool_timeout=0.2) as backend:
                first = asyncio.create_task(backend.call("wait", 1))
                await until(lambda: taken(redis_url))
                await asyncio.sleep(0.05)
                with pytest.raises(BrokerError, match="all 1 connections that wait for results are in use") as error:
                    await backend.call("nobody", 1)
                assert error.value.code == 429
                assert await first == "done"

        with functions(redis_url):
            run(main())

    @pytest.mark.filterwarnings("ignore::ResourceWarning")
    def test_several_event_loops_one_after_another(redis_url):
        backend = AsyncBackend(redis_url)
        with functions(redis_url):
            for number in range(3):
                assert run(backend.call("echo", number)) == number
            run(backend.close())
            gc.collect()
            with pytest.raises(BrokerUnavailable, match="the backend is closed"):
                run(backend.publish("news"))

    def test_redis_away_and_back(mortal):
        async def main():
            async with AsyncBackend(mortal.url) as backend:
                for use in (lambda: backend.publish("news"), lambda: backend.call("echo")):
                    with pytest.raises(BrokerUnavailable, match=f"no connection to Redis at {mortal.url}: "):
                        await use()
                mortal.start()
                assert await backend.publish("news") == 0
                call = asyncio.create_task(backend.call("nobody"))
                await until(lambda: _blocked(mortal.url))
                mortal.kill()
                began = time.monotonic()
                with pytest.raises(OutcomeUnknown, match="while waiting for the result of nobody"):
                    await call
                assert time.monotonic() - began < 8
                mortal.start()
                assert await backend.publish("news") == 0

        run(main())

    def test_a_wrong_password(mortal):
        async def main():
            async with AsyncBackend(f"redis://:wrong@127.0.0.1:{mortal.port}") as backend:
                with pytest.raises(ConfigError, match="refuses access") as error:
                    await backend.publish("news")
                assert ":wrong" not in str(error.value)

        mortal.start("--requirepass", "secret")
        run(main())

    def _blocked(redis_url):
        with redis.Redis.from_url(redis_url) as client:
            return any(each["cmd"] == "brpop" for each in client.client_list())
