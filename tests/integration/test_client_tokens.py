"""Clients that renew tokens which expire soon: Python with greenlets, threads and asyncio, and JavaScript."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
import urllib.request
from contextlib import ExitStack

import gevent
import pytest
from gevent.event import Event

from juggler.auth import Identity, find_token
from juggler.client import Client, State
from juggler.errors import ConfigError, ConnectionClosed, HandshakeRefused, JugglerError, Nacked
from juggler.handlers import chain
from juggler.handlers.authorize import Rule, authorize
from juggler.protocol.messages import MessageType
from tests.integration.commands import ROOT, run_python, running
from tests.integration.test_js import node
from tests.integration.test_juggler1_clients import Blocking
from tests.stack import running_server
from tests.support import eventually

AUTH = MessageType.AUTH
CLIENTS = [Client, Blocking]
LIFE = 1.0
"""Seconds for which a token is valid."""


class Issuer:
    """Issues tokens, ``ann.1`` and so on, and is the connect hook that knows them."""

    def __init__(self, life=LIFE):
        self.life = life
        self.user = "ann"
        self.issued = self.failed = 0
        self.presented: list[tuple[bool, str]] = []
        self.until: dict[str, float] = {}
        self.failing: BaseException | None = None

    def __call__(self, request):
        token = find_token(request)
        self.presented.append((request.token is not None, token))
        if token in self.until:
            return Identity(token.partition(".")[0], self.until[token])
        return None

    def issue(self):
        if self.failing is not None:
            self.failed += 1
            raise self.failing
        self.issued += 1
        token = f"{self.user}.{self.issued}"
        self.until[token] = time.time() + self.life
        return token

    async def issue_async(self):
        return self.issue()

    @property
    def renewals(self):
        return sum(is_renewal for is_renewal, _ in self.presented)


@pytest.fixture(
    params=[(Client, "issue"), (Blocking, "issue"), (Blocking, "issue_async")], ids=["Client", "aio", "async"]
)
def flavour(request):
    return request.param


def test_a_client_stays_connected_while_its_tokens_expire(flavour):
    client_type, issue = flavour
    issuer, states = Issuer(), []
    with (
        running_server(connect=issuer, token_grace=0) as running,
        client_type(running.url, token=getattr(issuer, issue), on_state=lambda *state: states.append(state)) as client,
    ):
        (connection,) = running.server.connections
        assert client.next_event("c") == 5 if client_type is Blocking else True
        assert eventually(lambda: issuer.renewals >= 4)
        client.publish("c", 1)
        assert list(running.server.connections) == [connection]
        assert states == [(State.CONNECTED, None)]
        assert [is_renewal for is_renewal, _ in issuer.presented[:3]] == [False, True, True]
        assert len(set(issuer.presented)) == issuer.issued, "a new token each time"


def test_subscriptions_and_calls_notice_nothing():
    issuer = Issuer(0.6)
    with (
        running_server(connect=issuer, token_grace=0) as running,
        Client(running.url, token=issuer.issue) as client,
        client.subscribe("news") as news,
    ):
        sent = 0
        while issuer.renewals < 4:
            client.publish("news", sent)
            sent += 1
            gevent.sleep(0.02)
        assert [news.get(timeout=20).args for _ in range(sent)] == list(range(sent))
        assert news.gaps == 0


@pytest.mark.parametrize("grace", [0, 25.0])
def test_a_function_that_fails_is_retried_and_reported(flavour, grace, caplog):
    client_type, issue = flavour
    issuer, states = Issuer(), []
    with (
        running_server(connect=issuer, token_grace=grace) as running,
        client_type(running.url, token=getattr(issuer, issue), on_state=lambda *state: states.append(state)) as client,
    ):
        issuer.failing = OSError("the issuer is away")
        assert eventually(lambda: len(states) >= 2)
        state, error = states[1]
        assert state is State.CONNECTED
        assert str(error) == "cannot renew the token: OSError: the issuer is away"
        assert "cannot renew the token" in caplog.text
        if not grace:
            # The token expires. Without one, the client cannot connect, and tries again.
            assert eventually(lambda: State.DISCONNECTED in [state for state, _ in states])
            lost = next(error for state, error in states if state is State.DISCONNECTED)
            assert lost.code == 4401
        issuer.failing = None
        renewed = issuer.renewals
        assert eventually(lambda: client.connected and issuer.renewals > renewed)
        client.publish("c", 1)
        assert running.server.metrics.closes[4401] == (not grace)


@pytest.mark.parametrize("grace", [0, 25.0])
@pytest.mark.parametrize("failure", [gevent.Timeout, asyncio.CancelledError, GeneratorExit])
def test_a_function_may_fail_with_any_exception(flavour, failure, grace):
    client_type, issue = flavour
    """They are no `Exception`. Without grace, the function fails for a new connection, too."""
    issuer, states = Issuer(0.5), []
    with (
        running_server(connect=issuer, token_grace=grace) as running,
        client_type(running.url, token=getattr(issuer, issue), on_state=lambda *state: states.append(state)) as client,
    ):
        issuer.failing = failure()
        lost = State.CONNECTED if grace else State.DISCONNECTED
        assert eventually(lambda: lost in [state for state, _ in states[1:]])
        failed = issuer.failed
        assert eventually(lambda: issuer.failed > failed)
        issued = issuer.issued
        issuer.failing = None
        assert eventually(lambda: issuer.issued > issued and client.connected)
        client.publish("c", 1)


@pytest.mark.parametrize("client_type", CLIENTS)
def test_a_token_that_is_refused_is_reported_and_another_one_is_tried(client_type):
    issuer, states, messages = Issuer(), [], []
    tokens = iter(["good", "bad", "bad"])

    def token():
        return issuer.issue() if next(tokens, "good") == "good" else "revoked"

    with (
        running_server(connect=issuer) as running,
        client_type(
            running.url, token=token, on_state=lambda *state: states.append(state), on_message=messages.append
        ) as client,
    ):
        assert eventually(lambda: issuer.renewals >= 3)
        assert [type(error) for _, error in states[1:3]] == [Nacked] * 2
        assert states[1][1].code == 401
        assert sum(getattr(message, "for_type", 0) == AUTH for message in messages) >= 2
        assert client.connected


@pytest.mark.parametrize("client_type", CLIENTS)
def test_the_token_of_another_user_closes_the_client_for_good(client_type):
    issuer = Issuer()
    with running_server(connect=issuer) as running, client_type(running.url, token=issuer.issue) as client:
        issuer.user = "bob"
        assert eventually(lambda: client.closed is not None)
        assert str(client.closed) == "4403 the token is that of another identity"


@pytest.mark.parametrize("client_type", CLIENTS)
@pytest.mark.parametrize("subprotocols", [["juggler.1", "juggler.0"], ["juggler.0"]])
def test_after_4401_a_client_asks_for_a_new_token_and_reconnects(client_type, subprotocols):
    """Under juggler.0 there is no other way."""
    issuer = Issuer(0.5 if subprotocols == ["juggler.0"] else 100)
    with (
        running_server(connect=issuer, application={"subprotocols": subprotocols}) as running,
        client_type(running.url, token=issuer.issue) as client,
    ):
        if issuer.life == 100:
            (connection,) = running.server.connections
            connection.close(4401, "the token has expired")
        assert eventually(lambda: len(issuer.presented) >= 2 and client.connected)
        assert issuer.presented[1] == (False, "ann.2")
        assert eventually(lambda: running.server.metrics.closes[4401] >= 1)


@pytest.mark.parametrize("client_type", CLIENTS)
def test_a_fixed_token_is_not_renewed_and_the_client_closes(client_type):
    issuer = Issuer(0.5)
    token = issuer.issue()
    with running_server(connect=issuer, token_grace=0) as running, client_type(running.url, token=token) as client:
        assert eventually(lambda: client.closed is not None)
        assert str(client.closed) == "4401 401 Unauthorized: the token has expired"
        assert issuer.renewals == 0


@pytest.mark.parametrize("client_type", CLIENTS)
def test_how_tokens_are_sent(client_type):
    issuer = Issuer(100)
    good = issuer.issue()
    with running_server(connect=issuer) as running:
        for options in (
            {"token": good},
            {"token": lambda: good, "headers": {"X-Other": "1"}},
            {"token": "bad", "headers": {"authorization": f"Bearer {good}"}},
        ):
            with client_type(running.url, **options) as client:
                client.publish("c", 1)
        for missing in (None, "", lambda: None):
            with pytest.raises(HandshakeRefused, match="401"):
                client_type(running.url, token=missing)
        for wrong in ("a b", "a\nb", 5):
            with pytest.raises(ConfigError, match="token: expected"):
                client_type(running.url, token=wrong)
        with pytest.raises(ZeroDivisionError):
            client_type(running.url, token=lambda: 1 // 0)


@pytest.mark.parametrize("client_type", CLIENTS)
def test_a_client_that_closes_does_not_wait_for_a_token(client_type):
    issuer, asked, never = Issuer(0.3), Event(), Event()

    def token():
        if issuer.issued:
            asked.set()
            if client_type is Client:
                never.wait()
        return issuer.issue()

    with running_server(connect=issuer) as running:
        with client_type(running.url, token=token):
            assert asked.wait(20)
            began = time.monotonic()
        assert time.monotonic() - began < 5
        never.set()


def test_an_async_function_that_never_returns_is_given_up():
    issuer, states = Issuer(), []

    async def token():
        if issuer.issued == 1:
            issuer.issued += 1
            await asyncio.sleep(3600)
        return issuer.issue()

    with (
        running_server(connect=issuer) as running,
        Blocking(running.url, token=token, timeout=0.5, on_state=lambda *state: states.append(state)),
    ):
        assert eventually(lambda: issuer.renewals >= 2)
        assert "no token within 0.5 s" in str(states[1][1])


@pytest.mark.parametrize("client_type", CLIENTS)
@pytest.mark.parametrize(("code", "comes_back"), [(4410, False), (4411, True), (4403, False)])
def test_the_codes_that_applications_close_with(client_type, code, comes_back):
    with running_server() as running, client_type(running.url) as client:
        (connection,) = running.server.connections
        began = time.monotonic()
        connection.close(code, "because")
        if comes_back:
            assert eventually(lambda: running.server.metrics.connections == 2 and client.connected)
            assert time.monotonic() - began >= 0.5, "not with all others at once"
            client.publish("c", 1)
        else:
            assert eventually(lambda: client.closed is not None)
            assert (client.closed.code, client.closed.reason) == (code, "because")
            with pytest.raises(ConnectionClosed, match=f"{code} because"):
                client.call("f")


def test_a_renewal_that_takes_a_permission_away_ends_the_subscription():
    issuer, banned = Issuer(), threading.Event()
    handler = chain(
        authorize([Rule("sub", "news", lambda *_: not banned.is_set()), Rule("sub", "*"), Rule("pub", "*")])
    )
    with (
        running_server(connect=issuer, handler=handler) as running,
        Client(running.url, token=issuer.issue) as client,
        client.subscribe("news") as news,
        client.subscribe("other") as other,
    ):
        banned.set()
        with pytest.raises(Nacked, match="403 sub of 'news' is not allowed"):
            news.get(timeout=20)
        with pytest.raises(JugglerError, match="403"):
            client.subscribe("news")
        client.publish("other", 1)
        assert other.get(timeout=20).args == 1


# Other processes: threads that are not patched, asyncio, and Node; one server process, and gunicorn's workers.

APP = """
import os, time
from juggler import Application, RedisBroker, Server
from juggler.auth import Identity, find_token


