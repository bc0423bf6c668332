/** The registered functions: grouped by prefix, filtered, refreshed while callees come and go. */

import { $, button, count, counted, h } from "./playground-dom.js";

const PERIOD = 5_000, LONGEST_PERIOD = 60_000, PER_CHARACTER = 1 / 50, MOST_SHOWN = 500;

export class Functions {
  all = [];
  #connection; #uri; #onPick; #why = ""; #text = ""; #url = ""; #timer = null; #closed = new Set(); #period = PERIOD; #described;

  constructor(connection, { uri, onPick, described, onChange }) {
    this.#connection = connection;
    this.#uri = uri;
    this.#onPick = onPick;
    this.#described = described;
    this.onChange = onChange;
    if (!uri) this.#why = "This server does not list functions. Start it with --list-uri juggler.uris to see them here.";
    $("refresh").onclick = () => this.refresh();
    $("filter-functions").oninput = () => this.show();
    $("functions").addEventListener("keydown", (event) => this.#onKey(event));
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.refresh(); });
    connection.addEventListener("state", ({ state }) => {
      if (connection.url !== this.#url) this.#forget(connection.url);
      if (state === "connected") this.refresh();
    });
    this.show();
  }

  /** Another server has other functions. */
  #forget(url) {
    this.#url = url;
    this.#text = "";
    this.all = [];
    this.show();
    this.onChange();
  }

  find(uri) {
    return this.all.find((each) => each.uri === uri);
  }

  async refresh() {
    clearTimeout(this.#timer);
    if (!this.#uri || !this.#connection.isConnected || document.hidden) return;
    const { client } = this.#connection;
    try {
      const found = await this.#connection.ask(this.#uri);
      if (client !== this.#connection.client) return;
      if (!Array.isArray(found)) throw new TypeError(`expected an array from ${this.#uri}`);
      // Rates change all the time.
      const text = JSON.stringify(found, (key, value) => (key === "rate" ? undefined : value));
      this.#period = Math.min(LONGEST_PERIOD, Math.max(PERIOD, text.length * PER_CHARACTER));
      if (text !== this.#text || this.#why) {
        this.#text = text;
        this.#why = "";
        this.all = found;
        $("known-uris").replaceChildren(...found.slice(0, MOST_SHOWN).map(({ uri }) => h("option", { value: uri })));
        this.show();
        this.onChange();
      }
    } catch (error) {
      if (client !== this.#connection.client || !this.#connection.isConnected) return;
      this.#why = `The functions cannot be listed: ${this.#described(error)}`;
      this.show();
    }
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.refresh(), this.#period);
  }

  show() {
    const wanted = $("filter-functions").value.trim().toLowerCase();
    const found = this.all.filter(({ uri, doc }) => `${uri} ${doc}`.toLowerCase().includes(wanted));
    const groups = new Map();
    for (const each of found.slice(0, MOST_SHOWN)) {
      const end = each.uri.indexOf("."), prefix = end > 0 ? each.uri.slice(0, end) : "";
      if (!groups.has(prefix)) groups.set(prefix, []);
      groups.get(prefix).push(each);
    }
    const focused = $("uris").contains(document.activeElement) ? document.activeElement.dataset.uri : null;
    const top = $("uris").scrollTop;
    $("uris").replaceChildren(...[...groups].map(([prefix, functions]) => this.#group(prefix, functions, wanted !== "")));
    $("uris").scrollTop = top;
    if (focused) [...$("uris").querySelectorAll("button")].find(({ dataset }) => dataset.uri === focused)?.focus({ preventScroll: true });
    $("function-count").textContent = this.all.length ? (found.length < this.all.length ? `${count(found.length)} of ${count(this.all.length)}` : count(found.length)) : "";
    const why = this.#why || (this.all.length ? "No function matches." : "No functions registered. Start a callee to see its functions here.");
    const text = found.length > MOST_SHOWN ? `${count(found.length - MOST_SHOWN)} more: filter to see them.` : found.length && !this.#why ? "" : why;
    if ($("no-uris").textContent !== text) $("no-uris").textContent = text;
    $("no-uris").hidden = !text;
  }

  #group(prefix, functions, isFiltered) {
    const list = h("ul", {}, ...functions.map((each) => this.#item(each)));
    if (!prefix) return list;
    const made = h("details", { open: isFiltered || !this.#closed.has(prefix) }, h("summary", {}, h("span", { textContent: prefix }), h("span", { class: "took", textContent: functions.length })), list);
    made.ontoggle = () => {
      if (isFiltered) return;
      if (made.open) this.#closed.delete(prefix);
      else this.#closed.add(prefix);
    };
    return made;
  }

  #item(each) {
    const made = button("", () => this.#onPick(each), { dataset: { uri: each.uri }, "aria-pressed": String($("call-uri").value === each.uri), title: each.signature });
    const more = [each.waiting ? `${count(each.waiting)} queued` : "", each.callees > 1 ? counted(each.callees, "callee") : ""].filter(Boolean).join(", ");
    made.append(h("code", { textContent: each.uri }), h("small", { textContent: each.doc.split("\n")[0] || each.signature }), more ? h("small", { class: "more", textContent: more }) : "");
    return h("li", {}, made);
  }

  /** Mark the function that is chosen. */
  mark() {
    for (const each of $("uris").querySelectorAll("button")) each.setAttribute("aria-pressed", String(each.dataset.uri === $("call-uri").value));
  }

  #onKey(event) {
    const isFilter = event.target === $("filter-functions");
    const shown = [...$("uris").querySelectorAll("button")].filter((each) => each.offsetParent);
    if (isFilter && event.key === "Enter") {
      event.preventDefault();
      shown[0]?.click();
    }
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key], at = shown.indexOf(event.target);
    if (!step || (!isFilter && at < 0)) return;
    event.preventDefault();
    if (at + step < 0 && !isFilter) $("filter-functions").focus();
    else shown[isFilter ? (step > 0 ? 0 : -1) : at + step]?.focus();
  }
}
