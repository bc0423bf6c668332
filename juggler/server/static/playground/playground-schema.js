/** JSON Schema, as far as forms need it: references, kinds, first values, and problems of a value. Pure: no elements. */

import { count, counted } from "./playground-dom.js";
import { brief, isContainer, isRaw } from "./playground-json.js";

const MOST_HOPS = 20, MOST_DEPTH = 40, MOST_PROBLEMS = 50, DEEPEST_FIRST = 6;

const isNumber = (value) => typeof value === "number" || isRaw(value);
const asNumber = (value) => (isRaw(value) ? Number(value.rawJSON) : value);
const isObject = (value) => isContainer(value) && !Array.isArray(value);

/** Follow references, and merge allOf. True and false are schemas, too. */
export function resolved(schema, root, hops = 0) {
  if (schema === undefined || schema === true) return {};
  if (schema === false) return { not: {} };
  if (hops > MOST_HOPS) return {};
  if (typeof schema.$ref === "string") {
    const { $ref, ...beside } = schema;
    return { ...resolved(at(root, $ref), root, hops + 1), ...beside };
  }
  if (!schema.allOf) return schema;
  const { allOf, ...beside } = schema;
  return [...allOf, beside].map((each) => resolved(each, root, hops + 1)).reduce((all, each) => ({
    ...all, ...each,
    ...(all.properties || each.properties ? { properties: { ...all.properties, ...each.properties } } : {}),
    ...(all.required || each.required ? { required: [...new Set([...(all.required ?? []), ...(each.required ?? [])])] } : {}),
  }), {});
}

function at(root, reference) {
  if (!reference.startsWith("#")) return undefined;
  let here = root;
  for (const part of decodeURIComponent(reference.slice(1)).split("/").slice(1)) {
    const name = part.replaceAll("~1", "/").replaceAll("~0", "~");
    here = here !== null && typeof here === "object" && Object.hasOwn(here, name) ? here[name] : undefined;
  }
  return here;
}

/** The alternatives of a schema, resolved; null if it has none. */
export function alternatives(schema, root) {
  const found = schema.anyOf ?? schema.oneOf ?? (Array.isArray(schema.type) ? schema.type.map((type) => ({ ...schema, type })) : null);
  if (!found) return null;
  const { anyOf, oneOf, type, ...beside } = schema;
  delete beside.title, delete beside.description, delete beside.default, delete beside.discriminator;
  return found.flatMap((each) => {
    const made = resolved(each, root);
    // Alternatives within one are alternatives of the whole.
    return alternatives(made, root) ?? [{ ...beside, ...made }];
  });
}

/** The alternatives of a function's arguments, with names: the catalogue lists first the object with the parameters by name. */
export function ofArguments(schema, root) {
  const others = alternatives(schema, root);
  if (others?.[0]?.type !== "object" || others[1]?.type !== "array" || !others[0].properties) return others;
  const parameters = Object.keys(others[0].properties);
  return others.map((each) => ({
    title: { object: "by name", array: "by position", null: "no arguments" }[each.type] ?? "one argument", "x-name": parameters[0], ...each,
    ...(each.prefixItems && { prefixItems: each.prefixItems.map((inner, n) => ({ ...(inner === true ? {} : inner), "x-name": parameters[n] })) }),
  }));
}

/** What a resolved schema without alternatives describes. */
export function kind(schema) {
  if ("const" in schema) return "const";
  if (schema.enum) return schema.enum.length === 1 ? "const" : "enum";
  if (["string", "integer", "number", "boolean", "null", "object", "array"].includes(schema.type)) return schema.type;
  if (schema.properties) return "object";
  if (schema.prefixItems || schema.items) return "array";
  return "any";
}

export const constant = (schema) => ("const" in schema ? schema.const : schema.enum[0]);

/** A few words about a schema: its title or type, and its limits. */
export function words(schema, root) {
  schema = resolved(schema, root);
  const others = alternatives(schema, root);
  if (others) return [...new Set(others.map((each) => words(each, root)))].join(" or ");
  const type = kind(schema);
  if (type === "const") return brief(constant(schema), 40);
  if (type === "enum") return `one of ${schema.enum.length}`;
  if (type === "object") return schema.title ?? "object";
  if (type === "array") {
    const items = schema.items && !schema.prefixItems ? words(resolved(schema.items, root), root) : "";
    return schema.title ?? (items ? `array of ${items}` : "array");
  }
  if (type === "string") return [schema.format ?? "string", schema.minLength === 1 && !schema.maxLength ? "not empty" : range(schema.minLength, schema.maxLength, "characters")].filter(Boolean).join(", ");
  if (type === "integer" || type === "number") {
    const low = schema.minimum ?? (schema.exclusiveMinimum !== undefined ? `over ${schema.exclusiveMinimum}` : undefined);
    const high = schema.maximum ?? (schema.exclusiveMaximum !== undefined ? `under ${schema.exclusiveMaximum}` : undefined);
    return [type, range(low, high, "")].filter(Boolean).join(", ");
  }
  return type;
}

