// The pure modules of the playground: JSON Schema, texts of JSON, copies of calls, secrets, links.
import assert from "node:assert/strict";
import { test } from "node:test";

const of = (name) => import(`../../juggler/server/static/playground/playground-${name}.js`);
const { problems, first, words } = await of("schema");
const { brief, pretty } = await of("json");
const { hasSecrets } = await of("secrets");
const { read, written } = await of("address");
const { snippet } = await of("snippets");

const NODE = { $defs: { Node: { type: "object", properties: { name: { type: "string" }, next: { anyOf: [{ $ref: "#/$defs/Node" }, { type: "null" }] } }, required: ["name"] } }, $ref: "#/$defs/Node" };
const CARDS = { oneOf: [
  { type: "object", properties: { type: { const: "card" }, number: { type: "string", minLength: 4 } }, required: ["type", "number"] },
  { type: "object", properties: { type: { enum: ["cash"] } }, required: ["type"] },
] };

test("problems of values", () => {
  const cases = [
    [{ type: "string" }, 1, [["", "expected a string"]]],
    [{ type: "string", minLength: 1 }, "", [["", "must not be empty"]]],
    [{ type: "string", maxLength: 2 }, "abc", [["", "expected at most 2 characters, got 3"]]],
    [{ type: "string", maxLength: 1 }, "😀", []],
    [{ type: "string", pattern: "^a" }, "b", [["", "expected a match of ^a"]]],
    [{ type: "string", pattern: "^PT", examples: ["PT90S"] }, "90 s", [["", 'expected text such as "PT90S"']]],
    [{ type: "string", contentEncoding: "base64", pattern: "^(?:[A-Za-z0-9+/]{4})*$" }, "?", [["", "expected bytes in base64"]]],
    [{ type: "integer", minimum: -4, maximum: 3, examples: [1, 2] }, 3, []],
    [{ type: "string", pattern: "(?i)a" }, "b", []],
    [{ type: "string", format: "date" }, "2026-13-01", [["", "expected a date, such as 2026-01-31"]]],
    [{ type: "string", format: "date-time" }, "2026-01-31T12:00:00.5+02:00", []],
    [{ type: "string", format: "date-time" }, "today", [["", "expected a date and time, such as 2026-01-31T12:30:00Z"]]],
    [{ type: "string", format: "of my own" }, "x", []],
    [{ type: "integer" }, 1.5, [["", "expected an integer"]]],
    [{ type: "integer", minimum: 1, maximum: 3 }, 4, [["", "expected at most 3"]]],
    [{ type: "number", exclusiveMinimum: 0 }, 0, [["", "expected more than 0"]]],
    [{ type: "number", multipleOf: 0.1 }, 0.3, []],
    [{ type: "boolean" }, null, [["", "expected true or false"]]],
    [{ type: ["string", "null"] }, null, []],
    [{ type: ["string", "null"] }, 1, [["", "expected string or null"]]],
    [{ enum: ["a", 1] }, "b", [["", 'expected one of "a", 1']]],
    [{ const: 5 }, 6, [["", "expected 5"]]],
    [{ type: "array", items: { type: "integer" }, minItems: 1 }, [], [["", "expected at least 1 item"]]],
    [{ type: "array", items: { type: "integer" } }, [1, "x"], [["/1", "expected an integer"]]],
    [{ type: "array", prefixItems: [{ type: "integer" }], items: false }, [1, 2], [["/1", "not allowed"]]],
    [{ type: "object", properties: { "a/b~c": { type: "string" } }, required: ["a/b~c", "d"] }, { "a/b~c": 1 }, [["/d", "required"], ["/a~1b~0c", "expected a string"]]],
    [{ type: "object", additionalProperties: false }, { a: 1 }, [["/a", "unknown member"]]],
    [{ type: "object", additionalProperties: { type: "integer" } }, { a: "x" }, [["/a", "expected an integer"]]],
    [{ allOf: [{ type: "object", required: ["a"] }, { properties: { b: { type: "string" } } }] }, { b: 1 }, [["/a", "required"], ["/b", "expected a string"]]],
    [NODE, { name: "a", next: { name: "b", next: { name: 3 } } }, [["/next/next/name", "expected a string"]]],
    [CARDS, { type: "card", number: "1" }, [["/number", "expected at least 4 characters"]]],
    [CARDS, { type: "cash" }, []],
    [{ $ref: "#/$defs/none" }, 1, []],
    [{ $defs: { A: { $ref: "#/$defs/A" } }, $ref: "#/$defs/A" }, 1, []],
    [true, 1, []],
  ];
  for (const [schema, value, expected] of cases) {
    assert.deepEqual(problems(schema, value, schema).map(({ path, message }) => [path, message]), expected, JSON.stringify([schema, value]));
  }
  assert.equal(problems({ items: { type: "string" } }, Array(1000).fill(1)).length, 50);
});

