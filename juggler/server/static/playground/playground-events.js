/** Subscriptions, a panel each with its events, and publishing. */

import { $, button, clock, count, counted, framed, h } from "./playground-dom.js";
import { exact, tree } from "./playground-json.js";

const MOST_EVENTS = 100, EVENT = 10, LARGE = 200_000;

export class Events {
  #connection; #described; #onEvent; #onChange; #panels = new Map(); #total = 0; #json;

  constructor(connection, { described, json, onEvent, onChange }) {
    this.#connection = connection;
    this.#described = described;
    this.#json = json;
    this.#onEvent = onEvent;
    this.#onChange = onChange;
    connection.addEventListener("state", ({ state }) => {
      if (state === "connecting") for (const panel of this.#panels.values()) panel.say("waiting for the connection");
    });
    connection.addEventListener("message", ({ direction, text }) => { if (direction === "received") this.#onMessage(text); });
    this.#show();
  }

  get channels() {
    return [...this.#panels.values()].map(({ channel, pattern }) => ({ channel, pattern }));
  }

  /** Subscribe, on the connection of now and on later ones. */
  subscribe(channel, pattern) {
    const key = `${pattern} ${channel}`;
    if (this.#panels.has(key)) return this.#panels.get(key).element.scrollIntoView({ block: "nearest" });
    const panel = new Panel(channel, pattern, () => {
      this.#panels.delete(key);
      panel.subscription.close().catch(() => {}); // the log shows why
      this.#show();
    });
    this.#panels.set(key, panel);
    this.#start(key, panel);
    this.#show();
    if (!$("pub-channel").value && !pattern) $("pub-channel").value = channel;
  }

  /** Subscribe again, on another connection. */
  resubscribe() {
    for (const [key, panel] of this.#panels) this.#start(key, panel);
  }

  #start(key, panel) {
    const { client } = this.#connection, { channel, pattern } = panel;
    panel.say("subscribing…");
    panel.subscription = client.subscribe(channel, {
      pattern,
      onEvent: () => {
        $("event-total").textContent = count(++this.#total);
        $("event-total").hidden = false;
        this.#onEvent();
      },
      onGap: () => {
        panel.gap();
        panel.say("subscribed");
      },
      onEnd: (error) => { if (client === this.#connection.client && error.code !== 1000) panel.say(`ended: ${this.#described(error)}`, true); },
    });
    panel.subscription.ready.then(() => panel.say("subscribed"), (error) => {
      if (client !== this.#connection.client || this.#panels.get(key) !== panel) return;
      this.#panels.delete(key);
      this.#show();
      $("sub-channel").setCustomValidity(this.#described(error));
      $("sub-channel").reportValidity();
    });
  }

  // From the text of the message, with all digits.
  #onMessage(text) {
    if (!this.#panels.size || !/"type":\s*10\b/.test(text.slice(0, 200))) return;
    const isLarge = text.length > LARGE;
    let message;
    try {
      message = isLarge ? JSON.parse(text) : exact(text);
    } catch {
      return;
    }
    if (message.meta.type !== EVENT) return;
    const { channel = "", pattern = "", args = null } = message.payload;
    this.#panels.get(pattern ? `true ${pattern}` : `false ${channel}`)?.add(channel, isLarge ? `${count(text.length)} characters, too large to keep` : args);
  }

  async publish() {
    let args;
    try {
      args = this.#json($("pub-args"));
    } catch {
      return; // the field shows the error
    }
    const began = performance.now();
    try {
      await this.#connection.client.publish($("pub-channel").value, args);
      $("pub-answer").textContent = `published, acknowledged in ${(performance.now() - began).toFixed(1)} ms`;
    } catch (error) {
      $("pub-answer").textContent = this.#described(error);
    }
  }

  #show() {
    $("no-subscriptions").hidden = this.#panels.size > 0;
    const kept = [...this.#panels.values()].map(({ element }) => element);
    for (const each of [...$("subscriptions").children]) if (!kept.includes(each)) each.remove();
    for (const each of kept) if (!each.isConnected) $("subscriptions").append(each);
    this.#onChange();
  }
}

/** The last events of a subscription. */
class Panel {
  subscription = null;
  #events = []; #total = 0; #list; #count; #pause; #state; #unshown = 0;
  #update = framed(() => this.#show());

  constructor(channel, pattern, onClose) {
    this.channel = channel;
    this.pattern = pattern;
    this.#list = h("ol", { class: "events", tabIndex: 0, "aria-label": `Events of ${channel}, newest first` });
    this.#count = h("output", { class: "took", textContent: "0 events" });
    this.#state = h("span", { class: "hint", role: "status" });
    this.#pause = h("input", { type: "checkbox", onchange: () => this.#show() });
    this.element = h("li", { class: "panel" },
      h("div", { class: "title" }, h("h3", {}, h("code", { textContent: channel }), pattern ? h("small", { textContent: "pattern" }) : null), this.#state, this.#count),
      h("div", { class: "row tools" }, h("label", { class: "check" }, this.#pause, h("span", { textContent: "pause" })),
        button("Clear", () => this.#clear(), { class: "quiet", "aria-label": `Clear the events of ${channel}` }),
        button("Unsubscribe", onClose, { class: "quiet", "aria-label": `Unsubscribe from ${channel}` })),
      this.#list);
  }

  say(text, isBad = false) {
    this.#state.textContent = text;
    this.#state.dataset.kind = isBad ? "error" : "";
  }

  add(channel, args) {
    this.#total++;
    this.#push({ channel, args, at: new Date() });
  }

  gap() {
    this.#push({ gap: true, at: new Date() });
  }

  #push(event) {
    this.#unshown++;
    this.#events.unshift(event);
    this.#events.length = Math.min(this.#events.length, MOST_EVENTS);
    this.#update();
  }

  #clear() {
    this.#events = [];
    this.#total = this.#unshown = 0;
    this.#list.replaceChildren();
    this.#show();
  }

  #show() {
    const waiting = this.#pause.checked && this.#unshown ? `, ${counted(this.#unshown, "new one")}` : "";
    this.#count.textContent = counted(this.#total, "event") + waiting;
    if (this.#pause.checked) return;
    const items = this.#events.slice(0, this.#unshown).map(({ gap, channel, args, at }) => h("li", gap ? { class: "gap" } : {},
      h("time", { textContent: clock(at) }),
      gap ? h("span", { textContent: "Events may be missing here: the connection was lost." }) : h("div", { class: "grow" }, this.pattern ? h("code", { class: "channel", textContent: channel }) : null, tree(args, true))));
    this.#unshown = 0;
    this.#list.prepend(...items);
    while (this.#list.childElementCount > MOST_EVENTS) this.#list.lastElementChild.remove();
  }
}
