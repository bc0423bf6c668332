/** Any JSON value. JavaScript rounds integers beyond 2^53: send them as strings. */
export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

export type State = "connecting" | "connected" | "closed";

export interface ClientOptions {
  /** Seconds to connect, and to wait for the server's ACK. Default: 10. */
  timeout?: number;
  /** Seconds to wait for the result of a call, unless the call specifies another timeout. Default: 60. */
  callTimeout?: number;
  /** Maximum number of unread events per subscription, unless it specifies another one. Default: 1000. */
  maxEvents?: number;
  /** Whether to reconnect when the connection is lost. Default: true. */
  reconnect?: boolean;
  /** Whether to retry the first attempt to connect in the same way, if `reconnect` is true. Default: true. */
  retryFirst?: boolean;
  /** Seconds for which to try to connect; then the client closes. Default: unlimited. */
  reconnectTimeout?: number;
  /**
   * Seconds of silence before a request that checks whether the connection still works; without an answer for 10 s,
   * or for `timeout` if that is less, the client reconnects. 0 or Infinity: none. Default: 15. With `allowedMessages`,
   * it needs "unsb".
   */
  heartbeat?: number;
  /**
   * Bearer token, sent as a subprotocol; or a function that returns one. It is called for each attempt to connect and before the
   * token expires: the client renews it on the live connection. A failure is retried with a backoff and reported by a "state"
   * event with the error.
   */
  token?: string | (() => string | null | undefined | Promise<string | null | undefined>);
  /** The only requests that this client makes, such as "call, pub", which saves work on the server. Default: all. */
  allowedMessages?: string;
  /** Called with each message as text. */
  onMessage?: (direction: "sent" | "received", text: string) => void;
  /** WebSocket implementation, where none is global: `import { WebSocket } from "ws"` in Node before 22. */
  WebSocket?: unknown;
}

export interface SubscribeOptions {
  /** Whether the channel is a Redis glob such as "news.*". Default: false. */
  pattern?: boolean;
  /** Called with each event. Without it, events are queued until they are read. */
  onEvent?: (event: Event) => void;
  /** Called after a reconnect, when the subscription has been re-established: events may be missing. */
  onGap?: () => void;
  /** Called when the subscription ends: with code 1000 after `close`, else with the error: Nacked if the server cancelled it. */
  onEnd?: (error: JugglerError) => void;
  /** Maximum number of unread events. Default: that of the client. */
  maxEvents?: number;
  /** What to do with more events. "end" ends the subscription with code 4429. Default: "drop_oldest". */
  whenFull?: "drop_oldest" | "drop_newest" | "end";
}

export interface StreamOptions {
  /** Seconds from part to part; the time in which the server waits for credit does not count. Default: `callTimeout`. */
  timeout?: number;
  /** Cancels the call, and drops the parts that were not read. */
  signal?: AbortSignal;
  /** W3C traceparent, for tracing. */
  trace?: string;
  /** Maximum number of unread parts, 1 to 1024. The function blocks until further ones are read. Default: 64. */
  window?: number;
  /** With "latest", parts that were not sent yet are replaced by later ones, and the function does not block. Default: "all". */
  mode?: "all" | "latest";
}

export interface CallOptions {
  /** Seconds to wait for the result. Default: `callTimeout`. */
  timeout?: number;
  /** Cancels the call. */
  signal?: AbortSignal;
  /** W3C traceparent, for tracing. */
  trace?: string;
}

/** A function: its arguments, its result and, if it is a generator, its parts. */
export interface FunctionType {
  args: any;
  result: any;
  part?: any;
}

/** Functions by URI, of which nothing is known. `juggler types` writes an interface for those of a server. */
export interface AnyFunctions {
  [uri: string]: FunctionType;
}

/** Whether nothing is known of the functions: then type arguments of `call` and `stream` say what they return. */
export type IsAny<Functions> = string extends keyof Functions ? true : false;

/** The URIs that may be called. */
export type UriOf<Functions> = keyof Functions & string;

/** What `Client.call` resolves with: the result, or the list of parts if the function is a generator. */
export type CallResult<T> = T extends { part: infer P } ? P[] : T extends { result: infer R } ? R : any;

/** The parameters of `Client.call` and `Client.stream` after the URI. Arguments that may be null may be left out. */
export type CallParameters<T, Options> = T extends { args: infer A }
  ? null extends A
    ? [args?: A, options?: Options]
    : [args: A, options?: Options]
  : [args?: any, options?: Options];

/** The parts that `Client.stream` yields. Functions that are no generators send progress, if anything. */
export type PartOf<T> = T extends { part: infer P } ? P : any;

/** The result of `Client.stream`. */
export type StreamResult<T> = T extends { result: infer R } ? R : any;

export interface Event<T = any> {
  channel: string;
  /** Pattern that matched, empty for a subscription to the channel itself. */
  pattern: string;
  /** Published value. */
  args: T;
  /** UUID of the PUB. */
  uuid: string;
  /** W3C traceparent of the publication, if it had one. */
  trace?: string;
}

/** Base class of all errors. */
export class JugglerError extends Error {}

/** The function failed. */
export class CallFailed extends JugglerError {
  /** Name of the error's type, empty if the callee did not name one. */
  type: string;
  /** Code that the callee chose, or null. */
  code: number | string | null;
  /** Details from the callee, or null. */
  data: any;
}

