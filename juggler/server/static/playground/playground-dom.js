/** Small helpers for elements. Text is only ever set as text, never as HTML. */

export const $ = (id) => document.getElementById(id);

/** Make an element. Properties with a dash, and "class", "for" and "role", become attributes. */
export function h(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key.includes("-") || ["class", "for", "role", "list"].includes(key)) made.setAttribute(key, value);
    else if (key === "dataset") Object.assign(made.dataset, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Make a button that does not submit its form. */
export function button(text, onclick, properties = {}) {
  return h("button", { type: "button", textContent: text, onclick, ...properties });
}

/** Run at most once per animation frame, and also where frames stand still, as in hidden tabs. */
export function framed(action) {
  let scheduled = false;
  return () => {
    if (scheduled) return;
    scheduled = true;
    const run = () => {
      if (!scheduled) return;
      scheduled = false;
      action();
    };
    requestAnimationFrame(run);
    if (document.hidden) setTimeout(run, 500);
  };
}

/** Copy text, and confirm it on the button for two seconds. navigator.clipboard exists only on secure pages. */
export async function copy(text, from) {
  let copied = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { value: text, class: "hidden", readOnly: true });
    document.body.append(area);
    area.select();
    copied = document.execCommand("copy");
    area.remove();
    from.focus();
  }
  from.dataset.label ??= from.textContent;
  from.textContent = copied ? "Copied" : "Cannot copy";
  setTimeout(() => { from.textContent = from.dataset.label; }, 2000);
}

/** A time of the day, with milliseconds. */
export const clock = (at) => `${at.toTimeString().slice(0, 8)}.${String(at.getMilliseconds()).padStart(3, "0")}`;

/** A duration in words. */
export function duration(ms) {
  if (ms < 100) return `${ms.toFixed(1)} ms`;
  return ms < 10_000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

const numbers = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
/** A number for people. */
export const count = (number) => numbers.format(number);

/** A count with its noun. */
export const counted = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
