/** The log of messages and of changes of the connection: bounded, filtered, summarised or raw, newest first. */

import { $, clock, framed, h } from "./playground-dom.js";
import { brief, exact, tree } from "./playground-json.js";

const TYPES = {
  1: "CALL", 2: "PUB", 3: "SUB", 4: "UNSB", 7: "NACK", 8: "ACK", 9: "RES", 10: "EVNT",
  16: "CNCL", 17: "CRDT", 19: "AUTH", 32: "WLCM", 33: "PART", 34: "ENDS",
};
const MOST = 500, MOST_SHOWN = 200, MOST_CHARACTERS = 2000, KEPT = 20_000;

export class Log {
  #entries = []; #total = 0; #unshown = 0;
  #update = framed(() => this.#showNew());

  constructor() {
    $("filter-log").oninput = $("raw").onchange = $("pause").onchange = () => this.#showAll();
    $("clear").onclick = () => {
      this.#entries = [];
      this.#total = 0;
      this.#showAll();
    };
  }

  /** Add a message. */
  add(direction, text) {
    this.#push({ direction, text, at: new Date() });
  }

  /** Add what is no message: a change of the connection, or a call that has expired. */
  note(type, text, isBad = false) {
    this.#push({ direction: "note", type, text, isBad, at: new Date() });
  }

  #push(entry) {
    this.#total++;
    this.#unshown++;
    this.#entries.unshift(entry);
    this.#entries.length = Math.min(this.#entries.length, MOST);
    this.#update();
  }

  #say() {
    $("log-count").textContent = this.#total > MOST ? `${this.#total}, last ${MOST} kept` : this.#total;
  }

  #showNew() {
    this.#say();
    if ($("pause").checked) return;
    const items = this.#entries.slice(0, Math.min(this.#unshown, MOST_SHOWN)).filter((entry) => this.#isWanted(entry)).map(item);
    this.#unshown = 0;
    const list = $("log"), top = list.scrollTop, before = list.scrollHeight;
    list.prepend(...items);
    while (list.childElementCount > MOST_SHOWN) list.lastElementChild.remove();
    if (top > 0) list.scrollTop = top + list.scrollHeight - before; // what is being read stays in place
  }

  #showAll() {
    this.#say();
    if ($("pause").checked) return;
    this.#unshown = 0;
    $("log").replaceChildren(...this.#entries.filter((entry) => this.#isWanted(entry)).slice(0, MOST_SHOWN).map(item));
  }

  #isWanted(entry) {
    const wanted = $("filter-log").value.toLowerCase();
    return !wanted || `${parsed(entry).type} ${entry.text}`.toLowerCase().includes(wanted);
  }
}

function item(entry) {
  const { type, payload, message } = parsed(entry);
  const text = entry.direction === "note" ? entry.text : $("raw").checked || !payload ? cut(entry.text, entry.length) : summary(type, payload);
  const made = h("li", { dataset: { type } });
  if (entry.isBad || payload?.failed || (type === "RES" && payload?.failed !== false && payload?.args?.error)) made.dataset.failed = "";
  const parts = [
    h("time", { textContent: clock(entry.at) }),
    h("span", { textContent: { sent: "↑", received: "↓", note: "•" }[entry.direction], title: entry.direction }),
    h("b", { textContent: type }),
    h("span", { class: "text", textContent: text }),
  ];
  if (!message) {
    made.append(h("div", { class: "entry" }, ...parts));
    return made;
  }
  const details = h("details", { ontoggle: () => { if (details.open && !details.children[1]) details.append(tree(message)); } }, h("summary", { class: "entry" }, ...parts));
  made.append(details);
  return made;
}

/** The type of an entry, and its message if it can be read and is not too large. */
function parsed(entry) {
  if (entry.parsed) return entry.parsed;
  if (entry.direction === "note") return (entry.parsed = { type: entry.type });
  const { text } = entry;
  entry.length = text.length;
  if (text.length > KEPT) {
    entry.text = text.slice(0, KEPT);
    return (entry.parsed = { type: TYPES[/"type":\s*(\d+)/.exec(text)?.[1]] ?? "?" });
  }
  try {
    const message = exact(text), type = TYPES[message.meta.type] ?? "?";
    if (message.meta.type === 19) {
      message.payload = { token: "…" };
      entry.text = JSON.stringify(message);
    }
    entry.parsed = { type, payload: message.payload ?? {}, message };
  } catch {
    entry.parsed = { type: "?" };
  }
  return entry.parsed;
}

const cut = (text, length = text.length) => (length > MOST_CHARACTERS ? `${text.slice(0, MOST_CHARACTERS)}… (${length} characters)` : text);

function summary(type, payload) {
  const name = payload.uri ?? payload.channel ?? "";
  const args = () => brief(payload.args ?? null, MOST_CHARACTERS);
  switch (type) {
    case "CALL": return `${name} ${args()} within ${payload.timeout / 1e9} s`;
    case "SUB": case "UNSB": return `${name}${payload.pattern ? " (pattern)" : ""}`;
    case "NACK": return `${name} ${payload.code} ${payload.message}`;
    case "ACK": return `${TYPES[payload.for_type]} ${name}`;
    case "PART": return `${payload.seq} ${brief(payload.parts ?? payload.args ?? null, MOST_CHARACTERS)}`;
    case "CNCL": case "CRDT": case "WLCM": case "ENDS": return brief(payload, MOST_CHARACTERS);
    case "AUTH": return "";
    case "EVNT": return `${name}${payload.pattern ? ` (${payload.pattern})` : ""} ${args()}`;
    default: return `${name} ${args()}`;
  }
}