/** The server refused the request (NACK). `code` has the meaning that it has in HTTP. */
export class Nacked extends JugglerError {
  code: number;
}

/** No answer arrived in time. */
export class Expired extends JugglerError {}

/** The server does not support what a request needs, which was therefore not sent. */
export class NotSupported extends JugglerError {}

/** The connection closed. Requests in flight may have been processed, and are never sent again. */
export class ConnectionClosed extends JugglerError {
  /** Close code; 1006 when the connection was lost. */
  code: number;
  reason: string;
}

/**
 * The events of a channel or pattern. Leaving a `for await` loop over it unsubscribes. If the server cancels the subscription, the
 * loop throws Nacked, and the client does not subscribe again.
 */
export class Subscription<T = any> implements AsyncIterableIterator<Event<T>> {
  readonly channel: string;
  readonly pattern: boolean;
  /** Resolves with the server's ACK: the subscription receives each later event. */
  readonly ready: Promise<void>;
  /** Number of events dropped because they were not read in time. */
  readonly dropped: number;
  /** Number of times the subscription was re-established; events may be missing each time. */
  readonly gaps: number;
  close(): Promise<void>;
  next(): Promise<IteratorResult<Event<T>>>;
  return(value?: any): Promise<IteratorResult<Event<T>>>;
  [Symbol.asyncIterator](): this;
}

/**
 * The parts of the result of a call. Leaving a `for await` loop over it cancels the call. After the last part, the loop
 * ends or throws the error, see `Client.stream`.
 */
export class Stream<T = any, R = any> implements AsyncIterableIterator<T> {
  /** Read and drop the parts that were not read, and return the result. Rejects with an AbortError after `return`. */
  result(): Promise<R>;
  next(): Promise<IteratorResult<T, any>>;
  /** Cancel the call, unless it has completed. */
  return(value?: any): Promise<IteratorResult<T, any>>;
  [Symbol.asyncIterator](): this;
}

/**
 * A client of a juggler server. The constructor starts to connect; requests wait for the first connection, for their
 * timeout at most, and subscriptions without a limit.
 *
 * If the connection is lost, requests in flight fail with ConnectionClosed. The client reconnects with exponential
 * backoff and jitter, and at once when the page becomes visible or the network is back, and re-establishes its
 * subscriptions; until then, requests fail. Browsers do not report why an attempt failed: an invalid token is
 * retried like an unreachable server, unless `reconnectTimeout` is set or `retryFirst` is false.
 *
 * Dispatches "state" events, with `state` and `error`, also when a token could not be renewed.
 *
 * `new Client<Functions>(url)` knows the functions that may be called, with their arguments and results: `juggler types`
 * writes `Functions`. Without it, any URI may be called.
 */
export class Client<Functions extends { [Uri in keyof Functions]: FunctionType } = AnyFunctions> extends EventTarget {
  /** @param url "ws://…", "wss://…", or relative to the page, such as "/ws". */
  constructor(url: string, options?: ClientOptions);
  readonly state: State;
  /** Features of the server, such as "cancel"; empty if it speaks only juggler.0. */
  readonly features: readonly string[];
  /** Limits of the server by name, such as max_calls; empty if it speaks only juggler.0. */
  readonly limits: { readonly [name: string]: any };
  /**
   * Check that the server has a feature. Calls that need it do so themselves.
   * @throws NotSupported
   */
  require(feature: string): void;
  /** Resolves when requests can be made; rejects with ConnectionClosed if the client has closed. */
  connected(): Promise<void>;
  /**
   * Call the function at a URI and return its result. An aborted signal cancels the call, if the server has the feature
   * "cancel".
   * @throws CallFailed, Nacked, Expired, ConnectionClosed, or the reason of the signal; the function may still run.
   */
  call<T = any, Uri extends UriOf<Functions> = UriOf<Functions>>(
    uri: Uri,
    ...parameters: CallParameters<Functions[Uri], CallOptions>
  ): Promise<IsAny<Functions> extends true ? T : CallResult<Functions[Uri]>>;
  /**
   * Call a function and read its result in parts, such as those of a generator. Needs the feature "parts". The loop throws
   * what `call` throws, NotSupported, or a RangeError for invalid options, after the parts that arrived before.
   */
  stream<T = any, R = any, Uri extends UriOf<Functions> = UriOf<Functions>>(
    uri: Uri,
    ...parameters: CallParameters<Functions[Uri], StreamOptions>
  ): IsAny<Functions> extends true ? Stream<T, R> : Stream<PartOf<Functions[Uri]>, StreamResult<Functions[Uri]>>;
  /** Publish an event, and wait for the server's ACK. */
  publish(channel: string, args?: any, options?: { signal?: AbortSignal; trace?: string }): Promise<void>;
  /** Subscribe. `Subscription.ready` resolves when the server has acknowledged it. */
  subscribe<T = any>(channel: string, options?: SubscribeOptions): Subscription<T>;
  /**
   * Close the client. All requests in flight fail with ConnectionClosed. The server receives 1000 instead of a code that
   * browsers cannot send, and at most 123 bytes of the reason.
   */
  close(code?: number, reason?: string): void;
}
