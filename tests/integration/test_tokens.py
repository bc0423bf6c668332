"""Tokens on live connections: expiry, AUTH, and what a renewal does to subscriptions."""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import contextmanager

import gevent
import jwt as pyjwt
import pytest
from gevent.event import Event

from juggler.auth import ANONYMOUS, Identity, bearer, find_token, jwt
from juggler.broker.redis import RedisBroker
from juggler.errors import HandshakeRefused, NackCode, Refused
from juggler.handlers import chain
from juggler.handlers.authorize import Rule, authorize
from juggler.handlers.rate_limit import rate_limit
from juggler.handlers.recover import recover
from juggler.protocol.messages import MessageType, Sub, nack
from juggler.server.tokens import BURST, MAX_TOKEN, TokenState
from juggler.server.tokens import Tokens as ServerTokens
from tests.stack import Wire, Wire1, running_server, serving
from tests.support import eventually

CALL, PUB, SUB, UNSB, NACK, ACK, RES, EVNT = (MessageType(n) for n in (1, 2, 3, 4, 7, 8, 9, 10))
AUTH, ENDS = MessageType.AUTH, MessageType.ENDS
KEY = "a secret of at least as many bytes as the longest hash has"


class Tokens:
    """A connect hook. Tokens are a user, and the seconds for which they are valid: ``ann 5``, or ``ann`` for ever."""

    def __init__(self):
        self.requests = []

    def __call__(self, request):
        self.requests.append(request)
        user, _, seconds = (find_token(request) or "").partition(" ")
        return Identity(user, time.time() + float(seconds) if seconds else None)


def bear(token):
    return {"additional_headers": {"Authorization": f"Bearer {token}"}}


def kind(message) -> int:
    return message["meta"]["type"]


def only_connection(running):
    (connection,) = running.server.connections
    return connection


def code_of(answer) -> int:
    assert kind(answer) == NACK
    assert answer["payload"]["for_type"] == AUTH
    return answer["payload"]["code"]


# Expiry.


def test_the_welcome_has_the_time_that_is_left():
    with running_server(connect=Tokens()) as running:
        with Wire1(running.url, **bear("ann 100")) as wire:
            assert 95 < wire.welcome["payload"]["ttl"] <= 100
            assert "auth" in wire.welcome["payload"]["features"]
            assert only_connection(running).identity == "ann"
        with Wire1(running.url, **bear("ann")) as wire:
            assert "ttl" not in wire.welcome["payload"]


@pytest.mark.parametrize(("client", "grace"), [(Wire, 25.0), (Wire1, 0), (Wire1, 0.2)])
def test_a_connection_whose_identity_has_expired_is_closed(client, grace):
    with running_server(connect=Tokens(), token_grace=grace) as running:
        began = time.monotonic()
        with client(running.url, **bear("ann 0.3")) as wire, client(running.url, **bear("bob")) as other:
            assert wire.closed() == (4401, "the token has expired")
            assert 0.3 <= time.monotonic() - began < 10
            assert kind(other.request(SUB, channel="c")) == ACK
            assert eventually(lambda: running.server.metrics.closes[4401] == 1)


def test_within_the_grace_a_client_is_served_and_may_still_renew():
    with running_server(connect=Tokens()) as running, Wire1(running.url, **bear("ann 0.01")) as wire:
        assert eventually(lambda: only_connection(running).token_state.expires < time.monotonic())
        assert kind(wire.request(SUB, channel="c")) == ACK
        assert wire.request(AUTH, token="ann 100")["payload"]["ttl"] > 95


@pytest.mark.parametrize("client", [Wire, Wire1])
def test_an_identity_that_has_expired_admits_nobody(client):
    with (
        running_server(connect=Tokens()) as running,
        pytest.raises(Exception, match="401"),
    ):
        client(running.url, **bear("ann -1"))


@pytest.mark.parametrize("delta", [-50_000.0, 50_000.0])
def test_steps_of_the_clock_do_not_matter_later(monkeypatch, delta):
    clock = time.time
    with running_server(connect=Tokens()) as running, Wire1(running.url, **bear("ann 30")) as wire:
        monkeypatch.setattr(time, "time", lambda: clock() + delta)
        assert 25 < wire.request(AUTH, token="ann 30")["payload"]["ttl"] <= 30


