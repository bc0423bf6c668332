/** Finds arguments that look secret. They are neither kept in the history nor put into links. Pure. */

import { isContainer } from "./playground-json.js";
import { alternatives, ofArguments, resolved } from "./playground-schema.js";

const NAMES = /passw|secret|token|api.?key|credential|authorization|private.?key|\bpin\b|otp/i, MOST_DEPTH = 40;

/** Whether a value has a member, or by its schema an item, whose name or format is that of a secret. */
export function hasSecrets(value, schema, root = schema, depth = 0) {
  if (depth > MOST_DEPTH) return true;
  const found = schema === undefined ? {} : resolved(schema, root);
  if (found.format === "password" || found.writeOnly) return true;
  const others = schema === undefined ? null : depth ? alternatives(found, root) : ofArguments(found, root);
  if (others) return others.some((each) => hasSecrets(value, each, root, depth + 1));
  if (!isContainer(value)) return false;
  return Object.entries(value).some(([name, each]) => {
    const inner = Array.isArray(value) ? found.prefixItems?.[name] ?? found.items : found.properties?.[name];
    const title = Array.isArray(value) && isContainer(inner) ? inner["x-name"] ?? inner.title ?? "" : name;
    return (NAMES.test(title) && each !== "" && each !== null) || hasSecrets(each, inner, root, depth + 1);
  });
}
