/** Cancelled calls and results in parts: juggler.js against a fake socket. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { afterEach, test } from "node:test";

import { CallFailed, Client, ConnectionClosed, Expired, JugglerError, Nacked, NotSupported } from "../../juggler/server/static/juggler.js";
import { FakeSocket, settle } from "./fake.mjs";

const GOLDEN = Object.fromEntries(
  readFileSync(new URL("../wire/juggler1.jsonl", import.meta.url), "utf8").trim().split("\n")
    .map((line) => JSON.parse(line)).map(({ name, text }) => [name, JSON.parse(text)]),
);
const CALL = 1, CNCL = 16, CRDT = 17;
const BOTH = ["cancel", "parts"];

const clients = [];
afterEach(() => clients.splice(0).forEach((client) => client.close()));

/** Return a client that is not connected yet, and its socket. */
async function unconnected() {
  const client = new Client("ws://test/ws", { WebSocket: FakeSocket, reconnect: false });
  clients.push(client);
  await settle();
  return { client, socket: FakeSocket.all.at(-1) };
}

function open(socket, features) {
  socket.open(features ? "juggler.1" : "juggler.0");
  if (features) socket.receive(32, { conn: "1", features, limits: {} });
}

async function connected(features = BOTH) {
  const { client, socket } = await unconnected();
  open(socket, features);
  await client.connected();
  return { client, socket };
}

/** Start a stream. Return it and ways to answer it. */
async function streaming(args = {}, features = BOTH) {
  const { client, socket } = await connected(features);
  const stream = client.stream("f", 1, args);
  await settle();
  return { client, socket, stream, call: socket.answers(socket.sent[0]) };
}

const types = (socket) => socket.sent.map(({ meta }) => meta.type);
const credit = (socket) => socket.sent.filter(({ meta }) => meta.type === CRDT).map(({ payload }) => payload.until);
const aborted = { name: "AbortError" };

async function all(stream) {
  const seen = [];
  for await (const part of stream) seen.push(part);
  return seen;
}

test("an aborted call is cancelled", async () => {
  const { client, socket } = await connected();
  const controller = new AbortController();
  const call = client.call("slow", null, { signal: controller.signal });
  await settle();
  const { meta: { uuid } } = socket.last;
  controller.abort();
  await assert.rejects(call, aborted);
  assert.deepEqual({ ...socket.last.meta, uuid: 0 }, { ...GOLDEN.CNCL.meta, uuid: 0 });
  assert.deepEqual(socket.last.payload, { ...GOLDEN.CNCL.payload, for: uuid });
  assert.notEqual(socket.last.meta.uuid, uuid);
  for (const name of ["ACK of CNCL", "NACK of CNCL"]) {
    socket.receive(GOLDEN[name].meta.type, { ...GOLDEN[name].payload, for: socket.last.meta.uuid });
  }
  socket.answers(socket.sent[0]).res("late");
  assert.equal(client.state, "connected");
  assert.deepEqual(types(socket), [CALL, CNCL]);
});

for (const features of [null, [], ["parts"]]) {
  test(`an aborted call only stops waiting with features ${features}`, async () => {
    const { client, socket } = await connected(features);
    const controller = new AbortController();
    const call = client.call("slow", null, { signal: controller.signal });
    await settle();
    controller.abort();
    await assert.rejects(call, aborted);
    assert.deepEqual(types(socket), [CALL]);
  });
}

test("what needs no cancel causes none", async () => {
  const { client, socket } = await unconnected();
  const early = new AbortController(), late = new AbortController();
  const call = client.call("f", null, { signal: early.signal });
  early.abort();
  await assert.rejects(call, aborted);
  open(socket, BOTH);
  await client.connected();
  assert.deepEqual(types(socket), []);
  const done = client.call("f", null, { signal: late.signal });
  await settle();
  socket.last.res(1);
  assert.equal(await done, 1);
  late.abort();
  const publication = new AbortController();
  const published = client.publish("news", 1, { signal: publication.signal });
  await settle();
  publication.abort();
  await assert.rejects(published, aborted);
  await assert.rejects(client.call("f", null, { timeout: 0.01 }), Expired);
  assert.deepEqual(types(socket), [CALL, 2, CALL]);
});

