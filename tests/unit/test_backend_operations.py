"""The operations of backends as steps: what is sent where, and what each reply leads to."""

from __future__ import annotations

import json
from itertools import count

import pytest
import redis
from redis.crc import key_slot

from juggler.backend.operations import CHUNK_EVENTS, GRACE, MAX_EVENTS, Operations, encoded, stored_parts
from juggler.backend.routing import PATIENCE, Router
from juggler.backend.steps import Pause, Reconnect, Send
from juggler.broker import client_of, is_from_juggler
from juggler.broker.redis.commands import ASKING
from juggler.broker.redis.keys import Names
from juggler.broker.redis.url import parse
from juggler.errors import (
    BrokerError,
    BrokerUnavailable,
    CallFailed,
    Cancelled,
    CapacityExceeded,
    Expired,
    InvalidValue,
    OutcomeUnknown,
)
from juggler.protocol.codec import decode_call, encode_result
from juggler.protocol.results import result_value

REPLICA = redis.exceptions.ReadOnlyError("You can't write against a read only replica.")
NO_SCRIPT = redis.exceptions.NoScriptError("No matching script.")


class Desk:
    """Operations with a clock that tests set, and a Redis that they play."""

    def __init__(self, url: str = "redis://x", **options) -> None:
        self.now = 100.0
        numbers = count(1)
        parsed = parse(url)
        options = {"by": None, "call_timeout": 10.0, "call_capacity": 5, "max_stream_time": 100.0} | options
        self.router = Router(parsed, lambda: self.now)
        self.operations = Operations(
            self.router,
            Names(),
            sharded=parsed.sharded,
            clock=lambda: self.now,
            trace=lambda: "",
            new_uuid=lambda: f"00000000-0000-4000-a000-{next(numbers):012x}",
            **options,
        )
        self.steps: list = []

    def run(self, steps, *outcomes):
        """Carry out steps with these outcomes, and return the result. Pauses take their time."""
        outcomes = iter(outcomes)
        send, value = steps.send, None
        while True:
            try:
                step = send(value)
            except StopIteration as stop:
                assert next(outcomes, None) is None, "more outcomes than steps"
                return stop.value
            self.steps.append(step)
            send, value = steps.send, None
            if isinstance(step, Pause):
                self.now += step.seconds
            elif isinstance(step, Send):
                value = next(outcomes)
                if callable(value):
                    value = value()
                send = steps.throw if isinstance(value, Exception) else steps.send

    def sent(self) -> list[list[bytes]]:
        """Return the commands that were sent, with their arguments."""
        return [unpack(each) for step in self.steps if isinstance(step, Send) for each in step.commands]

    def addresses(self) -> list:
        return [step.address for step in self.steps if isinstance(step, Send)]

    def started(self, uri: str = "u", **options):
        call = self.operations.new_call(uri, b"1", None, **options)
        self.run(self.operations.start(call), [1])
        self.steps.clear()
        return call

    def result(self, call, args: bytes = b"7", **options) -> bytes:
        return encode_result(call.conn_uuid, call.call_id, call.uri, args, **{"keyless": True} | options)


def unpack(packed: bytes) -> list[bytes]:
    lines = packed.split(b"\r\n")
    return lines[2::2]


# Events


def test_an_event_is_published_as_servers_do() -> None:
    desk = Desk()
    assert desk.run(desk.operations.publish("news", b'{"a": 1}'), [3]) == 3
    ((command, channel, payload),) = desk.sent()
    assert (command, channel) == (b"PUBLISH", b"news")
    assert json.loads(payload) == {"msg_uuid": "00000000-0000-4000-a000-000000000001", "args": {"a": 1}}


