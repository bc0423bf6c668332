"""The client against a server that follows a script and speaks literal JSON.

The tests run twice: here with greenlets, and unpatched, with threads, in a process of their own.
"""

from __future__ import annotations

import inspect
import json
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import gevent
import pytest
import trustme
from gevent import monkey

from juggler.client import AsyncClient, Client, Event
from juggler.client.state import Exp
from juggler.errors import (
    CallFailed,
    Cancelled,
    ConfigError,
    ConnectionClosed,
    Expired,
    HandshakeRefused,
    InvalidValue,
    JugglerError,
    Nacked,
)
from juggler.protocol.messages import Ack, Res
from tests.integration.scripted import CALL, PUB, SUB, UNSB, Peer, echo, raw_server, serving
from tests.integration.unpatched import UNPATCHED, pass_unpatched
from tests.support import eventually

# Connecting


def test_it_asks_for_the_subprotocol_and_sends_headers():
    names = ("Sec-WebSocket-Protocol", "Authorization", "Juggler-Allowed-Messages")
    seen = []

    def script(peer):
        seen.append([peer.headers.get(name) for name in names])
        peer.wait_closed()

    with serving(script) as url:
        with Client(url, headers={"Authorization": "Bearer x"}, allowed_messages="call, pub"):
            assert eventually(seen.copy) == [["juggler.1, juggler.0", "Bearer x", "call, pub"]]
        seen.clear()
        with Client(url):
            assert eventually(seen.copy) == [["juggler.1, juggler.0", None, None]]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/ws", "127.0.0.1:9000", "", "ws://", "ws://127.0.0.1:99999/"])
def test_an_invalid_url_is_named(url):
    with pytest.raises(ConfigError, match="url: expected ws://"):
        Client(url)


def test_a_server_that_does_not_listen():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        where = rf"ws://\*\*\*@127.0.0.1:{port}/ws"
        with pytest.raises(ConnectionClosed, match=f"1006 cannot connect to {where}: .*refused"):
            Client(f"ws://user:secret@127.0.0.1:{port}/ws")


def test_a_server_that_does_not_answer_the_upgrade():
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(ConnectionClosed, match=r"1006 .*timed out"):
        Client(f"ws://127.0.0.1:{mute.getsockname()[1]}", timeout=0.05)


def test_a_refused_upgrade_says_why():
    def refuse(websocket, request):
        return websocket.respond(403, "not you\n")

    with serving(echo, process_request=refuse) as url, pytest.raises(HandshakeRefused, match="403 Forbidden: not you"):
        Client(url)


def test_a_server_of_something_else():
    other = {"subprotocols": ["other"], "select_subprotocol": lambda *_: None}
    with serving(Peer.wait_closed, **other) as url, pytest.raises(ConnectionClosed, match=r"1002 .*does not speak"):
        Client(url)


# Calls


def test_a_call_carries_uri_args_and_timeout_in_nanoseconds():
    def script(peer):
        call = peer.acknowledge(CALL)
        peer.res(call, call["payload"])
        call = peer.acknowledge(CALL)
        peer.res(call, call["payload"]["timeout"])
        peer.wait_closed()

    with serving(script) as url, Client(url, call_timeout=1.5) as client:
        args = {"big": 2**70, "text": "é\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")}
        payload = client.call("test.echo", args, timeout=2.5)
        assert payload == {"uri": "test.echo", "args": args, "timeout": 2_500_000_000}
        assert client.call("test.echo") == 1_500_000_000


def test_a_result_before_the_ack():
    def script(peer):
        call = peer.receive(CALL)
        peer.res(call, "quick")
        peer.ack(call)
        call = peer.receive(CALL)
        peer.res(call, "again")
        peer.wait_closed()

    with serving(script) as url, Client(url) as client:
        assert client.call("test.echo") == "quick"
        assert client.call("test.echo") == "again"


def test_many_callers_share_a_connection():
    def script(peer):
        calls = [peer.acknowledge(CALL) for _ in range(50)]
        for call in reversed(calls):
            peer.res(call, call["payload"]["args"])
        peer.wait_closed()

    with serving(script) as url, Client(url) as client, ThreadPoolExecutor(50) as pool:
        assert list(pool.map(lambda n: client.call("test.echo", n), range(50))) == list(range(50))