def test_a_jwt_expires_on_live_connections():
    def token(seconds, **claims):
        return pyjwt.encode({"sub": "ann", "exp": time.time() + seconds, **claims}, KEY, algorithm="HS256")

    with running_server(connect=jwt(KEY, ["HS256"]), token_grace=0.1) as running:
        with Wire1(running.url, **bear(token(100, role="user"))) as wire:
            answer = wire.request(AUTH, token=token(3600, role="admin", iat=1, jti="2"))
            assert 3500 < answer["payload"]["ttl"] <= 3600
            assert only_connection(running).identity["role"] == "admin"
            assert code_of(wire.request(AUTH, token=token(-60))) == 401
            wire.send(AUTH, token=token(3600, iss="another"))
            assert wire.closed() == (4403, "the token is that of another identity")
        for client in (Wire, Wire1):
            with client(running.url, **bear(token(1.5))) as wire:
                assert wire.closed()[0] == 4401
        with Wire1(running.url, **bear(token(-5))) as wire:
            assert 0 < wire.welcome["payload"]["ttl"] <= 5, "within the leeway"


def test_an_idle_connection_without_expiry_has_no_state_and_no_greenlet():
    with running_server(connect=Tokens()) as running, Wire1(running.url, **bear("ann")) as wire:
        assert only_connection(running).token_state is None
        assert not greenlets("juggler-token-expiry")
        wire.request(AUTH, token="ann 0.5")
        assert len(greenlets("juggler-token-expiry")) == 1
        wire.request(AUTH, token="ann")
        assert eventually(lambda: not greenlets("juggler-token-expiry"))


class Expiring:
    """What `Tokens` needs of a connection that expires."""

    subprotocol = "juggler.0"

    def __init__(self, seconds):
        self.token_state = TokenState(time.monotonic() + seconds, "")
        self.closed = 0

    def close(self, code, reason):
        self.closed = code


def test_many_connections_that_expire_at_once_do_not_block_the_others():
    tokens = ServerTokens(lambda request: None, 10.0, 25.0)
    late, renewed, later = [Expiring(0.1) for _ in range(1000)], Expiring(0.1), Expiring(60)
    turns = []

    def count():
        while not all(each.closed for each in late):
            turns.append(sum(not each.closed for each in late))
            if 0 < turns[-1] < 1000:  # another one's turn, between two closes
                renewed.token_state.expires += 60
                tokens.watch(renewed)
            gevent.sleep(0)

    for each in (*late, renewed, later):
        tokens.watch(each)
    counting = gevent.spawn(count)
    counting.join(20)
    tokens.close()
    assert {each.closed for each in late} == {4401}
    assert len(set(turns) - {0, 1000}) >= 3
    assert (renewed.closed, later.closed) == (0, 0)


def greenlets(name):
    alive = [each for each in gc.get_objects() if type(each) is gevent.Greenlet and not each.dead]
    return [each for each in alive if each.name == name]


# AUTH.


def test_auth_renews_the_identity():
    hook = Tokens()
    with (
        running_server(connect=hook, token_grace=0.1) as running,
        serving(running.broker, ["who"], lambda call: call.by),
        Wire1(running.url, **bear("ann 0.8")) as wire,
    ):
        began = time.monotonic()
        while time.monotonic() - began < 2:
            assert 0.5 < wire.request(AUTH, token="ann 0.8")["payload"]["ttl"] <= 0.8
            assert wire.request(SUB, channel="c")
            gevent.sleep(0.3)
        assert wire.closed()[0] == 4401


def test_the_hook_receives_the_request_with_the_new_token():
    hook = Tokens()
    headers = {"Authorization": "Bearer ann 100", "Cookie": "theme=dark", "X-Tenant": "a:b"}
    with (
        running_server(connect=hook, application={"path": ["/ws", "/other"]}) as running,
        Wire1(running.url.replace("/ws", "/other?tab=2&token=old"), additional_headers=headers) as wire,
    ):
        assert kind(wire.request(AUTH, token="ann 200 &é")) == NACK  # no number
        first, second = hook.requests
        assert (first.token, second.token) == (None, "ann 200 &é")
        assert second.header("Authorization") == "Bearer ann 200 &é"
        assert second.query == {"tab": "2", "token": "ann 200 &é"}
        assert (second.header("X-Tenant"), second.cookies) == ("a:b", {"theme": "dark"})
        assert second.header("Sec-WebSocket-Key") is None
        for name in ("path", "peer", "peer_port", "local_address", "local_port", "address", "subprotocol"):
            assert getattr(first, name) == getattr(second, name), name
        assert first.allowed == second.allowed