test("a call that asks for parts looks as others write it, and theirs are understood", async () => {
  const { client, socket } = await connected();
  const stream = client.stream("example.tokens", "once", { timeout: 2, window: 16 });
  await settle();
  assert.deepEqual(socket.last.payload, GOLDEN["CALL for parts"].payload);
  const call = socket.last;
  for (const name of ["PART", "PART of several"]) socket.receive(33, { ...GOLDEN[name].payload, for: call.meta.uuid });
  call.res({ words: 4 });
  assert.deepEqual(await all(stream), ["Once", " upon", " a", " time"]);
  assert.deepEqual(await stream.result(), { words: 4 });
  assert.deepEqual(await stream.next(), { done: true, value: { words: 4 } });
});

test("requests carry a trace, and events bring theirs", async () => {
  const { client, socket } = await connected();
  const { trace } = GOLDEN["CALL with a trace"].payload;
  const ignore = () => {};
  client.call("example.echo", [1], { timeout: 2, trace }).catch(ignore);
  client.stream("example.tokens", "once", { timeout: 2, window: 16, trace }).result().catch(ignore);
  client.publish("news", [1, 2], { trace }).catch(ignore);
  const events = client.subscribe("news");
  await settle();
  const [call, stream, publication] = socket.sent.slice(-4).map(({ payload }) => payload);
  assert.deepEqual(call, { ...GOLDEN["CALL with a trace"].payload, timeout: 2e9 });
  assert.deepEqual(stream, { ...GOLDEN["CALL for parts"].payload, trace });
  assert.deepEqual(publication, GOLDEN["PUB with a trace"].payload);
  socket.receive(10, GOLDEN["EVNT with a trace"].payload);
  assert.equal((await events.next()).value.trace, trace);
  client.close();
});

test("the defaults are a window of 64, all parts and the timeout of calls", async () => {
  const { socket } = await streaming();
  assert.deepEqual(socket.last.payload, { uri: "f", timeout: 60e9, parts: { mode: "all", window: 64 }, args: 1 });
});

test("the latest parts can be asked for", async () => {
  const { socket } = await streaming({ mode: "latest", window: 1 });
  assert.deepEqual(socket.last.payload.parts, GOLDEN["CALL for the latest part"].payload.parts);
});

test("parts are delivered as they arrive, before the result", async () => {
  const { stream, call } = await streaming();
  call.ack();
  let step = stream.next();
  call.part(1, { a: [null] });
  assert.deepEqual(await step, { done: false, value: { a: [null] } });
  step = stream.next();
  let isOver = false;
  step.then(() => { isOver = true; });
  await settle();
  assert.equal(isOver, false);
  call.part(2, null);
  call.res(5);
  assert.deepEqual(await step, { done: false, value: null });
  assert.deepEqual(await all(stream), []);
});

test("several readers receive the parts in order", async () => {
  const { stream, call } = await streaming();
  const steps = [stream.next(), stream.next(), stream.next(), stream.next()];
  call.part(1, "a", "b", "c");
  call.res(5);
  assert.deepEqual((await Promise.all(steps)).map(({ value }) => value), ["a", "b", "c", 5]);
});

for (const [window, renewals] of [[1, [2, 3, 4]], [3, [5]], [4, [6]], [8, []]]) {
  test(`credit is renewed when half of a window of ${window} has been taken`, async () => {
    const { socket, stream, call } = await streaming({ window });
    for (let n = 1; n <= Math.min(window, 3); n++) call.part(n, n);
    await settle();
    assert.deepEqual(credit(socket), []);
    for (let n = 1; n <= 3; n++) {
      if (n > window) call.part(n, n);
      assert.equal((await stream.next()).value, n);
    }
    assert.deepEqual(credit(socket), renewals);
    for (const { meta, payload } of socket.sent.slice(1)) {
      assert.deepEqual({ type: meta.type, payload: { ...payload, until: 24 } }, {
        type: GOLDEN.CRDT.meta.type, payload: { ...GOLDEN.CRDT.payload, for: call.meta.uuid },
      });
    }
  });
}

test("no credit is granted for a result that is complete", async () => {
  const { socket, stream, call } = await streaming({ window: 2 });
  call.part(1, "a", "b");
  call.res(5);
  assert.deepEqual(await all(stream), ["a", "b"]);
  assert.deepEqual(types(socket), [CALL]);
});