def test_errors_of_a_call():
    def script(peer):
        peer.nack(peer.receive(CALL), 503, "list capacity exceeded")
        call = peer.acknowledge(CALL)
        peer.res(call, {"error": {"message": "no such user", "type": "LookupError"}})
        peer.wait_closed()

    with serving(script) as url, Client(url) as client:
        with pytest.raises(Nacked) as refused:
            client.call("test.echo")
        assert (refused.value.code, refused.value.message) == (503, "list capacity exceeded")
        with pytest.raises(CallFailed) as failed:
            client.call("test.echo")
        assert (failed.value.message, failed.value.type) == ("no such user", "LookupError")


def test_what_cannot_be_sent_fails_its_own_caller_only():
    with serving(echo) as url, Client(url) as client:
        for args in (float("nan"), b"bytes", {object()}):
            with pytest.raises(InvalidValue):
                client.call("test.echo", args)
        with pytest.raises(InvalidValue):
            client.call("\ud800")
        for timeout in (0, 90_000):
            with pytest.raises(ValueError, match="timeout: expected more than 0 and at most 86400 seconds"):
                client.call("test.echo", timeout=timeout)
        assert client.call("test.echo", "fine") == "fine"


def test_a_call_expires_and_its_late_result_is_dropped():
    late = threading.Event()

    def script(peer):
        call = peer.acknowledge(CALL)
        late.wait(5)
        peer.res(call, "late")
        call = peer.acknowledge(CALL)
        peer.res(call, "in time")
        peer.wait_closed()

    with serving(script) as url, Client(url) as client:
        with pytest.raises(Expired, match=r"no result of test\.delay within 0\.05 s"):
            client.call("test.delay", timeout=0.05)
        late.set()
        assert client.call("test.delay") == "in time"


def test_a_pending_call_can_be_asked_again():
    answer = threading.Event()

    def script(peer):
        call = peer.acknowledge(CALL)
        answer.wait(5)
        peer.res(call, [1])
        peer.wait_closed()

    with serving(script) as url, Client(url) as client:
        pending = client.start_call("test.delay")
        with pytest.raises(TimeoutError, match="yet"):
            pending.result(timeout=0.01)
        assert not pending.done
        answer.set()
        assert pending.result() == [1]
        assert pending.done
        assert (pending.result(), pending.result_json()) == ([1], b"[1]")


def test_a_pending_call_notifies_when_it_is_done():
    with serving(echo) as url, Client(url) as client:
        told = []
        pending = client.start_call("test.echo", 1)
        pending.on_done(told.append)
        pending.on_done(lambda pending: 1 / 0)  # logged, without effect on the client
        more = []
        pending.on_done(lambda pending: more.append(client.start_call("test.echo", 2)))
        assert pending.result() == 1
        assert eventually(more.copy)[0].result() == 2
        eventually(lambda: told == [pending])
        pending.on_done(told.append)
        assert told == [pending, pending]


def test_waiting_can_be_cancelled():
    answer = threading.Event()

    def script(peer):
        call = peer.acknowledge(CALL)
        answer.wait(5)
        peer.res(call, "late")
        call = peer.acknowledge(CALL)
        peer.res(call, "next")
        peer.wait_closed()

    with serving(script) as url, Client(url) as client, ThreadPoolExecutor(1) as pool:
        pending = client.start_call("test.delay")
        told = []
        pending.on_done(told.append)
        waiting = pool.submit(pending.result)
        pending.cancel()
        with pytest.raises(Cancelled, match=r"the call of test\.delay was cancelled; its function may still run"):
            waiting.result(5)
        assert told == [pending]
        answer.set()
        assert client.call("test.echo") == "next"
        pending.cancel()


def test_an_expired_call_is_done():
    acknowledged = threading.Event()

    def script(peer):
        peer.acknowledge(CALL)
        acknowledged.set()
        peer.wait_closed()

    with serving(script) as url, Client(url) as client:
        pending = client.start_call("test.delay", timeout=0.02)
        eventually(lambda: pending.done)
        assert acknowledged.wait(30)
        for _ in range(2):
            with pytest.raises(Expired):
                pending.result()