function range(low, high, unit) {
  if (low === undefined && high === undefined) return "";
  const text = low === undefined ? `at most ${high}` : high === undefined ? `at least ${low}` : `${low} to ${high}`;
  return `${text} ${unit}`.trim().replace("at least over", "over").replace("at most under", "under");
}

/** Return a first value: the default, an example, or the simplest that fits. Recursion ends with null. */
export function first(schema, root, depth = 0) {
  schema = resolved(schema, root);
  if ("default" in schema) return schema.default;
  if (schema.examples?.length) return schema.examples[0];
  if (depth > DEEPEST_FIRST) return null;
  const others = alternatives(schema, root);
  if (others) return first(others.find((each) => kind(each) !== "null") ?? others[0] ?? {}, root, depth + 1);
  switch (kind(schema)) {
    case "const": return constant(schema);
    case "enum": return schema.enum[0];
    case "string": return "";
    case "boolean": return false;
    case "integer": return Math.ceil(within(schema, 1));
    case "number": return within(schema, Number.EPSILON);
    case "array": {
      const items = (schema.prefixItems ?? []).slice(0, schema.minItems ?? schema.prefixItems?.length);
      const made = items.map((each) => first(each, root, depth + 1));
      while (made.length < Math.min(schema.minItems ?? 0, 100)) made.push(first(schema.items, root, depth + 1));
      return made;
    }
    case "object": {
      const required = schema.required ?? [];
      return Object.fromEntries(required.map((name) => [name, first(schema.properties?.[name], root, depth + 1)]));
    }
    default: return null;
  }
}

function within({ minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf }, step) {
  const low = minimum ?? (exclusiveMinimum === undefined ? undefined : exclusiveMinimum + (multipleOf ?? step));
  const high = maximum ?? (exclusiveMaximum === undefined ? undefined : exclusiveMaximum - (multipleOf ?? step));
  if (low !== undefined && low > 0) return multipleOf ? Math.ceil(low / multipleOf) * multipleOf : low;
  if (high !== undefined && high < 0) return high;
  return 0;
}

/** Return the problems of a value, each with the path of its part as a JSON pointer and a message. At most 50. */
export function problems(schema, value, root) {
  const found = [];
  check(schema, value, root, "", found, 0);
  return found;
}

export const fits = (schema, value, root) => problems(schema, value, root).length === 0;

function check(schema, value, root, path, found, depth) {
  if (found.length >= MOST_PROBLEMS || depth > MOST_DEPTH) return;
  schema = resolved(schema, root);
  const say = (message) => { if (found.length < MOST_PROBLEMS) found.push({ path, message }); };
  if (value === undefined) return say("required");
  const others = alternatives(schema, root);
  if (others) {
    const tried = others.map((each) => {
      const inner = [];
      check(each, value, root, path, inner, depth + 1);
      return inner;
    });
    if (tried.some((inner) => !inner.length)) return;
    // The alternative that is meant is likely the one whose problems are deepest.
    const score = (inner) => Math.max(...inner.map((each) => each.path.length)) - (inner.some((each) => each.path === path) ? 1e6 : 0);
    const best = tried.sort((a, b) => score(b) - score(a))[0];
    if (best && score(best) >= 0) found.push(...best);
    else say(`expected ${words(schema, root)}`);
    return;
  }
  if (schema.not && !Object.keys(schema.not).length) return say("not allowed");
  switch (kind(schema)) {
    case "const": return same(value, constant(schema)) ? undefined : say(`expected ${brief(constant(schema), 60)}`);
    case "enum": return schema.enum.some((each) => same(each, value)) ? undefined : say(`expected one of ${schema.enum.map((each) => brief(each, 30)).join(", ").slice(0, 200)}`);
    case "null": return value === null ? undefined : say("expected null");
    case "boolean": return typeof value === "boolean" ? undefined : say("expected true or false");
    case "string": return typeof value === "string" ? checkString(schema, value, say) : say("expected a string");
    case "integer": return isNumber(value) && isInteger(value) ? checkNumber(schema, asNumber(value), say) : say("expected an integer");
    case "number": return isNumber(value) ? checkNumber(schema, asNumber(value), say) : say("expected a number");
    case "array": {
      if (!Array.isArray(value)) return say("expected an array");
      if (value.length < (schema.minItems ?? 0)) say(`expected at least ${counted(schema.minItems, "item")}`);
      if (value.length > (schema.maxItems ?? Infinity)) say(`expected at most ${counted(schema.maxItems, "item")}`);
      if (schema.uniqueItems && new Set(value.map((each) => JSON.stringify(each))).size < value.length) say("expected items that differ");
      const before = schema.prefixItems ?? [];
      value.forEach((each, n) => check(before[n] ?? schema.items, each, root, `${path}/${n}`, found, depth + 1));
      return;
    }
    case "object": {
      if (!isObject(value)) return say("expected an object");
      const known = schema.properties ?? {};
      for (const name of schema.required ?? []) if (!Object.hasOwn(value, name)) found.push({ path: pointer(path, name), message: "required" });
      for (const [name, each] of Object.entries(value)) {
        if (each === undefined) continue;
        const inner = Object.hasOwn(known, name) ? known[name] : patterned(schema, name) ?? schema.additionalProperties;
        if (inner === false) found.push({ path: pointer(path, name), message: "unknown member" });
        else check(inner, each, root, pointer(path, name), found, depth + 1);
      }
    }
  }
}

