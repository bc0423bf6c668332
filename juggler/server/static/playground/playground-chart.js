/** A chart of the last minute: round-trip times of calls as dots, events per second as bars. */

const SECONDS = 60;

export class Chart {
  #canvas; #words; #trips = []; #events = []; #colours = {};

  constructor(canvas, words) {
    this.#canvas = canvas;
    this.#words = words;
    setInterval(() => this.#draw(), 500);
    new ResizeObserver(() => this.#draw()).observe(canvas);
  }

  addTrip(ms) {
    this.#trips.push({ at: Date.now(), ms });
    this.#draw();
  }

  addEvent() {
    const second = Math.floor(Date.now() / 1000);
    const last = this.#events.at(-1);
    if (last?.second === second) last.count++;
    else this.#events.push({ second, count: 1 });
  }

  #draw() {
    if (document.visibilityState === "hidden") return;
    const now = Date.now(), since = now - SECONDS * 1000;
    this.#trips = this.#trips.filter(({ at }) => at > since);
    this.#events = this.#events.filter(({ second }) => second * 1000 > since);
    const { clientWidth: width, clientHeight: height } = this.#canvas, scale = devicePixelRatio;
    if (this.#canvas.width !== Math.round(width * scale)) {
      this.#canvas.width = Math.round(width * scale);
      this.#canvas.height = Math.round(height * scale);
    }
    const context = this.#canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const style = getComputedStyle(this.#canvas);
    for (const name of ["--accent", "--events", "--line", "--soft"]) this.#colours[name] = resolve(style, this.#canvas, name);
    const x = (at) => ((at - since) / (now - since)) * width;
    const most = nice(Math.max(1, ...this.#trips.map(({ ms }) => ms))), busiest = nice(Math.max(1, ...this.#events.map(({ count }) => count)));
    const top = 16, y = (part) => height - 4 - part * (height - top - 4);
    this.#grid(context, width, y, most, busiest);
    context.fillStyle = this.#colours["--events"];
    context.globalAlpha = 0.45;
    const bar = Math.max(2, width / SECONDS - 1);
    for (const { second, count } of this.#events) {
      context.fillRect(x(second * 1000), y(count / busiest), bar, height - 4 - y(count / busiest));
    }
    context.globalAlpha = 1;
    context.fillStyle = this.#colours["--accent"];
    for (const { at, ms } of this.#trips) {
      context.beginPath();
      context.arc(x(at), y(ms / most), 3.5, 0, 7);
      context.fill();
    }
    this.#say();
  }

  #grid(context, width, y, most, busiest) {
    context.strokeStyle = this.#colours["--line"];
    context.fillStyle = this.#colours["--soft"];
    context.font = "11px system-ui, sans-serif";
    for (const part of [0, 0.5, 1]) {
      context.beginPath();
      context.moveTo(0, y(part) + 0.5);
      context.lineTo(width, y(part) + 0.5);
      context.stroke();
    }
    context.textAlign = "left";
    context.fillText(`${most} ms`, 2, y(1) - 4);
    context.textAlign = "right";
    context.fillText(`${busiest} events/s`, width - 2, y(1) - 4);
  }

  #say() {
    const sorted = this.#trips.map(({ ms }) => ms).sort((a, b) => a - b);
    const calls = sorted.length ? `${sorted.length} calls, median ${sorted[Math.floor(sorted.length / 2)].toFixed(1)} ms` : "no calls";
    const events = this.#events.reduce((sum, { count }) => sum + count, 0);
    const text = `${calls}, ${events} events in the last minute`;
    if (this.#words.textContent !== text) this.#words.textContent = text;
  }
}

/** Round up to 1, 2 or 5 times a power of ten. */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

/** Resolve a colour that may be light-dark(), as the element shows it. */
function resolve(style, element, name) {
  const probe = element.style.color;
  element.style.color = `var(${name})`;
  const colour = style.color;
  element.style.color = probe;
  return colour;
}
