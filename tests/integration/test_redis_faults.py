"""Redis fails and comes back: what clients receive in the meantime, and that everything works again."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import pairwise
from socket import SHUT_RDWR

import gevent
import pytest
import redis
from gevent.event import AsyncResult
from gevent.monkey import get_original
from gevent.server import StreamServer

from juggler.broker import Event, IncomingCall, Subscriber
from juggler.broker.redis import RedisBroker
from juggler.broker.redis.persistent_connection import PersistentConnection
from juggler.client import Client
from juggler.errors import BrokerUnavailable, OutcomeUnknown
from juggler.process.embedded import free_port
from juggler.process.uuids import new_uuid
from juggler.protocol.messages import MessageType
from tests.recorders import Outcome, RecordedCall
from tests.redis_servers import MortalRedis
from tests.stack import Wire, running_server, serving
from tests.support import eventually

CALL, PUB, SUB, UNSB, NACK, ACK, RES, EVNT = (MessageType(n) for n in (1, 2, 3, 4, 7, 8, 9, 10))


@contextmanager
def stack(url: str) -> Iterator[tuple[RedisBroker, str]]:
    """Run a server and a callee of the URI "u", each with a broker of its own."""
    broker, callee = RedisBroker(url), RedisBroker(url, blocking_timeout=0.1)
    try:
        with running_server(broker) as running, serving(callee, ["u"], lambda call: call.args):
            yield broker, running.url
    finally:
        callee.close()


def answers(wire: Wire) -> bool:
    """Return whether a call is answered now. A NACK must be 503 or 504. The server may reconnect before the callee."""
    answer = wire.request(CALL, uri="u", args=1, timeout=10**9)
    if answer["meta"]["type"] == NACK:
        assert answer["payload"]["code"] in (503, 504)
        return False
    try:
        return wire.receive(timeout=1.5)["meta"]["type"] == RES
    except TimeoutError:
        return False


def subscribed_channels(server: MortalRedis) -> list[bytes]:
    """Return the channels that have subscribers."""
    with server.client() as client:
        return client.pubsub_channels()


def events_arrive(subscriber: Wire, publisher: Wire) -> None:
    assert publisher.request(PUB, channel="c", args=1)["meta"]["type"] == ACK
    assert subscriber.receive()["meta"]["type"] == EVNT


def test_a_restart_leaves_websockets_and_subscriptions_in_place(mortal):
    mortal.start()
    with stack(mortal.url) as (broker, url), Wire(url) as wire, Wire(url) as subscriber:
        subscriber.request(SUB, channel="c")
        assert answers(wire)
        mortal.kill()
        eventually(lambda: not answers(wire), message="requests are refused while Redis is away")
        started = time.monotonic()
        for type, name in ((CALL, "uri"), (PUB, "channel"), (SUB, "channel")):
            assert wire.request(type, **{name: "x"})["payload"]["code"] == 503
        assert time.monotonic() - started < 1, "refused at once"
        mortal.start()
        eventually(lambda: answers(wire), message="calls are answered again")
        eventually(lambda: broker.pubsub.receiver.connection.up)
        # The subscription is recreated without the client. That of another client shows when.
        with Wire(url) as another:
            assert another.request(SUB, channel="c")["meta"]["type"] == ACK
        events_arrive(subscriber, wire)


def test_the_log_of_a_restart(mortal, caplog):
    mortal.start()
    with closing(RedisBroker(mortal.url)) as broker:
        broker.connect()
        connection = broker.topology.link.connection
        mortal.kill()
        eventually(lambda: "redis: connecting failed" in caplog.text)
        mortal.start()
        eventually(lambda: connection.up)
    first, *others, last = [record.msg for record in caplog.records]
    assert str(first) == 'redis: connection lost link=commands error="closed by Redis"'
    assert str(last) == "redis: connection re-established link=commands"
    for line in others:
        assert line.event == "redis: connecting failed"
        assert line.fields.keys() == {"link", "error", "retry_in"}


def test_a_refused_repetition_leaves_the_subscription_as_it_was(mortal):
    mortal.start()
    with stack(mortal.url) as (_, url), Wire(url) as wire:
        with Wire(url) as subscriber:
            subscriber.request(SUB, channel="c")
            mortal.kill()
            eventually(lambda: subscriber.request(SUB, channel="c")["meta"]["type"] == NACK)
            mortal.start()
            eventually(lambda: answers(wire))
            eventually(lambda: wire.request(SUB, channel="c")["meta"]["type"] == ACK)
            wire.request(UNSB, channel="c")
            events_arrive(subscriber, wire)
        eventually(lambda: not subscribed_channels(mortal), message="the subscription ends with its connection")


def test_a_server_may_come_before_its_redis(mortal):
    with stack(mortal.url) as (_, url), Wire(url) as wire:
        assert wire.request(SUB, channel="c")["payload"]["code"] == 503
        assert not answers(wire)
        mortal.start()
        eventually(lambda: answers(wire))
        eventually(lambda: wire.request(SUB, channel="c")["meta"]["type"] == ACK)


def test_a_silent_redis_is_detected_and_used_again(mortal):
    mortal.start()
    with stack(mortal.url) as (broker, url), Wire(url) as wire, Wire(url) as subscriber:
        subscriber.request(SUB, channel="c")
        assert answers(wire)
        mortal.signal(signal.SIGSTOP)
        started = time.monotonic()
        # It fails exactly once, when the dead peer is detected.
        nack = wire.request(CALL, uri="u", timeout=10**9)
        assert nack["payload"]["code"] == 504, "Redis may have received it"
        eventually(lambda: wire.request(CALL, uri="u", timeout=10**9)["payload"].get("code") == 503)
        events = broker.pubsub.receiver.connection
        eventually(lambda: not events.up, message="it is detected on the connection for events too")
        assert time.monotonic() - started < 6
        mortal.signal(signal.SIGCONT)
        eventually(lambda: answers(wire))
        eventually(lambda: broker.pubsub.receiver.connection.up)
        with Wire(url) as another:
            assert another.request(SUB, channel="c")["meta"]["type"] == ACK
        events_arrive(subscriber, wire)


class Slow(Subscriber):
    """Takes seconds over each event, as the watchdog of a connection measures them."""

    def __init__(self, connection: PersistentConnection) -> None:
        self.events = 0
        self._connection = connection

    def on_event(self, event: Event) -> None:
        self.events += 1
        for _ in range(3):
            self._connection.check(10.0)


def test_a_connection_whose_events_are_being_delivered_is_not_silent(redis_url):
    with closing(RedisBroker(redis_url)) as broker:
        connection = broker.pubsub.receiver.connection
        slow, subscribed = Slow(connection), Outcome()
        broker.subscribe("c", False, slow, subscribed)
        assert subscribed.wait() is None
        published = [Outcome() for _ in range(20)]
        for outcome in published:
            broker.publish("c", new_uuid(), b"1", outcome)
        eventually(lambda: slow.events == len(published))
        assert (connection.up, connection.losses) == (True, 0)


def test_a_connection_that_is_lost_at_once_is_re_established_with_growing_delays(redis_url):
    with closing(RedisBroker(redis_url)) as broker:
        broker.connect()
        (connection,) = broker.topology.connections()
        connect, attempts = connection.connector, []

        def connect_and_lose():
            attempts.append(time.monotonic())
            established, supports_redis7 = connect()
            established._sock.shutdown(SHUT_RDWR)  # noqa: SLF001  # redis-py has no public name for it
            return established, supports_redis7

        connection.connector = connect_and_lose
        connection.drop("on purpose")
        eventually(lambda: len(attempts) >= 5)
        pauses = [later - earlier for earlier, later in pairwise(attempts)]
        assert sum(pauses[:4]) > 0.05 / 2 * (1 + 2 + 4 + 8)
        connection.connector = connect
        eventually(lambda: connection.up)


def test_what_a_dead_peer_has_not_received_is_discarded(redis_url):
    """The peer reads the first commands, then nothing; when it reads again, it finds a reset and not the rest."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        broker = RedisBroker(f"redis://127.0.0.1:{listener.getsockname()[1]}", blocking_timeout=0.1)
        forwarding = gevent.spawn(forward_until, listener, redis_url, b"PUBLISH")
        with closing(broker):
            broker.connect()
            outcomes = [Outcome() for _ in range(40)]
            for outcome in outcomes:
                broker.publish("c", new_uuid(), b'"%b"' % (b"x" * 1_000_000), outcome)
            assert {outcome.wait().code for outcome in outcomes} == {504}
            with forwarding.get(timeout=30) as peer:
                poll = get_original("select", "poll")()
                poll.register(peer, 0)
                eventually(lambda: poll.poll(0), message="the peer receives the reset")
                with pytest.raises(ConnectionResetError):
                    read_to_the_end(peer)


