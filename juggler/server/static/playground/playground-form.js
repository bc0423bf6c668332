/** A form made from a JSON Schema and a value. It shows every value: where one does not fit the schema, the form has a field with JSON. */

import { button, h } from "./playground-dom.js";
import { brief, exact, isContainer, isRaw, pretty } from "./playground-json.js";
import { alternatives, constant, fits, first, kind, ofArguments, pointer, problems, resolved, words } from "./playground-schema.js";

const MOST_FIELDS = 400, MOST_ITEMS = 100, MOST_DEPTH = 12;

/** Show a form in an element. Returns its value, its problems, and what shows them: all, or those of touched fields. */
export function makeForm(parent, schema, value, onChange) {
  const context = { root: schema, fields: 0, names: 0 };
  const top = field(schema, value, { ...context, shared: context, changed }, 0);
  parent.replaceChildren(top.element);
  let showAll = false;
  function found() {
    const made = problems(schema, top.get(), schema);
    top.collect("", made);
    return made;
  }
  function show() {
    const byPath = new Map();
    for (const { path, message } of found()) if (!byPath.has(path)) byPath.set(path, message);
    top.show(byPath, "", showAll);
  }
  function changed() {
    show();
    onChange(top.get());
  }
  show();
  return {
    get value() { return top.get(); },
    get problems() { return found(); },
    showAll() {
      showAll = true;
      show();
      parent.querySelector('[aria-invalid="true"]')?.focus();
    },
  };
}

/** Return a field: its element, get(), collect(path, problems) of its own, and show(problems by path, path, whether all). */
function field(schema, value, context, depth, label = "") {
  schema = resolved(schema, context.root);
  const { shared } = context;
  if (++shared.fields > MOST_FIELDS || depth > MOST_DEPTH) return json(schema, value, context, label);
  const others = depth ? alternatives(schema, context.root) : ofArguments(schema, context.root);
  if (others) return choice(schema, others, value, context, depth, label);
  const type = kind(schema);
  const suits = {
    string: typeof value === "string", boolean: typeof value === "boolean", null: value === null, const: type === "const" && isSame(value, constant(schema)),
    integer: isNumber(value), number: isNumber(value), enum: schema.enum?.some((each) => isSame(each, value)),
    array: Array.isArray(value) && value.length <= MOST_ITEMS, object: isContainer(value) && !Array.isArray(value),
  };
  if (!suits[type] || value === undefined) return json(schema, value, context, label, type !== "any" && value !== undefined);
  return MAKERS[type](schema, value, context, depth, label);
}

const isSame = (a, b) => JSON.stringify(a) === JSON.stringify(b);

const isNumber = (value) => typeof value === "number" || isRaw(value);

/** A field with one control, and a line for its problem. */
function leaf(context, control, get, label, around = control) {
  const id = `field-${++context.shared.names}`, problem = h("p", { class: "problem", id: `${id}-problem`, hidden: true });
  control.id = id;
  control.setAttribute("aria-label", label || "Value");
  let touched = false;
  const changed = () => {
    touched = true;
    context.changed();
  };
  control.addEventListener("input", changed);
  control.addEventListener("blur", () => {
    if (!touched) return;
    changed();
  });
  return {
    element: h("div", { class: "leaf" }, around, problem),
    id,
    get,
    collect() {},
    changed,
    show(byPath, path, all) {
      const message = touched || all ? byPath.get(path) : undefined;
      problem.hidden = !message;
      if (problem.textContent !== (message ?? "")) problem.textContent = message ?? "";
      if (message) {
        control.setAttribute("aria-invalid", "true");
        control.setAttribute("aria-describedby", problem.id);
      } else {
        control.removeAttribute("aria-invalid");
        control.removeAttribute("aria-describedby");
      }
    },
  };
}

const PICKERS = {
  date: ["date", (picked) => picked],
  time: ["time", (picked) => (picked.length === 5 ? `${picked}:00` : picked)],
  "date-time": ["datetime-local", (picked) => `${picked.length === 16 ? `${picked}:00` : picked}Z`],
};