def who(request):
    user, _, until = find_token(request).partition(".")
    return Identity(user, float(until) / 1000)


broker = RedisBroker(os.environ["REDIS_URL"])
server = Server(caller_broker=broker, pubsub_broker=broker, connect=who, token_grace=0)
application = Application(server)
"""

PROGRAM = """
import asyncio, json, sys, time
from juggler import AsyncClient, Client

url = sys.argv[1]
asked = {"threads": 0, "asyncio": 0}


def token(kind):
    asked[kind] += 1
    return "ann.%d" % ((time.time() + 1) * 1000)


async def async_token():
    return token("asyncio")


async def main():
    states = []
    async with AsyncClient(url, token=async_token, on_state=lambda *state: states.append(state[0].value)) as client:
        async with await client.subscribe("news.asyncio") as news:
            while asked["asyncio"] < 4:
                await asyncio.sleep(0.02)
            await client.publish("news.asyncio", 1)
            assert (await news.get(20)).args == 1
            return states


states = []
with Client(url, token=lambda: token("threads"), on_state=lambda *state: states.append(state[0].value)) as client:
    with client.subscribe("news.threads") as news:
        while asked["threads"] < 4:
            time.sleep(0.02)
        client.publish("news.threads", 1)
        assert news.get(20).args == 1
    print(json.dumps([states, asyncio.run(main())]))
