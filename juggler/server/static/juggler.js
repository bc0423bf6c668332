// A client of a juggler server, for browsers and Node. juggler.d.ts has the types and the documentation.

const CALL = 1, PUB = 2, SUB = 3, UNSB = 4, NACK = 7, ACK = 8, RES = 9, EVNT = 10, WLCM = 32;

export class JugglerError extends Error {
  constructor(message, fields) {
    super(message);
    this.name = this.constructor.name;
    Object.assign(this, fields);
  }
}
export class CallFailed extends JugglerError {}
export class Nacked extends JugglerError {}
export class Expired extends JugglerError {}
export class NotSupported extends JugglerError {}
export class ConnectionClosed extends JugglerError {}

// A timer of browsers fires at once if it is too long. Infinity: never.
const later = (action, ms) => ms < 2 ** 31 ? setTimeout(action, ms) : undefined;

const closed = (code, reason) => new ConnectionClosed(`${code} ${reason}`.trimEnd(), { code, reason });

// crypto.randomUUID exists only on pages served with TLS.
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

// Sent as a subprotocol, since browsers cannot set headers. A JWT is sent unchanged.
function tokenProtocol(token) {
  if (/^[\w-]+\.[\w-]+\.[\w-]*$/.test(token)) return `juggler.bearer.${token}`;
  const binary = String.fromCharCode(...new TextEncoder().encode(token));
  return `juggler.bearer.${btoa(binary).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "")}`;
}

function resultOf({ args = null, failed }) {
  if (failed === false) return args;
  const isError = args !== null && typeof args === "object" && Object.keys(args).join() === "error";
  const { message, type = "", code = null, data = null } = (isError && args.error) || {};
  if (typeof message === "string") throw new CallFailed(message, { type, code, data });
  if (failed) throw new CallFailed(JSON.stringify(args).slice(0, 200), { type: "", code: null, data: args });
  return args;
}

// Close codes of temporary failures: the client reconnects.
const AGAIN = new Set([1001, 1005, 1006, 1011, 1012, 1013, 1014, 4408, 4429]);
const FIRST_PAUSE = 0.2, LONGEST_PAUSE = 15, STABLE = 5;

// Seconds to wait for the answer to a heartbeat, and for the close event that some WebSockets omit after an error.
const PATIENCE = 10, CLOSE_EVENT = 0.1;

export class Subscription {
  ready = Promise.resolve();
  dropped = 0;
  gaps = 0;
  #events = []; #readers = []; #ended = null; #options; #leave;

  constructor(channel, pattern, options, leave) {
    this.channel = channel;
    this.pattern = pattern;
    this.#options = options;
    this.#leave = leave;
  }