def test_on_message_sees_everything_and_expired_calls():
    seen = []

    def script(peer):
        peer.acknowledge(CALL)
        call = peer.acknowledge(CALL)
        peer.res(call, 1)
        peer.wait_closed()

    def on_message(message):
        seen.append(message)
        raise RuntimeError("logged, without effect on the client")

    with serving(script) as url, Client(url, on_message=on_message) as client:
        client.start_call("test.delay", {"ms": 1}, timeout=0.02)
        assert client.call("test.echo") == 1
        eventually(lambda: len(seen) == 4)
    assert sorted(type(message).__name__ for message in seen) == ["Ack", "Ack", "Exp", "Res"]
    (exp,) = [message for message in seen if isinstance(message, Exp)]
    acks = [message for message in seen if isinstance(message, Ack)]
    assert (exp.for_, exp.uri, exp.args, exp.type) == (acks[0].for_, "test.delay", b'{"ms":1}', 256)
    assert [message.for_ for message in seen if isinstance(message, Res)] == [acks[1].for_]


# Publications and subscriptions


@pytest.mark.parametrize("args", [b"1e400", b'{"a": 1, "a":2}', rb'"\ud800"'], ids=["large", "twice", "surrogate"])
def test_args_as_json_text_are_sent_unchanged(args):
    seen = []

    def script(peer):
        for answer in (lambda call: peer.res(call, None), lambda pub: None):
            seen.append(peer.websocket.recv())
            request = json.loads(seen[-1])
            peer.ack(request)
            answer(request)
        peer.wait_closed()

    with serving(script) as url, Client(url) as client:
        assert client.start_call_json("x", args).result() is None
        client.publish_json("news", args)
    assert [text[text.index('"args":') :] for text in seen] == [f'"args":{args.decode()}}}}}'] * 2


def test_args_that_are_not_json_text_are_refused_before_they_are_sent():
    with serving(Peer.wait_closed) as url, Client(url) as client:
        for request in (client.start_call_json, client.publish_json):
            with pytest.raises(InvalidValue, match="not a JSON value"):
                request("x", b'1, "injected": 2')


def test_raw_messages_are_sent_unchanged_and_reported():
    told, answers = [], []
    sent = threading.Event()

    def script(peer):
        answers.extend(peer.websocket.recv() for _ in range(2))
        assert sent.wait(30)
        peer.websocket.send('{"meta": {"type": 12}}')
        peer.wait_closed()

    with serving(script) as url, Client(url, on_raw=lambda *args: told.append(args)) as client:
        client.send_raw('{"né": ')
        client.send_raw(b"\x00\xff")
        sent.set()
        eventually(lambda: client.closed)
    assert answers == ['{"né": ', b"\x00\xff"]
    assert told == [("out", '{"né": '), ("out", b"\x00\xff"), ("in", '{"meta": {"type": 12}}')]


def test_requests_are_reported_as_they_travel():
    told = []
    with serving(echo) as url, Client(url, on_raw=lambda *args: told.append(args)) as client:
        assert client.call("test.echo", "é") == "é"
    directions, texts = zip(*told, strict=True)
    assert directions == ("out", "in", "in")
    assert [json.loads(text)["meta"]["type"] for text in texts] == [1, 8, 9]


def test_an_on_raw_that_fails_does_no_harm(caplog):
    with serving(echo) as url, Client(url, on_raw=lambda *_: 1 / 0) as client:
        assert client.call("test.echo", 1) == 1
    assert "client: callback failed callback=on_raw about=in" in caplog.text


@pytest.mark.parametrize("failure", [gevent.Timeout, SystemExit, GeneratorExit])
def test_a_callback_may_fail_with_any_exception(failure, caplog):
    """They are no `Exception`. The reader runs the callback, and has to go on."""

    def on_message(message):
        raise failure

    with serving(echo) as url, Client(url, on_message=on_message) as client:
        assert [client.call("test.echo", number) for number in range(3)] == [0, 1, 2]
    assert "client: callback failed callback=on_message" in caplog.text


def test_a_timeout_of_the_user_passes_through_a_callback():
    """Callbacks of sent messages run in the user's greenlet."""

    def on_raw(direction, message):
        if direction == "out":
            raise gevent.Timeout

    with serving(echo) as url, Client(url, on_raw=on_raw) as client, pytest.raises(gevent.Timeout):
        client.start_call("test.echo", 1)


def test_raw_messages_need_a_connection():
    with serving(Peer.wait_closed) as url, Client(url) as client:
        client.close()
        with pytest.raises(ConnectionClosed):
            client.send_raw("x")