def test_a_batch_is_sent_in_chunks_and_counted() -> None:
    desk = Desk()
    events = [("news", b"1")] * (CHUNK_EVENTS + 1)
    assert desk.run(desk.operations.publish_many(events), [2] * CHUNK_EVENTS, [1]) == [2] * CHUNK_EVENTS + [1]
    desk = Desk()
    large = [("news", b'"' + b"x" * 200_000 + b'"')] * 3
    assert desk.run(desk.operations.publish_many(large), [0], [0], [0]) == [0, 0, 0]
    assert Desk().run(Desk().operations.publish_many([])) == []


@pytest.mark.parametrize(
    ("outcome", "kind", "text"),
    [
        (OutcomeUnknown("lost"), OutcomeUnknown, "500 of 501 events were published, and perhaps some more: lost"),
        (BrokerUnavailable("none"), BrokerUnavailable, "500 of 501 events were published: none"),
        ([redis.ResponseError("no")], BrokerError, "500 of 501 events were published: Redis refused the request: no"),
    ],
)
def test_the_error_of_a_batch_says_how_far_it_came(outcome, kind, text) -> None:
    desk = Desk()
    with pytest.raises(kind) as error:
        desk.run(desk.operations.publish_many([("news", b"1")] * 501), [0] * 500, outcome)
    assert type(error.value) is kind
    assert str(error.value) == text


def test_an_endless_batch_is_refused_in_time() -> None:
    endless = (("news", n) for n in count())
    with pytest.raises(BrokerError, match=f"at most {MAX_EVENTS} events"):
        Desk().run(Desk().operations.publish_many(encoded(endless)))


def test_with_sharded_pubsub_each_channel_has_its_node() -> None:
    desk = Desk("redis+cluster://a:1,b:2?sharded=1")
    low, high = _channels()
    events = [(low, b"1"), (low, b"2"), (high, b"3"), (low, b"4")]
    assert desk.run(desk.operations.publish_many(events), [SLOTS], [1, 1], [2], [3]) == [1, 1, 2, 3]
    assert desk.addresses() == [("a", 1), ("a", 1), ("b", 2), ("a", 1)]
    assert {command[0] for command in desk.sent()[1:]} == {b"SPUBLISH"}


def _channels() -> tuple[str, str]:
    """Return a channel on the first node of `SLOTS`, and one on the second."""
    names = [f"c{n}" for n in range(50)]
    return next(n for n in names if key_slot(n.encode()) < 8192), next(n for n in names if key_slot(n.encode()) >= 8192)


SLOTS = [[0, 8191, [b"a", 1, b"id"]], [8192, 16383, [b"b", 2, b"id"]]]

# Calls


def test_a_call_is_stored_as_servers_do() -> None:
    desk = Desk(by={"user": 1})
    call = desk.operations.new_call("u", b"[1]", 7.5)
    desk.run(desk.operations.start(call), [1])
    ((script, _, number, timeout_key, list_key, ttl, payload, capacity, list_ttl),) = desk.sent()
    assert (script, number, ttl, capacity, list_ttl) == (b"EVALSHA", b"2", b"7500", b"5", b"3600000")
    assert (timeout_key, list_key) == (f"juggler:calls:timeout:{{u}}:{call.call_id}".encode(), b"juggler:calls:{u}")
    stored = decode_call(payload)
    assert (stored.conn_uuid, stored.msg_uuid, stored.uri) == (call.conn_uuid, call.call_id, "u")
    assert (stored.args, json.loads(stored.by)) == (b"[1]", {"user": 1})
    assert Desk().operations.new_call("u", b"1", None).payload == (
        b'{"conn_uuid":"00000000-0000-4000-a000-000000000002",'
        b'"msg_uuid":"00000000-0001-8ca1-a000-000000000001","uri":"u","args":1}'
    )


def test_calls_of_a_process_have_one_client() -> None:
    operations = Desk().operations
    calls = [operations.new_call("u", b"1", None) for _ in range(70_000)]
    assert len({call.call_id for call in calls}) == 70_000
    assert len({client_of(call.conn_uuid, call.call_id) for call in calls}) == 1
    assert is_from_juggler(calls[0].call_id)
    operations.begin_process()
    assert len({client_of("", operations.new_call("u", b"1", None).call_id), client_of("", calls[0].call_id)}) == 2