function string(schema, value, context, depth, label) {
  const isLong = value.includes("\n") || value.length > 100 || schema.maxLength > 500;
  const isSecret = schema.format === "password" || schema.writeOnly;
  const control = isLong && !isSecret
    ? h("textarea", { value, rows: 3, spellcheck: false })
    : h("input", { type: isSecret ? "password" : "text", value, spellcheck: false, autocomplete: "off" });
  control.setAttribute("autocapitalize", "off");
  const around = h("div", { class: "beside" }, control);
  const made = leaf(context, control, () => control.value, label, around);
  const picker = PICKERS[schema.format];
  const fill = (text) => {
    control.value = text;
    made.changed();
  };
  if (picker) {
    // The text is what counts: a native picker would lose the zone and the fraction of a second.
    const [type, convert] = picker;
    const native = h("input", { type, step: 1, class: "native", tabIndex: -1, "aria-hidden": "true", oninput: () => { if (native.value) fill(convert(native.value)); } });
    around.append(native, button("Pick", () => {
      try {
        native.showPicker();
      } catch {
        const now = new Date().toISOString();
        fill({ date: now.slice(0, 10), time: now.slice(11, 19), "date-time": `${now.slice(0, 19)}Z` }[schema.format]);
      }
    }, { class: "quiet", "aria-label": `Pick ${label || "a value"}`, title: schema.format === "date-time" ? "in UTC" : "" }));
  }
  if (schema.format === "uuid") around.append(button("New", () => fill(crypto.randomUUID?.() ?? ""), { class: "quiet", "aria-label": `New UUID for ${label || "the value"}` }));
  return made;
}

function number(schema, value, context, depth, label) {
  const isWhole = schema.type === "integer";
  const control = h("input", {
    type: "number", step: isWhole && !schema.multipleOf ? 1 : schema.multipleOf ?? "any", inputMode: isWhole && schema.minimum >= 0 ? "numeric" : "text",
    min: schema.minimum, max: schema.maximum, value: JSON.stringify(value), autocomplete: "off",
  });
  const get = () => {
    // Its text keeps all digits. An empty field is no number.
    try {
      return control.value === "" ? undefined : exact(control.value);
    } catch {
      const number = Number(control.value); // such as .5
      return Number.isFinite(number) ? number : undefined;
    }
  };
  const made = leaf(context, control, get, label);
  made.collect = (path, found) => {
    if (get() !== undefined) return;
    const message = `expected ${isWhole ? "an integer" : "a number"}`;
    const known = found.find((each) => each.path === path);
    if (known) known.message = message;
    else found.push({ path, message });
  };
  return made;
}

const boolean = (schema, value, context, depth, label) => choose({ enum: [false, true] }, value, context, depth, label);

function choose(schema, value, context, depth, label) {
  const shown = (each) => (typeof each === "string" ? each : JSON.stringify(each));
  const control = h("select", {}, ...schema.enum.map((each, n) => h("option", { value: n, textContent: shown(each) })));
  control.selectedIndex = schema.enum.findIndex((each) => isSame(each, value));
  return leaf(context, control, () => schema.enum[control.selectedIndex], label);
}

function fixed(value) {
  return { element: h("code", { class: "fixed", textContent: JSON.stringify(value) }), get: () => value, collect() {}, show() {} };
}

/** JSON, where there is no schema or the value does not fit it. */
function json(schema, value, context, label, canReset = false) {
  const control = h("textarea", { class: "mono", rows: 2, value: value === undefined ? "" : pretty(value), spellcheck: false });
  control.setAttribute("autocapitalize", "off");
  let error = "";
  const get = () => {
    error = "";
    if (!control.value.trim()) return undefined;
    try {
      return exact(control.value);
    } catch (problem) {
      error = `not JSON: ${problem.message}`;
      return undefined;
    }
  };
  const holder = h("div", { class: "grow" }, control);
  let made = leaf(context, control, get, label ? `${label}, as JSON` : "Value, as JSON", holder);
  made.collect = (path, found) => {
    get();
    if (!error) return;
    const known = found.find((each) => each.path === path);
    if (known) known.message = error;
    else found.push({ path, message: error });
  };
  if (!canReset) return made;
  // Its place can be taken by the field that the schema describes.
  const outer = h("div", {}, made.element);
  made.element.append(button("Use the form", () => {
    made = field(schema, first(schema, context.root), context, 1, label);
    outer.replaceChildren(made.element);
    context.changed();
  }, { class: "quiet" }));
  return { element: outer, get: () => made.get(), collect: (...args) => made.collect(...args), show: (...args) => made.show(...args) };
}

function choice(schema, others, value, context, depth, label) {
  let chosen = others.findIndex((each) => fits(each, value, context.root));
  if (chosen < 0) chosen = others.findIndex((each) => kind(each) === typeOf(value));
  if (chosen < 0) return json(schema, value, context, label, value !== undefined);
  const select = h("select", { "aria-label": `${label || "Value"}: kind`, class: "kinds" },
    ...names(others, context.root).map((textContent, n) => h("option", { value: n, textContent })));
  select.selectedIndex = chosen;
  const inner = h("div", { class: "grow" });
  let made;
  const use = (starting) => {
    const each = others[select.selectedIndex];
    const isOne = !depth && !["object", "array", "null"].includes(kind(each)), name = isOne ? each["x-name"] ?? label : label;
    made = kind(each) === "null" ? fixed(null) : field(each, starting, context, depth && depth + 1, name);
    inner.hidden = kind(each) === "null";
    inner.replaceChildren(...(isOne && name ? [h("label", { class: "name", textContent: name, for: made.id })] : []), made.element);
  };
  use(value);
  select.onchange = () => {
    use(first(others[select.selectedIndex], context.root));
    context.changed();
  };
  const element = h("div", { class: `choice ${others.some((each) => ["object", "array"].includes(kind(each))) ? "tall" : ""}` }, select, inner);
  return { element, get: () => made.get(), collect: (...args) => made.collect(...args), show: (...args) => made.show(...args) };
}

