"""Keys and payloads in Redis, against programs that know nothing of ours but the protocol: literal commands."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
import redis

from juggler.broker import IncomingCall
from juggler.broker.redis import RedisBroker
from juggler.errors import CapacityExceeded
from juggler.protocol.messages import MessageType
from tests.recorders import Outcome, RecordedCall, RecordedSubscriber
from tests.stack import Wire, running_server
from tests.support import eventually

CALL, PUB, SUB, ACK, RES, EVNT = (MessageType(n) for n in (1, 2, 3, 8, 9, 10))
CONN = "00000000-0000-4000-8000-000000000030"
MSG = "00000000-0000-4000-8000-000000000001"


@pytest.fixture
def client(redis_url):
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        yield client


@pytest.fixture(params=[False, True], ids=["redis7", "redis6"])
def broker(redis_url, request):
    broker = RedisBroker(redis_url, blocking_timeout=0.1, legacy=request.param)
    yield broker
    broker.close()


def foreign_callee(client, uri, answer):
    """Serve one call as the original does: pop, read and delete the timeout key, store the result for what remains."""
    payload = json.loads(client.brpop(f"juggler:calls:{{{uri}}}", timeout=5)[1])
    key = f"juggler:calls:timeout:{{{payload['uri']}}}:{payload['msg_uuid']}"
    value, remaining = client.get(key), client.pttl(key)
    client.delete(key)
    conn, msg = payload["conn_uuid"], payload["msg_uuid"]
    result = {"conn_uuid": conn, "msg_uuid": msg, "uri": payload["uri"], "args": answer}
    client.set(f"juggler:results:timeout:{{{conn}}}:{msg}", remaining, px=remaining)
    client.lpush(f"juggler:results:{{{conn}}}", json.dumps(result))
    return payload, value, remaining


def test_a_foreign_callee_serves_our_server(broker, client):
    with running_server(broker) as running, Wire(running.url) as wire:
        uuid = wire.send(CALL, uri="far.away", timeout=2 * 10**9, args={"x": 3})
        payload, value, remaining = foreign_callee(client, "far.away", {"y": 4})
        assert set(payload) == {"conn_uuid", "msg_uuid", "uri", "args"}
        assert payload["uri"] == "far.away"
        assert payload["args"] == {"x": 3}
        assert value == b"2000"
        assert 1000 < remaining <= 2000
        assert wire.receive()["meta"]["type"] == ACK
        res = wire.receive()
        assert res["meta"]["type"] == RES
        assert res["payload"] == {"for": uuid, "uri": "far.away", "args": {"y": 4}}


def test_our_callee_serves_a_foreign_server(broker, client):
    consumer = broker.calls(["test.echo"])
    client.set(f"juggler:calls:timeout:{{test.echo}}:{MSG}", 5000, px=5000)
    client.lpush(
        "juggler:calls:{test.echo}",
        json.dumps({"conn_uuid": CONN, "msg_uuid": MSG, "uri": "test.echo", "args": {"x": 3}}),
    )
    (call,) = eventually(lambda: consumer.pop(10))
    assert (call.conn_uuid, call.msg_uuid, call.uri, json.loads(call.args)) == (CONN, MSG, "test.echo", {"x": 3})
    assert not client.exists(f"juggler:calls:timeout:{{test.echo}}:{MSG}")
    done = Outcome()
    broker.result(call, b'"ok"', done)
    assert done.wait() is None
    result = json.loads(client.rpop(f"juggler:results:{{{CONN}}}"))
    assert result == {"conn_uuid": CONN, "msg_uuid": MSG, "uri": "test.echo", "args": "ok"}
    key = f"juggler:results:timeout:{{{CONN}}}:{MSG}"
    assert 0 < client.pttl(key) <= int(client.get(key)) <= 5000
    client.delete(key)
    consumer.close()


def test_calls_without_args_and_garbage_in_the_list_are_taken_in_order(broker, client):
    consumer = broker.calls(["u"])
    client.set(f"juggler:calls:timeout:{{u}}:{MSG}", 5000, px=5000)
    client.lpush(
        "juggler:calls:{u}",
        "garbage",
        b"\xff\xfe",
        '{"conn_uuid":1}',
        json.dumps({"conn_uuid": CONN, "msg_uuid": "expired", "uri": "u"}),
        json.dumps({"conn_uuid": CONN, "msg_uuid": MSG, "uri": "u"}),
    )
    (call,) = eventually(lambda: consumer.pop(10))
    assert (call.msg_uuid, call.args) == (MSG, b"null")
    assert broker.callee.invalid == 3
    assert broker.callee.expired == 1
    consumer.close()


def test_events_are_plain_publications(broker, client):
    subscriber, done = RecordedSubscriber(), Outcome()
    broker.subscribe("news", False, subscriber, done)
    assert done.wait() is None
    client.publish("news", "garbage")
    client.publish("news", b'{"msg_uuid":"%b","args":"\xff"}' % MSG.encode())
    client.publish("news", json.dumps({"msg_uuid": MSG, "args": [1, 2]}))
    eventually(lambda: subscriber.events)
    assert [(e.channel, e.pattern, e.uuid, json.loads(e.args)) for e in subscriber.events] == [
        ("news", "", MSG, [1, 2])
    ]
    assert broker.pubsub.invalid == 2

    with client.pubsub() as listener:
        listener.psubscribe("n*")
        assert listener.get_message(timeout=30)["type"] == "psubscribe"
        published = Outcome()
        broker.publish("news", MSG, b'{"a":1}', published)
        assert published.wait() is None
        message = listener.get_message(timeout=30)
    assert (message["channel"], json.loads(message["data"])) == (b"news", {"msg_uuid": MSG, "args": {"a": 1}})


@pytest.mark.leaves_keys("juggler:calls:*")
def test_a_list_lives_as_long_as_its_longest_call(broker, client):
    for timeout in (2.0, 5000.0, 1.0):
        call = RecordedCall()
        broker.call("nobody", b"1", timeout, call)
        assert call.wait(1) == [("stored", None)]
        assert client.pttl(f"juggler:calls:timeout:{{nobody}}:{call.call_id}") <= timeout * 1000
    assert client.llen("juggler:calls:{nobody}") == 3
    assert 4_950_000 < client.pttl("juggler:calls:{nobody}") <= 5_000_000


def test_a_foreign_call_does_not_expire_with_the_list_of_our_short_call(broker, client):
    call = RecordedCall()
    broker.call("busy", b"1", 0.1, call)
    assert call.wait(1) == [("stored", None)]
    client.set(f"juggler:calls:timeout:{{busy}}:{MSG}", 60_000, px=60_000)
    client.lpush("juggler:calls:{busy}", json.dumps({"conn_uuid": CONN, "msg_uuid": MSG, "uri": "busy"}))
    assert client.pttl("juggler:calls:{busy}") > 3_000_000
    assert call.wait(2)[-1] == ("expired",)
    consumer = broker.calls(["busy"])
    (incoming,) = eventually(lambda: consumer.pop(10))
    assert incoming.msg_uuid == MSG
    consumer.close()


def test_a_foreign_result_does_not_expire_with_the_list_of_a_short_one(broker, client):
    done = Outcome()
    broker.result(IncomingCall(CONN, MSG, "u", b"1", time.monotonic() + 0.1), b"1", done)
    assert done.wait() is None
    assert 9_000 < client.pttl(f"juggler:results:{{{CONN}}}") <= 10_000
    eventually(lambda: not client.exists(f"juggler:results:timeout:{{{CONN}}}:{MSG}"))
    assert client.delete(f"juggler:results:{{{CONN}}}")


def test_a_call_that_nobody_serves_is_gone_after_its_timeout(broker, client):
    call = RecordedCall()
    broker.call("nobody", b"1", 0.05, call)
    assert call.wait(2) == [("stored", None), ("expired",)]
    eventually(lambda: not client.keys("*"))


@pytest.mark.leaves_keys("juggler:calls:*")
def test_calls_that_nobody_serves_do_not_pile_up(broker, client):
    """A call that is wanted for long keeps the list, not the dead ones behind it."""
    for number in range(100):
        broker.call("nobody", b"%d" % number, 0.05, RecordedCall())
    lasting = RecordedCall()
    broker.call("nobody", b'"wanted"', 60, lasting)
    assert lasting.wait(1) == [("stored", None)]
    assert client.llen("juggler:calls:{nobody}") == 101
    eventually(lambda: client.llen("juggler:calls:{nobody}") == 1)
    assert json.loads(client.lindex("juggler:calls:{nobody}", 0))["args"] == "wanted"


@pytest.mark.leaves_keys("juggler:calls:*")
def test_short_calls_behind_a_long_one_are_removed(broker, client):
    lasting = [RecordedCall() for _ in range(40)]
    for number in range(3000):
        if number % 100 == 0:
            broker.call("nobody", b'"wanted"', 60, lasting[number // 100])
        broker.call("nobody", b"%d" % number, 0.05, RecordedCall())
    for number in range(30, 40):
        broker.call("nobody", b'"wanted"', 60, lasting[number])
    assert [call.wait(1) for call in lasting] == [[("stored", None)]] * 40
    eventually(lambda: client.llen("juggler:calls:{nobody}") == 40)
    assert {json.loads(call)["args"] for call in client.lrange("juggler:calls:{nobody}", 0, -1)} == {"wanted"}


@pytest.mark.leaves_keys("juggler:calls:*")
def test_a_round_of_the_sweep_continues_where_the_last_one_ended(broker, client):
    calls = [RecordedCall() for _ in range(3000)]
    for call in calls:
        broker.call("nobody", b"1", 60, call)
    broker.call("nobody", b'"short"', 0.05, RecordedCall())
    assert calls[-1].wait(1)
    assert client.llen("juggler:calls:{nobody}") == 3001
    eventually(lambda: client.llen("juggler:calls:{nobody}") == 3000)


@pytest.mark.leaves_keys("juggler:calls:*")
def test_a_list_full_of_expired_calls_is_swept(redis_url, client, broker):
    client.lpush("juggler:calls:{nobody}", *[json.dumps({"conn_uuid": CONN, "msg_uuid": MSG, "uri": "nobody"})] * 20)
    limited = RedisBroker(redis_url, call_capacity=10)
    with contextlib.closing(limited):
        call = RecordedCall()
        limited.call("nobody", b"1", 5, call)
        ((_, error),) = call.wait(1)
        assert isinstance(error, CapacityExceeded)
        eventually(lambda: client.llen("juggler:calls:{nobody}") == 0)


def test_a_result_for_a_server_that_is_gone_expires(broker, client):
    call = RecordedCall()
    broker.call("u", b"1", 0.2, call)
    consumer = broker.calls(["u"])
    (incoming,) = eventually(lambda: consumer.pop(1))
    gone = type(incoming)("gone", incoming.msg_uuid, "u", b"1", incoming.deadline)
    done = Outcome()
    broker.result(gone, b"1", done)
    assert done.wait() is None
    assert 0 < client.pttl("juggler:results:{gone}") <= 10_000
    eventually(lambda: client.keys("*") == [b"juggler:results:{gone}"])
    client.pexpire("juggler:results:{gone}", 1)
    eventually(lambda: not client.keys("*"))
    consumer.close()