def test_a_script_that_redis_does_not_know_is_sent_whole() -> None:
    desk = Desk()
    desk.run(desk.operations.start(desk.operations.new_call("u", b"1", None)), [NO_SCRIPT], [1])
    assert [command[0] for command in desk.sent()] == [b"EVALSHA", b"EVAL"]


def test_a_full_list_refuses_the_call() -> None:
    desk = Desk()
    with pytest.raises(CapacityExceeded):
        desk.run(desk.operations.start(desk.operations.new_call("u", b"1", None)), [-1])


def test_in_a_cluster_a_full_list_is_restored() -> None:
    desk = Desk("redis+cluster://a:1")
    call = desk.operations.new_call("u", b"1", None)
    with pytest.raises(CapacityExceeded):
        desk.run(desk.operations.start(call), [SLOTS], [True, 6, 0, 1], [1, 1])
    assert [command[0] for command in desk.sent()[-2:]] == [b"LREM", b"DEL"]


def test_a_result_is_awaited_in_slices() -> None:
    desk = Desk()
    call = desk.started()

    def nothing():
        desk.now += 1
        return [None]

    assert desk.run(desk.operations.wait(call), nothing, nothing, [[b"key", desk.result(call)]])
    assert result_value(call.outcome()) == 7
    assert desk.sent()[0][:3] == [b"BRPOP", f"juggler:results:{{{call.conn_uuid}}}".encode(), b"1.000"]
    assert desk.run(desk.operations.wait(call, 0))


def test_what_is_no_result_of_the_call_is_ignored() -> None:
    desk = Desk()
    call, other = desk.started(), desk.started()
    noise = [[b"key", each] for each in (b"{", b'"x"', desk.result(other), b"\xff")]
    desk.run(desk.operations.wait(call), *([each] for each in noise), [[b"key", desk.result(call)]])
    assert result_value(call.outcome()) == 7


def test_the_timeout_key_of_a_result_is_deleted_if_it_has_one() -> None:
    desk = Desk()
    call = desk.started()
    desk.run(desk.operations.wait(call), [[b"key", desk.result(call, keyless=False)]], [1])
    key = f"juggler:results:timeout:{{{call.conn_uuid}}}:{call.call_id}".encode()
    assert desk.sent()[1:] == [[b"DEL", key]]


def test_a_call_expires_and_leaves_its_list() -> None:
    desk = Desk()
    call = desk.started()

    def late():
        desk.now += 10
        return [None]

    assert desk.run(desk.operations.wait(call), late, [1])
    with pytest.raises(Expired, match="no result of u within 10 s"):
        call.outcome()
    assert desk.sent()[-1] == [b"LREM", b"juggler:calls:{u}", b"-1", call.payload]


def test_a_wait_survives_a_short_outage() -> None:
    desk = Desk()
    call = desk.started()
    lost = [OutcomeUnknown("lost"), BrokerUnavailable("none")]
    desk.run(desk.operations.wait(call), *lost, [[b"key", desk.result(call)]])
    assert result_value(call.outcome()) == 7


def test_a_wait_fails_after_a_long_outage() -> None:
    desk = Desk()
    call = desk.started()
    began = desk.now
    with pytest.raises(OutcomeUnknown, match="while waiting for the result of u; its function may run: why"):
        desk.run(desk.operations.wait(call), *[BrokerUnavailable("none", detail="why") for _ in range(100)])
    assert GRACE <= desk.now - began < GRACE + 1
    assert not call.is_settled


def test_an_error_of_redis_ends_a_wait_at_once() -> None:
    desk = Desk()
    with pytest.raises(BrokerError, match="permission"):
        desk.run(
            desk.operations.wait(desk.started()), [redis.exceptions.NoPermissionError("User x has no permissions")]
        )