def test_publish_waits_for_its_answer():
    def script(peer):
        assert peer.acknowledge(PUB)["payload"] == {"channel": "news", "args": [1]}
        peer.nack(peer.receive(PUB), 403, "read only")
        peer.receive(PUB)
        peer.wait_closed()

    with serving(script) as url, Client(url, timeout=0.2) as client:
        client.publish("news", [1])
        with pytest.raises(Nacked, match="403 read only"):
            client.publish("news")
        with pytest.raises(Expired, match=r"no acknowledgement of PUB within 0\.2 s"):
            client.publish("news")


def test_events_from_the_ack_to_the_end():
    def script(peer):
        sub = peer.receive(SUB)
        assert sub["payload"] == {"channel": "news", "pattern": False}
        peer.event("news", 1)
        peer.ack(sub)
        peer.event("news", {"two": 2})
        peer.event("elsewhere", 3)
        unsb = peer.receive(UNSB)
        assert unsb["payload"] == {"channel": "news", "pattern": False}
        peer.event("news", "too late")
        peer.ack(unsb)
        peer.wait_closed()

    with serving(script) as url, Client(url) as client:
        with client.subscribe("news") as news:
            assert news.get().args == 1
            event = news.get(timeout=30)
            assert (event.channel, event.pattern, event.args, json.loads(event.json)) == (
                "news",
                "",
                {"two": 2},
                {"two": 2},
            )
            with pytest.raises(TimeoutError, match=r"no event of news within 0\.01 s"):
                news.get(timeout=0.01)
        assert list(news) == []
        with pytest.raises(ConnectionClosed, match="1000 unsubscribed"):
            news.get()
        news.close()


def test_a_pattern_is_a_subscription_of_its_own():
    def script(peer):
        assert peer.acknowledge(SUB)["payload"] == {"channel": "news.*", "pattern": True}
        peer.acknowledge(SUB)
        peer.event("news.a", 1, pattern="news.*")
        peer.event("news.*", 2)
        peer.wait_closed()

    with serving(script) as url, Client(url) as client:
        by_pattern = client.subscribe("news.*", pattern=True)
        by_name = client.subscribe("news.*")
        event = by_pattern.get()
        assert (event.channel, event.pattern, event.args) == ("news.a", "news.*", 1)
        assert by_name.get().args == 2


def test_two_subscriptions_to_one_channel():
    def script(peer):
        peer.acknowledge(SUB)
        peer.acknowledge(PUB)
        peer.event("news", 1)
        peer.acknowledge(UNSB)
        peer.acknowledge(PUB)
        peer.acknowledge(SUB)
        peer.acknowledge(UNSB)
        peer.wait_closed()

    with serving(script) as url, Client(url) as client:
        with client.subscribe("news") as first, client.subscribe("news") as second:
            client.publish("news")
            assert (first.get().args, second.get().args) == (1, 1)
            first.close()
        client.publish("news")
        third, fourth = client.subscribe("news"), client.subscribe("news")
        client.unsubscribe("news")
        client.unsubscribe("news")
        assert list(third) == list(fourth) == []


def test_a_refused_subscription():
    def script(peer):
        peer.nack(peer.receive(SUB), 403, "not yours")
        peer.acknowledge(PUB)
        peer.wait_closed()

    with serving(script) as url, Client(url) as client:
        with pytest.raises(Nacked, match="403 not yours"):
            client.subscribe("secret")
        client.publish("news")


def test_a_subscription_that_is_not_acknowledged_is_undone():
    def script(peer):
        peer.receive(SUB)
        peer.acknowledge(UNSB)
        peer.acknowledge(SUB)
        peer.wait_closed()

    with serving(script) as url, Client(url, timeout=0.2) as client:
        with pytest.raises(Expired, match="no acknowledgement of SUB"):
            client.subscribe("news")
        client.subscribe("news")


def test_a_full_queue_drops_the_oldest_and_counts():
    def script(peer):
        peer.acknowledge(SUB)
        for n in range(10):
            peer.event("news", n)
        peer.acknowledge(PUB)
        peer.websocket.close()

    with serving(script) as url, Client(url, max_events=3) as client:
        news = client.subscribe("news")
        client.publish("sync")
        assert news.dropped == 7
        assert [event.args for event in news] == [7, 8, 9]


