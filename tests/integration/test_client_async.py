"""The asyncio client against a server that follows a script. These tests run in an unpatched process."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import time
from contextlib import suppress

import pytest
from websockets.exceptions import ConnectionClosed as WebsocketClosed

from juggler.client import AsyncClient, State
from juggler.client.state import Exp
from juggler.errors import (
    CallFailed,
    Cancelled,
    ConfigError,
    ConnectionClosed,
    Expired,
    HandshakeRefused,
    InvalidValue,
    Nacked,
)
from juggler.process.uuids import new_uuid
from tests.integration.scripted import ACK, CALL, EVNT, PUB, RES, SUB, UNSB, Peer, echo, raw_server, serving
from tests.integration.unpatched import UNPATCHED, pass_unpatched

if not UNPATCHED:

    def test_all_of_these_pass_in_an_unpatched_process():
        pass_unpatched(__file__)

else:

    def run(coroutine):
        return asyncio.run(asyncio.wait_for(coroutine, 20))

    async def until(condition):
        """Wait for a condition."""
        for _ in range(1000):
            if condition():
                return
            await asyncio.sleep(0.005)
        raise AssertionError("the condition does not come true")

    @pytest.fixture
    def quick(monkeypatch):
        monkeypatch.setattr("juggler.client.reconnect.FIRST_PAUSE", 0.01)

    def lose(peer):
        peer.websocket.socket.shutdown(socket.SHUT_RDWR)

    def test_calls_by_many_tasks():
        async def main(url):
            async with AsyncClient(url) as client:
                results = await asyncio.gather(*(client.call("test.echo", n) for n in range(50)))
                assert results == list(range(50))

        with serving(echo) as url:
            run(main(url))

    def test_errors_of_a_call():
        def script(peer):
            peer.nack(peer.receive(CALL), 503, "list capacity exceeded")
            peer.res(peer.acknowledge(CALL), {"error": {"message": "no such user", "type": "LookupError", "code": 4}})
            peer.acknowledge(CALL)
            peer.wait_closed()

        async def main(url):
            seen = []
            async with AsyncClient(url, on_message=seen.append) as client:
                with pytest.raises(Nacked, match="503 list capacity exceeded"):
                    await client.call("test.echo")
                with pytest.raises(CallFailed, match="no such user") as failed:
                    await client.call("test.echo")
                assert failed.value.code == 4
                with pytest.raises(Expired, match=r"within 0\.05 s"):
                    await client.call("test.echo", timeout=0.05)
                with pytest.raises(InvalidValue):
                    await client.call("test.echo", float("nan"))
                with pytest.raises(ValueError, match="timeout"):
                    await client.call("test.echo", timeout=0)
                assert [type(message) for message in seen].count(Exp) == 1
            with pytest.raises(ConnectionClosed, match="1000 closed by this client"):
                await client.call("test.echo")

        with serving(script) as url:
            run(main(url))

    def test_a_pending_call_notifies_and_can_be_cancelled():
        async def main(url):
            async with AsyncClient(url) as client:
                told = []
                first, second = await client.start_call("test.echo", 1), await client.start_call("test.echo", 2)
                first.on_done(told.append)
                second.cancel()
                with pytest.raises(Cancelled):
                    await second.result()
                assert await first.result() == 1
                second.on_done(told.append)
                await until(lambda: told == [first, second])

        with serving(echo) as url:
            run(main(url))

    def test_a_call_that_is_cancelled_does_not_expire():
        def script(peer):
            peer.acknowledge(CALL)
            peer.acknowledge(CALL)
            peer.wait_closed()

        async def main(url):
            seen = []
            async with AsyncClient(url, on_message=seen.append) as client:
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(client.call("test.delay", 1, timeout=0.25), 0.02)
                with pytest.raises(Expired):
                    await client.call("test.delay", 2, timeout=0.3)
                assert [message.args for message in seen if isinstance(message, Exp)] == [b"2"]

        with serving(script) as url:
            run(main(url))

    async def cancel_after(turns, task):
        """Cancel a task after turns of the event loop, unless it has completed. Return whether it was cancelled."""
        for _ in range(turns):
            await asyncio.sleep(0)
        is_cancelled = task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() == is_cancelled
        return is_cancelled

    @pytest.mark.parametrize("operation", ["call", "publish", "subscribe", "result", "get"])
    def test_a_cancellation_that_coincides_with_the_answer_counts(operation):
        def script(peer):
            with suppress(WebsocketClosed):
                while True:
                    request = peer.acknowledge()
                    if request["meta"]["type"] == CALL:
                        peer.res(request, 1)
                    elif request["meta"]["type"] == PUB:
                        peer.event("news", 1)

        async def main(url):
            arrived = asyncio.Event()
            answers = {"subscribe": (ACK, SUB), "publish": (ACK, PUB), "get": (EVNT, 0)}
            answer = answers.get(operation, (RES, 0))

            def on_message(message):
                if (message.type, getattr(message, "for_type", 0)) == answer:
                    arrived.set()

            async with AsyncClient(url, on_message=on_message) as client:
                news = await client.subscribe("news")

                async def result():
                    await (await client.start_call("test.echo")).result(5)

                async def get():
                    await news.get(5)

                waiting = {
                    "call": lambda: client.call("test.echo"),
                    "publish": lambda: client.publish("other"),
                    "subscribe": lambda: client.subscribe(new_uuid()),
                    "result": result,
                    "get": get,
                }
                cancelled = []
                for turns in range(8):
                    while news.is_readable:
                        news.take()
                    arrived.clear()
                    task = asyncio.create_task(waiting[operation]())
                    if operation == "get":
                        await client.send_raw(
                            f'{{"meta":{{"type":2,"uuid":"{new_uuid()}"}},"payload":{{"channel":"news"}}}}'
                        )
                    await arrived.wait()
                    cancelled.append(await cancel_after(turns, task))
                assert cancelled[0]
                assert not cancelled[-1]

        with serving(script) as url:
            run(main(url))

    if sys.version_info >= (3, 11):  # asyncio.timeout is new

        def test_a_timeout_of_asyncio_ends_a_request():
            def script(peer):
                peer.receive(SUB)
                peer.receive(UNSB)
                peer.receive(PUB)
                peer.wait_closed()

            async def main(url):
                async with AsyncClient(url) as client:
                    for request in (client.subscribe, client.publish):
                        started = time.monotonic()
                        with pytest.raises(TimeoutError):
                            async with asyncio.timeout(0.02):
                                await request("news")
                        assert time.monotonic() - started < 2

            with serving(script) as url:
                run(main(url))

    def test_a_cancelled_subscribe_unsubscribes_and_spares_the_others():
        seen = []

        def script(peer):
            with suppress(WebsocketClosed):
                while True:
                    request = peer.receive(SUB, UNSB, CALL)
                    seen.append((request["meta"]["type"], request["payload"].get("channel")))
                    if request["meta"]["type"] == CALL or request["payload"]["channel"] == "shared":
                        peer.ack(request)
                    if request["meta"]["type"] == CALL:
                        peer.res(request, None)

        async def main(url):
            async with AsyncClient(url) as client:
                for turns in range(1, 8):
                    task = asyncio.create_task(client.subscribe("alone"))
                    assert await cancel_after(turns, task)
                    await client.call("test.echo")
                    assert seen == [(SUB, "alone"), (UNSB, "alone"), (CALL, None)]
                    seen.clear()

                    first, second = (asyncio.create_task(client.subscribe("shared")) for _ in range(2))
                    await cancel_after(turns, first)
                    shared = await second
                    await client.call("test.echo")
                    assert (UNSB, "shared") not in seen
                    await client.unsubscribe("shared")
                    with pytest.raises(ConnectionClosed, match="1000 unsubscribed"):
                        await shared.get()
                    seen.clear()

        with serving(script) as url:
            run(main(url))

    @pytest.mark.parametrize("turns", range(6))
    def test_a_cancelled_close_closes(turns):
        def script(peer):
            peer.receive(CALL)
            with suppress(WebsocketClosed):
                peer.websocket.recv()

        async def main(url):
            others = asyncio.all_tasks()
            client = AsyncClient(url)
            await client.connect()
            await client.start_call("test.echo")
            assert await cancel_after(turns, asyncio.create_task(client.close())) or turns > 2
            await client.close()
            assert client.closed
            await until(lambda: asyncio.all_tasks() == others)

        with serving(script) as url:
            run(main(url))

    def test_a_silent_server_is_noticed_by_pings():
        over = threading.Event()

        async def main(url):
            async with AsyncClient(url, ping_interval=0.05, ping_timeout=0.05) as client:
                started = time.monotonic()
                with pytest.raises(
                    ConnectionClosed, match=r"1006 the connection was lost: no answer to a ping for 0\.05 s"
                ):
                    await client.call("test.echo", timeout=9)
                assert time.monotonic() - started < 5
                over.set()

        with raw_server(lambda connection: over.wait(10)) as url:
            run(main(url))

    def test_a_server_that_answers_pings_is_kept():
        def script(peer):
            call = peer.acknowledge(CALL)
            with pytest.raises(TimeoutError):
                peer.websocket.recv(timeout=0.3)
            peer.res(call, 1)
            peer.wait_closed()

        async def main(url):
            async with AsyncClient(url, ping_interval=0.02, ping_timeout=0.1) as client:
                assert await client.call("test.echo") == 1
                assert client.connected

        with serving(script) as url:
            run(main(url))

    def test_publications_and_subscriptions():
        def script(peer):
            assert peer.acknowledge(SUB)["payload"] == {"channel": "news.*", "pattern": True}
            peer.event("news.a", [1], pattern="news.*")
            peer.acknowledge(PUB)
            peer.nack(peer.receive(PUB), 403, "read only")
            peer.acknowledge(UNSB)
            peer.wait_closed()

        async def main(url):
            async with AsyncClient(url) as client:
                async with await client.subscribe("news.*", pattern=True) as news:
                    event = await news.get()
                    assert (event.channel, event.pattern, event.args) == ("news.a", "news.*", [1])
                    await client.publish("x", 1)
                    with pytest.raises(Nacked, match="403 read only"):
                        await client.publish("x")
                assert [event async for event in news] == []

        with serving(script) as url:
            run(main(url))

    def test_a_full_queue_may_end_its_subscription():
        left = threading.Event()

        def script(peer):
            peer.acknowledge(SUB)
            for n in range(10):
                peer.event("news", n)
            peer.acknowledge(UNSB)
            left.set()
            peer.wait_closed()

        async def main(url):
            async with AsyncClient(url) as client:
                news = await client.subscribe("news", max_events=2, when_full="end")
                await until(left.is_set)
                assert [(await news.get()).args for _ in range(2)] == [0, 1]
                with pytest.raises(ConnectionClosed, match="4429"):
                    await news.get()

        with serving(script) as url:
            run(main(url))

    def test_a_lost_connection_and_its_subscriptions_are_reestablished(quick):
        scripts = []

        def first(peer):
            peer.acknowledge(SUB)
            peer.receive(CALL)
            lose(peer)

        def second(peer):
            peer.acknowledge(SUB)
            peer.event("news", 2)
            peer.wait_closed()

        scripts += [first, second]

        async def main(url):
            states, gaps = [], []
            client = AsyncClient(url, on_state=lambda state, error: states.append(state))
            async with client:
                news = await client.subscribe("news", on_gap=lambda: gaps.append(1))
                with pytest.raises(ConnectionClosed, match="1006"):
                    await client.call("test.echo")
                await client.wait_connected()
                assert (await news.get()).args == 2
                assert (news.gaps, gaps) == (1, [1])
            assert states == [State.CONNECTED, State.DISCONNECTED, State.CONNECTED, State.CLOSED]

        with serving(lambda peer: scripts.pop(0)(peer)) as url:
            run(main(url))

    def test_a_first_attempt_that_fails_may_be_retried(quick):
        refusals = [503, 503]

        def process(websocket, request):
            return websocket.respond(refusals.pop(), "not yet\n") if refusals else None

        async def main(url):
            with pytest.raises(HandshakeRefused, match="503"):
                await AsyncClient(url).connect()
            refusals.append(503)
            async with AsyncClient(url, retry_first=True) as client:
                assert await client.call("test.echo", 1) == 1

        with serving(echo, process_request=process) as url:
            run(main(url))

    def test_the_first_attempt_is_not_retried_without_end(quick):
        async def main():
            with pytest.raises(ConnectionClosed, match="1006 cannot connect"):
                await AsyncClient("ws://127.0.0.1:1", retry_first=True, reconnect_timeout=0.1).connect()

            client = AsyncClient("ws://127.0.0.1:1", retry_first=True)
            connecting = asyncio.create_task(client.connect())
            await asyncio.sleep(0)
            await client.close()
            with pytest.raises(ConnectionClosed):
                await connecting
            with pytest.raises(ConnectionClosed, match="1000 closed by this client"):
                await client.publish("x")

        run(main())

    def test_close_stops_the_attempts(quick):
        async def main(url):
            client = AsyncClient(url)
            await client.connect()
            await until(lambda: not client.connected)
            await client.close()
            assert client.closed.code == 1000
            with pytest.raises(ConnectionClosed, match="1000"):
                await client.wait_connected()

        with serving(lose) as url:
            run(main(url))

    def test_a_client_that_is_refused_for_good_closes(quick):
        refuse = threading.Event()

        def process(websocket, request):
            return websocket.respond(401, "a new token\n") if refuse.is_set() else None

        def script(peer):
            refuse.set()
            lose(peer)

        async def main(url):
            client = AsyncClient(url)
            await client.connect()
            await until(lambda: client.closed)
            with pytest.raises(ConnectionClosed, match="401 Unauthorized: a new token"):
                await client.publish("x")

        with serving(script, process_request=process) as url:
            run(main(url))

    def test_what_cannot_be_connected_to():
        async def main():
            with pytest.raises(ConfigError, match="url: expected ws://"):
                await AsyncClient("http://x").connect()
            with pytest.raises(ConnectionClosed, match=r"1006 cannot connect to ws://\*\*\*@127.0.0.1:1"):
                await AsyncClient("ws://user:secret@127.0.0.1:1").connect()
            with pytest.raises(ConnectionClosed, match="not connected yet"):
                await AsyncClient("ws://127.0.0.1:1").publish("x")

        run(main())

    def test_a_refused_upgrade_and_another_protocol():
        async def refused(url):
            with pytest.raises(HandshakeRefused, match="403 Forbidden: not you"):
                await AsyncClient(url).connect()

        async def other(url):
            with pytest.raises(ConnectionClosed, match=r"1002 .*does not speak"):
                await AsyncClient(url).connect()

        with serving(echo, process_request=lambda w, r: w.respond(403, "not you\n")) as url:
            run(refused(url))
        with serving(Peer.wait_closed, subprotocols=["other"], select_subprotocol=lambda *_: None) as url:
            run(other(url))

    def test_args_as_json_text_are_sent_unchanged():
        seen = []

        def script(peer):
            for answer in (lambda call: peer.res(call, None), lambda pub: None):
                seen.append(peer.websocket.recv())
                request = json.loads(seen[-1])
                peer.ack(request)
                answer(request)
            peer.wait_closed()

        async def main(url):
            async with AsyncClient(url) as client:
                assert await (await client.start_call_json("x", b"1e400")).result() is None
                await client.publish_json("news", b"1e400")
                for request in (client.start_call_json, client.publish_json):
                    with pytest.raises(InvalidValue, match="not a JSON value"):
                        await request("x", b'1, "injected": 2')

        with serving(script) as url:
            run(main(url))
        assert [text[text.index('"args":') :] for text in seen] == ['"args":1e400}}'] * 2

    def test_raw_messages_are_sent_unchanged_and_reported():
        told, answers = [], []

        def script(peer):
            answers.extend(peer.websocket.recv() for _ in range(2))
            peer.websocket.send('{"meta": {"type": 12}}')
            peer.wait_closed()

        async def main(url):
            client = AsyncClient(url, on_raw=lambda *args: told.append(args))
            with pytest.raises(ConnectionClosed, match="not connected yet"):
                await client.send_raw("x")
            async with client:
                await client.send_raw('{"né": ')
                await client.send_raw(b"\x00\xff")
                await until(lambda: client.closed)

        with serving(script) as url:
            run(main(url))
        assert answers == ['{"né": ', b"\x00\xff"]
        assert told == [("out", '{"né": '), ("out", b"\x00\xff"), ("in", '{"meta": {"type": 12}}')]

    def test_an_on_raw_that_fails_does_no_harm(caplog):
        async def main(url):
            async with AsyncClient(url, on_raw=lambda *_: 1 / 0) as client:
                assert await client.call("test.echo", 1) == 1

        with serving(echo) as url:
            run(main(url))
        assert "client: callback failed callback=on_raw about=in" in caplog.text