  async close() {
    this._end(closed(1000, "unsubscribed"));
    await this.#leave();
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  async next() {
    if (this.#events.length) return { done: false, value: this.#events.shift() };
    if (this.#ended?.code === 1000) return { done: true, value: undefined };
    if (this.#ended) throw this.#ended;
    return new Promise((resolve, reject) => this.#readers.push({ resolve, reject }));
  }

  // Called at the end of a loop.
  async return(value) {
    await this.close();
    return { done: true, value };
  }

  _event(event) {
    const { onEvent, maxEvents, whenFull = "drop_oldest" } = this.#options;
    if (this.#ended) return;
    if (onEvent) return void guarded(onEvent, event);
    const reader = this.#readers.shift();
    if (reader) return void reader.resolve({ done: false, value: event });
    if (this.#events.length >= maxEvents) {
      this.dropped++;
      if (whenFull === "drop_newest") return;
      if (whenFull === "end") {
        this._end(closed(4429, `${maxEvents} events wait to be read`));
        return void this.#leave().catch(() => {});
      }
      this.#events.shift();
    }
    this.#events.push(event);
  }

  _gap() {
    this.gaps++;
    if (this.#options.onGap) guarded(this.#options.onGap);
  }

  _end(error) {
    if (!this.#ended && this.#options.onEnd) guarded(this.#options.onEnd, error);
    this.#ended ??= error;
    for (const { resolve, reject } of this.#readers.splice(0)) {
      if (this.#ended.code === 1000) resolve({ done: true, value: undefined });
      else reject(this.#ended);
    }
  }
}

// An exception of the user's function does not affect the client.
function guarded(callback, ...args) {
  try {
    callback(...args);
  } catch (error) {
    console.error("juggler: callback failed", error);
  }
}

export class Client extends EventTarget {
  #url; #options; #socket = null; #isOpen = false; #welcome = {}; #ended = null; #lost = null; #wasOpen = false;
  #timer = null; #slow; #beat; #heard = 0; #attempt = null; #pause = FIRST_PAUSE; #since = performance.now(); #openSince = 0;
  #replies = new Map(); #channels = new Map(); #connected; #settleConnected; #wake;

  constructor(url, options = {}) {
    super();
    this.#url = url;
    this.#options = {
      timeout: 10, callTimeout: 60, maxEvents: 1000, reconnect: true, retryFirst: true, heartbeat: 15,
      WebSocket: globalThis.WebSocket, ...options,
    };
    const { allowedMessages } = this.#options;
    if (!this.#options.heartbeat || (allowedMessages && !/\*|\bunsb\b/i.test(allowedMessages))) this.#options.heartbeat = Infinity;
    if (!this.#options.WebSocket) throw new JugglerError("no global WebSocket: pass one as the option WebSocket");
    this.#expectConnection();
    this.#wake = () => this.#onWake();
    globalThis.addEventListener?.("online", this.#wake);
    globalThis.document?.addEventListener("visibilitychange", this.#wake);
    this.#connect();
  }

  get state() {
    return this.#ended ? "closed" : this.#canSend && !this.#lost ? "connected" : "connecting";
  }

  get features() {
    return this.#welcome.features ?? [];
  }

  get limits() {
    return this.#welcome.limits ?? {};
  }

  require(feature) {
    if (this.features.includes(feature)) return;
    throw new NotSupported(`${feature}: not supported by the server; its features: ${this.features.join(", ") || "none"}`);
  }

  get #canSend() {
    return this.#isOpen && this.#socket?.readyState === 1;
  }

  connected() {
    return this.#connected;
  }

  async call(uri, args = null, { timeout = this.#options.callTimeout, signal } = {}) {
    if (!(timeout > 0 && timeout <= 86400)) throw new RangeError(`timeout: expected more than 0 and at most 86400 seconds, got ${timeout}`);
    const until = performance.now() + timeout * 1000;
    const late = () => new Expired(`no result of ${uri} within ${timeout} s`);
    return this.#request(CALL, { uri, timeout: Math.round(timeout * 1e9), args }, { until, late, signal });
  }

  async publish(channel, args = null, { signal } = {}) {
    await this.#request(PUB, { channel, args }, { signal });
  }

  subscribe(channel, options = {}) {
    const { pattern = false } = options;
    const key = `${pattern ? "p" : "c"}${channel}`;
    const subscription = new Subscription(channel, pattern, { maxEvents: this.#options.maxEvents, ...options },
      () => this.#unsubscribe(key, subscription));
    const away = this.#ended ?? this.#lost;
    if (away) {
      subscription._end(away);
      subscription.ready = Promise.reject(away);
    } else {
      let entry = this.#channels.get(key);
      if (!entry) {
        entry = { key, channel, pattern, subscriptions: new Set(), confirmed: false };
        this.#channels.set(key, entry);
        entry.ready = this.#confirm(entry);
      }
      entry.subscriptions.add(subscription);
      subscription.ready = entry.ready;
    }
    subscription.ready.catch(() => {}); // readers receive the error, too
    return subscription;
  }

  // Subscribe. After a reconnect, retry until the server can.
  async #confirm(entry) {
    const again = entry.confirmed;
    for (;;) {
      const isEarly = !this.#wasOpen;
      try {
        await this.#request(SUB, { channel: entry.channel, pattern: entry.pattern });
        entry.confirmed = true;
        if (again) for (const each of entry.subscriptions) each._gap();
        return;
      } catch (error) {
        if (isEarly && error instanceof Expired) continue; // waited for the first connection
        // The next connection re-establishes it.
        if (again && error instanceof ConnectionClosed) throw error;
        const later = error instanceof Expired || [429, 503, 504].includes(error.code);
        if (!again || !later) {
          if (this.#channels.get(entry.key) === entry) this.#channels.delete(entry.key);
          for (const each of entry.subscriptions) each._end(error);
          throw error;
        }
        await new Promise((resolve) => setTimeout(resolve, 1000));
        if (this.#channels.get(entry.key) !== entry) return;
      }
    }
  }

  close(code = 1000, reason = "") {
    this.#end(closed(code, reason || "closed by this client"));
    this.#shut(code, reason);
  }

  // Browsers can send the codes 1000 and 3000 to 4999, and 123 bytes of the reason.
  #shut(code, reason) {
    const bytes = new TextEncoder().encode(reason).subarray(0, 123);
    const text = new TextDecoder().decode(bytes).replace(/\ufffd$/, "");
    this.#socket?.close(code >= 3000 && code <= 4999 ? code : 1000, text);
  }

  async #unsubscribe(key, subscription) {
    const entry = this.#channels.get(key);
    if (!entry?.subscriptions.delete(subscription) || entry.subscriptions.size) return;
    this.#channels.delete(key);
    if (this.#ended || this.#lost) return; // the server has lost it, too
    const { channel, pattern } = entry;
    await this.#request(UNSB, { channel, pattern }).catch((error) => {
      if (!(error instanceof ConnectionClosed)) throw error;
    });
  }

  async #request(type, payload, { until, late, signal } = {}) {
    signal?.throwIfAborted();
    if (this.#ended ?? this.#lost) throw this.#ended ?? this.#lost;
    until ??= performance.now() + this.#options.timeout * 1000;
    late ??= () => new Expired(`no acknowledgement of ${{ [PUB]: "PUB", [SUB]: "SUB", [UNSB]: "UNSB" }[type]} within ${this.#options.timeout} s`);
    const id = uuid();
    const text = JSON.stringify({ meta: { type, uuid: id }, payload });
    return new Promise((resolve, reject) => {
      const settle = (how, what) => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", abort);
        this.#replies.delete(id);
        how(what);
      };
      const abort = () => settle(reject, signal.reason);
      const timer = later(() => settle(reject, late()), until - performance.now());
      signal?.addEventListener("abort", abort);
      // Registered before it is sent: the answer may be quick.
      this.#replies.set(id, { type, text, resolve: (v) => settle(resolve, v), reject: (e) => settle(reject, e) });
      if (this.#canSend) this.#send(text);
    });
  }

  #send(text) {
    this.#socket.send(text);
    if (this.#options.onMessage) guarded(this.#options.onMessage, "sent", text);
  }

  // The connection

  async #connect() {
    this.#timer = null;
    const { token, allowedMessages, WebSocket, timeout } = this.#options;
    let socket, known = token;
    // The timeout includes the token; without one, the client retries.
    const attempt = this.#attempt = {};
    this.#slow = later(() => {
      if (socket) this.#drop(socket, "the server does not answer");
      else this.#onClose({ code: 1006, reason: "no token in time" });
    }, timeout * 1000);
    try {
      if (typeof token === "function") known = await token();
    } catch (error) {
      if (attempt === this.#attempt) this.#onClose({ code: 1006, reason: String(error) });
      return;
    }
    if (this.#ended || attempt !== this.#attempt) return;
    try {
      const url = new URL(this.#url, globalThis.location?.href);
      url.protocol = url.protocol.replace(/^http/, "ws");
      if (allowedMessages) url.searchParams.set("allowed_messages", allowedMessages);
      socket = new WebSocket(url.href, ["juggler.1", "juggler.0", ...(known ? [tokenProtocol(known)] : [])]);
    } catch (error) {
      this.#onClose({ code: 1002, reason: String(error) });
      return;
    }
    this.#socket = socket;
    socket.onerror = () => setTimeout(() => this.#drop(socket, ""), CLOSE_EVENT * 1000);
    // A server that speaks juggler.1 sends WLCM first.
    socket.onopen = () => { if (socket.protocol !== "juggler.1") this.#onOpen({}); };
    socket.onmessage = ({ data }) => this.#onMessage(socket, data);
    socket.onclose = (end) => { if (socket === this.#socket) this.#onClose(end); };
  }

  #onOpen(welcome) {
    clearTimeout(this.#slow);
    if (this.#ended) return void this.#socket.close(1000);
    this.#isOpen = true;
    this.#welcome = welcome;
    this.#heard = performance.now();
    const again = this.#lost !== null;
    this.#lost = null;
    this.#wasOpen = true;
    this.#openSince = performance.now();
    for (const { text } of [...this.#replies.values()]) this.#send(text);
    if (again) {
      for (const entry of this.#channels.values()) {
        entry.ready = this.#confirm(entry);
        entry.ready.catch(() => {});
      }
    }
    this.#settleConnected.resolve();
    this.#tellState();
    this.#watch();
  }

  #onMessage(socket, data) {
    if (socket !== this.#socket || this.#ended) return;
    this.#heard = performance.now();
    if (this.#options.onMessage) guarded(this.#options.onMessage, "received", data);
    let type, payload;
    try {
      ({ meta: { type }, payload } = JSON.parse(data));
      if (!this.#isOpen) {
        if (type !== WLCM || !payload) throw new Error(`expected WLCM first, got type ${type}`);
        return this.#onOpen(payload);
      }
      if (type >= WLCM) return; // of later versions
      if (type === EVNT) return this.#onEvent(payload);
      const request = this.#replies.get(payload.for);
      if (!request) return; // expired or aborted
      if (type === NACK) request.reject(new Nacked(payload.message, { code: payload.code }));
      else if (type === RES) this.#onResult(request, payload);
      else if (type === ACK && request.type !== CALL) request.resolve();
    } catch (error) {
      this.close(4400, `the server sent an invalid message: ${error.message}`);
    }
  }

  #onResult(request, payload) {
    try {
      request.resolve(resultOf(payload));
    } catch (failure) {
      request.reject(failure);
    }
  }

  #onEvent({ channel = "", pattern = "", args = null, for: id }) {
    const entry = this.#channels.get(pattern ? `p${pattern}` : `c${channel}`);
    for (const each of entry?.subscriptions ?? []) each._event({ channel, pattern, args, uuid: id });
  }

  #onClose({ code, reason }) {
    clearTimeout(this.#slow);
    clearTimeout(this.#beat);
    this.#attempt = this.#socket = null;
    this.#isOpen = false;
    if (this.#ended) return;
    const end = closed(code, reason || (this.#wasOpen ? "the connection was lost" : "cannot connect"));
    const { reconnect, retryFirst, reconnectTimeout = Infinity } = this.#options;
    // Some servers accept and close at once: pauses start over after a stable connection only.
    if (this.#wasOpen && !this.#lost && performance.now() - this.#openSince > STABLE * 1000) {
      this.#pause = FIRST_PAUSE;
      this.#since = performance.now();
    }
    const tooLong = performance.now() - this.#since > reconnectTimeout * 1000;
    if (!(this.#wasOpen || retryFirst) || !reconnect || tooLong || !AGAIN.has(code)) return void this.#end(end);
    // Requests wait for the first connection.
    if (!this.#wasOpen) this.#tellState(end);
    else if (!this.#lost) this.#lose(end);
    const pause = this.#pause * (0.5 + Math.random());
    this.#pause = Math.min(2 * this.#pause, LONGEST_PAUSE);
    this.#timer = setTimeout(() => this.#connect(), pause * 1000);
  }

  // Requests in flight fail, and are never sent again.
  #lose(end) {
    this.#lost = end;
    this.#expectConnection();
    for (const [key, entry] of this.#channels) if (!entry.confirmed) this.#channels.delete(key);
    this.#rejectAll(end);
    this.#tellState(end);
  }

  #rejectAll(end) {
    for (const { reject } of [...this.#replies.values()]) reject(closed(end.code, end.reason));
  }

  #end(end) {
    if (this.#ended) return;
    this.#ended = end;
    for (const timer of [this.#timer, this.#slow, this.#beat]) clearTimeout(timer);
    globalThis.removeEventListener?.("online", this.#wake);
    globalThis.document?.removeEventListener("visibilitychange", this.#wake);
    if (this.#wasOpen && !this.#lost) this.#expectConnection();
    this.#settleConnected.reject(end);
    this.#rejectAll(end);
    for (const entry of this.#channels.values()) for (const each of entry.subscriptions) each._end(end);
    this.#channels.clear();
    this.#tellState(end);
  }

  #onWake() {
    if (globalThis.document?.visibilityState === "hidden") return;
    if (this.#timer !== null) {
      clearTimeout(this.#timer);
      this.#pause = FIRST_PAUSE;
      this.#connect();
    } else if (this.state === "connected" && this.#options.heartbeat < Infinity) {
      this.#probe();
    }
  }

  #watch() {
    if (this.state !== "connected") return;
    const left = this.#heard - performance.now() + this.#options.heartbeat * 1000;
    if (left > 0) this.#beat = later(() => this.#watch(), left);
    else this.#probe().then(() => this.#watch());
  }

  // Browsers cannot ping, and take minutes to notice a dead connection: a request that changes nothing.
  async #probe() {
    const socket = this.#socket, began = performance.now();
    try {
      await this.#request(UNSB, { channel: "juggler.probe", pattern: false }, { until: began + Math.min(PATIENCE, this.#options.timeout) * 1000 });
    } catch (error) {
      if (error instanceof Expired && this.#heard < began) this.#drop(socket, "the server does not answer");
    }
  }

  // Abandon a connection of which no close event comes.
  #drop(socket, reason) {
    if (socket !== this.#socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.onerror = () => {}; // the package ws throws without it
    socket.close();
    this.#onClose({ code: 1006, reason });
  }

  #expectConnection() {
    this.#connected = new Promise((resolve, reject) => { this.#settleConnected = { resolve, reject }; });
    this.#connected.catch(() => {}); // requests receive the error, too
  }

  #tellState(error = null) {
    this.dispatchEvent(Object.assign(new Event("state"), { state: this.state, error }));
  }
}