def test_a_subscription_ends_with_a_lost_connection():
    def script(peer):
        peer.acknowledge(SUB)
        peer.event("news", 1)
        peer.websocket.close(1001, "shutting down")

    with serving(script) as url, Client(url, reconnect=False) as client, client.subscribe("news") as news:
        events = iter(news)
        assert isinstance(next(events), Event)
        with pytest.raises(ConnectionClosed, match="1001 shutting down"):
            next(events)


# The end


def test_close_in_another_thread_releases_all_who_wait():
    with serving(lambda peer: (peer.acknowledge(SUB), peer.receive(CALL), peer.wait_closed())) as url:
        client = Client(url)
        news = client.subscribe("news")
        with ThreadPoolExecutor(3) as pool:
            waiting = [pool.submit(client.start_call("test.delay").result), pool.submit(news.get)]
            client.close()
            for each in waiting:
                with pytest.raises(ConnectionClosed, match="1000 closed by this client"):
                    each.result(5)
        assert client.closed.code == 1000
        client.close()
        for request in (lambda: client.call("test.echo"), lambda: client.publish("a"), lambda: client.subscribe("a")):
            with pytest.raises(ConnectionClosed, match="1000 closed by this client"):
                request()


def test_close_returns_though_the_server_does_not_answer():
    over = threading.Event()

    def mute(connection):
        connection.recv(65536)
        over.wait(5)

    with raw_server(mute) as url:
        client = Client(url, timeout=0.2)
        begin = time.monotonic()
        client.close()
        assert time.monotonic() - begin < 2
        over.set()


def test_a_server_that_reads_nothing_does_not_block_forever():
    over = threading.Event()

    with raw_server(lambda connection: over.wait(5)) as url:
        client = Client(url, timeout=0.2)
        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(client.call, "test.echo", "x" * 10_000_000, 3) for _ in range(4)]
            for call in calls:
                with pytest.raises(ConnectionClosed, match="1006"):
                    call.result(3)
        client.close()
        over.set()


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        ("nonsense", "4400 the server sent an invalid message: .*JSON"),
        ('{"meta":{"type":1,"uuid":"00000000-0000-4000-8000-000000000001"},"payload":{"uri":"x"}}', "4403 .*CALL"),
        (b"{}", "4400 .*expected a text message, got a binary one"),
        ("x" * 2000, "1009 the server broke the protocol: "),
    ],
    ids=["no JSON", "a request", "binary", "too long"],
)
def test_an_invalid_message_from_the_server_closes_the_connection(garbage, reason):
    def script(peer):
        peer.receive(CALL)
        peer.websocket.send(garbage)
        peer.wait_closed()

    with serving(script) as url, Client(url, max_size=1000) as client:
        with pytest.raises(ConnectionClosed, match=reason):
            client.call("test.echo")
        eventually(lambda: client.closed)


def test_a_lost_connection_fails_each_request_once():
    def script(peer):
        for _ in range(3):
            peer.receive(CALL, PUB)
        peer.websocket.socket.shutdown(socket.SHUT_RDWR)

    with serving(script) as url, Client(url, reconnect=False) as client, ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(client.call, "test.echo"), pool.submit(client.call, "test.echo")]
        waiting.append(pool.submit(client.publish, "news"))
        failures = [each.exception(5) for each in waiting]
        assert {str(failure) for failure in failures} == {str(client.closed)}
        assert client.closed.code == 1006
        assert len({id(failure) for failure in failures}) == 3
        with pytest.raises(ConnectionClosed, match="1006"):
            client.publish("news")


def test_the_servers_close_code_and_reason_are_raised():
    def script(peer):
        peer.receive(CALL)
        peer.websocket.close(4429, "too slow")

    with serving(script) as url, Client(url) as client:
        with pytest.raises(ConnectionClosed, match="4429 too slow") as caught:
            client.call("test.echo")
        assert caught.value.code == 4429


def test_a_silent_server_is_noticed_by_pings():
    over = threading.Event()

    with raw_server(lambda connection: over.wait(5)) as url:
        client = Client(url, timeout=0.2, ping_interval=0.05, ping_timeout=0.05)
        with pytest.raises(ConnectionClosed, match="1006"):
            client.call("test.echo", timeout=5)
        client.close()
        over.set()


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_dead_connection_is_noticed_within_25_seconds(client):
    options = inspect.signature(client).parameters
    assert options["ping_interval"].default + options["ping_timeout"].default <= 25