export const pointer = (path, name) => `${path}/${String(name).replaceAll("~", "~0").replaceAll("/", "~1")}`;

function patterned({ patternProperties = {} }, name) {
  for (const [pattern, schema] of Object.entries(patternProperties)) if (expression(pattern)?.test(name)) return schema;
  return undefined;
}

function expression(pattern) {
  try {
    return new RegExp(pattern, "u");
  } catch {
    return null; // of another dialect: the callee checks it
  }
}

const same = (a, b) => a === b || (isNumber(a) && isNumber(b) ? asNumber(a) === asNumber(b) : JSON.stringify(a) === JSON.stringify(b));

const isInteger = (value) => (isRaw(value) ? /^-?\d+$/.test(value.rawJSON) : Number.isInteger(value));

function checkNumber({ minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf }, value, say) {
  if (value < minimum) say(`expected at least ${minimum}`);
  if (value > maximum) say(`expected at most ${maximum}`);
  if (value <= exclusiveMinimum) say(`expected more than ${exclusiveMinimum}`);
  if (value >= exclusiveMaximum) say(`expected less than ${exclusiveMaximum}`);
  if (multipleOf && Math.abs(value / multipleOf - Math.round(value / multipleOf)) > 1e-9) say(`expected a multiple of ${multipleOf}`);
}

const DATE = String.raw`\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])`, TIME = String.raw`([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?`;
const FORMATS = {
  date: [new RegExp(`^${DATE}$`), "a date, such as 2026-01-31"],
  time: [new RegExp(`^${TIME}(Z|[+-]\\d\\d:\\d\\d)?$`, "i"), "a time, such as 12:30:00"],
  "date-time": [new RegExp(`^${DATE}[T ]${TIME}(Z|[+-]\\d\\d:?\\d\\d)?$`, "i"), "a date and time, such as 2026-01-31T12:30:00Z"],
  uuid: [/^[\da-f]{8}-?([\da-f]{4}-?){3}[\da-f]{12}$/i, "a UUID"],
  email: [/^[^@\s]+@[^@\s]+$/, "an e-mail address"],
  ipv4: [/^\d{1,3}(\.\d{1,3}){3}$/, "an IPv4 address"],
};

function checkString({ minLength, maxLength, pattern, format, contentEncoding, examples }, value, say) {
  const length = [...value.slice(0, 1e6)].length;
  if (length < minLength) say(minLength === 1 ? "must not be empty" : `expected at least ${counted(minLength, "character")}`);
  if (length > maxLength) say(`expected at most ${counted(maxLength, "character")}, got ${count(length)}`);
  if (pattern && expression(pattern)?.test(value.slice(0, 10_000)) === false) {
    say(contentEncoding === "base64" ? "expected bytes in base64" : examples?.length ? `expected text such as ${brief(examples[0], 40)}` : `expected a match of ${pattern}`);
  }
  const [matches, expected] = FORMATS[format] ?? [];
  if (matches && !matches.test(value)) say(`expected ${expected}`);
}
