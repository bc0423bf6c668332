/** The call: its URI, its arguments as a form and as JSON, and the answers of the calls that were made since none was in flight. */

import { $, button, copy, count, counted, duration, framed, h } from "./playground-dom.js";
import { makeForm } from "./playground-form.js";
import { exact, isContainer, pretty, tree, unfold } from "./playground-json.js";
import { first, problems } from "./playground-schema.js";
import { hasSecrets } from "./playground-secrets.js";
import { snippet } from "./playground-snippets.js";

const PART = 33, MOST_PARTS = 500, MOST_PART = 2000, MOST_SHOWN_PROBLEMS = 5, MOST_FORM = 100_000, MODE = "juggler.mode";

export class CallPanel {
  #connection; #described; #json; #find; #onDone; #onChange; #form = null; #schema; #known = undefined; #mode; #calls = []; #ticking = null;

  constructor(connection, { described, json, find, onDone, onChange }) {
    this.#connection = connection;
    this.#described = described;
    this.#json = json;
    this.#find = find;
    this.#onDone = onDone;
    this.#onChange = onChange;
    this.#mode = stored() ?? "form";
    connection.addEventListener("message", ({ direction, text }) => { if (direction === "received") this.#onMessage(text); });
    for (const each of $("args-tabs").children) each.onclick = () => this.#choose(each.dataset.mode);
    $("call-uri").oninput = () => this.onCatalogue();
    $("call-args").oninput = () => this.#onJson();
    $("cancel-button").onclick = () => this.cancel();
    $("expand").onclick = () => unfold($("answer"), true);
    $("fold").onclick = () => unfold($("answer"), false);
    $("copy-answer").onclick = () => copy(this.#calls.map(({ value, text }) => (value === undefined ? text : pretty(value))).join("\n"), $("copy-answer"));
    for (const each of document.querySelectorAll("[data-copy]")) if (each.dataset.copy !== "link") each.onclick = () => this.#copy(each);
    this.onCatalogue();
  }

  get uri() { return $("call-uri").value; }

  /** The arguments as text; null if they look secret or are no JSON. */
  get openArgs() {
    const text = $("call-args").value.trim();
    try {
      return text && hasSecrets(exact(text), this.#schema) ? null : text;
    } catch {
      return null;
    }
  }

  /** Choose a function, with arguments as text. Without them: its example, or what its schema suggests. */
  pick(uri, args = null) {
    $("call-uri").value = uri;
    this.#known = this.#find(uri);
    this.#schema = this.#known?.schema?.args;
    const { example = "" } = this.#known ?? {};
    $("call-args").value = args ?? (example || (this.#schema ? pretty(first(this.#schema, this.#schema)) : ""));
    this.#showFunction();
    this.#onChange();
  }

  /** Show what is known of the function, after its URI or the catalogue has changed. */
  onCatalogue() {
    // A callee that restarts is missing for a moment.
    const known = this.#find(this.uri) ?? (this.#known?.uri === this.uri ? this.#known : undefined);
    const schema = known?.schema?.args;
    const isSame = JSON.stringify(schema) === JSON.stringify(this.#schema) && known?.doc === this.#known?.doc && known?.signature === this.#known?.signature;
    this.#known = known;
    this.#onChange();
    if (isSame) return;
    this.#schema = schema;
    this.#showFunction();
  }

  #showFunction() {
    const { signature = "", doc = "" } = this.#known ?? {};
    const [line, ...more] = doc.split("\n");
    const rest = more.join("\n").trim();
    const code = signature ? h("code", { textContent: signature }) : "";
    // A form shows the parameters better.
    const more_ = [this.#schema ? code : "", rest ? h("p", { class: "long", textContent: rest }) : ""];
    $("call-doc").replaceChildren(this.#schema ? "" : code, line ? h("p", { textContent: line }) : "",
      more_.some(Boolean) ? h("details", {}, h("summary", { textContent: "More" }), ...more_) : "");
    $("args-tabs").hidden = !this.#schema;
    this.#showArgs();
  }

  #choose(mode) {
    this.#mode = mode;
    try {
      localStorage.setItem(MODE, mode);
    } catch { /* kept while the page is open */ }
    this.#showArgs();
    (mode === "form" ? firstField() : $("call-args"))?.focus();
  }

  /** Show the arguments as a form, if the function has a schema and they are JSON; otherwise as JSON. */
  #showArgs() {
    const text = $("call-args").value.trim();
    this.#form = null;
    if (this.#mode === "form" && this.#schema) {
      try {
        if (text.length > MOST_FORM) throw new RangeError(`the form takes at most ${count(MOST_FORM)} characters`);
        const starting = text || this.#known.example, value = starting ? exact(starting) : first(this.#schema, this.#schema);
        this.#form = makeForm($("args-form"), this.#schema, value, (changed) => {
          $("call-args").value = pretty(changed);
          this.#say([]);
          this.#onChange();
        });
        // The form adds what is required.
        const shown = pretty(this.#form.value);
        if (!text || shown !== pretty(value)) $("call-args").value = shown;
      } catch (error) {
        $("args-form").replaceChildren();
        this.#say([`Not shown as a form: ${error instanceof SyntaxError ? `not JSON: ${error.message}` : error.message}`]);
      }
    }
    const isForm = this.#form !== null;
    $("args-form").hidden = !isForm;
    $("args-json").hidden = isForm;
    for (const each of $("args-tabs").children) each.setAttribute("aria-pressed", String((each.dataset.mode === "form") === isForm));
    if (isForm) this.#say([]);
    else if (this.#mode === "json" || !this.#schema) this.#onJson();
  }

  #onJson() {
    const text = $("call-args").value.trim();
    $("call-args").setCustomValidity("");
    $("call-args").rows = Math.min(16, Math.max(4, text.slice(0, 2000).split("\n").length));
    this.#onChange();
    if (!text || !this.#schema || text.length > MOST_FORM) return this.#say([]);
    try {
      this.#say(lines(problems(this.#schema, exact(text), this.#schema)));
    } catch (error) {
      this.#say([`not JSON: ${error.message}`]);
    }
  }

  /** Show the problems of the form beside its fields, or below it if none of them has a field. */
  #showProblems() {
    this.#form.showAll();
    const isShown = $("args-form").querySelector(".problem:not([hidden])") !== null;
    this.#say(isShown ? [] : lines(this.#form.problems));
  }

  #say(lines) {
    $("args-problems").replaceChildren(...lines.map((textContent) => h("li", { textContent })));
  }

  #copy(from) {
    let args;
    try {
      args = this.#json($("call-args"));
    } catch {
      return;
    }
    const { url, hasToken } = this.#connection;
    const page = location.origin + location.pathname;
    copy(snippet(from.dataset.copy, { page, url, uri: this.uri, args, timeout: Number($("call-timeout").value), isStream: Boolean(this.#known?.schema?.stream), hasToken }), from);
  }

  // Calls and answers

  cancel() {
    for (const { controller, kind } of this.#calls) if (kind === "none") controller.abort();
  }

  async call() {
    for (const field of [$("call-uri"), $("call-timeout")]) if (!field.reportValidity()) return;
    // The callee decides about JSON. A form is complete first.
    if (this.#form?.problems.length) return this.#showProblems();
    let args;
    try {
      args = this.#json($("call-args"));
    } catch {
      return; // the field shows the error
    }
    if (this.#calls.every(({ kind }) => kind !== "none")) this.#calls = [];
    const { uri } = this, timeout = Number($("call-timeout").value), kept = this.openArgs;
    const mine = new Answer(uri);
    this.#calls.push(mine);
    const { client } = this.#connection;
    try {
      const options = { timeout, signal: mine.controller.signal };
      const { outcome, id } = this.#connection.sending(() =>
        client.features.includes("parts") ? client.stream(uri, args, options).result() : client.call(uri, args, options));
      mine.id = id;
      this.#show();
      const value = await outcome;
      mine.succeed(mine.message ? exact(mine.message).payload.args ?? null : value);
    } catch (error) {
      mine.fail(this.#described(error), error);
    }
    mine.message = null;
    this.#show();
    const { top } = $("answer").getBoundingClientRect();
    if (top > innerHeight - 100) $("answer").scrollIntoView({ block: "end" });
    $("answer-status").textContent = `${uri} ${mine.kind === "value" ? "answered" : "failed"} after ${duration(mine.took)}`;
    this.#onDone(mine, { uri, args: kept, timeout, outcome: mine.kind, took: mine.took });
  }

  /** Keep what a call receives as text, with all digits: its parts, and its last message, which has the result. */
  #onMessage(text) {
    const head = text.slice(0, 400);
    const mine = this.#calls.find(({ kind, id }) => kind === "none" && id && head.includes(id));
    if (!mine) return;
    if (new RegExp(`"type":\\s*${PART}\\b`).test(head)) mine.addParts(exact(text).payload);
    else mine.message = text;
  }

  #show() {
    const isOne = this.#calls.length === 1;
    for (const each of this.#calls) each.label(!isOne);
    $("answer").replaceChildren(...this.#calls.map(({ element }) => element));
    const running = this.#calls.some(({ kind }) => kind === "none");
    $("cancel-button").disabled = !running;
    $("copy-answer").hidden = running;
    $("expand").hidden = $("fold").hidden = !this.#calls.some(({ value }) => isContainer(value));
    this.#tick(running);
  }

  /** Show the time of the last call while it goes on. */
  #tick(running) {
    const last = this.#calls.at(-1);
    const parts = last.count ? `, ${counted(last.count, "part")}` : "";
    $("call-took").textContent = (last.kind === "none" ? `${((performance.now() - last.began) / 1000).toFixed(1)} s` : duration(last.took)) + parts;
    clearTimeout(this.#ticking);
    if (running) this.#ticking = setTimeout(() => this.#tick(true), 100);
  }
}

/** A call and what came of it. Parts have a line each, above the result. */
class Answer {
  controller = new AbortController();
  kind = "none"; text = ""; error = null; value = undefined; id = null; message = null; count = 0; took = 0; began = performance.now();
  #parts = []; #name; #lines = h("pre", { dataset: { kind: "part" }, hidden: true }); #result = h("div", { dataset: { kind: "none" }, textContent: "…" });
  #update = framed(() => this.#showParts());

  constructor(uri) {
    this.#name = h("code", { class: "of", textContent: uri });
    this.element = h("article", { class: "call" }, this.#lines, this.#result);
  }

  label(isShown) {
    if (isShown) this.element.prepend(this.#name);
    else this.#name.remove();
  }

  addParts({ args = null, parts = [args] }) {
    this.count += parts.length;
    this.#parts = [...this.#parts, ...parts.slice(-MOST_PARTS).map((part) => {
      const text = JSON.stringify(part);
      return text.length > MOST_PART ? `${text.slice(0, MOST_PART)}… (${count(text.length)} characters)` : text;
    })].slice(-MOST_PARTS);
    this.#update();
  }

  succeed(value) {
    this.value = value;
    this.#end("value", h("div", {}, this.count ? h("span", { class: "hint", textContent: "result: " }) : null, tree(value)));
  }

  fail(text, error) {
    const { data = null } = error;
    this.error = error;
    this.text = text;
    this.#end("error", h("div", {}, h("p", { textContent: text }), isContainer(data) ? tree(data) : null));
  }

  #end(kind, shown) {
    this.kind = kind;
    this.took = performance.now() - this.began;
    this.#showParts();
    shown.dataset.kind = kind;
    this.#result.replaceWith(shown);
    this.#result = shown;
  }

  #showParts() {
    if (!this.count) return;
    const dropped = this.count - this.#parts.length, { scrollTop, scrollHeight, clientHeight } = this.#lines;
    this.#lines.hidden = false;
    this.#lines.textContent = (dropped ? `${dropped} earlier parts\n` : "") + this.#parts.join("\n");
    // Follow the end, unless an earlier part is being read.
    if (scrollHeight - scrollTop - clientHeight < 40) this.#lines.scrollTop = this.#lines.scrollHeight;
  }
}

/** The first field of the form that takes a value. */
export const firstField = () => $("args-form").querySelector(":is(input, select, textarea):not(.kinds)");

/** The first problems as lines. */
function lines(found) {
  const shown = found.slice(0, MOST_SHOWN_PROBLEMS).map(({ path, message }) => (path ? `${path}: ${message}` : message));
  return found.length > shown.length ? [...shown, `${found.length - shown.length} more`] : shown;
}

function stored() {
  try {
    return localStorage.getItem(MODE) === "json" ? "json" : null;
  } catch {
    return null;
  }
}
