/** Earlier calls, in this browser: bounded, without tokens and arguments that look secret. */

import { $, button, duration, h } from "./playground-dom.js";

const KEY = "juggler.history", MOST = 50, MOST_CHARACTERS = 10_000;

export class History {
  #onPick; #entries = [];

  constructor(onPick) {
    this.#onPick = onPick;
    $("clear-history").onclick = () => this.#keep([]);
    addEventListener("storage", ({ key }) => { if (key === KEY || key === null) this.#load(); });
    this.#load();
  }

  /** Remember a call. Arguments that are null were left out: they are secret or too long. */
  add({ uri, args, timeout, outcome, took }) {
    const kept = args !== null && args.length <= MOST_CHARACTERS ? args : null;
    const others = this.#entries.filter((each) => !(each.uri === uri && each.args === kept));
    this.#keep([{ uri, args: kept, timeout, outcome, took, at: Date.now() }, ...others].slice(0, MOST));
  }

  #load() {
    let found = [];
    try {
      found = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    } catch { /* of another version, or the browser keeps nothing */ }
    this.#entries = Array.isArray(found) ? found.filter((each) => typeof each?.uri === "string").slice(0, MOST) : [];
    this.#show();
  }

  #keep(entries) {
    this.#entries = entries;
    try {
      if (entries.length) localStorage.setItem(KEY, JSON.stringify(entries));
      else localStorage.removeItem(KEY);
    } catch { /* full or forbidden: kept while the page is open */ }
    this.#show();
  }

  #show() {
    $("history-count").textContent = this.#entries.length || "";
    $("clear-history").disabled = !this.#entries.length;
    $("history").replaceChildren(...this.#entries.map((entry) => {
      const { uri, args, outcome, took, at } = entry;
      const said = `${outcome === "value" ? "succeeded" : "failed"} after ${duration(took)}, ${new Date(at).toLocaleString()}`;
      const picked = button("", () => this.#onPick(entry), { title: said, class: "pick" });
      picked.append(h("code", { textContent: uri, dataset: { outcome } }), h("small", { textContent: args === null ? "arguments not kept" : args.slice(0, 120) || "null" }));
      return h("li", {}, picked);
    }));
  }
}
