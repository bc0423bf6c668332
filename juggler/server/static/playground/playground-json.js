/** JSON as text and as a coloured, foldable tree. However large the value is, only a bounded number of lines is made. */

import { button, count, counted, h } from "./playground-dom.js";

const CHUNK = 100, MOST_CHUNK = 1000, OPEN_LINES = 300, ALL_LINES = 3000, INLINE = 60, PREVIEW = 60, STRING = 1000, MORE_STRING = 20_000, LARGE = 50_000;

const TOKENS = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d[\d.eE+-]*/g;

/** Parse JSON. Numbers that JavaScript would change, such as integers beyond 2^53, keep their text. */
export function exact(text) {
  if (!JSON.rawJSON) return JSON.parse(text); // a browser from before 2025
  if (text.length > LARGE) return largeExact(text);
  return JSON.parse(text, (key, value, { source }) => typeof value === "number" && String(value) !== source ? JSON.rawJSON(source) : value);
}

/** The same, many times faster than with a function for each value: such numbers are marked strings in between. */
function largeExact(text) {
  let mark = "\ue000";
  while (text.includes(mark)) mark += "\ue000";
  let isMarked = false;
  const marked = text.replace(TOKENS, (token) => {
    if (token[0] === '"' || String(Number(token)) === token) return token;
    isMarked = true;
    return `"${mark}${token}"`;
  });
  if (!isMarked) return JSON.parse(text);
  const top = [JSON.parse(marked)], waiting = [top];
  while (waiting.length) {
    const container = waiting.pop();
    for (const key in container) {
      const each = container[key];
      if (typeof each === "string") {
        if (each.startsWith(mark)) container[key] = JSON.rawJSON(each.slice(mark.length));
      } else if (each !== null && typeof each === "object") {
        waiting.push(each);
      }
    }
  }
  return top[0];
}

export const isRaw = (value) => Boolean(JSON.isRawJSON?.(value));

export const isContainer = (value) => value !== null && typeof value === "object" && !isRaw(value);

/** Return JSON text with two spaces of indentation. */
export const pretty = (value) => JSON.stringify(value, null, 2) ?? "null";

/** Return the beginning of a value's JSON text without encoding all of a large one. */
export function brief(value, most) {
  let left = most * 2;
  const short = (each, depth) => {
    if (typeof each === "string") {
      left -= each.length;
      return each.length > most ? each.slice(0, most) : each;
    }
    left -= 4;
    if (!isContainer(each)) return each;
    if (left < 0 || depth > 20) return Array.isArray(each) ? [] : {};
    if (Array.isArray(each)) {
      const made = [];
      for (const item of each) {
        if (left < 0) break;
        made.push(short(item, depth + 1));
      }
      return made;
    }
    const made = {};
    for (const key in each) {
      if (left < 0) break;
      left -= key.length;
      Object.defineProperty(made, key, { value: short(each[key], depth + 1), enumerable: true });
    }
    return made;
  };
  const text = JSON.stringify(short(value, 0)) ?? "null";
  return text.length > most || left < 0 ? `${text.slice(0, most)}…` : text;
}

/** Return an element that shows a value, in one line until it is opened if it `isFolded`. Its text is that of the JSON. */
export function tree(value, isFolded = false) {
  const budget = { lines: isFolded ? 0 : OPEN_LINES };
  return h("div", { class: "json" }, node(value, null, true, budget, !isFolded));
}

/** Open all containers, up to a number of lines; or close all but the outermost. */
export function unfold(root, open) {
  const outermost = root.querySelector("details");
  if (!open) {
    for (const each of root.querySelectorAll("details")) each.open = each === outermost;
    return;
  }
  const waiting = [...root.querySelectorAll("details")];
  for (let lines = 0; waiting.length && lines < ALL_LINES;) {
    const each = waiting.shift();
    const isNew = !each.built;
    each.build();
    each.open = true;
    lines += each.querySelectorAll(":scope > .children > *").length;
    if (isNew) waiting.push(...each.querySelectorAll(":scope > .children > details"));
  }
}