test("first values", () => {
  const cases = [
    [{ type: "string" }, ""], [{ type: "integer", minimum: 3 }, 3], [{ type: "integer", exclusiveMinimum: 0 }, 1], [{ type: "integer", maximum: -2 }, -2],
    [{ type: "number" }, 0], [{ type: "integer", default: 7 }, 7], [{ enum: ["b", "a"] }, "b"], [{ const: null }, null], [{ anyOf: [{ type: "null" }, { type: "string" }] }, ""],
    [{ type: "array", items: { type: "integer" }, minItems: 2 }, [0, 0]], [{ type: "array", prefixItems: [{ type: "string" }, { type: "integer" }], minItems: 1 }, [""]],
    [CARDS, { type: "card", number: "" }], [NODE, { name: "" }], [{}, null],
  ];
  for (const [schema, value] of cases) assert.deepEqual(first(schema, schema), value, JSON.stringify(schema));
  const endless = { $defs: { A: { type: "object", properties: { a: { $ref: "#/$defs/A" } }, required: ["a"] } }, $ref: "#/$defs/A" };
  assert.ok(pretty(first(endless, endless)).length < 1000);
  assert.equal(words({ type: "array", items: { type: "string", format: "uuid" } }), "array of uuid");
});

test("the text of JSON has a bound", () => {
  assert.equal(brief({ a: "x".repeat(1e6), b: 1 }, 20).length, 21);
  assert.equal(brief(Array(1e6).fill(1), 10), "[1,1,1,1,1…");
  assert.equal(brief([1, { a: null }], 100), '[1,{"a":null}]');
  assert.equal(brief(JSON.parse('{"__proto__": 1}'), 100), '{"__proto__":1}');
});

test("copies of calls", () => {
  const call = { page: "http://h:1/", url: "ws://h:1/ws", uri: "a.b", args: { x: [true, null, "it's"] }, timeout: 5, isStream: false, hasToken: false };
  assert.match(snippet("python", call), /client\.call\("a\.b", \{"x": \[True, None, "it's"\]\}, timeout=5\)/);
  assert.match(snippet("js", call), /await import\("http:\/\/h:1\/juggler\.js"\)/);
  assert.equal(snippet("cli", call), `juggler call --url ws://h:1/ws --timeout 5 a.b '{"x":[true,null,"it'\\''s"]}'\n`);
  assert.match(snippet("cli", { ...call, args: -1 }), / -- a\.b -1\n$/);
  for (const language of ["python", "js", "cli"]) assert.match(snippet(language, { ...call, isStream: true }), /stream/);
  assert.match(snippet("python", { ...call, hasToken: true }), /os\.environ\["JUGGLER_TOKEN"\]/);
});

test("secrets are found by name, format and position", () => {
  const login = { anyOf: [{ type: "object", properties: { user: {}, password: {} } }, { type: "array", prefixItems: [{}, {}] }] };
  const cases = [
    [{ a: { apiKey: "x" } }, undefined, true], [{ keys: [1] }, undefined, false], [["ann", "x"], login, true], [["ann"], login, false], [{ user: "ann" }, login, false],
    ["x", { type: "string", format: "password" }, true], [[{ token: "x" }], undefined, true], [{ token: "" }, undefined, false], [null, undefined, false],
  ];
  for (const [value, schema, expected] of cases) assert.equal(hasSecrets(value, schema), expected, JSON.stringify([value, schema]));
});

test("links", () => {
  const state = { view: "events", uri: "a.b", args: '{"x": "é&="}', channels: [{ channel: "a b", pattern: false }, { channel: "n.*", pattern: true }] };
  assert.deepEqual(read(written(state)), state);
  assert.equal(written({ view: "call", uri: "", args: null, channels: [] }), "");
  assert.equal(read(written({ ...state, args: null })).args, null);
  assert.equal(read(written({ ...state, args: "1".repeat(5000) })).args, null);
  assert.equal(read(written({ ...state, channels: Array(20).fill(state.channels[0]) })).channels.length, 8);
});
