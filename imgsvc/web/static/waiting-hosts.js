// The hosts whose images wait for another attempt: why, when the next attempt is, and a button to stop trying.

import { h } from "./dom.js";
import { duration, errorText, plural } from "./format.js";

const MAX_SHOWN = 5; // Hosts that are listed.
const TICK_MS = 1000;

export class WaitingHosts {
  #rows = new Map();

  /** `stop(host)` cancels the images of a host. The list counts down until `signal` aborts. */
  constructor(stop, signal) {
    this.stop = stop;
    this.list = h("ul", { class: "waiting-hosts" });
    this.more = h("p", { class: "muted" });
    this.element = h("section", { class: "panel stack", "aria-labelledby": "waiting-title", hidden: true },
      h("h2", { id: "waiting-title", class: "label" }, "Waiting for another attempt"), this.list, this.more);
    const timer = setInterval(() => this.#tick(), TICK_MS);
    signal.addEventListener("abort", () => clearInterval(timer));
  }

  /** Show the entries of the status, [{host, code, message, count, nextTryAt}]. Rows that stay keep the focus. */
  show(entries) {
    const shown = entries.slice(0, MAX_SHOWN);
    const keys = new Set(shown.map(keyOf));
    for (const [key, row] of this.#rows) {
      if (keys.has(key)) continue;
      row.element.remove();
      this.#rows.delete(key);
    }
    for (const entry of shown) this.#row(entry).entry = entry;
    this.element.hidden = !shown.length;
    const others = entries.length - shown.length;
    this.more.hidden = !others;
    this.more.textContent = `${plural(others, "more host")} did not answer.`;
    this.#tick();
  }

  #row(entry) {
    const known = this.#rows.get(keyOf(entry));
    if (known) return known;
    const title = h("b", {});
    const detail = h("span", { class: "muted" });
    const button = h("button", { type: "button", class: "changes", "aria-label": `Stop trying ${entry.host}`, on: { click: () => this.stop(entry.host) } }, "Stop trying");
    const row = { entry, title, detail, element: h("li", {}, h("div", {}, title, h("br", {}), detail), button) };
    this.list.append(row.element);
    this.#rows.set(keyOf(entry), row);
    return row;
  }

  #tick() {
    for (const { entry, title, detail } of this.#rows.values()) {
      const reason = `${errorText(entry.code, entry.message)}: ${entry.host}`;
      const texts = [`${reason} (${plural(entry.count, "image")})`, nextTryText(entry.nextTryAt)];
      if (title.textContent !== texts[0]) title.textContent = texts[0];
      if (detail.textContent !== texts[1]) detail.textContent = texts[1];
    }
  }
}

const keyOf = ({ host, code }) => `${host} ${code}`;

function nextTryText(nextTryAt) {
  const seconds = nextTryAt ? (new Date(nextTryAt) - Date.now()) / 1000 : 0;
  return seconds >= 1 ? `Next attempt in ${duration(seconds)}.` : "The next attempt starts now.";
}