@pytest.mark.parametrize("role", ["call", "result"])
def test_a_list_expires_although_the_connection_is_lost_within_a_push(redis_url, role):
    """The connection is cut after the payload and before the list's expiry."""
    with cutting(redis_url, b"*4\r\n$7\r\nPEXPIRE", after=b"LPUSH") as url, closing(RedisBroker(url)) as broker:
        broker.connect()
        if role == "call":
            call = RecordedCall()
            broker.call("u", b"1", 60, call)
            ((_, error),) = call.wait(1)
            assert error.code == 504
        else:
            outcome = Outcome()
            broker.result(IncomingCall("conn", new_uuid(), "u", b"1", time.monotonic() + 60, 0.0), b"1", outcome)
            assert outcome.wait().code == 504
        with redis.Redis.from_url(redis_url, protocol=2) as client:
            (key,) = client.keys(f"juggler:{role}s:{{*}}")
            eventually(lambda: client.pttl(key) > 0, message="the list expires")
            client.flushall()


def test_a_turn_pushes_to_a_list_once_and_prolongs_it_once(redis_url):
    """It lives as long as the longest of the calls wants, at least an hour."""
    with closing(RedisBroker(redis_url)) as broker, redis.Redis.from_url(redis_url, protocol=2) as client:
        broker.connect()
        call = RecordedCall()
        broker.call("u", b"1", 1, call)
        call.wait(1)
        client.config_resetstat()
        calls = [RecordedCall() for _ in range(20)]
        for number, call in enumerate(calls):
            broker.call("u", b"1", 7200 if number == 10 else 60, call)
        for call in calls:
            call.wait(1)
        eventually(lambda: client.pttl("juggler:calls:{u}") > 7_100_000)
        statistics = client.info("commandstats")
        assert statistics["cmdstat_lpush"]["calls"] == 1
        assert statistics["cmdstat_pexpire"]["calls"] == 2
        client.flushall()