def test_a_queued_call_is_taken_from_its_list() -> None:
    desk = Desk()
    call = desk.started()
    desk.run(desk.operations.cancel(call), [1, 1, {b"c1"}])
    with pytest.raises(Cancelled):
        call.outcome()
    assert [command[0] for command in desk.sent()] == [b"DEL", b"LREM", b"SMEMBERS"]


def test_all_callees_hear_of_the_cancel_of_a_running_call() -> None:
    desk = Desk()
    call = desk.started()
    desk.run(desk.operations.cancel(call, wait=True), [0, 0, [b"c1", b"c2"]], [True], [1, 1, 1], [1, 1, 1])
    assert not call.is_settled
    marked, *pushed = desk.sent()[3:]
    assert marked == [b"SET", f"juggler:calls:cancelled:{{u}}:{call.call_id}".encode(), b"", b"PX", b"10000"]
    assert [each[1:] for each in pushed[::3]] == [
        [
            f"juggler:control:{{{callee}}}".encode(),
            json.dumps({"cancel": [call.call_id]}, separators=(",", ":")).encode(),
        ]
        for callee in ("c1", "c2")
    ]


@pytest.mark.parametrize("error", [BrokerUnavailable("none"), OutcomeUnknown("lost")])
def test_a_cancel_that_cannot_be_sent_settles_the_call(error) -> None:
    desk = Desk()
    call = desk.started()
    desk.run(desk.operations.cancel(call), error)
    assert call.is_settled
    desk.run(desk.operations.cancel(call))


# Streams


def test_credit_is_granted_after_half_a_window() -> None:
    desk = Desk()
    call = desk.started(parts=stored_parts("all", 4))

    def part(seq: int) -> bytes:
        return desk.result(call, b"%d" % seq, seq=seq, more=True, callee="c")

    parts = [[b"key", part(1)], [part(2), part(3), part(4)]]
    assert desk.run(desk.operations.next_part(call), parts) == b"1"
    assert desk.run(desk.operations.next_part(call), [1, 1, 1]) == b"2"
    assert desk.sent()[-3][1:] == [b"juggler:control:{c}", b'{"credit":{"%s":6}}' % call.call_id.encode()]
    assert desk.run(desk.operations.next_part(call)) == b"3"
    desk.now += 1.5
    assert desk.run(desk.operations.next_part(call), [1, 1, 1]) == b"4"
    desk.run(desk.operations.keep(call), [1, 1, 1])
    assert desk.sent()[-3][2] == b'{"credit":{"%s":8}}' % call.call_id.encode()
    result = [[b"key", desk.result(call, b'"over"')], None]
    assert desk.run(desk.operations.next_part(call), result) is None
    assert result_value(call.outcome()) == "over"
    desk.run(desk.operations.keep(call))


def test_joined_parts_are_read_one_by_one() -> None:
    desk = Desk()
    call = desk.started(parts=stored_parts("all", 64))
    joined = desk.result(call, b"[1,2]", seq=1, more=True, callee="c", joined=True)
    assert desk.run(desk.operations.next_part(call), [[b"key", joined], None]) == b"1"
    assert desk.run(desk.operations.next_part(call)) == b"2"


def test_a_missing_part_fails_the_stream_and_cancels_it() -> None:
    desk = Desk()
    call = desk.started(parts=stored_parts("all", 64))
    second = desk.result(call, b"2", seq=2, more=True, callee="c")
    assert desk.run(desk.operations.next_part(call), [[b"key", second], None], [0, 0, []], [1], [1, 1, 1]) is None
    with pytest.raises(CallFailed) as failure:
        result_value(call.outcome())
    assert failure.value.type == "PartsLost"


def test_a_missing_key_proves_only_after_its_lifetime_that_a_callee_has_gone() -> None:
    desk = Desk(call_timeout=60.0)
    call = desk.started()
    taken = desk.result(call, b"null", more=True, callee="c")

    def nothing():
        desk.now += 1
        return [None]

    looks = [outcome for _ in range(6) for outcome in (nothing, [-2])]
    assert desk.run(desk.operations.wait(call), [[b"key", taken]], *looks, nothing, [-2])
    with pytest.raises(CallFailed, match="the callee process has gone"):
        result_value(call.outcome())


