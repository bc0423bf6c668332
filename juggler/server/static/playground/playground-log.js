/** The log of messages: bounded, filtered, summarised or raw, newest first. */

const TYPES = {
  1: "CALL", 2: "PUB", 3: "SUB", 4: "UNSB", 7: "NACK", 8: "ACK", 9: "RES", 10: "EVNT",
  16: "CNCL", 17: "CRDT", 19: "AUTH", 32: "WLCM", 33: "PART", 34: "ENDS",
};
const MOST = 500, MOST_CHARACTERS = 2000;

/** Parse JSON. Numbers that JavaScript would change, such as integers beyond 2^53, keep their text. */
export function exact(text) {
  if (!JSON.rawJSON) return JSON.parse(text); // a browser from before 2025
  return JSON.parse(text, (key, value, { source }) => typeof value === "number" && String(value) !== source ? JSON.rawJSON(source) : value);
}

export class Log {
  #list; #count; #controls; #entries = []; #total = 0; #scheduled = false;

  constructor(list, count, controls) {
    this.#list = list;
    this.#count = count;
    this.#controls = controls;
    controls.filter.oninput = controls.raw.onchange = controls.pause.onchange = () => this.#show();
    controls.clear.onclick = () => {
      this.#entries = [];
      this.#total = 0;
      this.#show();
    };
  }

  add(direction, text) {
    this.#total++;
    this.#entries.unshift({ direction, text, at: new Date() });
    this.#entries.length = Math.min(this.#entries.length, MOST);
    // Update at most once per animation frame.
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      this.#show();
    });
  }

  #show() {
    this.#count.textContent = this.#total > MOST ? `${this.#total}, last ${MOST} kept` : this.#total;
    if (this.#controls.pause.checked) return;
    const wanted = this.#controls.filter.value.toLowerCase();
    const shown = this.#entries.filter((entry) => !wanted || `${TYPES[parse(entry).type]} ${entry.text}`.toLowerCase().includes(wanted));
    this.#list.replaceChildren(...shown.slice(0, 200).map((entry) => this.#item(entry)));
  }

  #item(entry) {
    const { type, payload } = parse(entry);
    const item = document.createElement("li");
    item.dataset.type = TYPES[type] ?? "?";
    if (payload.failed || (type === 9 && payload.failed !== false && payload.args?.error)) item.dataset.failed = "";
    const text = this.#controls.raw.checked ? entry.text : words(type, payload);
    const parts = [
      ["time", entry.at.toTimeString().slice(0, 8) + `.${String(entry.at.getMilliseconds()).padStart(3, "0")}`],
      ["span", entry.direction === "sent" ? "↑" : "↓"],
      ["b", TYPES[type] ?? "?"],
      ["span", text.length > MOST_CHARACTERS ? `${text.slice(0, MOST_CHARACTERS)}… (${text.length} characters)` : text],
    ];
    item.append(...parts.map(([name, words]) => Object.assign(document.createElement(name), { textContent: words })));
    item.children[1].title = entry.direction;
    item.lastChild.className = "text";
    return item;
  }
}

function parse(entry) {
  if (!entry.parsed) {
    try {
      const { meta, payload } = exact(entry.text);
      entry.parsed = { type: meta.type, payload };
    } catch {
      entry.parsed = { type: 0, payload: {} };
    }
  }
  return entry.parsed;
}

function words(type, payload) {
  const name = payload.uri ?? payload.channel ?? "";
  const args = () => JSON.stringify(payload.args ?? null);
  switch (type) {
    case 1: return `${name} ${args()} within ${payload.timeout / 1e9} s`;
    case 3: case 4: return `${name}${payload.pattern ? " (pattern)" : ""}`;
    case 7: return `${name} ${payload.code} ${payload.message}`;
    case 8: return `${TYPES[payload.for_type]} ${name}`;
    case 16: case 17: case 32: case 33: case 34: return JSON.stringify(payload);
    case 19: return "";
    case 10: return `${name}${payload.pattern ? ` (${payload.pattern})` : ""} ${args()}`;
    default: return `${name} ${args()}`;
  }
}