test("a server that exceeds the credit fails the call, and no more is stored", async () => {
  const { socket, stream, call } = await streaming({ window: 2 });
  call.part(1, "a", "b");
  call.part(3, "c");
  assert.equal((await stream.next()).value, "a");
  assert.equal((await stream.next()).value, "b");
  await assert.rejects(stream.next(), (error) => error instanceof JugglerError && error.message === "part 3 exceeds the credit of 2");
  assert.deepEqual(types(socket), [CALL, CNCL]);
});

test("a loop that is left cancels the call", async () => {
  const { socket, stream, call } = await streaming();
  call.part(1, "a", "b");
  for await (const part of stream) {
    assert.equal(part, "a");
    break;
  }
  assert.deepEqual(types(socket), [CALL, CNCL]);
  assert.deepEqual(socket.last.payload, { for: call.meta.uuid, wait: false });
  call.part(3, "late");
  call.res("late");
  assert.deepEqual(await stream.next(), { done: true, value: undefined });
  await assert.rejects(stream.result(), aborted);
  await stream.return();
  assert.equal(socket.sent.length, 2);
});

test("an exception in a loop cancels the call", async () => {
  const { socket, stream, call } = await streaming();
  call.part(1, "a");
  await assert.rejects(async () => {
    for await (const part of stream) throw new TypeError(part);
  }, TypeError);
  assert.deepEqual(types(socket), [CALL, CNCL]);
});

test("return ends a waiting reader", async () => {
  const { socket, stream } = await streaming();
  const step = stream.next();
  assert.deepEqual(await stream.return(3), { done: true, value: 3 });
  assert.deepEqual(await step, { done: true, value: undefined });
  assert.deepEqual(types(socket), [CALL, CNCL]);
});

test("a signal aborts a stream at once, with parts that were not read", async () => {
  const controller = new AbortController();
  const { socket, stream, call } = await streaming({ signal: controller.signal });
  call.part(1, "a", "b");
  assert.equal((await stream.next()).value, "a");
  controller.abort();
  await assert.rejects(stream.next(), aborted);
  await assert.rejects(stream.result(), aborted);
  assert.deepEqual(types(socket), [CALL, CNCL]);
});

test("a signal aborts a stream that waits, or that was not sent", async () => {
  const controller = new AbortController();
  const { client, socket, stream } = await streaming({ signal: controller.signal });
  const step = stream.next();
  controller.abort(new Error("enough"));
  await assert.rejects(step, { message: "enough" });
  await assert.rejects(client.stream("f", 1, { signal: AbortSignal.abort() }).next(), aborted);
  assert.deepEqual(types(socket), [CALL, CNCL]);
});

test("a signal stops the parts of a result that is complete", async () => {
  const controller = new AbortController();
  const { socket, stream, call } = await streaming({ signal: controller.signal });
  call.part(1, "a", "b");
  call.res(5);
  await settle();
  controller.abort();
  await assert.rejects(stream.next(), aborted);
  assert.deepEqual(types(socket), [CALL]);
});

test("an error follows the parts before it", async () => {
  const { stream, call } = await streaming();
  call.part(1, "a");
  call.res({ error: { message: "stop", type: "ValueError" } }, { failed: true });
  assert.equal((await stream.next()).value, "a");
  for (const read of [() => stream.next(), () => stream.result(), () => stream.next()]) {
    await assert.rejects(read(), (error) => error instanceof CallFailed && error.type === "ValueError");
  }
});

test("a refused stream rejects", async () => {
  const { stream, call } = await streaming();
  call.nack(429, "too many calls");
  await assert.rejects(all(stream), (error) => error instanceof Nacked && error.code === 429);
});

test("a lost connection follows the parts before it", async () => {
  const { socket, stream, call } = await streaming();
  call.part(1, "a");
  socket.end(1006);
  assert.equal((await stream.next()).value, "a");
  await assert.rejects(stream.next(), (error) => error instanceof ConnectionClosed && error.code === 1006);
});

test("result drops the parts that were not read, and grants credit for further ones", async () => {
  const { socket, stream, call } = await streaming({ window: 2 });
  const result = stream.result();
  for (let seq = 1; seq <= 4; seq++) {
    call.part(seq, seq);
    await settle();
  }
  call.res("end");
  assert.equal(await result, "end");
  assert.deepEqual(credit(socket), [3, 4, 5, 6]);
});

test("an error that is not read is no unhandled rejection", async () => {
  const { call } = await streaming();
  call.nack(500, "broken");
  await settle(); // an unhandled rejection fails the test
  assert.equal(clients.length, 1);
});

