/** The connection of the page: one client, its messages for the log, and the page's own calls, which the log leaves out. */

import { Client, ConnectionClosed } from "./juggler.js";

const PROBE = '"juggler.probe"';

export class Connection extends EventTarget {
  client = null; url = ""; hasToken = false;
  #own = new Set(); #isOwn = false; #lastSent = null; #log; #was = "";

  constructor(log) {
    super();
    this.#log = log;
  }

  get isConnected() {
    return this.client?.state === "connected";
  }

  connect(url, token) {
    this.client?.close();
    this.#own.clear();
    this.url = url;
    this.hasToken = Boolean(token);
    const client = this.client = new Client(url, { ...(token ? { token } : {}), onMessage: (direction, text) => this.#onMessage(direction, text) });
    client.addEventListener("state", ({ error }) => {
      if (client === this.client) this.#onState(error);
    });
    this.#onState(null);
  }

  /** Run a function that sends a request at once. Return its outcome, and the UUID of the request; null if it is sent later. */
  sending(action) {
    this.#lastSent = null;
    const outcome = action();
    return { outcome, id: this.#lastSent && JSON.parse(this.#lastSent).meta.uuid };
  }

  /** Make a call of the page's own. */
  ask(uri, timeout = 5) {
    this.#isOwn = true;
    try {
      const { outcome, id } = this.sending(() => this.client.call(uri, null, { timeout }));
      if (id) {
        this.#own.add(id);
        const forget = () => setTimeout(() => this.#own.delete(id), 1000);
        outcome.then(forget, forget);
      }
      return outcome;
    } finally {
      this.#isOwn = false;
    }
  }

  #onMessage(direction, text) {
    if (direction === "sent") {
      if (text.length < 1_000_000) this.#lastSent = text;
      if (this.#isOwn) return;
      if (text.length < 200 && text.includes(PROBE)) return void this.#own.add(JSON.parse(text).meta.uuid);
    } else if (this.#own.size) {
      const head = text.slice(0, 400);
      for (const id of this.#own) {
        if (!head.includes(id)) continue;
        if (head.includes(PROBE)) this.#own.delete(id);
        return;
      }
    }
    this.#log.add(direction, text);
    this.dispatchEvent(Object.assign(new Event("message"), { direction, text }));
  }

  #onState(error) {
    const { state } = this.client;
    const text = { connected: `connected to ${this.url}`, connecting: this.#was === "connected" && error ? "lost, reconnecting" : `connecting to ${this.url}`, closed: "closed" }[state];
    const said = error && !(error instanceof ConnectionClosed && error.code === 1000) ? `${text}: ${error.message}` : text;
    this.#log.note("CONN", said, state !== "connected" && error !== null);
    this.#was = state;
    this.dispatchEvent(Object.assign(new Event("state"), { state, error }));
  }
}
