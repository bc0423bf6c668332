/** What the page shows, in the fragment of its address: view, function, arguments, subscriptions. A link never calls by itself. */

const MOST_CHARACTERS = 4000, MOST_CHANNELS = 8, PAUSE = 300;

/** Return the state that a fragment holds. */
export function read(fragment) {
  const found = new URLSearchParams(fragment.replace(/^#/, ""));
  const channels = [...found].filter(([key]) => key === "channel" || key === "pattern");
  return {
    view: found.get("view"),
    uri: found.get("call"),
    args: found.get("args"),
    channels: channels.slice(0, MOST_CHANNELS).map(([key, channel]) => ({ channel, pattern: key === "pattern" })),
  };
}

/** Return the fragment for a state. Arguments that are secret (null) or long are left out. */
export function written({ view, uri, args, channels }) {
  const made = new URLSearchParams();
  if (view !== "call") made.set("view", view);
  if (uri) made.set("call", uri);
  if (uri && args && args.length <= MOST_CHARACTERS) made.set("args", args);
  for (const { channel, pattern } of channels.slice(0, MOST_CHANNELS)) made.append(pattern ? "pattern" : "channel", channel);
  return made.size ? `#${made}` : "";
}

/** Keeps the address of the page up to date, and calls `onState` when it is changed by hand. */
export class Address {
  #state; #timer = null; #own = location.hash;

  constructor(state, onState) {
    this.#state = state;
    addEventListener("hashchange", () => {
      if (location.hash === this.#own) return;
      this.#own = location.hash;
      onState(read(location.hash));
    });
  }

  /** Soon: browsers allow few changes in a short time. */
  changed() {
    this.#timer ??= setTimeout(() => this.update(), PAUSE);
  }

  update() {
    clearTimeout(this.#timer);
    this.#timer = null;
    const fragment = written(this.#state());
    if (fragment === this.#own) return;
    history.replaceState(null, "", location.pathname + location.search + fragment);
    this.#own = location.hash;
  }
}
