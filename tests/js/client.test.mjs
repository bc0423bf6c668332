/** juggler.js against a fake socket. Run with `node --test tests/js`. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { afterEach, test } from "node:test";

import { CallFailed, Client as JugglerClient, ConnectionClosed, Expired, JugglerError, Nacked, NotSupported } from "../../juggler/server/static/juggler.js";
import { FakeSocket, settle, until } from "./fake.mjs";

const golden = (file) => Object.fromEntries(
  readFileSync(new URL(`../wire/${file}`, import.meta.url), "utf8").trim().split("\n")
    .map((line) => JSON.parse(line)).map(({ name, text }) => [name, JSON.parse(text)]),
);
const GOLDEN = golden("golden.jsonl"), GOLDEN_1 = golden("juggler1.jsonl");

// A client that a failed test leaves open would connect during the next ones.
const clients = [];
class Client extends JugglerClient {
  constructor(...args) {
    super(...args);
    clients.push(this);
  }
}
afterEach(() => clients.splice(0).forEach((client) => client.close()));

/** Return a connected client and its socket. */
async function connected(options = {}) {
  const client = new Client("ws://test/ws", { WebSocket: FakeSocket, ...options });
  await settle();
  const socket = FakeSocket.all.at(-1);
  socket.open();
  await client.connected();
  return { client, socket };
}

const rejects = (promise, kind, fields) => assert.rejects(promise, (error) => {
  assert.ok(error instanceof kind && error instanceof JugglerError, String(error));
  for (const [name, value] of Object.entries(fields)) assert.deepEqual(error[name], value);
  return true;
});

