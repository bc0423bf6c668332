/** The playground: call, subscribe and publish by hand, and see each message. This module joins its parts. */

import { CallFailed, ConnectionClosed, Expired, Nacked } from "./juggler.js";
import { Address, read } from "./playground-address.js";
import { CallPanel, firstField } from "./playground-call.js";
import { Chart } from "./playground-chart.js";
import { Connection } from "./playground-connection.js";
import { $, copy } from "./playground-dom.js";
import { Events } from "./playground-events.js";
import { Fleet } from "./playground-fleet.js";
import { Functions } from "./playground-functions.js";
import { History } from "./playground-history.js";
import { exact } from "./playground-json.js";
import { Log } from "./playground-log.js";

const VIEWS = ["call", "events", "fleet", "messages"];
const settings = await fetch("playground.json").then((answer) => answer.json());
const chart = new Chart($("chart"), $("chart-now"));
const log = new Log();
const connection = new Connection(log);

// Values and errors

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
    const data = error.data === null || typeof error.data === "object" ? null : JSON.stringify(error.data);
    const more = [error.code !== null && `code ${error.code}`, data].filter(Boolean).join(", ");
    return `${error.type || "error"}: ${error.message}${more ? ` (${more})` : ""}`;
  }
  if (error instanceof Nacked) return `refused: ${error.code} ${error.message}`;
  if (error instanceof Expired || error instanceof ConnectionClosed) return error.message;
  return error.name === "AbortError" ? "cancelled; the function may still run" : String(error);
}

// The parts of the page

let address = null;
const changed = () => address?.changed();
const functions = new Functions(connection, {
  uri: settings.listUri, described, onChange: () => panel.onCatalogue(),
  onPick({ uri }) {
    panel.pick(uri);
    ($("args-form").hidden ? $("call-args") : firstField() ?? $("call-button")).focus();
    if (innerWidth < 736) $("call-section").scrollIntoView();
  },
});
const panel = new CallPanel(connection, {
  described, json, find: (uri) => functions.find(uri),
  onChange() {
    functions.mark();
    changed();
  },
  onDone(answer, entry) {
    if (answer.kind === "value" && !answer.count) chart.addTrip(answer.took);
    if (answer.error instanceof Expired) log.note("EXP", answer.text, true);
    past.add(entry);
  },
});
const past = new History(({ uri, args, timeout }) => {
  panel.pick(uri, args ?? undefined);
  if (timeout) $("call-timeout").value = timeout;
  $("call-button").focus();
});
const events = new Events(connection, { described, json, onEvent: () => chart.addEvent(), onChange: changed });
const fleet = new Fleet(connection, { uri: settings.fleetUri, described });

// Views

function show(view) {
  if (!VIEWS.includes(view) || (view === "fleet" && !fleet.isAllowed)) view = "call";
  document.body.dataset.view = view;
  for (const each of document.querySelectorAll("nav button")) {
    if (each.dataset.view === view) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
  fleet.show(view === "fleet");
  changed();
}

/** Restore the state of a link. It calls nothing. */
function restore({ view, uri, args, channels }) {
  if (uri !== null) panel.pick(uri, args ?? undefined);
  for (const { channel, pattern } of channels) events.subscribe(channel, pattern);
  show(view ?? "call");
}

// The connection

function connect() {
  connection.connect($("url").value, $("token").value);
  events.resubscribe();
}

connection.addEventListener("state", ({ state, error }) => {
  const words = { connected: "connected", connecting: "connecting…", closed: "not connected" };
  $("state").dataset.state = state;
  $("state").lastElementChild.textContent = error ? `${words[state]} (${error.message})` : words[state];
  for (const each of document.querySelectorAll("#call-button, #subscribe button, #publish button, #refresh")) each.disabled = state !== "connected";
});

// Input

function onSubmit(id, action) {
  $(id).addEventListener("submit", (event) => {
    event.preventDefault();
    action();
  });
}

onSubmit("connection", () => {
  connect();
  $("connection-box").open = false;
});
onSubmit("call", () => panel.call());
onSubmit("subscribe", () => events.subscribe($("sub-channel").value, $("sub-pattern").checked));
onSubmit("publish", () => events.publish());
for (const field of [$("pub-args"), $("sub-channel")]) field.addEventListener("input", () => field.setCustomValidity(""));
for (const each of document.querySelectorAll("nav button")) each.onclick = () => show(each.dataset.view);
document.querySelector('[data-copy="link"]').onclick = ({ currentTarget }) => {
  address.update();
  copy(location.href, currentTarget);
};
$("help-button").onclick = () => $("help").showModal();

document.addEventListener("keydown", (event) => {
  if (!event.key) return; // autofill
  const isControl = event.ctrlKey || event.metaKey;
  if (event.key === "Enter" && isControl) {
    const form = event.target.closest("form") ?? (document.body.dataset.view === "call" ? $("call") : null);
    const submit = form?.querySelector("button.primary");
    if (form && !submit?.disabled && !$("help").open) form.requestSubmit();
  } else if (event.key.toLowerCase() === "k" && isControl) {
    show("call");
    $("filter-functions").focus();
    $("filter-functions").select();
  } else if (event.altKey && /^Digit[1-4]$/.test(event.code)) {
    show(VIEWS[event.code.at(-1) - 1]);
  } else if (event.key === "Escape" && !$("help").open) {
    if (!$("connection-box").open) return panel.cancel();
    $("connection-box").open = false;
    $("connection-box").firstElementChild.focus();
  } else {
    return;
  }
  event.preventDefault();
});
document.addEventListener("pointerdown", ({ target }) => { if (!$("connection-box").contains(target)) $("connection-box").open = false; });

const here = new URL(settings.path, location.href);
here.protocol = here.protocol.replace("http", "ws");
here.hash = "";
$("url").value = here.href;
connection.connect($("url").value, "");
restore(read(location.hash));
address = new Address(() => ({ view: document.body.dataset.view, uri: panel.uri, args: panel.openArgs, channels: events.channels }), restore);
