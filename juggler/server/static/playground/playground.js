/** The playground: call, subscribe and publish by hand, and see each message. */

import { CallFailed, Client, ConnectionClosed, Expired, Nacked } from "./juggler.js";
import { Chart } from "./playground-chart.js";
import { Log, exact } from "./playground-log.js";

const $ = (id) => document.getElementById(id);
const chart = new Chart($("chart"), $("chart-now"));
const log = new Log($("log"), $("log-count"), { filter: $("filter-log"), raw: $("raw"), pause: $("pause"), clear: $("clear") });
const subscriptions = new Map();
const PART = 33, MOST_PARTS = 500;
const settings = await fetch("playground.json").then((answer) => answer.json());

let client = null;
let functions = [];
let whyUnlisted = settings.listUri ? "" : "This server does not list functions. Start it with --list-uri juggler.uris to see them here.";

// Connection

function connect() {
  client?.close();
  subscriptions.clear();
  showSubscriptions();
  const token = $("token").value;
  client = new Client($("url").value, {
    ...(token ? { token } : {}),
    onMessage: (direction, text) => {
      log.add(direction, text);
      if (direction === "sent") lastSent = text;
      else for (const each of calls) if (each.id && text.includes(each.id)) onAnswer(each, text);
    },
  });
  client.addEventListener("state", ({ target, error }) => {
    if (target === client) showState(error);
  });
  showState(null);
  client.connected().then(listFunctions, () => {});
}

function showState(error) {
  const { state } = client;
  const words = { connected: "connected", connecting: "connecting…", closed: "not connected" };
  $("state").dataset.state = state;
  $("state").lastElementChild.textContent = error ? `${words[state]} (${error.message})` : words[state];
  for (const button of document.querySelectorAll("#call-button, #subscribe button, #publish button, #refresh")) {
    button.disabled = state !== "connected";
  }
}

// Registered functions

async function listFunctions() {
  if (!settings.listUri) return showFunctions();
  try {
    functions = await client.call(settings.listUri, null, { timeout: 5 });
    whyUnlisted = "";
  } catch (error) {
    whyUnlisted = `The functions cannot be listed: ${described(error)}`;
  }
  $("known-uris").replaceChildren(...functions.map(({ uri }) => Object.assign(document.createElement("option"), { value: uri })));
  showFunctions();
}

function showFunctions() {
  const wanted = $("filter-functions").value.toLowerCase();
  const shown = functions.filter(({ uri, doc }) => `${uri} ${doc}`.toLowerCase().includes(wanted));
  $("uris").replaceChildren(...shown.map(functionItem));
  $("no-uris").hidden = shown.length > 0;
  const why = functions.length ? "No function matches." : "No functions registered. Start a callee to see its functions here.";
  $("no-uris").textContent = whyUnlisted || why;
}

