/** The fleet: servers, callees, URIs and channels with their rates. Asked for while it is shown. */

import { $, count, counted, h } from "./playground-dom.js";

const PERIOD = 2000, MOST_POINTS = 60, MOST_ROWS = 20;

export class Fleet {
  #connection; #uri; #described; #timer = null; #rates = []; #isShown = false;

  constructor(connection, { uri, described }) {
    this.#connection = connection;
    this.#uri = uri;
    this.#described = described;
    document.querySelector('nav [data-view="fleet"]').hidden = !uri;
    document.addEventListener("visibilitychange", () => this.#refresh());
    connection.addEventListener("state", () => this.#refresh());
  }

  get isAllowed() {
    return Boolean(this.#uri);
  }

  show(isShown) {
    this.#isShown = isShown;
    if (isShown) this.#refresh();
  }

  async #refresh() {
    clearTimeout(this.#timer);
    if (!this.#isShown || !this.#uri || document.hidden || !this.#connection.isConnected) return;
    const { client } = this.#connection;
    try {
      const fleet = await this.#connection.ask(this.#uri);
      if (client === this.#connection.client) this.#draw(fleet);
    } catch (error) {
      if (client === this.#connection.client) $("fleet").replaceChildren(h("p", { class: "empty", role: "status", textContent: `The fleet cannot be shown: ${this.#described(error)}` }));
    }
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#refresh(), PERIOD);
  }

  #draw({ servers, callees, uris, channels }) {
    const sum = (name) => servers.reduce((all, each) => all + each[name], 0);
    const now = Date.now() / 1000;
    this.#rates = [...this.#rates, { calls: sum("call_rate"), events: sum("event_rate") }].slice(-MOST_POINTS);
    $("fleet").replaceChildren(
      h("ul", { class: "tiles", "aria-label": "Totals" },
        tile("Servers", count(servers.length)), tile("Callees", callees.length < MOST_ROWS ? count(callees.length) : `${MOST_ROWS}+`), tile("Connections", count(sum("connections"))), tile("In flight", count(sum("calls"))),
        tile("Calls per second", count(sum("call_rate")), this.#rates.map(({ calls }) => calls)), tile("Events per second", count(sum("event_rate")), this.#rates.map(({ events }) => events))),
      h("div", { class: "tables" },
        h("div", { class: "column" },
          table("Servers", ["Server", "Up", "Connections", "In flight", "Calls/s", "Events/s", "Lag"], servers.map((each) => [
            `${each.host}:${each.pid}`, each.draining ? "draining" : age(now - each.started), count(each.connections), count(each.calls), count(each.call_rate), count(each.event_rate), `${count(each.lag * 1000)} ms`,
          ]), "No server reports itself."),
          table("Callees", ["Process", "Functions", "Calls/s"], callees.map((each) => [each.process, count(each.uris), bar(each.rate, callees[0].rate)]), "No callees have announced themselves."),
          table("Channels", ["Channel", "Events/s"], channels.map((each) => [each.name, bar(each.rate, channels[0].rate)]), "No events in the last seconds.")),
        table("Functions", ["URI", "Calls/s", "Callees", "Queued"], uris.map((each) => [each.uri, bar(each.rate, uris[0].rate), count(each.callees), count(each.queued)]), "No functions are registered.")),
      h("p", { class: "hint", textContent: `Rates of the last 5 seconds; at most ${MOST_ROWS} callees, functions and channels. Updated ${new Date().toTimeString().slice(0, 8)}.` }),
    );
  }
}

function tile(name, value, history = null) {
  return h("li", { class: "tile" }, h("span", { textContent: name }), h("strong", { textContent: value }), history ? spark(history) : null);
}

function spark(values) {
  const SVG = "http://www.w3.org/2000/svg", most = Math.max(...values, 1e-9);
  const svg = document.createElementNS(SVG, "svg"), line = document.createElementNS(SVG, "polyline");
  for (const [key, value] of Object.entries({ viewBox: `0 0 ${MOST_POINTS - 1} 20`, preserveAspectRatio: "none", "aria-hidden": "true" })) svg.setAttribute(key, value);
  const from = MOST_POINTS - values.length;
  line.setAttribute("points", values.map((each, n) => `${from + n},${(19 - (each / most) * 18).toFixed(1)}`).join(" "));
  svg.append(line);
  return svg;
}

function bar(rate, most) {
  return h("span", { class: "rate" }, h("meter", { max: Math.max(most, 1e-9), value: rate, "aria-hidden": "true" }), h("span", { textContent: count(rate) }));
}

function table(name, columns, rows, empty) {
  const body = rows.map((cells) => h("tr", {}, ...cells.map((cell, n) => h(n ? "td" : "th", n ? { dataset: { column: columns[n] } } : { scope: "row" }, cell))));
  return h("section", {},
    h("div", { class: "title" }, h("h2", { textContent: name }), h("output", { class: "took", textContent: rows.length ? counted(rows.length, "row") : "" })),
    rows.length ? h("table", {}, h("thead", {}, h("tr", {}, ...columns.map((each) => h("th", { scope: "col", textContent: each })))), h("tbody", {}, ...body)) : h("p", { class: "hint", textContent: empty }));
}

function age(seconds) {
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) if (seconds >= length) return `${Math.floor(seconds / length)} ${unit}`;
  return `${Math.max(0, Math.floor(seconds))} s`;
}
