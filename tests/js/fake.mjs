/** A WebSocket whose server is the test. */

export class FakeSocket {
  static all = [];
  readyState = 0;
  sent = [];

  constructor(url, protocols) {
    Object.assign(this, { url, protocols });
    FakeSocket.all.push(this);
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  open(protocol = "juggler.0") {
    this.readyState = 1;
    this.protocol = protocol;
    this.onopen();
  }

  close(code = 1005, reason = "") {
    // As browsers do.
    if (code !== 1005 && code !== 1000 && !(code >= 3000 && code <= 4999)) throw new DOMException("code", "InvalidAccessError");
    if (new TextEncoder().encode(reason).length > 123) throw new DOMException("reason", "SyntaxError");
    this.closedWith = { code, reason };
    this.readyState = 3;
  }

  /** Close it, as the server or the network does. */
  end(code, reason = "") {
    this.readyState = 3;
    this.onclose({ code, reason });
  }

  receive(type, payload) {
    this.onmessage({ data: JSON.stringify({ meta: { type, uuid: "0" }, payload }) });
  }

  /** The last message sent, and ways to answer it. */
  get last() {
    return this.answers(this.sent.at(-1));
  }

  /** A request, and ways to answer it. */
  answers(request) {
    const id = request.meta.uuid;
    return {
      ...request,
      ack: () => this.receive(8, { for: id, for_type: request.meta.type }),
      nack: (code, message) => this.receive(7, { for: id, for_type: request.meta.type, code, message }),
      part: (seq, ...parts) => this.receive(33, { for: id, seq, ...(parts.length === 1 ? { args: parts[0] } : { parts }) }),
      res: (args, more = {}) => this.receive(9, { for: id, uri: request.payload.uri, args, ...more }),
    };
  }
}

/** Run everything that is ready. */
export const settle = () => new Promise((resolve) => setImmediate(resolve));

/** Wait for a condition. */
export async function until(condition) {
  for (let n = 0; n < 500; n++) {
    if (condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  throw new Error(`not true in time: ${condition}`);
}
