"""Handlers see every message, in both directions, and decide what becomes of it."""

from __future__ import annotations

from typing import ClassVar

import gevent
import pytest
from gevent.event import Event

from juggler.broker.memory import MemoryBroker
from juggler.errors import ConfigError, NackCode, Refused
from juggler.handlers import chain, process_message
from juggler.protocol.messages import Call, Evnt, Message, MessageType, Res, Sub
from juggler.server import Server
from tests.stack import Wire, running_server, serving

CALL, PUB, SUB, NACK, ACK, RES, EVNT = (MessageType(n) for n in (1, 2, 3, 7, 8, 9, 10))


def recorder(seen):
    def middleware(next_handler):
        def handler(ctx, connection, message):
            seen.append((message.type, ctx, connection))
            next_handler(ctx, connection, message)

        return handler

    return middleware


def test_every_message_passes_with_a_context_of_its_own():
    seen = []
    with (
        running_server(handler=chain(recorder(seen))) as running,
        serving(running.broker, ["u"], lambda call: call.args),
        Wire(running.url) as wire,
    ):
        wire.request(SUB, channel="c")
        wire.request(CALL, uri="u", args=1)
        assert wire.receive()["meta"]["type"] == RES
        wire.send(PUB, channel="c")
        assert {wire.receive()["meta"]["type"] for _ in range(2)} == {ACK, EVNT}
    assert sorted(type for type, _, _ in seen) == sorted([SUB, ACK, CALL, ACK, RES, PUB, ACK, EVNT])
    assert len({id(ctx) for _, ctx, _ in seen}) == len(seen)
    assert len({connection for _, _, connection in seen}) == 1


class Tick(Message, frozen=True, gc=False):
    """A message of a custom type."""

    type: ClassVar[int] = MessageType.CUSTOM + 44
    refuse: bool = False


def test_a_message_of_a_custom_type_passes_the_handlers_and_is_not_sent():
    seen = []

    def send_ticks(next_handler):
        def handler(ctx, connection, message):
            if isinstance(message, Tick):
                seen.append(message.type)
                gevent.sleep(0.11)  # long enough to count as slow
                if message.refuse:
                    raise Refused(NackCode.FORBIDDEN, "not now")
            elif isinstance(message, Sub):
                for refuse in (False, True):
                    connection.send(Tick(refuse=refuse))
            next_handler(ctx, connection, message)

        return handler

    with running_server(handler=chain(send_ticks)) as running, Wire(running.url) as wire:
        for _ in range(2):
            assert wire.request(SUB, channel="c")["meta"]["type"] == ACK
        assert running.server.metrics.panics == 0
    assert seen == [300] * 4


def test_chained_handlers_run_outermost_first_and_share_the_context():
    order = []

    def named(name):
        def middleware(next_handler):
            def handler(ctx, connection, message):
                ctx.path = [*getattr(ctx, "path", []), name]
                next_handler(ctx, connection, message)

            return handler

        return middleware

    def last(ctx, connection, message):
        order.append(ctx.path)
        process_message(ctx, connection, message)

    with running_server(handler=chain(named("a"), named("b"), last=last)) as running, Wire(running.url) as wire:
        wire.request(SUB, channel="c")
    assert order == [["a", "b"], ["a", "b"]]


def test_refusing_a_request_is_a_nack_and_it_is_not_processed():
    def check_access(next_handler):
        def handler(ctx, connection, message):
            if isinstance(message, Call):
                raise Refused(NackCode.FORBIDDEN, "caller doesn't have access")
            next_handler(ctx, connection, message)

        return handler

    called = []
    with (
        running_server(handler=chain(check_access)) as running,
        serving(running.broker, ["u"], lambda call: called.append(call) or b"1"),
        Wire(running.url) as wire,
    ):
        nack = wire.request(CALL, uri="u", args=1)
        assert nack["meta"]["type"] == NACK
        assert nack["payload"]["code"] == 403
        assert nack["payload"]["message"] == "caller doesn't have access"
        assert nack["payload"]["uri"] == "u"
        assert wire.request(SUB, channel="c")["meta"]["type"] == ACK
    assert called == []


def test_refusing_an_event_is_a_nack_of_its_publication():
    def censor(next_handler):
        def handler(ctx, connection, message):
            if isinstance(message, Evnt):
                raise Refused(451, "not here")
            next_handler(ctx, connection, message)

        return handler

    with running_server(handler=chain(censor)) as running, Wire(running.url) as one, Wire(running.url) as two:
        one.request(SUB, channel="c")
        uuid = two.send(PUB, channel="c")
        nack = one.receive()["payload"]
    assert nack["for"] == uuid
    assert nack["for_type"] == PUB
    assert nack["code"] == 451