const typeOf = (value) => (value === null ? "null" : Array.isArray(value) ? "array" : isNumber(value) ? "number" : typeof value);

/** Names of alternatives, which differ. */
function names(others, root) {
  const made = others.map((each) => {
    const type = kind(each);
    if (each.title) return each.title;
    const tag = Object.values(each.properties ?? {}).map((inner) => resolved(inner, root)).find((inner) => kind(inner) === "const");
    return tag ? JSON.stringify(constant(tag)) : type === "array" || type === "object" ? words(each, root) : type === "string" ? each.format ?? "string" : type;
  });
  return made.map((each, n) => (made.indexOf(each) === made.lastIndexOf(each) ? each : `${each} ${n + 1}`));
}

/** A named row: a label, words about the schema, and a box to leave it out if it is optional. */
function row(name, schema, value, isOptional, context, depth, remove = null) {
  const whole = resolved(schema, context.root), { description } = whole;
  const type = words(whole, context.root), standard = "default" in whole ? `default ${brief(whole.default, 60)}` : "";
  const isFixed = !alternatives(whole, context.root) && kind(whole) === "const"; // its words are its value
  const inner = h("div", { class: "inner" });
  let made = null;
  const set = (starting) => {
    made = starting === undefined ? null : field(schema, starting, context, depth + 1, name);
    inner.hidden = made === null || isFixed;
    inner.replaceChildren(...(made ? [made.element] : []));
    if (caption.tagName === "LABEL" && made?.id) caption.htmlFor = made.id;
  };
  const box = isOptional ? h("input", { type: "checkbox", checked: value !== undefined, "aria-label": `Set ${name}`, title: `Set ${name}` }) : null;
  const caption = h("label", { class: "name", textContent: name });
  const head = h("div", { class: "head" }, box, caption, h("span", { class: "type", textContent: [type, standard || (isOptional ? "optional" : "")].filter(Boolean).join(" · ") }), remove);
  const element = h("div", { class: "field" }, head, description ? h("p", { class: "hint", textContent: description }) : null, inner);
  set(value);
  const self = {
    element,
    get isSet() { return made !== null; },
    get: () => made?.get(),
    set,
    collect: (...args) => made?.collect(...args),
    show: (...args) => made?.show(...args),
    onBox: () => {},
  };
  if (box) {
    box.onchange = () => {
      set(box.checked ? first(schema, context.root) : undefined);
      if (box.checked) inner.querySelector("input, select, textarea, button")?.focus();
      self.onBox(box.checked);
      context.changed();
    };
    self.check = (checked) => { box.checked = checked; };
    caption.htmlFor = "";
    caption.onclick = () => { if (!made) box.click(); };
  }
  return self;
}

function object(schema, value, context, depth) {
  const known = schema.properties ?? {}, required = new Set(schema.required ?? []);
  const rows = Object.entries(known).map(([name, inner]) =>
    [name, row(name, inner, Object.hasOwn(value, name) ? value[name] : required.has(name) ? first(inner, context.root) : undefined, !required.has(name), context, depth)]);
  const extras = new Map();
  const list = h("div", { class: "extras" });
  const add = (name, starting) => {
    const remove = button("×", () => {
      extras.delete(name);
      made.element.remove();
      context.changed();
    }, { class: "icon", "aria-label": `Remove ${name}` });
    const inner = isContainer(schema.additionalProperties) ? schema.additionalProperties : {};
    const made = row(name, inner, starting, false, context, depth, remove);
    extras.set(name, made);
    list.append(made.element);
    return made;
  };
  for (const [name, each] of Object.entries(value)) if (!Object.hasOwn(known, name)) add(name, each);
  const isOpen = schema.additionalProperties === true || isContainer(schema.additionalProperties) || !Object.keys(known).length;
  const adder = isOpen && schema.additionalProperties !== false ? memberAdder((name) => {
    if (!name || extras.has(name) || Object.hasOwn(known, name)) return false;
    const made = add(name, first(isContainer(schema.additionalProperties) ? schema.additionalProperties : { default: null }, context.root));
    context.changed();
    made.element.querySelector(".inner input, .inner select, .inner textarea")?.focus();
    return true;
  }) : null;
  const all = () => [...rows, ...extras];
  const none = !rows.length && !adder ? h("p", { class: "hint", textContent: "no members" }) : null;
  return {
    element: h("div", { class: depth ? "group" : "group top" }, ...rows.map(([, { element }]) => element), list, adder, none),
    get() {
      const made = {};
      // A member may be called __proto__.
      for (const [name, each] of all()) if (each.isSet) Object.defineProperty(made, name, { value: each.get(), enumerable: true, configurable: true, writable: true });
      return made;
    },
    collect: (path, found) => all().forEach(([name, each]) => each.collect(pointer(path, name), found)),
    show: (byPath, path, showAll) => all().forEach(([name, each]) => each.show(byPath, pointer(path, name), showAll)),
  };
}