def caller_hook(*outcomes):
    """Return a caller hook that returns or raises one outcome after the other."""
    left = iter(outcomes)

    def caller(connection):
        outcome = next(left)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return caller


def test_calls_carry_the_new_identity_and_a_caller_hook_that_fails_is_asked_again():
    caller = caller_hook({"level": 1}, ZeroDivisionError(), {"level": 3})
    with (
        running_server(connect=Tokens(), caller=caller) as running,
        serving(running.broker, ["who"], lambda call: call.by),
        Wire1(running.url, **bear("ann 100")) as wire,
    ):
        levels = []
        for _ in range(2):
            uuid = wire.send(CALL, uri="who")
            while kind(answer := wire.receive()) != RES:
                assert answer["payload"]["for"] == uuid
            levels.append(answer["payload"]["args"]["level"])
            assert kind(wire.request(AUTH, token="ann 100")) == ACK
            if len(levels) == 1:
                assert only_connection(running).by is None
        assert levels == [1, 3]


def test_the_identity_of_a_connection_that_never_called_is_not_asked_for():
    asked = []
    with (
        running_server(connect=Tokens(), caller=asked.append) as running,
        Wire1(running.url, **bear("ann 100")) as wire,
    ):
        wire.request(AUTH, token="ann 100")
        assert asked == []


@pytest.mark.parametrize("ways", [["header"], ["query"], ["subprotocol"]])
def test_bearer_renews_whatever_the_way(ways):
    users = {"first": Identity("ann", time.time() + 50), "second": Identity("ann", time.time() + 500), "other": "bob"}
    options = {
        "header": bear("first"),
        "query": {},
        "subprotocol": {"subprotocols": ["juggler.1", "juggler.bearer.Zmlyc3Q"]},
    }
    with (
        running_server(connect=bearer(users.get, ways=ways, query="key")) as running,
        Wire1(running.url + "?key=first" * (ways == ["query"]), **options[ways[0]]) as wire,
    ):
        assert 400 < wire.request(AUTH, token="second")["payload"]["ttl"] <= 500
        assert code_of(wire.request(AUTH, token="third")) == 401
        wire.send(AUTH, token="other")
        assert wire.closed()[0] == 4403


def test_an_identity_that_did_not_expire_is_renewed_too():
    with (
        running_server(connect=bearer({"good": "ann", "other": "bob"}.get)) as running,
        Wire1(running.url + "?token=good") as wire,
    ):
        assert code_of(wire.request(AUTH, token="bad")) == 401
        answer = wire.request(AUTH, token="good")
        assert (kind(answer), "ttl" in answer["payload"]) == (ACK, False)
        wire.send(AUTH, token="other")
        assert wire.closed()[0] == 4403


def test_without_a_connect_hook_there_are_no_tokens():
    with running_server() as running, Wire1(running.url) as wire:
        assert code_of(wire.request(AUTH, token="t")) == 501


def test_an_anonymous_client_stays_anonymous():
    def connect(request):
        return Identity(ANONYMOUS if find_token(request) == "none" else "ann", time.time() + 100)

    with running_server(connect=connect) as running, Wire1(running.url, **bear("none")) as wire:
        assert only_connection(running).identity is None
        assert wire.request(AUTH, token="none")["payload"]["ttl"] > 90
        wire.send(AUTH, token="ann")
        assert wire.closed()[0] == 4403


FAILURES = [SystemExit, gevent.Timeout, asyncio.CancelledError, GeneratorExit]
"""Exceptions that are no `Exception`, and that a hook may raise like any other."""


@pytest.mark.parametrize(
    ("outcome", "code", "reason"),
    [
        (None, 401, "the connect hook returned no identity"),
        (Identity("ann", 1.0), 401, "the token has expired"),
        (HandshakeRefused("403 Forbidden", "banned"), 403, "banned"),
        (HandshakeRefused("200 OK", "odd"), 401, "odd"),
        (ZeroDivisionError(), 503, "authentication is temporarily unavailable"),
        *((failure(), 503, "authentication is temporarily unavailable") for failure in FAILURES),
    ],
)
def test_a_hook_that_refuses_or_fails_leaves_the_connection_as_it_is(outcome, code, reason, caplog):
    def connect(request):
        if request.token is None or request.token == "good":
            return Identity("ann", time.time() + 100)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    with running_server(connect=connect) as running, Wire1(running.url) as wire:
        expires = only_connection(running).token_state.expires
        answer = wire.request(AUTH, token="bad")
        assert (code_of(answer), answer["payload"]["message"]) == (code, reason)
        assert only_connection(running).token_state.expires == expires
        assert ("connect hook failed" in caplog.text) == (code == 503)
        assert kind(wire.request(AUTH, token="good")) == ACK
        assert not only_connection(running).busy