function node(value, key, isLast, budget, isOutermost = false) {
  const end = isLast ? "" : ",";
  budget.lines--;
  const label = key === null ? [] : [h("span", { class: "key", textContent: JSON.stringify(key) }), ": "];
  if (!isContainer(value)) return h("div", { class: "line" }, ...label, scalar(value), end);
  const isArray = Array.isArray(value), [open, close] = isArray ? "[]" : "{}";
  const keys = isArray ? null : Object.keys(value), size = isArray ? value.length : keys.length;
  if (!size) return h("div", { class: "line" }, ...label, open + close, end);
  const short = isOutermost ? null : inline(value, size);
  if (short) return h("div", { class: "line" }, ...label, ...short, end);
  const children = h("div", { class: "children" });
  const said = `${brief(value, PREVIEW).slice(1)} ${isArray ? counted(size, "item") : ""}`;
  const made = h("details", {}, h("summary", { dataset: { said } }, ...label, open), children, h("div", { class: "line close", textContent: close + end }));
  let shown = 0, chunk = CHUNK;
  const more = () => {
    const until = Math.min(size, shown + chunk);
    const items = [];
    for (; shown < until; shown++) {
      const name = keys ? keys[shown] : null;
      items.push(node(keys ? value[name] : value[shown], name, shown === size - 1, budget));
    }
    chunk = Math.min(2 * chunk, MOST_CHUNK);
    children.append(...items);
    if (shown < size) children.append(button(`${count(Math.min(chunk, size - shown))} more of ${count(size - shown)}`, function () {
      budget.lines = OPEN_LINES;
      const before = children.childElementCount - 1;
      this.remove();
      more();
      children.children[before]?.scrollIntoView({ block: "nearest" });
    }, { class: "more" }));
  };
  made.build = () => {
    if (made.built) return;
    made.built = true;
    more();
  };
  made.ontoggle = () => {
    if (made.open && !made.built) {
      budget.lines = OPEN_LINES;
      made.build();
    }
  };
  if (isOutermost || fitsIn(value, Math.min(budget.lines, CHUNK))) {
    made.build();
    made.open = true;
  }
  return made;
}

/** Whether a value has at most `most` lines, without counting more. */
function fitsIn(value, most) {
  let left = most;
  const walk = (each) => {
    for (const key in each) {
      if (--left < 0) return;
      if (isContainer(each[key])) walk(each[key]);
    }
  };
  walk(value);
  return left >= 0;
}

/** The parts of one line, for a short container of scalars; null for others. */
function inline(value, size) {
  if (size > 12) return null;
  let length = 0;
  for (const key in value) {
    const each = value[key];
    if (isContainer(each) && Object.keys(each).length) return null;
    length += (typeof each === "string" ? each.length + 4 : 7) + (Array.isArray(value) ? 0 : key.length + 4);
    if (length > INLINE) return null;
  }
  const isArray = Array.isArray(value), parts = [isArray ? "[" : "{"];
  Object.keys(value).forEach((key, n) => {
    if (n) parts.push(", ");
    if (!isArray) parts.push(h("span", { class: "key", textContent: JSON.stringify(key) }), ": ");
    parts.push(scalar(value[key]));
  });
  return [...parts, isArray ? "]" : "}"];
}

function scalar(value) {
  if (isContainer(value)) return Array.isArray(value) ? "[]" : "{}";
  if (typeof value === "string") return string(value);
  const kind = value === null ? "null" : typeof value === "boolean" ? "boolean" : "number";
  return h("span", { class: kind, textContent: JSON.stringify(value) });
}

function string(value) {
  if (value.length <= STRING) return h("span", { class: "string", textContent: JSON.stringify(value) });
  let shown = STRING;
  const text = document.createTextNode(JSON.stringify(value.slice(0, shown)).slice(0, -1));
  const made = h("span", { class: "string" }, text);
  const more = button("", () => {
    text.data += JSON.stringify(value.slice(shown, shown + MORE_STRING)).slice(1, -1);
    shown += MORE_STRING;
    say();
  }, { class: "more" });
  const say = () => {
    if (shown < value.length) return void (more.textContent = `… ${counted(value.length - shown, "more character")}`);
    more.remove();
    text.data += '"';
  };
  made.append(more);
  say();
  return made;
}
