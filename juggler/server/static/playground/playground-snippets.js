/** A call as a program in Python, JavaScript or a shell. Pure. Tokens are never part of it: programs read them where they run. */

import { isContainer } from "./playground-json.js";

/** Return the text of a program that makes a call. `args` is a value; `page` is the address of this page. */
export function snippet(language, { page, url, uri, args, timeout, isStream, hasToken }) {
  return { python, js, cli }[language]({ page, url, uri, args, timeout, isStream, hasToken });
}

function python({ url, uri, args, timeout, isStream, hasToken }) {
  const token = hasToken ? ', token=os.environ["JUGGLER_TOKEN"]' : "";
  const call = `${JSON.stringify(uri)}, ${literal(args, "    ")}, timeout=${timeout}`;
  const body = isStream ? `    for part in client.stream(${call}):\n        print(part)\n` : `    print(client.call(${call}))\n`;
  return `${hasToken ? "import os\n\n" : ""}from juggler.client import Client\n\nwith Client(${JSON.stringify(url)}${token}) as client:\n${body}`;
}

/** A value as a literal of Python. */
function literal(value, indent) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (!isContainer(value)) return JSON.stringify(value);
  const isArray = Array.isArray(value), deeper = `${indent}    `;
  const items = isArray
    ? value.map((each) => literal(each, deeper))
    : Object.entries(value).map(([key, each]) => `${JSON.stringify(key)}: ${literal(each, deeper)}`);
  const [open, close] = isArray ? "[]" : "{}";
  const line = open + items.join(", ") + close;
  return line.length <= 88 && !line.includes("\n") ? line : `${open}\n${items.map((each) => `${deeper}${each},\n`).join("")}${indent}${close}`;
}

function js({ page, url, uri, args, timeout, isStream, hasToken }) {
  const token = hasToken ? ', { token: prompt("Token") }' : "";
  const call = `${JSON.stringify(uri)}, ${inJs(args)}, { timeout: ${timeout} }`;
  const body = isStream
    ? `const stream = client.stream(${call});\nfor await (const part of stream) console.log(part);\nconsole.log(await stream.result());`
    : `console.log(await client.call(${call}));`;
  return `const { Client } = await import(${JSON.stringify(new URL("juggler.js", page).href)});\n\nconst client = new Client(${JSON.stringify(url)}${token});\n${body}\nclient.close();\n`;
}

/** JSON, with numbers that JavaScript would round as JSON.rawJSON, and a member called __proto__ as one. */
function inJs(value) {
  return JSON.stringify(value, (key, each) => each, 2)
    .replace(/"(?:[^"\\]|\\.)*"(?:\s*:)?|-?\d[\d.eE+-]*/g, (text) => {
      if (text.startsWith('"')) return /^"__proto__"\s*:$/.test(text) ? '["__proto__"]:' : text;
      return String(Number(text)) === text ? text : `JSON.rawJSON("${text}")`;
    });
}

function cli({ url, uri, args, timeout, isStream }) {
  const json = JSON.stringify(args);
  // A word that begins with a dash would be an option.
  const words = ["juggler", "call", "--url", url, "--timeout", String(timeout), ...(isStream ? ["--stream"] : [])];
  return `${[...words, ...(uri.startsWith("-") || json.startsWith("-") ? ["--"] : []), uri, json].map(quoted).join(" ")}\n`;
}

const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