@pytest.mark.parametrize("failure", FAILURES)
def test_a_hook_that_fails_refuses_a_client_that_connects(failure, caplog):
    def connect(request):
        raise failure

    with running_server(connect=connect) as running, pytest.raises(Exception, match="503"):
        Wire1(running.url)
    assert "connect hook failed" in caplog.text


@pytest.mark.parametrize("failure", FAILURES)
def test_a_caller_hook_that_fails_does_not_fail_the_renewal(failure, caplog):
    caller = caller_hook({"level": 1}, failure(), {"level": 3})
    with running_server(connect=Tokens(), caller=caller) as running, Wire1(running.url, **bear("ann 100")) as wire:
        only_connection(running).identify()
        assert kind(wire.request(AUTH, token="ann 100")) == ACK
        assert only_connection(running).by is None
        assert "caller hook failed" in caplog.text
        assert only_connection(running).identify() == b'{"level":3}'


@pytest.mark.parametrize("failure", [*FAILURES, gevent.GreenletExit])
def test_a_renewal_that_cannot_check_all_subscriptions_closes_the_connection(failure, caplog):
    """The others may not be allowed any more."""

    def failing(next_handler):
        def handler(ctx, connection, message):
            if isinstance(message, Sub) and message.is_check:
                raise failure
            next_handler(ctx, connection, message)

        return handler

    handler = chain(failing)
    with running_server(connect=Tokens(), handler=handler) as running, Wire1(running.url, **bear("ann 100")) as wire:
        assert kind(wire.request(SUB, channel="c")) == ACK
        wire.send(AUTH, token="ann 100")
        assert wire.closed()[0] == 1011
        assert " failed" in caplog.text


class Odd:
    def __init__(self, failure=ZeroDivisionError):
        self.failure = failure

    def __eq__(self, other):
        raise self.failure

    __hash__ = None


class User:
    def __init__(self, name):
        self.name = name

    def __eq__(self, other):
        return isinstance(other, User) and self.name == other.name

    __hash__ = None


@pytest.mark.parametrize(
    ("kind_of", "code"), [(Odd, 503), (lambda: Odd(gevent.Timeout), 503), (lambda: User("ann"), None)]
)
def test_identities_are_compared_as_python_does(kind_of, code):
    def connect(request):
        return Identity(kind_of(), time.time() + 100)

    with running_server(connect=connect) as running, Wire1(running.url) as wire:
        before = only_connection(running).identity
        answer = wire.request(AUTH, token="t")
        if code is None:
            assert kind(answer) == ACK
            assert only_connection(running).identity is not before
        else:
            assert code_of(answer) == code
        assert not only_connection(running).busy


@contextmanager
def slow_server(**options):
    """A server whose hook waits for an event when a client renews its token with "slow"."""
    asked, go_on = Event(), Event()

    def connect(request):
        if request.token == "slow":
            asked.set()
            go_on.wait()
        return Identity("ann", time.time() + (0.2 if request.token is None else 100))

    with running_server(connect=connect, **options) as running:
        yield running, asked, go_on


def test_a_slow_hook_stops_nobody_and_two_at_once_are_refused():
    with slow_server() as (running, asked, go_on), Wire1(running.url) as wire, Wire1(running.url) as other:
        slow = wire.send(AUTH, token="slow")
        assert asked.wait(20)
        assert kind(wire.request(SUB, channel="c")) == ACK
        assert kind(other.request(AUTH, token="quick")) == ACK
        assert code_of(wire.request(AUTH, token="quick")) == 429
        go_on.set()
        answer = wire.receive()
        assert (kind(answer), answer["payload"]["for"]) == (ACK, slow)
        assert kind(wire.request(AUTH, token="quick")) == ACK


def test_an_auth_in_time_is_not_cut_off_by_the_expiry():
    with slow_server(token_grace=0) as (running, asked, go_on), Wire1(running.url) as wire:
        wire.send(AUTH, token="slow")
        assert asked.wait(20)
        assert eventually(lambda: only_connection(running).token_state.expires < time.monotonic() - 0.2)
        go_on.set()
        assert kind(wire.receive()) == ACK
        assert kind(wire.request(SUB, channel="c")) == ACK


