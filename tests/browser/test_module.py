"""juggler.js in a page, against a real server and callee."""

from __future__ import annotations

import os
import re
import sys
from contextlib import contextmanager

from juggler.process.embedded import EmbeddedRedis, free_port
from tests.integration.commands import callee_process, running, server_process

# A page of the server's own origin that loads nothing.
BLANK = "healthz"

CALLS = """async () => {
  const { Client, CallFailed, Nacked, Expired } = await import("/juggler.js");
  const client = new Client("/ws");
  const caught = async (promise) => {
    try {
      return await promise;
    } catch (error) {
      return [error.name, error.message, error.code ?? null];
    }
  };
  const results = [
    await client.call("test.reverse", "hello"),
    await client.call("test.echo", { a: [1, null, "é☃"] }),
    await caught(client.call("test.reverse", 1)),
    await caught(client.call("test.delay", "5000", { timeout: 0.05 })),
    await caught(client.call("", null)),
    await caught(client.call("test.delay", "5000", { signal: AbortSignal.timeout(20) })),
  ];
  client.close();
  results.push(client.state, await caught(client.call("test.echo")));
  return results;
}"""


def test_calls_errors_and_expiry(page, site):
    page.goto(site + BLANK)
    assert page.evaluate(CALLS) == [
        "olleh",
        {"a": [1, None, "é☃"]},
        ["CallFailed", "text: Expected str, got int", 400],
        ["Expired", "no result of test.delay within 0.05 s", None],
        ["Nacked", "invalid URI '': must not be empty or start with '}'", 400],
        ["TimeoutError", "signal timed out", 23],
        "closed",
        ["ConnectionClosed", "1000 closed by this client", 1000],
    ]


EVENTS = """async () => {
  const { Client } = await import("/juggler.js");
  const client = new Client(location.origin + "/ws");
  const seen = [];
  const news = client.subscribe("news.*", { pattern: true });
  const same = client.subscribe("news.a", { onEvent: ({ args }) => seen.push(args) });
  await Promise.all([news.ready, same.ready]);
  for (let n = 0; n < 3; n++) await client.publish("news.a", n);
  for await (const { channel, pattern, args } of news) {
    seen.push([channel, pattern, args]);
    if (args === 2) break;
  }
  client.close();
  return seen;
}"""


def test_events(page, site):
    page.goto(site + BLANK)
    seen = page.evaluate(EVENTS)
    assert [each for each in seen if isinstance(each, int)] == [0, 1, 2]
    assert [each for each in seen if isinstance(each, list)] == [["news.a", "news.*", n] for n in range(3)]


LISTEN = """async (channel) => {
  const { Client } = await import("/juggler.js");
  globalThis.client = new Client("/ws");
  globalThis.seen = [];
  await client.subscribe(channel, { onEvent: ({ args }) => seen.push(args), onGap: () => seen.push("gap") }).ready;
}"""


def test_two_tabs_receive_each_others_events(context, site):
    tabs = [context.new_page() for _ in range(2)]
    for tab in tabs:
        tab.goto(site + BLANK)
        tab.evaluate(LISTEN, "room")
    tabs[0].evaluate("client.publish('room', 'from the first')")
    for tab in tabs:
        tab.wait_for_function("seen.length === 1")
        assert tab.evaluate("seen") == ["from the first"]