# Asking processes


def test_asking_collects_the_answers_that_come_in_time() -> None:
    desk = Desk()

    def nothing():
        desk.now += 1
        return [None]

    pushed = [1, 1, 1]
    steps = desk.operations.ask({b"a": b"{}", b"b": b"{}"}, b"replies", 2.0)
    assert desk.run(steps, pushed, pushed, [[b"replies", b"1"]], nothing, nothing) == [b"1"]
    steps = desk.operations.ask({b"a": b"{}"}, b"replies", 2.0)
    assert desk.run(steps, pushed, [[b"replies", b"1"]]) == [b"1"]
    assert desk.run(desk.operations.ask({}, b"replies", 2.0)) == []


# Routes


def test_commands_that_a_replica_refuses_are_sent_again() -> None:
    desk = Desk()
    assert desk.run(desk.operations.publish("news", b"1"), [REPLICA], [4]) == 4
    assert [type(step) for step in desk.steps] == [Send, Reconnect, Pause, Send]


def test_commands_are_sent_again_for_a_limited_time() -> None:
    desk = Desk()
    began = desk.now
    with pytest.raises(BrokerUnavailable, match="Redis refused the request"):
        desk.run(desk.operations.publish("news", b"1"), *[[REPLICA]] * 100)
    assert PATIENCE <= desk.now - began < PATIENCE + 1


def test_a_slot_that_has_moved_is_followed() -> None:
    desk = Desk("redis+cluster://a:1,b:2")
    slot = key_slot(b"news")
    moved, ask = redis.exceptions.MovedError(f"{slot} c:3"), redis.exceptions.AskError(f"{slot} d:4")
    elsewhere = [[0, 16383, [b"c", 3, b"id"]]]
    assert desk.run(desk.operations.publish("news", b"1"), [SLOTS], [moved], [elsewhere], [ask], [b"OK", 5]) == 5
    home = ("a", 1) if slot < 8192 else ("b", 2)
    assert desk.addresses()[1:2] + desk.addresses()[3:] == [home, ("c", 3), ("d", 4)]
    assert desk.steps[-1].commands[0] == ASKING


def test_only_commands_that_were_not_executed_are_sent_again() -> None:
    desk = Desk("redis+cluster://a:1")
    call = desk.operations.new_call("u", b"1", None)
    ask = redis.exceptions.AskError(f"{key_slot(b'juggler:calls:{u}')} d:4")
    desk.run(desk.operations.start(call), [SLOTS], [ask, 1, 1, 1], [b"OK", True])
    assert [command[0] for command in desk.sent()] == [
        *(b"CLUSTER", b"SET", b"LPUSH", b"PEXPIRE", b"PEXPIRE"),
        *(b"ASKING", b"SET"),
    ]


def test_a_node_that_is_away_is_replaced() -> None:
    desk = Desk("redis+cluster://a:1,b:2")
    elsewhere = [[0, 16383, [b"c", 3, b"id"]]]
    away = BrokerUnavailable("away")
    assert desk.run(desk.operations.publish("news", b"1"), away, [SLOTS], away, away, [elsewhere], [5]) == 5
    assert desk.addresses()[-1] == ("c", 3)


def test_a_cluster_that_is_away_fails() -> None:
    desk = Desk("redis+cluster://a:1,b:2")
    with pytest.raises(BrokerUnavailable, match="no node of the Redis Cluster is reachable: away"):
        desk.run(desk.operations.publish("news", b"1"), BrokerUnavailable("away"), BrokerUnavailable("away"))


def test_values_of_a_batch_are_numbered_in_errors() -> None:
    with pytest.raises(InvalidValue, match=r"^event 3 of the batch: NaN"):
        encoded([("a", 1), ("a", 2), ("a", float("nan"))])