def test_a_hook_that_never_returns_is_given_up_and_then_the_token_expires():
    with slow_server(token_grace=0, connect_timeout=0.5) as (running, _, _), Wire1(running.url) as wire:
        assert code_of(wire.request(AUTH, token="slow")) == 503
        assert wire.closed()[0] == 4401


def test_a_connection_that_closes_stops_its_hook():
    with slow_server(connect_timeout=600) as (running, asked, _):
        with Wire1(running.url) as wire:
            wire.send(AUTH, token="slow")
            assert asked.wait(20)
            name = f"juggler-auth-{only_connection(running).uuid}"
            assert greenlets(name)
        assert eventually(lambda: not running.server.connections and not greenlets(name))


def test_tokens_and_their_rate_are_bounded():
    hook = Tokens()
    with running_server(connect=hook) as running, Wire1(running.url, **bear("ann")) as wire:
        assert code_of(wire.request(AUTH, token="")) == 401
        answer = wire.request(AUTH, token="x" * (MAX_TOKEN + 1))
        assert (code_of(answer), answer["payload"]["message"]) == (
            400,
            "token: expected at most 16384 characters, got 16385",
        )
        assert len(hook.requests) == 1
        answers = [wire.request(AUTH, token="ann") for _ in range(BURST + 3)]
        assert [kind(answer) for answer in answers[:BURST]] == [ACK] * BURST
        assert code_of(answers[-1]) == 429
        assert len(hook.requests) <= BURST + 2


def test_under_juggler_0_auth_closes_the_connection():
    with running_server(connect=Tokens()) as running, Wire(running.url, **bear("ann 100")) as wire:
        wire.send(AUTH, token="ann 100")
        assert wire.closed()[0] == 4400


def test_a_renewal_does_not_need_redis(mortal):
    mortal.start()
    broker = RedisBroker(mortal.url)
    with running_server(broker, connect=Tokens()) as running, Wire1(running.url, **bear("ann 100")) as wire:
        assert kind(wire.request(SUB, channel="c")) == ACK
        mortal.kill()
        assert wire.request(AUTH, token="ann 200")["payload"]["ttl"] > 150


# Subscriptions after a renewal.


def may(connection, channel):
    return channel in connection.identity["rooms"]


def rooms(*names, seconds=100):
    return pyjwt.encode({"sub": "ann", "rooms": names, "exp": time.time() + seconds}, KEY, algorithm="HS256")


@pytest.mark.parametrize("backing", ["memory", "redis"])
def test_subscriptions_that_are_not_allowed_any_more_end(backing, redis_url):
    broker = RedisBroker(redis_url) if backing == "redis" else None
    handler = chain(recover(), rate_limit(0.001, 5), authorize([Rule("sub", "*", may), Rule("pub", "*")]))
    with (
        running_server(broker, connect=jwt(KEY, ["HS256"]), handler=handler) as running,
        Wire1(running.url, **bear(rooms("a", "b", "c*"))) as wire,
    ):
        for channel, pattern in (("a", False), ("b", False), ("c*", True)):
            assert kind(wire.request(SUB, channel=channel, pattern=pattern)) == ACK
        assert kind(wire.request(AUTH, token=rooms("b", "c*"))) == ACK
        end = wire.receive()
        assert kind(end) == ENDS
        assert end["payload"] == {
            "channel": "a", "pattern": False, "code": 403, "message": "sub of 'a' is not allowed",
        }  # fmt: skip
        connection = only_connection(running)
        assert sorted(running.broker.subscriptions_of(connection)) == [("b", False), ("c*", True)]
        wire.send(AUTH, token=rooms())
        answers = [wire.receive() for _ in range(3)]
        assert [kind(answer) for answer in answers] == [ACK, ENDS, ENDS]
        assert sorted(each["payload"]["channel"] for each in answers[1:]) == ["b", "c*"]
        assert running.broker.subscription_count(connection) == 0


def stopping(connection, message):
    return


def failing(connection, message):
    raise ZeroDivisionError


def nacking(connection, message):
    connection.send(nack(message, 403, "by hand"))


def refusing(connection, message):
    raise Refused(NackCode.NOT_FOUND, "the room is gone")