test("requests look as the Go package writes them", async () => {
  const { client, socket } = await connected();
  client.call("example.echo", GOLDEN.CALL.payload.args, { timeout: 2 }).catch(() => {});
  client.publish("news", [1, 2]).catch(() => {});
  client.subscribe("news.*", { pattern: true });
  client.subscribe("news").close();
  await settle();
  const shape = ({ meta, payload }) => ({ type: meta.type, payload });
  assert.deepEqual(shape(socket.sent[0]), shape(GOLDEN.CALL));
  assert.deepEqual(shape(socket.sent[1]), shape(GOLDEN.PUB));
  assert.deepEqual(shape(socket.sent[2]), shape(GOLDEN["SUB pattern"]));
  assert.deepEqual(shape(socket.sent.at(-1)), shape(GOLDEN.UNSB));
  for (const { meta } of socket.sent) {
    assert.match(meta.uuid, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  }
  assert.equal(new Set(socket.sent.map(({ meta }) => meta.uuid)).size, socket.sent.length);
  client.close();
});

test("the Go package's answers are understood", async () => {
  const { client, socket } = await connected();
  const answered = async (request, ...names) => {
    await settle();
    for (const name of names) {
      const { meta, payload } = structuredClone(GOLDEN[name]);
      socket.receive(meta.type, { ...payload, for: socket.last.meta.uuid });
    }
    return request;
  };
  assert.equal(await answered(client.call("example.echo"), "ACK of CALL", "RES"), "ok");
  await rejects(answered(client.call("example.echo"), "NACK of CALL"), Nacked, { code: 500 });
  await rejects(answered(client.call("example.echo"), "ACK of CALL", "RES of a failed call"), CallFailed, {
    message: GOLDEN["RES of a failed call"].payload.args.error.message,
  });
  await rejects(answered(client.call("example.echo"), "NACK of RES"), Nacked, { code: 500 });
  await answered(client.publish("news"), "ACK of PUB");
  const events = client.subscribe("news.*", { pattern: true });
  await answered(events.ready, "ACK of SUB");
  const { meta, payload } = GOLDEN["EVNT by pattern"];
  socket.receive(meta.type, payload);
  const { value } = await events.next();
  assert.deepEqual(value, { channel: "news.eu", pattern: "news.*", args: payload.args, uuid: payload.for });
  client.close();
});

test("servers in Go leave out an empty channel", async () => {
  const { client, socket } = await connected();
  const events = client.subscribe("");
  await settle();
  socket.receive(8, { for: socket.last.meta.uuid, for_type: 3 });
  await events.ready;
  socket.receive(10, { for: "1", args: 5 });
  assert.deepEqual((await events.next()).value, { channel: "", pattern: "", args: 5, uuid: "1" });
  client.close();
});

test("the callee's mark of a result counts more than its shape", async () => {
  const { client, socket } = await connected();
  const call = async (args, more) => {
    const result = client.call("f");
    await settle();
    socket.last.res(args, more);
    return result;
  };
  const look = { error: { message: "no", type: "ValueError", code: 4, data: [1] } };
  await rejects(call(look), CallFailed, { message: "no", type: "ValueError", code: 4, data: [1] });
  await rejects(call(look, { failed: true }), CallFailed, { message: "no" });
  assert.deepEqual(await call(look, { failed: false }), look);
  assert.deepEqual(await call({ error: null }), { error: null });
  assert.deepEqual(await call({ error: { message: "x" }, more: 1 }), { error: { message: "x" }, more: 1 });
  await rejects(call({ quota: 3 }, { failed: true }), CallFailed, { data: { quota: 3 } });
  client.close();
});

test("a call expires, and its late result is dropped", async () => {
  const { client, socket } = await connected();
  await rejects(client.call("slow", null, { timeout: 0.01 }), Expired, { message: "no result of slow within 0.01 s" });
  socket.last.res("late");
  await assert.rejects(client.call("f", null, { timeout: 0 }), RangeError);
  client.close();
});

test("a request without an ACK expires", async () => {
  const { client } = await connected({ timeout: 0.2 });
  await Promise.all([
    rejects(client.publish("news"), Expired, { message: "no acknowledgement of PUB within 0.2 s" }),
    rejects(client.subscribe("news").ready, Expired, { message: "no acknowledgement of SUB within 0.2 s" }),
  ]);
  client.close();
});

test("a signal aborts a call", async () => {
  const { client, socket } = await connected();
  const controller = new AbortController();
  const call = client.call("slow", null, { signal: controller.signal });
  await settle();
  controller.abort();
  await assert.rejects(call, { name: "AbortError" });
  socket.last.res("late");
  await assert.rejects(client.call("f", null, { signal: AbortSignal.abort() }), { name: "AbortError" });
  assert.equal(socket.sent.length, 1);
  client.close();
});

test("requests wait for the first connection", async () => {
  const client = new Client("ws://test/ws", { WebSocket: FakeSocket });
  const call = client.call("f");
  await settle();
  const socket = FakeSocket.all.at(-1);
  assert.deepEqual(socket.sent, []);
  socket.open();
  socket.last.res(1);
  assert.equal(await call, 1);
  client.close();
});

test("a token that is not available at a reconnect is requested again", async (t) => {
  t.mock.method(Math, "random", () => -0.5);
  const tokens = [async () => "first", async () => { throw new TypeError("fetch failed"); }, () => new Promise(() => {}), async () => "last"];
  const { client, socket } = await connected({ token: () => tokens.shift()(), timeout: 0.3 });
  socket.end(1006);
  await until(() => FakeSocket.all.at(-1) !== socket);
  assert.deepEqual([tokens.length, client.state], [0, "connecting"]);
  assert.deepEqual(FakeSocket.all.at(-1).protocols, ["juggler.1", "juggler.0", "juggler.bearer.bGFzdA"]);
  client.close();
});

test("a second subscription to a channel is ready when the first one is", async (t) => {
  t.mock.method(Math, "random", () => -0.5);
  const { client, socket } = await connected();
  const first = client.subscribe("news");
  await settle();
  socket.last.ack();
  await first.ready;
  socket.end(1006);
  await rejects(client.subscribe("news").ready, ConnectionClosed, { code: 1006 });
  await until(() => FakeSocket.all.at(-1) !== socket);
  FakeSocket.all.at(-1).open();
  await settle();
  let ready = false;
  const second = client.subscribe("news");
  second.ready.then(() => { ready = true; });
  await settle();
  assert.equal(ready, false);
  FakeSocket.all.at(-1).last.ack();
  await second.ready;
  client.close();
});

test("a subscription that the server refuses for the time being is retried", async (t) => {
  t.mock.method(Math, "random", () => -0.5);
  const { client, socket } = await connected();
  const told = [];
  const news = client.subscribe("news", { onEvent: ({ args }) => told.push(args), onGap: () => told.push("gap"), onEnd: ({ code }) => told.push(code) });
  await settle();
  socket.last.ack();
  await news.ready;
  socket.end(1006);
  await until(() => FakeSocket.all.at(-1) !== socket);
  const again = FakeSocket.all.at(-1);
  again.open();
  again.last.nack(503, "redis is away");
  await until(() => again.sent.length === 2);
  again.last.ack();
  await settle();
  again.receive(10, { for: "1", channel: "news", args: 5 });
  assert.deepEqual(told, ["gap", 5]);
  client.close();
  assert.deepEqual(told, ["gap", 5, 1000]);
});

test("a server that accepts and closes is not flooded with attempts", async (t) => {
  t.mock.method(Math, "random", () => 0);
  const { client, socket } = await connected({ reconnectTimeout: 0.25 });
  const seen = new Set([socket]);
  socket.end(1013);
  await until(() => {
    const latest = FakeSocket.all.at(-1);
    if (!seen.has(latest)) {
      seen.add(latest);
      latest.open();
      latest.end(1013);
    }
    return client.state === "closed";
  });
  assert.ok(seen.size <= 4, String(seen.size));
});

test("close code 4411 means to come back, 4410 not to", async () => {
  const { client, socket } = await connected({ reconnectTimeout: 5 });
  socket.end(4411);
  await until(() => FakeSocket.all.at(-1) !== socket);
  const next = FakeSocket.all.at(-1);
  next.open();
  await until(() => client.state === "connected");
  next.end(4410);
  assert.equal(client.state, "closed");
  assert.equal(FakeSocket.all.at(-1), next);
});

test("a first connection that fails is retried", async (t) => {
  t.mock.method(Math, "random", () => -0.5);
  const client = new Client("ws://test/ws", { WebSocket: FakeSocket, timeout: 0.05 });
  const states = [];
  client.addEventListener("state", ({ state, error }) => states.push([state, error?.code]));
  const call = client.call("f"), publication = client.publish("news"), news = client.subscribe("news");
  for (let n = 0; n < 3; n++) {
    const socket = FakeSocket.all.at(-1);
    await settle();
    socket.end(1006);
    await until(() => FakeSocket.all.at(-1) !== socket);
  }
  assert.equal(client.state, "connecting");
  await rejects(publication, Expired, {});
  await settle();
  const socket = FakeSocket.all.at(-1);
  socket.open();
  await client.connected();
  const types = socket.sent.map(({ meta }) => meta.type);
  assert.deepEqual(types, [1, 3]);
  socket.last.ack();
  await news.ready;
  assert.equal(news.gaps, 0);
  socket.receive(9, { for: socket.sent[0].meta.uuid, uri: "f", args: 1 });
  assert.equal(await call, 1);
  client.close();
  assert.deepEqual(states, [["connecting", 1006], ["connecting", 1006], ["connecting", 1006], ["connected", undefined], ["closed", 1000]]);
});

test("a subscription that waited long for the first connection has its full timeout", async () => {
  const client = new Client("ws://test/ws", { WebSocket: FakeSocket, timeout: 0.5 });
  const seen = [];
  const news = client.subscribe("news", { onEvent: ({ args }) => seen.push(args) });
  await settle();
  const socket = FakeSocket.all.at(-1);
  await new Promise((resolve) => setTimeout(resolve, 350));
  socket.open();
  await until(() => socket.sent.length === 2);
  socket.receive(10, { for: "1", channel: "news", args: 5 });
  socket.last.ack();
  await news.ready;
  assert.deepEqual(seen, [5]);
  client.close();
});

test("attempts for the first connection end with the timeout", async (t) => {
  t.mock.method(Math, "random", () => -0.5);
  const client = new Client("ws://test/ws", { WebSocket: FakeSocket, reconnectTimeout: 0.02 });
  const seen = new Set();
  await until(() => {
    const latest = FakeSocket.all.at(-1);
    if (latest?.onclose && !seen.has(latest)) {
      seen.add(latest);
      latest.end(1006);
    }
    return client.state === "closed";
  });
  assert.ok(seen.size > 1);
  await rejects(client.connected(), ConnectionClosed, { code: 1006 });
});

test("a first connection that fails may be final", async () => {
  const client = new Client("ws://test/ws", { WebSocket: FakeSocket, retryFirst: false });
  const call = client.call("f");
  await settle();
  FakeSocket.all.at(-1).end(1006);
  await rejects(call, ConnectionClosed, { code: 1006 });
  await rejects(client.connected(), ConnectionClosed, { code: 1006 });
  assert.equal(client.state, "closed");
});

test("an invalid URL closes the client", async () => {
  const client = new Client("nonsense", { WebSocket: FakeSocket });
  await rejects(client.connected(), ConnectionClosed, { code: 1002 });
});

test("a token is requested for each attempt, and sent as a subprotocol", async (t) => {
  t.mock.method(Math, "random", () => -0.5);
  const tokens = ["first", "a.b-c.d_e"];
  const { client, socket } = await connected({ token: async () => tokens.shift(), allowedMessages: "call, pub" });
  assert.deepEqual(socket.protocols, ["juggler.1", "juggler.0", "juggler.bearer.Zmlyc3Q"]);
  assert.equal(socket.url, "ws://test/ws?allowed_messages=call%2C+pub");
  socket.end(1001);
  await until(() => FakeSocket.all.at(-1) !== socket);
  assert.deepEqual(FakeSocket.all.at(-1).protocols, ["juggler.1", "juggler.0", "juggler.bearer.a.b-c.d_e"]);
  client.close();
});

/** Return a client of juggler.1 whose identity expires, and its socket. */
async function expiring(ttl, options) {
  const client = new Client("ws://test/ws", { WebSocket: FakeSocket, ...options });
  await settle();
  const socket = FakeSocket.all.at(-1);
  socket.open("juggler.1");
  const { meta, payload } = GOLDEN_1["WLCM with an expiry"];
  socket.receive(meta.type, { ...payload, ttl });
  await client.connected();
  return { client, socket };
}

const ackAuth = (socket, ttl) => {
  const { meta, payload } = GOLDEN_1["ACK of AUTH with an expiry"];
  socket.receive(meta.type, { ...payload, for: socket.last.meta.uuid, ttl });
};

test("a token is renewed before it expires, again and again", async () => {
  let issued = 0;
  const states = [];
  const { client, socket } = await expiring(0.4, { token: async () => `t${++issued}` });
  client.addEventListener("state", ({ state }) => states.push(state));
  await until(() => socket.sent.length === 1);
  assert.equal(socket.last.meta.type, GOLDEN_1.AUTH.meta.type);
  assert.deepEqual(socket.last.payload, { token: "t2" });
  ackAuth(socket, 0.4);
  await until(() => socket.sent.length === 2);
  assert.deepEqual(socket.last.payload, { token: "t3" });
  ackAuth(socket, undefined); // it does not expire any more
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.deepEqual([socket.sent.length, FakeSocket.all.at(-1), states], [2, socket, []]);
  client.close();
});

test("a token is renewed after at most 80 % of its life, and some seconds before its end", async (t) => {
  const pauses = [];
  t.mock.method(globalThis, "setTimeout", (action, ms) => { pauses.push(ms); });
  t.mock.method(Math, "random", () => 0);
  for (const [ttl, seconds] of [[1000, 800], [20, 15], [8, 4], [0, 0.2], [1e9, 2e6]]) {
    pauses.length = 0;
    (await expiring(ttl, { token: () => "t", heartbeat: 0 })).client.close();
    assert.ok(pauses.includes(seconds * 1000), `${ttl}: ${pauses}`);
  }
});

test("a renewal that fails is reported, and retried", async (t) => {
  t.mock.method(Math, "random", () => -0.45);
  const tokens = ["t1", null, "t3", new Error("away"), "t5"];
  const errors = [];
  const token = () => {
    const next = tokens.shift();
    if (next instanceof Error) throw next;
    return next;
  };
  const { client, socket } = await expiring(0.1, { token });
  client.addEventListener("state", ({ state, error }) => errors.push([state, error.message, error.code]));
  await until(() => socket.sent.length === 1);
  socket.receive(7, { ...GOLDEN_1["NACK of AUTH"].payload, for: socket.last.meta.uuid });
  await until(() => socket.sent.length === 2);
  assert.deepEqual(socket.last.payload, { token: "t5" });
  ackAuth(socket, 1000);
  assert.deepEqual(errors, [
    ["connected", "no token", undefined], ["connected", "the token is not valid", 401], ["connected", "away", undefined],
  ]);
  client.close();
});

test("a fixed token is not renewed", async () => {
  const { client, socket } = await expiring(0.01, { token: "t" });
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(socket.sent.length, 0);
  client.close();
});

for (const end of ["the client closes", "the connection is lost"]) {
  test(`a token that arrives after ${end} is not sent`, async (t) => {
    t.mock.method(Math, "random", () => 1e9);
    const resolvers = [], states = [];
    let asked = 0;
    const token = () => (asked++ ? new Promise((resolve) => resolvers.push(resolve)) : "t");
    t.mock.method(Math, "random", () => 0);
    const { client, socket } = await expiring(0.1, { token });
    await until(() => resolvers.length === 1);
    client.addEventListener("state", ({ state }) => states.push(state));
    if (end === "the client closes") client.close();
    else socket.end(1006);
    const before = states.length;
    resolvers[0]("late");
    await settle();
    assert.deepEqual([socket.sent.length, states.length], [0, before]);
    client.close();
  });
}

test("after 4401 the client asks for another token, and connects again", async (t) => {
  t.mock.method(Math, "random", () => -0.5);
  let issued = 0;
  const { client, socket } = await connected({ token: () => `t${++issued}` });
  socket.end(4401, "the token has expired");
  await until(() => FakeSocket.all.at(-1) !== socket);
  assert.equal(issued, 2);
  FakeSocket.all.at(-1).open();
  await client.connected();
  client.close();
});

test("a lost connection and its subscriptions are re-established", async (t) => {
  t.mock.method(Math, "random", () => -0.5);
  const { client, socket } = await connected();
  const states = [];
  client.addEventListener("state", ({ state, error }) => states.push([state, error?.code]));
  let gaps = 0;
  const news = client.subscribe("news", { onGap: () => gaps++ });
  const same = client.subscribe("news");
  await settle();
  assert.equal(socket.sent.length, 1);
  socket.last.ack();
  await news.ready;
  const call = client.call("f");
  await settle();
  socket.end(1001, "shutting down");
  await rejects(call, ConnectionClosed, { code: 1001, reason: "shutting down" });
  assert.equal(client.state, "connecting");
  await rejects(client.call("f"), ConnectionClosed, { code: 1001 });
  await rejects(client.subscribe("other").ready, ConnectionClosed, { code: 1001 });
  await until(() => FakeSocket.all.at(-1) !== socket);
  const again = FakeSocket.all.at(-1);
  again.open();
  await client.connected();
  assert.deepEqual(again.sent.map(({ payload }) => payload), [{ channel: "news", pattern: false }]);
  assert.equal(gaps, 0);
  again.last.ack();
  await settle();
  assert.deepEqual([gaps, news.gaps, same.gaps], [1, 1, 1]);
  again.receive(10, { for: "1", channel: "news", args: 5 });
  assert.equal((await same.next()).value.args, 5);
  client.close();
  assert.deepEqual(states, [["connecting", 1001], ["connected", undefined], ["closed", 1000]]);
});

test("attempts to connect continue until the timeout", async (t) => {
  t.mock.method(Math, "random", () => -0.5);
  const { client, socket } = await connected({ reconnectTimeout: 0.02 });
  socket.end(1006);
  const seen = new Set([socket]);
  await until(() => {
    const latest = FakeSocket.all.at(-1);
    if (!seen.has(latest)) {
      seen.add(latest);
      latest.end(1006);
    }
    return client.state === "closed";
  });
  assert.ok(seen.size > 1);
});

for (const code of [1000, 1008, 4400, 4403, 4410]) {
  test(`a close with ${code} is final`, async () => {
    const { client, socket } = await connected();
    socket.end(code, "go");
    await rejects(client.connected(), ConnectionClosed, { code, reason: "go" });
  });
}

test("a subscription that cannot be re-established ends", async (t) => {
  t.mock.method(Math, "random", () => -0.5);
  const { client, socket } = await connected();
  const news = client.subscribe("news");
  await settle();
  socket.last.ack();
  await news.ready;
  socket.end(1006);
  await until(() => FakeSocket.all.at(-1) !== socket);
  FakeSocket.all.at(-1).open();
  await settle();
  FakeSocket.all.at(-1).last.nack(403, "not any more");
  await rejects(news.next(), Nacked, { code: 403, message: "not any more" });
  client.close();
});

test("a refused subscription rejects ready and next", async () => {
  const { client, socket } = await connected();
  const news = client.subscribe("secret");
  await settle();
  socket.last.nack(403, "not yours");
  await rejects(news.ready, Nacked, { code: 403, message: "not yours" });
  await rejects(news.next(), Nacked, { code: 403 });
  client.close();
});

test("a subscription that the server ends has its error, and is not re-established", async (t) => {
  t.mock.method(Math, "random", () => -0.5);
  const { client, socket } = await connected();
  const ENDS = GOLDEN_1.ENDS;
  const ended = [];
  const first = client.subscribe("news.*", { pattern: true, onEnd: (error) => ended.push(error) });
  const second = client.subscribe("news.*", { pattern: true });
  const other = client.subscribe("news.*");
  await settle();
  for (const request of socket.sent) socket.answers(request).ack();
  socket.receive(ENDS.meta.type, ENDS.payload); // at once: the client has not noticed the ACK yet
  await first.ready;
  await rejects(second.next(), Nacked, { code: 403, message: "no longer allowed" });
  assert.deepEqual(ended.map(({ code, message }) => [code, message]), [[403, "no longer allowed"]]);
  const later = client.subscribe("news.*", { pattern: true });
  await settle();
  socket.receive(ENDS.meta.type, ENDS.payload); // of the one before
  socket.receive(ENDS.meta.type, { ...ENDS.payload, channel: "elsewhere" });
  socket.last.ack();
  await later.ready;
  socket.receive(ENDS.meta.type, ENDS.payload);
  await rejects(later.next(), Nacked, { code: 403 });
  socket.end(1006);
  await until(() => FakeSocket.all.at(-1) !== socket);
  FakeSocket.all.at(-1).open();
  await settle();
  assert.deepEqual(FakeSocket.all.at(-1).sent.map(({ payload }) => payload), [{ channel: "news.*", pattern: false }]);
  client.close();
});

test("a loop gets events until it ends, and then unsubscribes", async () => {
  const { client, socket } = await connected();
  const events = client.subscribe("news");
  await settle();
  socket.last.ack();
  const seen = [];
  const loop = (async () => {
    for await (const { args } of events) {
      seen.push(args);
      if (args === 3) break;
    }
  })();
  for (const args of [1, 2, 3, 4]) socket.receive(10, { for: "1", channel: "news", args });
  await until(() => socket.last.meta.type === 4);
  socket.last.ack();
  await loop;
  assert.deepEqual(seen, [1, 2, 3]);
  assert.deepEqual(await events.next(), { done: false, value: { channel: "news", pattern: "", args: 4, uuid: "1" } });
  assert.deepEqual(await events.next(), { done: true, value: undefined });
  client.close();
});

test("two subscriptions to one channel are one for the server", async () => {
  const { client, socket } = await connected();
  const seen = [];
  const first = client.subscribe("news", { onEvent: ({ args }) => seen.push(args) });
  const second = client.subscribe("news", { onEvent: () => { throw new Error("logged, without effect on the client"); } });
  await settle();
  socket.last.ack();
  await Promise.all([first.ready, second.ready]);
  const error = console.error;
  console.error = () => {};
  socket.receive(10, { for: "1", channel: "news", args: 1 });
  console.error = error;
  assert.deepEqual(seen, [1]);
  await second.close();
  assert.equal(socket.sent.length, 1);
  first.close();
  await settle();
  assert.equal(socket.last.meta.type, 4);
  client.close();
});

for (const [whenFull, kept, dropped] of [["drop_oldest", [8, 9], 8], ["drop_newest", [0, 1], 8], ["end", [0, 1], 1]]) {
  test(`a full queue: ${whenFull}`, async () => {
    const { client, socket } = await connected();
    const news = client.subscribe("news", { maxEvents: 2, whenFull });
    await settle();
    socket.last.ack();
    await news.ready;
    for (let args = 0; args < 10; args++) socket.receive(10, { for: "1", channel: "news", args });
    assert.deepEqual([(await news.next()).value.args, (await news.next()).value.args], kept);
    assert.equal(news.dropped, dropped);
    if (whenFull === "end") {
      await rejects(news.next(), ConnectionClosed, { code: 4429 });
      await settle();
      assert.equal(socket.last.meta.type, 4);
    }
    client.close();
  });
}

test("an invalid message from the server closes the client", async () => {
  const { client, socket } = await connected();
  const call = client.call("f");
  await settle();
  socket.onmessage({ data: "nonsense" });
  await rejects(call, ConnectionClosed, { code: 4400 });
  assert.equal(socket.closedWith.code, 4400);
});

test("a dead connection is noticed after a silence", async (t) => {
  t.mock.method(Math, "random", () => -0.5);
  const { client, socket } = await connected({ heartbeat: 0.05, timeout: 0.1 });
  const states = [];
  client.addEventListener("state", ({ state, error }) => states.push([state, error?.reason]));
  for (const answer of [(last) => last.ack(), (last) => last.nack(403, "not you")]) {
    const count = socket.sent.length;
    await until(() => socket.sent.length === count + 1);
    assert.deepEqual([socket.last.meta.type, socket.last.payload], [4, { channel: "juggler.probe", pattern: false }]);
    answer(socket.last);
  }
  const news = client.subscribe("news");
  await settle();
  socket.last.ack();
  await news.ready;
  // Other messages are signs of life, too.
  for (let n = 0; n < 10; n++) {
    socket.receive(10, { for: "1", channel: "news", args: n });
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.deepEqual(states, []);
  await until(() => FakeSocket.all.at(-1) !== socket);
  assert.deepEqual(states, [["connecting", "the server does not answer"]]);
  assert.equal(socket.readyState, 3);
  FakeSocket.all.at(-1).open();
  assert.equal(FakeSocket.all.at(-1).last.payload.channel, "news");
  client.close();
});

for (const options of [{ heartbeat: 0 }, { heartbeat: Infinity }, { heartbeat: 0.01, allowedMessages: "call, pub" }]) {
  test(`no heartbeat with ${JSON.stringify(options)}`, async () => {
    const { client, socket } = await connected(options);
    await new Promise((resolve) => setTimeout(resolve, 60));
    assert.deepEqual(socket.sent, []);
    client.close();
  });
}

test("a heartbeat may be all that is allowed", async () => {
  const { client, socket } = await connected({ heartbeat: 0.01, allowedMessages: "PUB,Unsb" });
  await until(() => socket.sent.length === 1);
  client.close();
});

test("a timeout may be infinite", async () => {
  const { client, socket } = await connected({ timeout: Infinity, reconnectTimeout: Infinity });
  const publication = client.publish("news");
  await new Promise((resolve) => setTimeout(resolve, 20));
  socket.last.ack();
  await publication;
  await assert.rejects(client.call("f", null, { timeout: Infinity }), RangeError);
  client.close();
});

for (const [code, sent] of [[1000, 1000], [1001, 1000], [3000, 3000], [4999, 4999], [5000, 1000]]) {
  test(`close(${code}) sends what browsers can`, async () => {
    const { client, socket } = await connected();
    const call = client.call("f");
    await settle();
    client.close(code, "é".repeat(100));
    await rejects(call, ConnectionClosed, { code, reason: "é".repeat(100) });
    assert.deepEqual(socket.closedWith, { code: sent, reason: "é".repeat(61) });
  });
}

test("an error without a close event ends the connection", async (t) => {
  t.mock.method(Math, "random", () => -0.5);
  const { client, socket } = await connected();
  socket.onerror({});
  await until(() => FakeSocket.all.at(-1) !== socket);
  const again = FakeSocket.all.at(-1);
  again.onerror({});
  again.end(1006);
  await until(() => FakeSocket.all.at(-1) !== again);
  FakeSocket.all.at(-1).open();
  await client.connected();
  await new Promise((resolve) => setTimeout(resolve, 150));
  assert.equal(client.state, "connected");
  client.close();
});

test("close fails requests in flight and later ones", async () => {
  const { client, socket } = await connected();
  const call = client.call("f"), news = client.subscribe("news");
  const read = news.next();
  await settle();
  client.close();
  await rejects(call, ConnectionClosed, { code: 1000, reason: "closed by this client" });
  assert.deepEqual(await read, { done: true, value: undefined });
  await rejects(client.publish("x"), ConnectionClosed, { code: 1000 });
  assert.equal(socket.closedWith.code, 1000);
  client.close();
});

test("onMessage receives every message", async () => {
  const seen = [];
  const { client, socket } = await connected({ onMessage: (direction, text) => seen.push([direction, JSON.parse(text).meta.type]) });
  const call = client.call("f");
  await settle();
  socket.last.ack();
  socket.last.res(1);
  await call;
  assert.deepEqual(seen, [["sent", 1], ["received", 8], ["received", 9]]);
  client.close();
});

// juggler.1

/** Return a client that has not connected yet, and its sockets. */
async function unconnected(options = {}) {
  const sockets = [];
  class Own extends FakeSocket {
    constructor(...args) {
      super(...args);
      sockets.push(this);
    }
  }
  const client = new Client("ws://test/ws", { WebSocket: Own, ...options });
  await until(() => sockets.length);
  return { client, socket: sockets[0], sockets };
}

const welcome = (socket, name = "WLCM") => socket.receive(32, GOLDEN_1[name].payload);

test("a server that speaks juggler.1 says what it can do before the first request", async () => {
  const { client, socket } = await unconnected();
  const states = [];
  client.addEventListener("state", ({ state }) => states.push(state));
  const call = client.call("f", 1);
  socket.open("juggler.1");
  assert.deepEqual([client.state, socket.sent.length, states.length], ["connecting", 0, 0]);
  const second = client.call("g", 2);
  await settle();
  assert.equal(socket.sent.length, 0);
  welcome(socket);
  await client.connected();
  assert.deepEqual(socket.sent.map(({ payload }) => payload.uri), ["f", "g"]);
  assert.deepEqual(client.features, ["cancel", "parts"]);
  assert.deepEqual(client.limits, { max_calls: 50, max_call_timeout: 600 });
  client.require("cancel");
  assert.throws(() => client.require("tea"), (error) => error instanceof NotSupported && error instanceof JugglerError
    && error.message === "tea: not supported by the server; its features: cancel, parts");
  const [f, g] = socket.sent.map(({ meta }) => meta.uuid);
  socket.receive(9, { for: g, uri: "g", args: "without an ACK" });
  socket.receive(8, { for: f, for_type: 1, uri: "f" });
  socket.receive(9, { for: f, uri: "f", args: "with one" });
  assert.deepEqual([await second, await call], ["without an ACK", "with one"]);
  assert.deepEqual(states, ["connected"]);
  client.close();
});

test("a server that speaks juggler.0 has no features", async () => {
  const { client } = await connected();
  assert.deepEqual([client.features, client.limits], [[], {}]);
  assert.throws(() => client.require("cancel"), { name: "NotSupported", message: /^cancel: not supported .* none$/ });
  client.close();
});

test("responses of later versions are ignored", async () => {
  const { client, socket } = await unconnected();
  socket.open("juggler.1");
  welcome(socket, "WLCM with an expiry");
  const call = client.call("f");
  await settle();
  for (const { meta, payload } of Object.values(GOLDEN_1)) if (meta?.type >= 32) socket.receive(meta.type, payload);
  for (const payload of [null, 1, [], { for: socket.last.meta.uuid }]) socket.receive(40, payload);
  assert.equal(client.state, "connected");
  assert.deepEqual(client.features, []);
  socket.last.res("ok");
  assert.equal(await call, "ok");
  client.close();
});

for (const [type, payload] of [[10, GOLDEN.EVNT.payload], [32, null], [40, {}]]) {
  test(`a first message of type ${type} with ${payload && "a"} payload is no welcome`, async () => {
    const { client, socket } = await unconnected();
    socket.open("juggler.1");
    socket.receive(type, payload);
    await rejects(client.connected(), ConnectionClosed, { code: 4400, reason: `the server sent an invalid message: expected WLCM first, got type ${type}` });
    assert.equal(client.state, "closed");
  });
}

test("without a welcome in time, the client connects again; an older server may answer", async (t) => {
  t.mock.method(Math, "random", () => -0.5);
  const { client, socket, sockets } = await unconnected({ timeout: 0.4 });
  socket.open("juggler.1");
  await until(() => sockets.length === 2);
  const second = sockets[1];
  second.open("juggler.1");
  welcome(second);
  await client.connected();
  assert.deepEqual(client.features, ["cancel", "parts"]);
  second.end(1001);
  await until(() => sockets.length === 3);
  sockets[2].open("juggler.0");
  await client.connected();
  assert.deepEqual(client.features, []);
  client.close();
});