function functionItem(each) {
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-pressed", String($("call-uri").value === each.uri));
  button.append(element("code", each.uri), element("small", each.signature));
  button.onclick = () => pick(each);
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function pick({ uri, example = "" }) {
  $("call-uri").value = uri;
  $("call-args").value = example;
  showDoc();
  showFunctions();
  $("call-args").focus();
}

function showDoc() {
  const known = functions.find(({ uri }) => uri === $("call-uri").value);
  $("call-doc").textContent = known ? [known.signature, known.doc.split("\n")[0]].filter(Boolean).join(" · ") : "";
}

// Requests

/** Return the value of a field with JSON, null if it is empty. Report a syntax error in the field. */
function json(field) {
  const text = field.value.trim();
  field.setCustomValidity("");
  if (!text) return null;
  try {
    if (!JSON.rawJSON && /\d{16}/.test(text)) throw new RangeError("this browser rounds integers beyond 2^53: send them as strings");
    return exact(text);
  } catch (error) {
    field.setCustomValidity(error instanceof RangeError ? error.message : `not JSON: ${error.message}`);
    field.reportValidity();
    throw error;
  }
}

function described(error) {
  if (error instanceof CallFailed) {
    const more = [error.code !== null && `code ${error.code}`, error.data !== null && JSON.stringify(error.data)].filter(Boolean).join(", ");
    return `${error.type || "error"}: ${error.message}${more ? ` (${more})` : ""}`;
  }
  if (error instanceof Nacked) return `refused: ${error.code} ${error.message}`;
  if (error instanceof Expired || error instanceof ConnectionClosed) return error.message;
  return error.name === "AbortError" ? "cancelled; the function may still run" : String(error);
}

/** Keep what a call receives as text, with all digits: its parts, and its last message, which has the result. */
function onAnswer(call, text) {
  const { meta, payload } = exact(text);
  if (meta.type !== PART) {
    call.message = text;
    return;
  }
  const parts = payload.parts ?? [payload.args ?? null];
  call.count += parts.length;
  call.parts = [...call.parts, ...parts.map((part) => JSON.stringify(part))].slice(-MOST_PARTS);
  // Update at most once per animation frame.
  call.frame ??= requestAnimationFrame(() => {
    call.frame = null;
    if (call.kind === "none") showAnswers();
  });
}

/** The calls that were made since none was in flight, with their answers. */
let calls = [];
let lastSent = null;

async function call() {
  let args;
  try {
    args = json($("call-args"));
  } catch {
    return; // the field shows the error
  }
  if (calls.every(({ kind }) => kind !== "none")) calls = [];
  const mine = { uri: $("call-uri").value, controller: new AbortController(), kind: "none", text: "…", parts: [], count: 0, frame: null };
  calls.push(mine);
  const began = performance.now();
  try {
    lastSent = null;
    const options = { timeout: Number($("call-timeout").value), signal: mine.controller.signal };
    const result = client.features.includes("parts") ? client.stream(mine.uri, args, options).result() : client.call(mine.uri, args, options);
    mine.id = lastSent && JSON.parse(lastSent).meta.uuid;
    showAnswers();
    const value = await result;
    mine.text = JSON.stringify(mine.message ? exact(mine.message).payload.args ?? null : value, null, 2);
    mine.kind = "value";
  } catch (error) {
    [mine.kind, mine.text] = ["error", described(error)];
  }
  mine.took = performance.now() - began;
  if (mine.kind === "value" && !mine.count) chart.addTrip(mine.took);
  showAnswers(mine);
}

/** Show the answers of all recent calls, with their URIs if there are several. Parts have a line each, above the result. */
function showAnswers({ kind = "none", took } = {}) {
  $("answer").dataset.kind = kind;
  const spans = calls.flatMap(({ uri, kind, text, parts, count }) => {
    const label = calls.length > 1 ? `${uri}: ` : "";
    const shown = [[kind, label + (count && kind === "value" ? "result: " : "") + text]];
    if (count) {
      const dropped = count - parts.length;
      shown.unshift(["part", label + (dropped ? `${dropped} earlier parts\n` : "") + parts.join("\n")]);
    }
    return shown;
  }).map(([kind, text]) => {
    const span = element("span", text);
    span.dataset.kind = kind;
    return span;
  });
  $("answer").replaceChildren(...spans.flatMap((span, n) => (n ? ["\n", span] : [span])));
  if (calls.some(({ count }) => count)) $("answer").scrollTop = $("answer").scrollHeight;
  $("call-took").textContent = took === undefined ? "" : `${took < 100 ? took.toFixed(1) : Math.round(took)} ms`;
  $("cancel-button").disabled = calls.every((each) => each.kind !== "none");
}

function subscribe() {
  const channel = $("sub-channel").value, pattern = $("sub-pattern").checked;
  const key = `${pattern} ${channel}`;
  if (subscriptions.has(key)) return;
  const subscription = client.subscribe(channel, { pattern, onEvent: () => chart.addEvent() });
  subscriptions.set(key, subscription);
  subscription.ready.catch((error) => {
    subscriptions.delete(key);
    showSubscriptions();
    $("sub-channel").setCustomValidity(described(error));
    $("sub-channel").reportValidity();
  });
  showSubscriptions();
  if (!$("pub-channel").value) $("pub-channel").value = pattern ? "" : channel;
}

function showSubscriptions() {
  $("subscriptions").replaceChildren(...[...subscriptions].map(([key, subscription]) => {
    const item = element("li", subscription.channel);
    const button = element("button", "×");
    button.type = "button";
    button.setAttribute("aria-label", `Unsubscribe from ${subscription.channel}`);
    button.onclick = () => {
      subscriptions.delete(key);
      subscription.close().catch(() => {}); // the log shows why
      showSubscriptions();
    };
    item.append(button);
    return item;
  }));
}

async function publish() {
  let args;
  try {
    args = json($("pub-args"));
  } catch {
    return;
  }
  const began = performance.now();
  try {
    await client.publish($("pub-channel").value, args);
    $("pub-answer").textContent = `published, acknowledged in ${(performance.now() - began).toFixed(1)} ms`;
  } catch (error) {
    $("pub-answer").textContent = described(error);
  }
}

function element(name, text) {
  return Object.assign(document.createElement(name), { textContent: text });
}

// Event listeners

function onSubmit(id, action) {
  $(id).addEventListener("submit", (event) => {
    event.preventDefault();
    action();
  });
}

onSubmit("connection", connect);
onSubmit("call", call);
onSubmit("subscribe", subscribe);
onSubmit("publish", publish);
$("refresh").onclick = listFunctions;
$("filter-functions").oninput = showFunctions;
$("call-uri").oninput = () => { showDoc(); showFunctions(); };
$("cancel-button").onclick = () => calls.forEach(({ controller }) => controller.abort());
for (const field of [$("call-args"), $("pub-args"), $("sub-channel")]) field.oninput = () => field.setCustomValidity("");
for (const field of document.querySelectorAll("textarea")) {
  field.onkeydown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) field.form.requestSubmit();
  };
}

const here = new URL(settings.path, location.href);
here.protocol = here.protocol.replace("http", "ws");
$("url").value = here.href;
connect();