@pytest.mark.parametrize(
    ("reaction", "code"), [(stopping, 403), (failing, 500), (nacking, 403), (refusing, 404), (None, None)]
)
def test_a_subscription_stays_only_if_its_check_gets_through_the_handler(reaction, code):
    checks = []

    def middleware(next_handler):
        def handler(ctx, connection, message):
            if isinstance(message, Sub) and message.is_check:
                checks.append((message.channel, message.is_pattern))
                if reaction is not None:
                    reaction(connection, message)
                    return
            next_handler(ctx, connection, message)

        return handler

    with (
        running_server(connect=Tokens(), handler=chain(recover(), middleware)) as running,
        Wire1(running.url, **bear("ann 100")) as wire,
    ):
        wire.request(SUB, channel="c*", pattern=True)
        assert checks == []
        wire.send(AUTH, token="ann 100")
        connection = only_connection(running)
        assert (
            sorted(kind(wire.receive()) for _ in range(1 + (reaction is nacking)))
            == [NACK, ACK][reaction is not nacking :]
        )
        if code is None:
            assert kind(wire.request(SUB, channel="d")) == ACK
            assert running.broker.is_subscribed("c*", True, connection)
        else:
            end = wire.receive()
            assert (kind(end), end["payload"]["code"]) == (ENDS, code)
            assert not running.broker.is_subscribed("c*", True, connection)
        assert checks == [("c*", True)]
        read = running.server.metrics.read
        assert read[SUB] == (2 if code is None else 1)


def test_a_subscription_that_was_permitted_by_the_old_token_ends_too():
    """The hook takes its time, and then the handler does: it permits a SUB by claims that are no longer valid."""
    asked, answer, permitted, go_on = (Event() for _ in range(4))

    def connect(request):
        if request.token is None:
            return Identity({"sub": "ann", "rooms": ["a", "b"]}, time.time() + 100)
        asked.set()
        answer.wait()
        return Identity({"sub": "ann", "rooms": ["b"]}, time.time() + 100)

    def slow(next_handler):
        def handler(ctx, connection, message):
            if isinstance(message, Sub) and message.channel == "a" and not message.is_check:
                permitted.set()
                go_on.wait()
            next_handler(ctx, connection, message)

        return handler

    handler = chain(authorize([Rule("sub", "*", may)]), slow)
    with running_server(connect=connect, handler=handler) as running, Wire1(running.url) as wire:
        assert kind(wire.request(SUB, channel="b")) == ACK
        wire.send(AUTH, token="t")
        assert asked.wait(20)
        wire.send(SUB, channel="a")
        assert permitted.wait(20)
        answer.set()
        assert wire.receive()["payload"]["for_type"] == AUTH
        assert eventually(lambda: only_connection(running).token_state.greenlet is None)
        go_on.set()
        messages = [wire.receive() for _ in range(2)]
        assert [kind(each) for each in messages] == [ACK, ENDS]
        assert [each["payload"]["channel"] for each in messages] == ["a", "a"]
        assert running.broker.subscriptions_of(only_connection(running)) == [("b", False)]


def test_subscribing_while_renewing(redis_url):
    """SUB, UNSB and AUTH at once: each SUB has its answer, and what is subscribed in the end gets its events."""
    handler = chain(authorize([Rule("sub", "*", may), Rule("pub", "*")]))
    with (
        running_server(RedisBroker(redis_url), connect=jwt(KEY, ["HS256"]), handler=handler) as running,
        Wire1(running.url, **bear(rooms("a", "b"))) as wire,
    ):
        waiting, ended = set(), 0
        for number in range(8):
            waiting.add(wire.send(AUTH, token=rooms(*("ab" if number % 2 else "a"))))
            for channel in "ab":
                waiting.add(wire.send(SUB, channel=channel))
                waiting.add(wire.send(UNSB, channel=channel))
                waiting.add(wire.send(SUB, channel=channel))
            while waiting:
                message = wire.receive()
                if kind(message) == ENDS:
                    assert message["payload"]["channel"] == "b"
                    ended += 1
                else:
                    waiting.discard(message["payload"]["for"])
        connection = only_connection(running)
        assert eventually(
            lambda: (
                sorted(running.broker.subscriptions_of(connection)) in ([("a", False), ("b", False)], [("a", False)])
            )
        )
        wire.send(PUB, channel="a", args=1)
        while kind(message := wire.receive()) != EVNT:
            pass
        assert message["payload"]["channel"] == "a"
