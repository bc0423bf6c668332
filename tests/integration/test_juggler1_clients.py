"""Clients that offer juggler.1 and juggler.0, with servers that speak either; and servers that break juggler.1."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable

import pytest
from websockets.exceptions import ConnectionClosed as WebsocketClosed

from juggler.client import AsyncClient, Client, State
from juggler.errors import ConnectionClosed, NotSupported
from juggler.handlers import chain, process_message
from juggler.process.uuids import new_uuid
from juggler.protocol.messages import Evnt, Res, Wlcm
from juggler.server.connection import FEATURES
from tests.integration.scripted import CALL, Peer, serving
from tests.stack import running_server
from tests.stack import serving as functions
from tests.support import eventually

BOTH = ("juggler.1", "juggler.0")
CONN = "00000000-0000-4000-8000-000000000030"


class Blocking:
    """An AsyncClient with the methods of a Client, run in a thread of its own."""

    def __init__(self, url: str, **options) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        try:
            self.client = self._run(self._open(url, options))
        except BaseException:
            self._stop()
            raise

    async def _open(self, url: str, options) -> AsyncClient:
        client = AsyncClient(url, **options)
        await client.connect()
        return client

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._run(self.client.close())
        self._stop()

    def __getattr__(self, name: str):
        value = getattr(self.client, name)
        if not asyncio.iscoroutinefunction(value):
            return value
        return lambda *args, **options: self._run(value(*args, **options))

    def next_event(self, channel: str):
        async def run():
            async with await self.client.subscribe(channel) as events:
                await self.client.publish(channel, 5)
                return (await events.get()).args

        return self._run(run())


def slow(ctx, connection, message) -> None:
    """A handler of the user's: responses pass through greenlets of the connection."""
    process_message(ctx, connection, message)


CLIENTS = [Client, Blocking]


def welcome(peer: Peer, **payload) -> None:
    peer.send(32, **{"conn": CONN, "features": ["cancel"], "limits": {"max_calls": 5}, **payload})


# Every combination.


@pytest.mark.parametrize("client_type", CLIENTS)
@pytest.mark.parametrize("server", [BOTH, ("juggler.0",), ("juggler.1",)], ids="+".join)
@pytest.mark.parametrize("with_handlers", [False, True])
def test_a_client_with_any_server(client_type, server, with_handlers):
    options = {"handler": chain(last=slow)} if with_handlers else {}
    is_new = "juggler.1" in server
    with (
        running_server(application={"subprotocols": server}, max_calls=7, **options) as running,
        functions(running.broker, ["f"], lambda call: call.args),
        client_type(running.url) as client,
    ):
        assert client.subprotocol == ("juggler.1" if is_new else "juggler.0")
        assert client.features == frozenset(FEATURES if is_new else ())
        assert client.limits.get("max_calls") == (7 if is_new else None)
        assert [client.call("f", number) for number in range(20)] == list(range(20))
        client.publish("c", 1)
        with pytest.raises(NotSupported) as caught:
            client.require("tea")
        known = f"its features: {', '.join(sorted(FEATURES))}" if is_new else "speaks only juggler.0"
        assert str(caught.value).startswith("tea: not supported by the server")
        assert str(caught.value).endswith(known)
        if is_new:
            client.require("identity")


@pytest.mark.parametrize("server", [BOTH, ("juggler.0",)], ids="+".join)
def test_events_under_either_subprotocol(server):
    with running_server(application={"subprotocols": server}) as running:
        with Client(running.url) as client, client.subscribe("c") as events:
            client.publish("c", 5)
            assert events.get(5).args == 5
        with Blocking(running.url) as client:
            assert client.next_event("c") == 5


@pytest.mark.parametrize("client_type", CLIENTS)
def test_what_needs_a_connection_says_that_there_is_none(client_type):
    with running_server() as running:
        with client_type(running.url) as client:
            pass
        with pytest.raises(ConnectionClosed):
            client.require("identity")


# What a server of juggler.1 may send.


@pytest.mark.parametrize("client_type", CLIENTS)
def test_a_result_needs_no_ack(client_type):
    def script(peer):
        welcome(peer)
        for _ in range(2):
            call = peer.receive(CALL)
            peer.res(call, call["payload"]["args"])
        peer.wait_closed()

    with serving(script, BOTH) as url, client_type(url) as client:
        assert [client.call("f", n) for n in range(2)] == [0, 1]


@pytest.mark.parametrize("client_type", CLIENTS)
@pytest.mark.parametrize("subprotocol", BOTH)
def test_unknown_responses_are_ignored(client_type, subprotocol):
    def script(peer):
        if subprotocol == "juggler.1":
            welcome(peer)
        call = peer.receive(CALL)
        for number in (35, 40, 47):
            for payload in (None, 1, [], {"for": call["meta"]["uuid"], "args": 1}):
                peer.websocket.send(json.dumps({"meta": {"type": number, "uuid": new_uuid()}, "payload": payload}))
        peer.send(33, for_=call["meta"]["uuid"], seq=1, args=1)
        peer.send(34, channel="c", code=403, message="no")
        peer.res(call, 5)
        peer.wait_closed()

    seen = []
    with serving(script, [subprotocol]) as url, client_type(url, on_message=seen.append) as client:
        assert client.call("f") == 5
        known = [type(message).__name__ for message in seen]
        assert known == [*(["Wlcm"] if subprotocol == "juggler.1" else []), "Part", "Ends", "Res"]