def test_large_payloads_of_a_turn_are_pushed_apart(redis_url):
    with closing(RedisBroker(redis_url)) as broker, redis.Redis.from_url(redis_url, protocol=2) as client:
        broker.connect()
        client.config_resetstat()
        calls = [RecordedCall() for _ in range(6)]
        for call in calls:
            broker.call("u", b'"%b"' % (b"x" * 25_000), 60, call)
        for call in calls:
            assert call.wait(1) == [("stored", None)]
        assert client.llen("juggler:calls:{u}") == 6
        assert client.info("commandstats")["cmdstat_lpush"]["calls"] == 2
        client.flushall()


def test_calls_of_a_turn_in_which_the_connection_is_lost_fail(redis_url):
    with closing(RedisBroker(redis_url)) as broker, redis.Redis.from_url(redis_url, protocol=2) as client:
        broker.connect()
        (connection,) = broker.topology.connections()
        calls = [RecordedCall() for _ in range(3)]
        for call in calls:
            broker.call("u", b"1", 60, call)
        connection.drop("of the test")
        for call in calls:
            ((what, error),) = call.wait(1)
            assert (what, type(error)) == ("stored", OutcomeUnknown)
        eventually(lambda: connection.up)
        later = RecordedCall()
        broker.call("u", b"2", 60, later)
        assert later.wait(1) == [("stored", None)]
        assert client.llen("juggler:calls:{u}") == 1
        client.flushall()