"""

JS = """
import { Client } from "./juggler/server/static/juggler.js";

let asked = 0;
const token = async () => { asked++; return `ann.${Math.round(Date.now() + 1000)}`; };
const client = new Client(process.argv[1], { token });
const states = [];
client.addEventListener("state", ({ state }) => states.push(state));
const news = client.subscribe("news.js");
await news.ready;
while (asked < 4) await new Promise((resolve) => setTimeout(resolve, 20));
await client.publish("news.js", 1);
const { value } = await news.next();
console.log(JSON.stringify([states, value.args, news.gaps]));
client.close();
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_clients_in_processes_of_their_own(redis_url, tmp_path, workers):
    (tmp_path / "tokenapp.py").write_text(APP)
    flags = ("--bind", "127.0.0.1:0", "--workers", workers)
    with ExitStack() as stack:
        server = stack.enter_context(
            running("server", "tokenapp:application", *flags, REDIS_URL=redis_url, PYTHONPATH=f"{tmp_path}:{ROOT}")
        )
        line = server.stdout.readline()
        assert line, server.stderr.read()
        address = re.search(r"127.0.0.1:[0-9]+", line).group()
        url = f"ws://{address}/ws"
        urllib.request.urlopen(f"http://{address}/healthz", timeout=60).close()  # tokens expire while workers start
        done = run_python("-c", PROGRAM, url)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == [["connected"], ["connected", "closed"]]
        done = node("--no-warnings", "--input-type=module", "--eval", JS, url)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == [["connected"], 1, 0]