for (const features of [null, [], ["cancel"]]) {
  test(`a server with features ${features} has no streams`, async () => {
    const refused = (error) => error instanceof NotSupported && error.message.startsWith("parts: not supported by the server");
    const { client, socket } = await unconnected();
    const early = client.stream("f"), call = client.call("g");
    const step = early.next();
    open(socket, features);
    await assert.rejects(step, refused);
    await assert.rejects(client.stream("f").next(), refused);
    await assert.rejects(client.stream("f").result(), refused);
    assert.deepEqual(socket.sent.map(({ payload }) => payload.uri), ["g"]);
    socket.last.res(1);
    assert.equal(await call, 1);
  });
}

test("a stream waits for the first connection", async () => {
  const { client, socket } = await unconnected();
  const stream = client.stream("f");
  open(socket, BOTH);
  await client.connected();
  socket.last.part(1, "a");
  socket.last.res();
  assert.deepEqual(await all(stream), ["a"]);
});

/** Replace the timers. Return a function that returns those that are set. */
function fakeTimers(t) {
  const timers = new Set();
  t.mock.method(globalThis, "setTimeout", (action, ms) => {
    const timer = { action, ms };
    timers.add(timer);
    return timer;
  });
  t.mock.method(globalThis, "clearTimeout", (timer) => timers.delete(timer));
  return () => [...timers].filter(({ ms }) => ms === 200);
}

test("the timeout counts from part to part", async (t) => {
  const timers = fakeTimers(t);
  const { socket, stream, call } = await streaming({ timeout: 0.2 });
  const seen = new Set(timers());
  for (let seq = 1; seq <= 3; seq++) {
    call.part(seq, seq);
    assert.equal((await stream.next()).value, seq);
    const [timer, ...more] = timers();
    assert.ok(!seen.has(timer) && !more.length);
    seen.add(timer);
  }
  assert.equal(seen.size, 4);
  timers()[0].action();
  await assert.rejects(stream.next(), (error) => error instanceof Expired && error.message === "no result of f within 0.2 s");
  assert.deepEqual(types(socket), [CALL, CNCL]);
  assert.deepEqual(timers(), []);
});

test("a reader that holds credit back does not expire, and one that waits does", async (t) => {
  const timers = fakeTimers(t);
  const { socket, stream, call } = await streaming({ timeout: 0.2, window: 2 });
  call.part(1, "a", "b");
  assert.deepEqual(timers(), []);
  assert.equal((await stream.next()).value, "a");
  assert.deepEqual(credit(socket), [3]);
  assert.equal(timers().length, 1);
  timers()[0].action();
  assert.equal((await stream.next()).value, "b");
  await assert.rejects(stream.next(), Expired);
  assert.deepEqual(types(socket), [CALL, CRDT, CNCL]);
});

test("a stream that has ended leaves no timer", async (t) => {
  const timers = fakeTimers(t);
  for (const end of [({ call }) => call.res(1), ({ call }) => call.nack(500, "no"), ({ stream }) => stream.return(), ({ client }) => client.close()]) {
    const started = await streaming({ timeout: 0.2 });
    assert.equal(timers().length, 1);
    end(started);
    await settle();
    assert.deepEqual(timers(), []);
  }
});

for (const [args, message] of [
  [{ window: 0 }, "window: expected 1 to 1024, got 0"],
  [{ window: 1025 }, "window: expected 1 to 1024, got 1025"],
  [{ window: 1.5 }, "window: expected 1 to 1024, got 1.5"],
  [{ window: "x" }, "window: expected 1 to 1024, got x"],
  [{ mode: "some" }, 'mode: expected "all" or "latest", got "some"'],
  [{ timeout: 0 }, "timeout: expected more than 0 and at most 86400 seconds, got 0"],
]) {
  test(`a stream is refused: ${message}`, async () => {
    const { client, socket } = await connected();
    await assert.rejects(client.stream("f", 1, args).next(), { name: "RangeError", message });
    assert.deepEqual(types(socket), []);
  });
}

test("parts of a call that did not ask for them are ignored", async () => {
  const { client, socket } = await connected();
  const call = client.call("f");
  await settle();
  socket.last.part(1, "a");
  socket.receive(33, { for: "unknown", seq: 1, args: 1 });
  socket.last.res(1);
  assert.equal(await call, 1);
});