def test_subscriptions_are_reestablished_after_a_restart_of_the_server(context, page):
    context.expected_errors = ["ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "WebSocket connection"]
    port = free_port()
    with EmbeddedRedis() as redis, callee_process(redis.url):
        with server_process(redis.url, "--bind", f"127.0.0.1:{port}") as url:
            page.goto(url.replace("ws://", "http://").removesuffix("ws") + BLANK)
            page.evaluate(LISTEN, "room")
            page.evaluate("client.addEventListener('state', ({ state }) => seen.push(state))")
            page.evaluate("globalThis.call = client.call('test.delay', '60000').catch((error) => error.name); 0")
        page.wait_for_function("client.state === 'connecting'")
        assert page.evaluate("call") == "ConnectionClosed"
        assert page.evaluate("client.call('test.echo').catch((error) => error.name)") == "ConnectionClosed"
        with server_process(redis.url, "--bind", f"127.0.0.1:{port}"):
            # Back online, the client reconnects at once.
            page.wait_for_timeout(50)
            page.evaluate("dispatchEvent(new Event('online'))")
            page.wait_for_function("seen.includes('gap')")
            page.evaluate("client.publish('room', 'again')")
            page.wait_for_function("seen.includes('again')")
            assert page.evaluate("client.call('test.echo', 5)") == 5
            assert page.evaluate("seen") == ["connecting", "connected", "gap", "again"]
            page.evaluate("client.close()")


@contextmanager
def application(redis_url):
    with running("server", "guarded:server", "--bind", "127.0.0.1:0", REDIS_URL=redis_url) as process:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield re.search(r"ws://\S+", line).group()


def test_a_token_is_sent_as_a_subprotocol(page, tmp_path, monkeypatch):
    (tmp_path / "guarded.py").write_text(
        "import os\n"
        "from juggler.auth import bearer\n"
        "from juggler.broker.redis import RedisBroker\n"
        "from juggler.server import Server\n"
        "broker = RedisBroker(os.environ['REDIS_URL'])\n"
        "server = Server(caller_broker=broker, pubsub_broker=broker, list_uri='who',"
        " connect=bearer({'sécret': 'ann'}.get))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    with EmbeddedRedis() as redis, application(redis.url) as url:
        page.goto(url.replace("ws://", "http://").removesuffix("ws") + BLANK)
        assert (
            page.evaluate(
                """async () => {
              const { Client } = await import("/juggler.js");
              const client = new Client("/ws", { token: async () => "sécret" });
              const found = await client.call("who");
              client.close();
              return found;
            }"""
            )
            == []
        )


TOKEN_APP = """
import os, time
from juggler import Application, RedisBroker, Server
from juggler.auth import Identity, bearer
from juggler.handlers import chain
from juggler.handlers.authorize import Rule, authorize

renewals = 0


def user(token):
    global renewals
    name, until = token.rsplit(".", 1)
    renewals += 1
    return Identity(name, float(until) / 1000)


handler = chain(authorize([Rule("sub", "secret", lambda *_: renewals < 4), Rule("sub", "*"), Rule("pub", "*")]))
broker = RedisBroker(os.environ["REDIS_URL"])
server = Server(caller_broker=broker, pubsub_broker=broker, connect=bearer(user), handler=handler, token_grace=0)
application = Application(server)
"""

TOKENS = """async () => {
  const { Client } = await import("/juggler.js");
  let asked = 0;
  const token = async () => { asked++; return `ä nn.${Date.now() + 1500}`; };
  const states = [], received = [];
  const client = new Client("/ws", { token });
  client.addEventListener("state", ({ state, error }) => states.push([state, String(error)]));
  const news = client.subscribe("news", { onEvent: ({ args }) => received.push(args) });
  const secret = client.subscribe("secret");
  await Promise.all([news.ready, secret.ready]);
  let sent = 0, end = null;
  secret.next().catch(({ name, code, message }) => { end = [name, code, message]; });
  while (!end) {
    await client.publish("news", sent++);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await client.publish("news", "last");
  while (received.at(-1) !== "last") await new Promise((resolve) => setTimeout(resolve, 20));
  client.close();
  return [states.map(([state]) => state), asked >= 4, received.length === sent + 1, news.gaps, end];
}"""


def test_tokens_are_renewed_and_the_page_does_not_notice(page, tmp_path):
    (tmp_path / "tokenapp.py").write_text(TOKEN_APP)
    address = f"127.0.0.1:{free_port()}"
    with (
        EmbeddedRedis() as redis,
        running(
            "server", "tokenapp:application", "--bind", address, REDIS_URL=redis.url, PYTHONPATH=str(tmp_path)
        ) as it,
    ):
        assert it.stdout.readline(), it.stderr.read()
        page.goto(f"http://{address}/{BLANK}")
        assert page.evaluate(TOKENS) == [
            ["connected", "closed"],
            True,
            True,
            0,
            ["Nacked", 403, "sub of 'secret' is not allowed"],
        ]
