/** Any value that JSON can carry. Integers beyond 2^53 lose their last digits in JavaScript: send them as strings. */
export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

export type State = "connecting" | "connected" | "closed";

export interface ClientOptions {
  /** Seconds to connect, and to wait for the server's ACK. Default 10. */
  timeout?: number;
  /** Seconds for which the result of a call is wanted, unless the call says otherwise. Default 60. */
  callTimeout?: number;
  /** How many events a subscription keeps for its reader, unless it says otherwise. Default 1000. */
  maxEvents?: number;
  /** Whether to connect again when the connection is lost. Default true. */
  reconnect?: boolean;
  /** Seconds after which it stops to try. Default: never. */
  reconnectTimeout?: number;
  /** A bearer token, or a function that is asked for one at each connect. Sent among the subprotocols. */
  token?: string | (() => string | null | undefined | Promise<string | null | undefined>);
  /** The only requests that will be made, such as "call, pub", so that the server does less. Default: all. */
  allowedMessages?: string;
  /** Told every message, as text. */
  onMessage?: (direction: "sent" | "received", text: string) => void;
  /** Another implementation, where there is none: `import { WebSocket } from "ws"` in Node before 22. */
  WebSocket?: unknown;
}

export interface SubscribeOptions {
  /** Whether the channel is a Redis glob such as "news.*". Default false. */
  pattern?: boolean;
  /** Called for each event; without it, events wait to be read. */
  onEvent?: (event: Event) => void;
  /** Called when events may have been missed: the connection was lost, and the subscription is made again. */
  onGap?: () => void;
  /** Called when no more events come: with code 1000 after `close`, else with what went wrong. */
  onEnd?: (error: JugglerError) => void;
  maxEvents?: number;
  /** What happens when more events wait: default "drop_oldest"; "end" ends the subscription with code 4429. */
  whenFull?: "drop_oldest" | "drop_newest" | "end";
}

export interface Event<T = any> {
  channel: string;
  /** The pattern that matched, empty for a subscription to the channel itself. */
  pattern: string;
  /** What was published. */
  args: T;
  /** UUID of the publication. */
  uuid: string;
}

/** The base of all errors here. */
export class JugglerError extends Error {}

/** The function answered with an error. */
export class CallFailed extends JugglerError {
  /** Name of the error's type, empty where the callee did not say. */
  type: string;
  code: number | string | null;
  data: any;
}

/** The server refused the request; `code` is as in HTTP. */
export class Nacked extends JugglerError {
  code: number;
}

/** No answer came in time. */
export class Expired extends JugglerError {}

/** The connection ended: what was under way may have happened, and is never sent again. */
export class ConnectionClosed extends JugglerError {
  /** Close code; 1006 when the connection was lost. */
  code: number;
  reason: string;
}

/** The events of a channel or pattern. The end of a `for await` loop over it unsubscribes. */
export class Subscription<T = any> implements AsyncIterableIterator<Event<T>> {
  readonly channel: string;
  readonly pattern: boolean;
  /** Resolves when the server has acknowledged it: each later event is received. */
  readonly ready: Promise<void>;
  /** Events dropped so far, because nobody read them in time. */
  readonly dropped: number;
  /** How often events may have been missed. */
  readonly gaps: number;
  close(): Promise<void>;
  next(): Promise<IteratorResult<Event<T>>>;
  return(value?: any): Promise<IteratorResult<Event<T>>>;
  [Symbol.asyncIterator](): this;
}

/**
 * A client of a juggler server. It connects at once; requests wait for the first connection.
 *
 * When the connection is lost, what is under way fails with ConnectionClosed. The client connects again, after growing,
 * jittered pauses and at once when the page is looked at or the network is back, and makes its subscriptions anew;
 * requests fail until it has. A first connection that fails is not tried again.
 *
 * Dispatches "state" events, with `state` and `error`.
 */
export class Client extends EventTarget {
  /** @param url "ws://…", "wss://…", or relative to the page, such as "/ws". */
  constructor(url: string, options?: ClientOptions);
  readonly state: State;
  /** Resolves when requests can be made; rejects with ConnectionClosed when they never can again. */
  connected(): Promise<void>;
  /**
   * Run the function at a URI and return its result.
   * @throws CallFailed, Nacked, Expired, ConnectionClosed, or the reason of the signal; the function may run all the same.
   */
  call<T = any>(uri: string, args?: any, options?: { timeout?: number; signal?: AbortSignal }): Promise<T>;
  /** Publish an event, and wait until the server has acknowledged it. */
  publish(channel: string, args?: any, options?: { signal?: AbortSignal }): Promise<void>;
  /** Subscribe; see `Subscription.ready` for when it is in force. */
  subscribe<T = any>(channel: string, options?: SubscribeOptions): Subscription<T>;
  /** End the client; all that wait get ConnectionClosed. */
  close(code?: number, reason?: string): void;
}