# Full queues


def flood(peer):
    peer.acknowledge(SUB)
    for n in range(10):
        peer.event("news", n)
    peer.acknowledge(PUB)


def test_a_full_queue_may_drop_the_newest():
    with serving(lambda peer: (flood(peer), peer.websocket.close())) as url, Client(url) as client:
        news = client.subscribe("news", max_events=3, when_full="drop_newest")
        client.publish("sync")
        assert (news.dropped, [event.args for event in news]) == (7, [0, 1, 2])


def test_a_full_queue_may_end_its_subscription():
    left = []

    def script(peer):
        peer.acknowledge(SUB)
        for n in range(10):
            peer.event("news", n)
        left.append(peer.acknowledge(UNSB)["payload"]["channel"])
        peer.wait_closed()

    with serving(script) as url, Client(url) as client:
        news = client.subscribe("news", max_events=3, when_full="end")
        assert eventually(left.copy) == ["news"]
        assert [news.get().args for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ConnectionClosed, match="4429 3 events wait to be read"):
            news.get()
        assert client.connected


@pytest.mark.parametrize("options", [{"max_events": 0}, {"when_full": "explode"}])
def test_a_queue_that_cannot_be_is_refused(options):
    with serving(Peer.wait_closed) as url, Client(url) as client, pytest.raises(ValueError, match="expected"):
        client.subscribe("news", **options)


# Connecting again


class Again:
    """A server with a list of scripts, one for each connection."""

    def __init__(self, *scripts):
        self.scripts = list(scripts)
        self.headers = []

    def __call__(self, peer):
        self.headers.append(peer.headers.get("Authorization"))
        self.scripts.pop(0)(peer)


@pytest.fixture
def quick(monkeypatch):
    """Shorten the pauses before a reconnect."""
    monkeypatch.setattr("juggler.client.reconnect.FIRST_PAUSE", 0.01)


def lose(peer):
    peer.websocket.socket.shutdown(socket.SHUT_RDWR)


def test_a_lost_connection_and_its_subscriptions_are_reestablished(quick):
    def first(peer):
        assert peer.acknowledge(SUB)["payload"]["channel"] == "news"
        assert peer.acknowledge(SUB)["payload"]["channel"] == "sport.*"
        peer.event("news", 1)
        peer.receive(CALL)
        lose(peer)

    def second(peer):
        subs = [peer.receive(SUB)["payload"] for _ in range(1)]
        subs.append(peer.acknowledge(SUB)["payload"])
        assert subs == [{"channel": "news", "pattern": False}, {"channel": "sport.*", "pattern": True}]
        peer.event("sport.a", 2, pattern="sport.*")
        peer.acknowledge(PUB)
        peer.wait_closed()

    states, gaps = [], []
    with (
        serving(Again(first, second)) as url,
        Client(url, on_state=lambda state, error: states.append((state.value, error and error.code))) as client,
    ):
        news = client.subscribe("news", on_gap=lambda: gaps.append("news"))
        sport = client.subscribe("sport.*", pattern=True, on_gap=lambda: gaps.append("sport"))
        with pytest.raises(ConnectionClosed, match="1006 the connection was lost"):
            client.call("test.echo")
        assert client.wait_connected(5)
        assert (news.get(5).args, sport.get(5).args) == (1, 2)
        client.publish("more")
        assert client.closed is None
        # The SUB of news has no ACK yet.
        assert (news.gaps, sport.gaps, gaps) == (0, 1, ["sport"])
    assert states == [("connected", None), ("disconnected", 1006), ("connected", None), ("closed", 1000)]


def test_requests_meanwhile_fail_at_once(quick):
    refuse = threading.Event()

    def process(websocket, request):
        return websocket.respond(503, "not now\n") if refuse.is_set() else None

    def script(peer):
        peer.acknowledge(SUB)
        peer.receive(CALL)
        refuse.set()
        lose(peer)

    with serving(Again(script, Peer.wait_closed), process_request=process) as url, Client(url) as client:
        news = client.subscribe("news")
        with pytest.raises(ConnectionClosed):
            client.call("test.echo")
        eventually(lambda: not client.connected)
        for request in (lambda: client.call("a"), lambda: client.publish("a"), lambda: client.subscribe("a")):
            with pytest.raises(ConnectionClosed, match="1006"):
                request()
        news.close()  # not connected: nothing is sent
        assert list(news) == []
        refuse.clear()
        assert client.wait_connected(5)