@pytest.mark.parametrize("client_type", CLIENTS)
def test_listeners_learn_of_the_welcome(client_type):
    def script(peer):
        welcome(peer, ttl=60)
        peer.event("c", 1)
        peer.wait_closed()

    seen = []
    listeners = {
        "on_state": lambda state, error: seen.append(state),
        "on_raw": lambda direction, text: seen.append((direction, json.loads(text)["meta"]["type"])),
        "on_message": seen.append,
    }
    with serving(script, BOTH) as url, client_type(url, **listeners):
        eventually(lambda: len(seen) == 5)
        raw, state, message, *_, event = seen
        assert (raw, state) == (("in", 32), State.CONNECTED)
        assert (type(message), message.ttl, message.conn) == (Wlcm, 60, CONN)
        assert isinstance(event, Evnt)


@pytest.mark.parametrize("client_type", CLIENTS)
def test_features_are_those_of_the_current_connection(client_type):
    connections = []

    def choose(connection, offered):
        assert offered == ["juggler.1", "juggler.0"]
        return ["juggler.1", "juggler.0", "juggler.1"][len(connections)]

    def script(peer):
        connections.append(peer)
        if peer.websocket.subprotocol == "juggler.1":
            welcome(peer, features=["cancel", f"number {len(connections)}"])
        try:
            peer.receive(CALL)
        except WebsocketClosed:
            return
        peer.websocket.close(1001)

    found = []
    with serving(script, BOTH, select_subprotocol=choose) as url, client_type(url) as client:
        for number in range(3):
            assert client.wait_connected(10)
            found.append((client.subprotocol, sorted(client.features), dict(client.limits)))
            if number < 2:
                with pytest.raises(ConnectionClosed):
                    client.call("f")
                eventually(lambda number=number: len(connections) > number + 1)
    assert found == [
        ("juggler.1", ["cancel", "number 1"], {"max_calls": 5}),
        ("juggler.0", [], {}),
        ("juggler.1", ["cancel", "number 3"], {"max_calls": 5}),
    ]


# Servers that break juggler.1.


def close_with(code: int) -> Callable[[Peer], None]:
    return lambda peer: peer.websocket.close(code, "why")


def send(message: str | bytes) -> Callable[[Peer], None]:
    def script(peer):
        peer.websocket.send(message)
        peer.wait_closed()

    return script


EVENT = json.dumps({"meta": {"type": 10, "uuid": CONN}, "payload": {"for": CONN, "channel": "c"}})


@pytest.mark.parametrize("client_type", CLIENTS)
@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [
        (close_with(1001), 1001, "why"),
        (close_with(4403), 4403, "why"),
        (send(EVENT), 1002, "did not send WLCM first, but EVNT"),
        (send("{}"), 4400, r"sent an invalid message: \$: object missing required field meta"),
        (send(EVENT.replace("10", "40", 1)), 1002, "did not send WLCM first, but UNKNOWN"),
    ],
)
def test_a_first_message_that_is_no_welcome(client_type, script, code, reason):
    with serving(script, BOTH) as url, pytest.raises(ConnectionClosed, match=f"^{code} .*{reason}"):
        client_type(url)


@pytest.mark.parametrize("client_type", CLIENTS)
def test_a_binary_first_message(client_type):
    with serving(send(b"{}"), BOTH) as url, pytest.raises(ConnectionClosed, match=r"^1003 .*a binary one"):
        client_type(url)


@pytest.mark.parametrize("client_type", CLIENTS)
def test_a_welcome_that_does_not_come(client_type):
    with serving(Peer.wait_closed, BOTH) as url, pytest.raises(ConnectionClosed, match=r"^1006 cannot .*timed out"):
        client_type(url, timeout=0.2)


@pytest.mark.parametrize("client_type", CLIENTS)
def test_a_server_that_goes_before_its_welcome_is_tried_again(client_type):
    connections = []

    def script(peer):
        connections.append(peer)
        if len(connections) < 3:
            peer.websocket.close(1001)
        else:
            welcome(peer)
            peer.wait_closed()

    with serving(script, BOTH) as url, client_type(url, retry_first=True) as client:
        assert client.features == {"cancel"}
        assert len(connections) == 3


def test_a_result_of_many_callers_under_juggler_1():
    """Threads that call at once each get their own result."""
    with (
        running_server() as running,
        functions(running.broker, ["f"], lambda call: call.args),
        Client(running.url) as client,
    ):
        pendings = [client.start_call("f", number) for number in range(40)]
        assert [pending.result(10) for pending in pendings] == list(range(40))
        assert all(isinstance(pending.response(), Res) for pending in pendings)
