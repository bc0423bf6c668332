// A client of a juggler server, for browsers and Node. juggler.d.ts has the types and the documentation.

const CALL = 1, PUB = 2, SUB = 3, UNSB = 4, NACK = 7, ACK = 8, RES = 9, EVNT = 10, CNCL = 16, CRDT = 17, AUTH = 19, WLCM = 32, PART = 33, ENDS = 34;

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

const noResult = (uri, timeout) => new Expired(`no result of ${uri} within ${timeout} s`);

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
const AGAIN = new Set([1001, 1005, 1006, 1011, 1012, 1013, 1014, 4401, 4408, 4411, 4429]);
const FIRST_PAUSE = 0.2, LONGEST_PAUSE = 15, STABLE = 5;
const jittered = (pause) => pause * (0.5 + Math.random());

// Seconds to wait for the answer to a heartbeat, and for the close event that some WebSockets omit after an error.
const PATIENCE = 10, CLOSE_EVENT = 0.1;

// Values that were received and not read, then the end: an asynchronous iterator.
class Queue {
  _unread = [];
  #readers = []; #end = null;

  get _isAwaited() {
    return this.#readers.length > 0;
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  async next() {
    if (this._unread.length) return { done: false, value: this._unread.shift() };
    return this.#end?.() ?? new Promise((resolve) => this.#readers.push(resolve));
  }

  _push(value) {
    const reader = this.#readers.shift();
    if (reader) reader({ done: false, value });
    else this._unread.push(value);
  }

  // An asynchronous function that returns the last step, or throws.
  _finish(end) {
    this.#end ??= end;
    for (const reader of this.#readers.splice(0)) reader(this.#end());
  }
}

export class Subscription extends Queue {
  ready = Promise.resolve();
  dropped = 0;
  gaps = 0;
  #ended = null; #options; #leave;

  constructor(channel, pattern, options, leave) {
    super();
    this.channel = channel;
    this.pattern = pattern;
    this.#options = options;
    this.#leave = leave;
  }

  async close() {
    this._end(closed(1000, "unsubscribed"));
    await this.#leave();
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
    if (!this._isAwaited && this._unread.length >= maxEvents) {
      this.dropped++;
      if (whenFull === "drop_newest") return;
      if (whenFull === "end") {
        this._end(closed(4429, `${maxEvents} events wait to be read`));
        return void this.#leave().catch(() => {});
      }
      this._unread.shift();
    }
    this._push(event);
  }

  _gap() {
    this.gaps++;
    if (this.#options.onGap) guarded(this.#options.onGap);
  }

  _end(error) {
    if (!this.#ended && this.#options.onEnd) guarded(this.#options.onEnd, error);
    this.#ended ??= error;
    this._finish(async () => {
      if (error.code !== 1000) throw error;
      return { done: true, value: undefined };
    });
  }
}

export class Stream extends Queue {
  #options; #until; #received = 0; #timer; #isSettled = false; #stop; #grant; #result;

  constructor(options, start) {
    super();
    this.#options = options;
    this.#until = options.window;
    this.#result = start(this);
    this.#watch();
    const finish = () => {
      this.#isSettled = true;
      this.#watch();
      this._finish(async () => ({ done: true, value: await this.#result }));
    };
    this.#result.then(finish, finish);
  }

  async next() {
    const { signal, window } = this.#options;
    signal?.throwIfAborted();
    const step = await super.next();
    const until = this.#received - this._unread.length + window;
    if (!step.done && until - this.#until >= window / 2) {
      this.#until = until;
      this.#grant(until);
      this.#watch();
    }
    return step;
  }

  // Called when a loop is left early.
  async return(value) {
    this._finish(async () => ({ done: true, value: undefined }));
    this._unread = [];
    this.#stop?.(new DOMException("the stream was closed", "AbortError"));
    return { done: true, value };
  }

  async result() {
    while (!(await this.next()).done);
    return this.#result;
  }

  // Functions that end the call with an error, and that grant credit.
  _begin(stop, grant) {
    this.#stop = stop;
    this.#grant = grant;
  }

  _onPart({ seq, args = null, parts = [args] }) {
    this.#received = seq - 1 + parts.length;
    if (this.#received > this.#until) return this.#stop(new JugglerError(`part ${this.#received} exceeds the credit of ${this.#until}`));
    for (const part of parts) this._push(part);
    this.#watch();
  }

  // The timeout counts from part to part, and not while the server waits for credit.
  #watch() {
    clearTimeout(this.#timer);
    if (this.#isSettled || this.#received >= this.#until) return;
    const { uri, timeout } = this.#options;
    this.#timer = setTimeout(() => this.#stop(noResult(uri, timeout)), timeout * 1000);
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
  #timer = null; #slow; #beat; #renewal; #heard = 0; #attempt = null; #pause = FIRST_PAUSE; #since = performance.now(); #openSince = 0;
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
    const lack = this.#lack(feature);
    if (lack) throw lack;
  }

  #lack(feature) {
    if (this.features.includes(feature)) return null;
    return new NotSupported(`${feature}: not supported by the server; its features: ${this.features.join(", ") || "none"}`);
  }

  get #canSend() {
    return this.#isOpen && this.#socket?.readyState === 1;
  }

  connected() {
    return this.#connected;
  }

  async call(uri, args = null, { timeout = this.#options.callTimeout, signal, trace } = {}) {
    return this.#call(uri, args, { timeout, signal, trace });
  }

  stream(uri, args = null, { timeout = this.#options.callTimeout, signal, trace, window = 64, mode = "all" } = {}) {
    const parts = { mode, window };
    return new Stream({ uri, timeout, signal, window }, (stream) => this.#call(uri, args, { timeout, signal, trace, parts, stream }));
  }

  async #call(uri, args, { timeout, signal, trace, parts, stream }) {
    if (!(timeout > 0 && timeout <= 86400)) throw new RangeError(`timeout: expected more than 0 and at most 86400 seconds, got ${timeout}`);
    if (parts && !(parts.window >= 1 && parts.window <= 1024 && parts.window % 1 === 0)) throw new RangeError(`window: expected 1 to 1024, got ${parts.window}`);
    if (parts && !["all", "latest"].includes(parts.mode)) throw new RangeError(`mode: expected "all" or "latest", got ${JSON.stringify(parts.mode)}`);
    const late = () => noResult(uri, timeout);
    return this.#request(CALL, { uri, timeout: Math.round(timeout * 1e9), parts, trace, args }, { timeout, late, signal, stream });
  }

  async publish(channel, args = null, { signal, trace } = {}) {
    await this.#request(PUB, { channel, trace, args }, { signal });
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
        await this.#request(SUB, { channel: entry.channel, pattern: entry.pattern }, { entry });
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

  async #request(type, payload, { timeout = this.#options.timeout, late, signal, stream, entry } = {}) {
    signal?.throwIfAborted();
    if (this.#ended ?? this.#lost) throw this.#ended ?? this.#lost;
    if (stream && this.#isOpen) this.require("parts");
    late ??= () => new Expired(`no acknowledgement of ${{ [PUB]: "PUB", [SUB]: "SUB", [UNSB]: "UNSB", [AUTH]: "AUTH" }[type]} within ${timeout} s`);
    const id = uuid();
    const text = JSON.stringify({ meta: { type, uuid: id }, payload });
    return new Promise((resolve, reject) => {
      const settle = (how, what) => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", abort);
        this.#replies.delete(id);
        how(what);
      };
      const stop = (error) => {
        if (type === CALL && this.features.includes("cancel")) this.#control(CNCL, { for: id, wait: false });
        settle(reject, error);
      };
      const abort = () => stop(signal.reason);
      // A stream expires by itself.
      const timer = stream ? undefined : later(() => settle(reject, late()), timeout * 1000);
      signal?.addEventListener("abort", abort);
      stream?._begin(stop, (until) => this.#control(CRDT, { for: id, until }));
      // Registered before it is sent: the answer may be quick.
      this.#replies.set(id, { type, text, stream, entry, resolve: (v) => settle(resolve, v), reject: (e) => settle(reject, e) });
      if (this.#canSend) this.#send(text);
    });
  }

  // Send a message about a call in flight. Its answer is ignored.
  #control(type, payload) {
    if (this.#canSend && this.#replies.has(payload.for)) this.#send(JSON.stringify({ meta: { type, uuid: uuid() }, payload }));
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
    for (const { text, stream, reject } of [...this.#replies.values()]) {
      const lack = stream && this.#lack("parts");
      if (lack) reject(lack);
      else this.#send(text);
    }
    if (again) {
      for (const entry of this.#channels.values()) {
        entry.ready = this.#confirm(entry);
        entry.ready.catch(() => {});
      }
    }
    this.#settleConnected.resolve();
    this.#schedule(welcome);
    this.#tellState();
    this.#watch();
  }

  // Renew the token in time.
  #schedule({ ttl }) {
    if (this.#ended || ttl === undefined || typeof this.#options.token !== "function") return;
    this.#renew(Math.min(2e6, Math.max(0.2, ttl / 2, Math.min(0.8 * ttl, ttl - 5))) * (1 - Math.random() / 10), 1);
  }

  #renew(seconds, pause) {
    const socket = this.#socket;
    this.#renewal = setTimeout(async () => {
      try {
        const token = await this.#options.token();
        if (!token) throw new JugglerError("no token");
        if (socket === this.#socket) this.#schedule(await this.#request(AUTH, { token }));
      } catch (error) {
        if (this.#ended || socket !== this.#socket) return;
        this.#renew(jittered(pause), Math.min(2 * pause, LONGEST_PAUSE));
        this.#tellState(error);
      }
    }, seconds * 1000);
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
      if (type === ENDS) return this.#onEnds(payload);
      if (type >= WLCM && type !== PART) return; // of later versions
      if (type === EVNT) return this.#onEvent(payload);
      const request = this.#replies.get(payload.for);
      if (!request) return; // expired or aborted
      if (type === NACK) request.reject(new Nacked(payload.message, { code: payload.code }));
      else if (type === RES) this.#onResult(request, payload);
      else if (type === PART) request.stream?._onPart(payload);
      else if (type === ACK && request.type !== CALL) {
        if (request.entry) request.entry.confirmed = true; // before the next message
        request.resolve(payload);
      }
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

  #onEvent({ channel = "", pattern = "", args = null, for: id, trace }) {
    const entry = this.#channels.get(pattern ? `p${pattern}` : `c${channel}`);
    for (const each of entry?.subscriptions ?? []) each._event({ channel, pattern, args, uuid: id, ...(trace && { trace }) });
  }

  // One that is not confirmed is later than the one that ended.
  #onEnds({ channel, pattern, code, message }) {
    const entry = this.#channels.get(`${pattern ? "p" : "c"}${channel}`);
    if (!entry?.confirmed) return;
    this.#channels.delete(entry.key);
    for (const each of entry.subscriptions) each._end(new Nacked(message, { code }));
  }

  #onClose({ code, reason }) {
    this.#stopTimers();
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
    // Many are moved at once.
    const pause = jittered(code === 4411 ? Math.max(1, this.#pause) : this.#pause);
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
    this.#stopTimers();
    globalThis.removeEventListener?.("online", this.#wake);
    globalThis.document?.removeEventListener("visibilitychange", this.#wake);
    if (this.#wasOpen && !this.#lost) this.#expectConnection();
    this.#settleConnected.reject(end);
    this.#rejectAll(end);
    for (const entry of this.#channels.values()) for (const each of entry.subscriptions) each._end(end);
    this.#channels.clear();
    this.#tellState(end);
  }

  #stopTimers() {
    for (const timer of [this.#timer, this.#slow, this.#beat, this.#renewal]) clearTimeout(timer);
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
      await this.#request(UNSB, { channel: "juggler.probe", pattern: false }, { timeout: Math.min(PATIENCE, this.#options.timeout) });
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