def test_a_token_is_requested_for_each_attempt(quick):
    tokens = iter(["old", "new"])
    server = Again(lose, Peer.wait_closed)
    with serving(server) as url, Client(url, headers=lambda: {"Authorization": next(tokens)}):
        eventually(lambda: server.headers == ["old", "new"])


def test_a_client_that_is_refused_for_good_closes(quick):
    refuse = threading.Event()

    def process(websocket, request):
        return websocket.respond(401, "a new token\n") if refuse.is_set() else None

    def script(peer):
        refuse.set()
        lose(peer)

    with serving(script, process_request=process) as url, Client(url) as client:
        eventually(lambda: client.closed)
        with pytest.raises(ConnectionClosed, match="401 Unauthorized: a new token"):
            client.call("test.echo")


@pytest.mark.parametrize("code", [1000, 1008, 4400, 4403])
def test_a_final_close_code_closes_the_client(code):
    with serving(lambda peer: peer.websocket.close(code, "go")) as url, Client(url) as client:
        eventually(lambda: client.closed)
        assert (client.closed.code, client.closed.reason) == (code, "go")


def test_a_client_does_not_try_forever(quick):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    accepted = []

    def once(connection):
        accepted.append(connection)

    with raw_server(once) as url:
        client = Client(url, reconnect_timeout=0.05, timeout=0.2)
    del port
    eventually(lambda: client.closed)
    assert client.closed.code == 1006
    client.close()


def test_a_first_attempt_that_fails_may_be_retried(quick):
    refusals = [503, 503]
    states = []

    def process(websocket, request):
        return websocket.respond(refusals.pop(), "not yet\n") if refusals else None

    with serving(echo, process_request=process) as url:
        with pytest.raises(HandshakeRefused, match="503"):
            Client(url)
        refusals.append(503)
        with Client(url, retry_first=True, on_state=lambda state, error: states.append((state.value, error))) as client:
            assert client.call("test.echo", 1) == 1
    assert [state for state, _ in states] == ["disconnected", "connected", "closed"]
    assert "503 Service Unavailable" in str(states[0][1])


def test_the_first_attempt_is_not_retried_without_end(quick):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(ConnectionClosed, match="1006 cannot connect"):
            Client(url, retry_first=True, reconnect_timeout=0.1)
        with pytest.raises(ConnectionClosed, match="1006 cannot connect"):
            Client(url, retry_first=True, reconnect=False)
    refuse = {"process_request": lambda websocket, request: websocket.respond(401, "a new token\n")}
    with serving(echo, **refuse) as url, pytest.raises(HandshakeRefused, match="401"):
        Client(url, retry_first=True)


def test_close_stops_the_attempts(quick):
    with serving(lose) as url:
        client = Client(url)
        eventually(lambda: not client.connected)
    begin = time.monotonic()
    client.close()
    assert client.closed.code == 1000
    assert time.monotonic() - begin < 5


def test_a_callback_may_do_what_does_not_wait(quick):
    def second(peer):
        peer.acknowledge(SUB)
        peer.res(peer.acknowledge(CALL), "called")
        peer.wait_closed()

    with serving(Again(lambda peer: (peer.acknowledge(SUB), lose(peer)), second)) as url, Client(url) as client:
        calls = []
        client.subscribe("news", on_gap=lambda: calls.append(client.start_call("test.echo")))
        assert eventually(calls.copy)[0].result(5) == "called"


def test_a_subscription_that_is_refused_for_the_time_being_is_retried(quick, monkeypatch):
    monkeypatch.setattr("juggler.client.blocking.RENEWAL_PAUSE", 0.01)

    def second(peer):
        for code in (503, 429):
            peer.nack(peer.receive(SUB), code, "not now")
        peer.acknowledge(SUB)
        peer.event("news", 1)
        peer.wait_closed()

    with serving(Again(lambda peer: (peer.acknowledge(SUB), lose(peer)), second)) as url, Client(url) as client:
        news = client.subscribe("news")
        assert news.get(5).args == 1
        assert news.gaps == 1