def dialled(url: str) -> socket.socket:
    """Return a connection to the Redis of a test."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(url.removeprefix("unix://"))
    return sock


@contextmanager
def cutting(url: str, command: bytes, *, after: bytes) -> Iterator[str]:
    """Forward connections to Redis, and cut the first one in front of a command that follows another one."""
    cut = False

    def serve(client: socket.socket, _: object) -> None:
        nonlocal cut
        with client, dialled(url) as server:
            back = gevent.spawn(pump, server, client)
            while data := client.recv(65536):
                place = data.find(command, data.find(after)) if after in data and not cut else -1
                if place >= 0:
                    cut = True
                    server.sendall(data[:place])
                    break
                server.sendall(data)
            server.shutdown(SHUT_RDWR)
            back.join()

    listener = StreamServer(("127.0.0.1", 0), serve)
    listener.start()
    try:
        yield f"redis://127.0.0.1:{listener.server_port}"
    finally:
        listener.stop(timeout=1)


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)


def read_to_the_end(peer: socket.socket) -> None:
    while peer.recv(65536):
        pass


def forward_until(listener: socket.socket, url: str, command: bytes) -> socket.socket:
    """Forward connections to Redis until one sends a command; then stop reading, and return that one."""
    stopped: AsyncResult = AsyncResult()

    def serve(client: socket.socket) -> None:
        with dialled(url) as server:
            back = gevent.spawn(pump, server, client)
            while data := client.recv(65536):
                if command in data:
                    stopped.set(client)
                    return
                server.sendall(data)
            back.kill()
            client.close()

    def accept() -> None:
        while True:
            serving_one.append(gevent.spawn(serve, listener.accept()[0]))

    serving_one: list[gevent.Greenlet] = []
    accepting = gevent.spawn(accept)
    client: socket.socket = stopped.get()
    accepting.kill()
    return client


def test_a_silent_redis_with_a_full_socket_is_used_again(mortal):
    mortal.start()
    broker = RedisBroker(mortal.url)
    broker.connect()
    mortal.signal(signal.SIGSTOP)
    stuck = [Outcome() for _ in range(20)]
    for outcome in stuck:
        broker.publish("c", "00000000-0000-4000-8000-000000000001", b'"%b"' % (b"x" * 1_000_000), outcome)
    assert all(isinstance(outcome.wait(), BrokerUnavailable) for outcome in stuck)
    mortal.signal(signal.SIGCONT)

    def works() -> bool:
        outcome = Outcome()
        broker.publish("c", "00000000-0000-4000-8000-000000000001", b"1", outcome)
        return outcome.wait() is None

    eventually(works)
    broker.close()


def test_a_master_that_becomes_a_replica_is_abandoned(mortal):
    mortal.start()
    with stack(mortal.url) as (broker, url), Wire(url) as wire, mortal.client() as client:
        assert answers(wire)
        client.replicaof("127.0.0.1", str(free_port()))
        eventually(lambda: not answers(wire), message="it takes no writes")
        assert "no connection to Redis" in wire.request(CALL, uri="u")["payload"]["message"]
        losses = broker.topology.link.connection.losses
        assert losses > 0
        client.replicaof("NO", "ONE")
        eventually(lambda: answers(wire))
        assert broker.topology.link.connection.losses == losses, "no connection to it stayed up meanwhile"


def test_a_result_waits_for_redis(mortal):
    mortal.start()
    broker = RedisBroker(mortal.url)
    broker.connect()
    mortal.kill()
    eventually(lambda: not broker.topology.link.connection.up)
    wanted, unwanted = Outcome(), Outcome()
    for seconds, done in ((60, wanted), (0.1, unwanted)):
        broker.result(IncomingCall("conn", f"msg{seconds}", "u", b"null", time.monotonic() + seconds), b'"r"', done)
    assert isinstance(unwanted.wait(), BrokerUnavailable)
    assert not wanted.told
    mortal.start()
    eventually(lambda: wanted.told == [None])
    with mortal.client() as client:
        assert json.loads(client.rpop("juggler:results:{conn}"))["msg_uuid"] == "msg60"
    mortal.kill()
    eventually(lambda: not broker.topology.link.connection.up)
    left = Outcome()
    broker.result(IncomingCall("conn", "msg", "u", b"null", time.monotonic() + 60), b'"r"', left)
    broker.close()
    assert isinstance(left.wait(), BrokerUnavailable)


def test_callers_learn_of_results_for_which_there_was_no_room(mortal):
    mortal.start()
    broker = RedisBroker(mortal.url)
    broker.connect()
    mortal.kill()
    eventually(lambda: not broker.topology.link.connection.up)
    large = b'"' + b"x" * 20_000_000 + b'"'
    done = [Outcome() for _ in range(4)]
    for number, each in enumerate(done):
        broker.result(IncomingCall("conn", f"msg{number}", "u", b"null", time.monotonic() + 60), large, each)
    assert isinstance(done[3].wait(), BrokerUnavailable)
    mortal.start()
    eventually(lambda: [each.told for each in done[:3]] == [[None]] * 3)
    with mortal.client() as client:
        eventually(lambda: client.llen("juggler:results:{conn}") == 4)
        results = {each["msg_uuid"]: each for each in map(json.loads, client.lrange("juggler:results:{conn}", 0, -1))}
    assert (results["msg3"]["failed"], results["msg3"]["args"]["error"]["type"]) == (True, "ResultLost")
    assert [len(results[f"msg{number}"]["args"]) for number in range(3)] == [20_000_000] * 3
    broker.close()


def test_lost_events_are_counted_and_published_as_a_gap(mortal):
    mortal.start()
    with (
        stack(mortal.url) as (broker, url),
        Wire(url) as wire,
        Wire(url) as told,
        Wire(url) as untold,
        mortal.client() as client,
    ):
        wire.request(SUB, channel="c")
        told.request(SUB, channel="juggler.gap")
        untold.request(SUB, channel="*", pattern=True)
        assert broker.pubsub.gaps == 0
        for gaps in (1, 2):
            client.client_kill_filter(_type="pubsub")
            eventually(lambda gaps=gaps: broker.pubsub.gaps == gaps)
            eventually(lambda: broker.pubsub.receiver.connection.up)
            assert wire.request(SUB, channel="c")["meta"]["type"] == ACK
            event = told.receive()["payload"]
            assert (event["channel"], event["args"]) == ("juggler.gap", {"gaps": gaps})
        assert wire.request(PUB, channel="other")["meta"]["type"] == ACK
        assert untold.receive()["payload"]["channel"] == "other"


def test_clients_may_count_the_gaps_of_their_server(mortal):
    mortal.start()
    with stack(mortal.url) as (broker, url), Client(url, follow_gaps=True) as client, mortal.client() as admin:
        told = []
        with client.subscribe("c", on_gap=lambda: told.append("gap")) as events:
            eventually(lambda: broker.pubsub.topics == 2)
            for gaps in (1, 2):
                admin.client_kill_filter(_type="pubsub")
                eventually(lambda gaps=gaps: events.gaps == gaps)
            assert told == ["gap", "gap"]
            client.publish("c", "still there")
            assert events.get(5).args == "still there"


def test_requests_in_flight_fail_exactly_once(mortal):
    mortal.start()
    broker = RedisBroker(mortal.url)
    broker.connect()
    mortal.signal(signal.SIGSTOP)
    calls, publications = [RecordedCall() for _ in range(50)], [Outcome() for _ in range(50)]
    for call, publication in zip(calls, publications, strict=True):
        broker.call("u", b"1", 60, call)
        broker.publish("c", "00000000-0000-4000-8000-000000000001", b"1", publication)
    # Let them be sent before Redis dies.
    eventually(lambda: broker.topology.link.connection.queued == 0)
    mortal.kill()
    for call, publication in zip(calls, publications, strict=True):
        ((kind, error),) = call.wait(1)
        assert kind == "stored"
        assert isinstance(error, BrokerUnavailable)
        assert isinstance(publication.wait(), BrokerUnavailable)
    broker.close()
    assert all(len(call.told) == 1 for call in calls)


def refuse():
    raise redis.ConnectionError("on purpose")


def test_calls_that_were_popped_but_could_not_be_checked_run_later(mortal):
    mortal.start()
    caller, callee = RedisBroker(mortal.url), RedisBroker(mortal.url, blocking_timeout=0.1)
    pending = RecordedCall()
    caller.call("u", b"1", 30, pending)
    assert pending.wait(1) == [("stored", None)]
    callee.connect()
    consumer = callee.calls(["u"])
    # Calls are popped and checked on different connections; the one for checks is refused.
    commands = callee.topology.link.connection
    connector, commands.connector = commands.connector, refuse
    commands.drop("on purpose")
    with pytest.raises(BrokerUnavailable):
        consumer.pop(10)
    commands.connector = connector
    (call,) = eventually(lambda: commands.up and consumer.pop(10))
    callee.result(call, b"2", lambda error: None)
    assert pending.wait(2)[1] == ("result", b"2")
    caller.close()
    callee.close()


def test_a_closed_broker_stays_closed(mortal):
    mortal.start()
    broker = RedisBroker(mortal.url, blocking_timeout=0.1)
    broker.connect()
    broker.close()
    pending = RecordedCall()
    broker.call("u", b"1", 30, pending)
    ((_, error),) = pending.wait(1)
    assert isinstance(error, BrokerUnavailable)
    assert broker.calls(["u"]).pop(1) == []
    # After every test, a fixture checks that no greenlet and no connection is left.