function memberAdder(add) {
  const name = h("input", { type: "text", placeholder: "member", "aria-label": "Name of a new member", autocomplete: "off", spellcheck: false });
  const go = () => { if (add(name.value)) name.value = ""; };
  name.onkeydown = (event) => {
    if (event.key !== "Enter" || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    go();
  };
  return h("div", { class: "beside adder" }, name, button("Add member", go, { class: "quiet" }));
}

function array(schema, value, context, depth, label) {
  return schema.prefixItems ? tuple(schema, value, context, depth) : listOf(schema, value, context, depth, label);
}

/** Items with a schema each. One that is optional is set only with all before it. */
function tuple(schema, value, context, depth) {
  const before = schema.prefixItems, least = schema.minItems ?? 0;
  const rows = before.map((inner, n) => {
    const name = inner["x-name"] ?? resolved(inner, context.root).title ?? `${n + 1}`;
    const starting = n < value.length ? value[n] : n < least ? first(inner, context.root) : undefined;
    const made = row(name, inner, starting, n >= least, context, depth);
    made.onBox = (checked) => rows.forEach((each, m) => {
      if (m < least || (checked ? m >= n || each.isSet : m <= n)) return;
      each.set(checked ? first(before[m], context.root) : undefined);
      each.check(checked);
    });
    return made;
  });
  const isRest = isContainer(schema.items) || value.length > before.length;
  const rest = isRest ? listOf({ items: schema.items || {} }, value.slice(before.length), context, depth, "more") : null;
  return {
    element: h("div", { class: depth ? "group" : "group top" }, ...rows.map(({ element }) => element), isRest ? rest.element : null),
    get: () => [...rows.filter((each) => each.isSet).map((each) => each.get()), ...(isRest ? rest.get() : [])],
    collect(path, found) {
      rows.forEach((each, n) => each.collect(`${path}/${n}`, found));
      if (isRest) rest.collect(path, found, before.length);
    },
    show(byPath, path, showAll) {
      rows.forEach((each, n) => each.show(byPath, `${path}/${n}`, showAll));
      if (isRest) rest.show(byPath, path, showAll, before.length);
    },
  };
}

/** Items of one schema. */
function listOf(schema, value, context, depth, label) {
  const list = h("ol", { class: "items", "aria-label": label || "Items" }), problem = h("p", { class: "problem", hidden: true });
  let items = [];
  const number = () => [...list.children].forEach((each, n) => { each.querySelector(".position").textContent = n; });
  const add = (starting) => {
    const made = field(schema.items, starting, context, depth + 1, `${label || "item"} ${items.length}`);
    const item = h("li", {}, h("span", { class: "position" }), h("div", { class: "grow" }, made.element), button("×", () => {
      items = items.filter((each) => each !== made);
      item.remove();
      number();
      add_.focus();
      context.changed();
    }, { class: "icon", "aria-label": `Remove an item of ${label || "the array"}` }));
    items.push(made);
    list.append(item);
    number();
    return item;
  };
  const add_ = button("Add item", () => {
    if (items.length >= Math.min(MOST_ITEMS, schema.maxItems ?? Infinity)) return;
    add(first(schema.items, context.root)).querySelector("input, select, textarea, button")?.focus();
    context.changed();
  }, { class: "quiet" });
  value.forEach((each) => add(each));
  return {
    element: h("div", { class: "list" }, list, add_, problem),
    get: () => items.map((each) => each.get()),
    collect: (path, found, from = 0) => items.forEach((each, n) => each.collect(`${path}/${n + from}`, found)),
    show(byPath, path, showAll, from = 0) {
      items.forEach((each, n) => each.show(byPath, `${path}/${n + from}`, showAll));
      const message = byPath.get(path) ?? "";
      problem.hidden = !message;
      problem.textContent = message;
    },
  };
}

const MAKERS = {
  string, boolean, integer: number, number, enum: choose, array, object,
  const: (schema) => fixed(constant(schema)),
  null: () => fixed(null),
};