def test_a_server_that_accepts_and_closes_is_not_flooded_with_attempts(monkeypatch):
    monkeypatch.setattr("juggler.client.reconnect.FIRST_PAUSE", 0.05)
    accepted = []

    def script(peer):
        accepted.append(peer)
        peer.websocket.close(1013, "try later")

    with serving(script) as url, Client(url, reconnect_timeout=0.4) as client:
        eventually(lambda: client.closed)
        assert 2 <= len(accepted) <= 6


def test_states_come_in_their_order():
    for _ in range(20):
        states = []
        with (
            serving(lambda peer: peer.websocket.close(1000)) as url,
            Client(url, on_state=lambda state, error, states=states: states.append(state.value)) as client,
        ):
            eventually(lambda client=client: client.closed)
            eventually(lambda states=states: states == ["connected", "closed"])


def test_a_write_that_is_interrupted_ends_the_connection(quick):
    if not monkey.is_module_patched("threading"):
        return  # threads cannot be interrupted
    over = threading.Event()

    with raw_server(lambda connection: over.wait(5)) as url:
        client = Client(url, reconnect=False)
        with gevent.Timeout(0.1, False):
            client.call("test.echo", "x" * 20_000_000)
        with pytest.raises(ConnectionClosed, match="1006 the connection was lost: a write was interrupted"):
            client.call("test.echo", "small")
        over.set()
        client.close()


def test_secrets_of_a_url_are_not_shown():
    for url in ("ws://u:pa/ss@127.0.0.1:1/ws?token=SECRET", "ws://127.0.0.1:1/ws?token=SECRET"):
        with pytest.raises(JugglerError) as failed:
            Client(url)
        assert "SECRET" not in str(failed.value)
        assert "pa/ss" not in str(failed.value)


def test_close_in_a_callback_returns_though_the_server_does_not_answer():
    made, over = threading.Event(), threading.Event()
    uuid = "00000000-0000-4000-8000-000000000001"
    event = {"meta": {"type": 10, "uuid": uuid}, "payload": {"for": uuid, "channel": "x", "args": 1}}
    text = json.dumps(event).encode()

    def mute(connection):
        made.wait(5)
        connection.sendall(b"\x81\x7e" + len(text).to_bytes(2, "big") + text)
        over.wait(8)

    with raw_server(mute) as url:
        clients = []
        client = Client(url, timeout=0.3, on_message=lambda message: clients[0].close(), on_state=lambda *_: None)
        clients.append(client)
        made.set()
        eventually(
            lambda: (
                not {each.name for each in threading.enumerate()} & {"juggler-client-reader", "juggler-client-expiry"}
            )
        )
        over.set()


TLS_CALLS = 300


def test_many_threads_share_a_connection_over_tls(tmp_path):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with (
        serving(echo, ssl=context) as url,
        Client(url.replace("ws://127.0.0.1", "wss://localhost"), ssl=trusting, reconnect=False) as client,
        ThreadPoolExecutor(6) as pool,
    ):
        assert list(pool.map(lambda n: client.call("test.echo", n), range(TLS_CALLS))) == list(range(TLS_CALLS))


def test_a_certificate_that_is_not_trusted_is_a_failure_to_connect():
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse():
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                context.wrap_socket(connection, server_side=True)

        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(
            ConnectionClosed, match=r"1006 cannot connect to wss://localhost:.*CERTIFICATE_VERIFY_FAILED"
        ):
            Client(f"wss://localhost:{listener.getsockname()[1]}")
        thread.join()


def test_a_subscription_that_cannot_be_reestablished_ends(quick):
    def second(peer):
        peer.nack(peer.receive(SUB), 403, "not any more")
        peer.wait_closed()

    with serving(Again(lambda peer: (peer.acknowledge(SUB), lose(peer)), second)) as url, Client(url) as client:
        news = client.subscribe("news")
        with pytest.raises(Nacked, match="403 not any more"):
            news.get(5)


# With threads


def test_this_process_is_patched_or_is_not():
    assert monkey.is_module_patched("threading") == (not UNPATCHED)


def test_all_of_this_works_with_threads():
    pass_unpatched(__file__, "-k", f"not {test_all_of_this_works_with_threads.__name__}")