def test_a_refused_nack_is_dropped_and_nothing_else_is():
    def refuse_all_calls_and_nacks(next_handler):
        def handler(ctx, connection, message):
            if message.type in (CALL, NACK):
                raise Refused(500, "no")
            next_handler(ctx, connection, message)

        return handler

    with running_server(handler=chain(refuse_all_calls_and_nacks)) as running, Wire(running.url) as wire:
        wire.send(CALL, uri="u")
        assert wire.request(SUB, channel="c")["meta"]["type"] == ACK


def test_a_handler_may_alter_a_message():
    def double(next_handler):
        def handler(ctx, connection, message):
            if isinstance(message, Res):
                message = Res(uuid=message.uuid, for_=message.for_, uri=message.uri, args=b"[%b]" % message.args)
            next_handler(ctx, connection, message)

        return handler

    with (
        running_server(handler=chain(double)) as running,
        serving(running.broker, ["u"], lambda call: call.args),
        Wire(running.url) as wire,
    ):
        wire.request(CALL, uri="u", args=1)
        assert wire.receive()["payload"]["args"] == [1]


def test_a_handler_that_blocks_holds_up_its_own_connection_only():
    go = Event()

    def blocking(next_handler):
        def handler(ctx, connection, message):
            if isinstance(message, Evnt) and connection.attrs.__dict__.get("slow"):
                go.wait()
            if message.type is SUB and message.channel == "slow":
                connection.attrs.slow = True
            next_handler(ctx, connection, message)

        return handler

    with running_server(handler=chain(blocking)) as running, Wire(running.url) as slow, Wire(running.url) as quick:
        slow.request(SUB, channel="slow")
        slow.request(SUB, channel="c")
        quick.request(SUB, channel="c")
        quick.send(PUB, channel="c")
        assert {quick.receive()["meta"]["type"] for _ in range(2)} == {ACK, EVNT}
        with pytest.raises(TimeoutError):
            slow.receive(timeout=0.05)
        go.set()
        assert slow.receive()["meta"]["type"] == EVNT


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("on purpose"), gevent.Timeout(0.1, "on purpose"), SystemExit("on purpose")]
)
@pytest.mark.parametrize("type", [CALL, NACK])
def test_a_handler_that_fails_ends_its_own_connection_only(caplog, error, type):
    def failing(next_handler):
        def handler(ctx, connection, message):
            if message.type is type:
                raise error
            next_handler(ctx, connection, message)

        return handler

    with running_server(handler=chain(failing)) as running, Wire(running.url) as bad, Wire(running.url) as good:
        bad.send(CALL, uri="")
        assert bad.closed() == (1011, "internal error")
        assert good.request(SUB, channel="c")["meta"]["type"] == ACK
    assert "on purpose" in caplog.text


def test_responses_that_wait_for_a_handler_are_bounded():
    go = Event()

    def stuck(next_handler):
        def handler(ctx, connection, message):
            if isinstance(message, Evnt):
                go.wait()
            next_handler(ctx, connection, message)

        return handler

    with (
        running_server(handler=chain(stuck), max_waiting=5) as running,
        Wire(running.url) as one,
        Wire(running.url) as two,
    ):
        one.request(SUB, channel="c")
        for _ in range(10):
            assert two.request(PUB, channel="c")["meta"]["type"] == ACK
        code, reason = one.closed()
        go.set()
    assert code == 4429
    assert "5 responses" in reason


def test_an_ended_connection_leaves_no_greenlets_though_its_handler_blocks():
    blocked = Event()

    def stuck(next_handler):
        def handler(ctx, connection, message):
            if isinstance(message, Evnt):
                blocked.set()
                gevent.sleep(3600)
            next_handler(ctx, connection, message)

        return handler

    with running_server(handler=chain(stuck)) as running, Wire(running.url) as wire:
        wire.request(SUB, channel="c")
        wire.send(PUB, channel="c")
        assert blocked.wait(5)
    # That nothing is left is checked after every test.


@pytest.mark.parametrize("handler", [recorder([]), lambda: None, "process_message"])
def test_a_handler_that_cannot_be_called_is_refused(handler):
    broker = MemoryBroker()
    with pytest.raises(ConfigError, match=r"handler: expected .* or chain\(…\) of middleware, got "):
        Server(caller_broker=broker, pubsub_broker=broker, handler=handler)


def test_options_out_of_range_are_named():
    bad = dict.fromkeys(
        ("max_calls", "max_connections", "max_subscriptions", "max_unanswered", "max_waiting", "write_limit"), 0
    )
    bad |= {"max_uri_length": 0, "max_channel_length": -1, "answer_limit": 0, "total_answer_limit": 0}
    bad |= {"call_timeout": 1e9, "max_call_timeout": 0, "keep_headers": "Cookie"}
    for option, value in bad.items():
        with pytest.raises(ValueError, match=option):
            Server(caller_broker=None, pubsub_broker=None, **{option: value})
    with pytest.raises(ValueError, match="call_timeout: expected more than 0 and at most 5 s, got 6"):
        Server(caller_broker=None, pubsub_broker=None, max_call_timeout=5, call_timeout=6)
