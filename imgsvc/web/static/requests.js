// The list of requests, which stays up to date, and the names of requests.

import { announce, h, storage } from "./dom.js";
import { call } from "./api.js";
import { STATUS, bytes, count, dateTime, plural, savedPercent, sizeChange } from "./format.js";
import { badge, heading, problemPanel, skeleton, thinBar } from "./components.js";
import { savingsChart } from "./chart.js";

const PAGE_SIZE = 50;
const BUSY_REFRESH_MS = 2_000; // While a request that is shown is unfinished.
const IDLE_REFRESH_MS = 10_000;
const SEARCH_DELAY_MS = 200; // Delay after the last key in the search field.

/** Return the name of a request, else the start of its ID. Version 1.0 stored names in the browser. */
export const requestName = (id, name) => name ?? new Map(storedNames()).get(id) ?? `Request ${id.slice(0, 8)}`;

function storedNames() {
  try {
    return JSON.parse(storage.get("names")) ?? [];
  } catch {
    return [];
  }
}

/** A table of requests, newest first. Rows are only redrawn if their request has changed. */
export class RequestTable {
  #rows = new Map(); // By request ID: the row, and the JSON that it shows.

  constructor(label) {
    this.body = h("tbody", {});
    this.element = h("table", { class: "requests", "aria-label": label },
      h("thead", {}, h("tr", {},
        ["Request", "Created", "Images", "Saved", "Status"].map((t) => h("th", { scope: "col" }, t)))),
      this.body);
  }

  get size() {
    return this.#rows.size;
  }

  get isBusy() {
    return [...this.#rows.values()].some(({ request }) => !request.finishedAt);
  }

  /** Add older requests at the end. */
  append(requests) {
    this.body.append(...requests.map((request) => this.#draw(request)));
  }

  /** Show the newest requests. Older rows that were loaded before stay; `isAll`: there are none. */
  update(requests, isAll) {
    const kept = new Set(requests.map(({ requestId }) => requestId));
    const oldest = requests.at(-1)?.createdAt ?? "";
    for (const [id, { request, row }] of this.#rows) {
      if (kept.has(id) || (!isAll && request.createdAt < oldest)) continue;
      row.remove();
      this.#rows.delete(id);
    }
    let place = this.body.firstChild;
    for (const request of requests) {
      const known = this.#rows.get(request.requestId);
      const isSame = known?.json === JSON.stringify(request);
      const row = isSame ? known.row : this.#redraw(request, known);
      if (row !== place) this.body.insertBefore(row, place);
      place = row.nextSibling;
    }
  }

  #redraw(request, known) {
    const hadFocus = known?.row.contains(document.activeElement);
    const row = this.#draw(request);
    if (known) known.row.replaceWith(row);
    else this.body.prepend(row);
    if (hadFocus) row.querySelector("a").focus({ preventScroll: true });
    return row;
  }

  #draw(request) {
    const row = requestRow(request);
    this.#rows.set(request.requestId, { row, request, json: JSON.stringify(request) });
    return row;
  }
}

function requestRow({ requestId, name, status, createdAt, progress, bytes: sizes }) {
  const { completed, failed, total } = progress;
  const unfinished = completed + failed + progress.cancelled < total;
  return h("tr", {},
    h("th", { scope: "row" }, h("a", { href: `#/request/${encodeURIComponent(requestId)}` }, requestName(requestId, name))),
    h("td", { class: "muted" }, h("time", { datetime: createdAt }, dateTime(createdAt))),
    h("td", { data: { label: "Images" } },
      completed < total ? `${count(completed)} of ${count(total)}` : count(total),
      failed > 0 && h("span", { class: "bad" }, ` · ${count(failed)} failed`),
      unfinished && thinBar(progress)),
    h("td", { data: { label: "Saved" } },
      sizes?.input ? `${bytes(sizes.input - sizes.output)} (${sizeChange(savedPercent(sizes.input, sizes.output))})` : "–"),
    h("td", {}, badge(status, failed)));
}

/**
 * Call `refresh` again and again until `signal` aborts: soon if it returned true, for a busy list, else
 * later. A hidden page waits, and nothing is refreshed after the session has ended.
 */
export function keepFresh(refresh, signal) {
  let timer = 0;
  const schedule = (isBusy) => {
    timer = setTimeout(run, isBusy ? BUSY_REFRESH_MS : IDLE_REFRESH_MS);
  };
  async function run() {
    clearTimeout(timer);
    try {
      const isBusy = !document.hidden && await refresh();
      if (!signal.aborted) schedule(isBusy);
    } catch (problem) {
      if (!signal.aborted && problem.status !== 401) schedule(false);
    }
  }
  document.addEventListener("visibilitychange", () => !document.hidden && run(), { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  schedule(true);
}

/** Return the sentence about all requests: "1.2 GB saved in 34 requests". Empty if nothing was compressed. */
export function totalsText({ requests, images, inputBytes, outputBytes }) {
  if (!inputBytes) return "";
  return `${bytes(inputBytes - outputBytes)} saved in ${plural(requests, "request")}, ${plural(images, "image")}`;
}

/** Show the view in `main` until `signal` aborts. */
export function view(main, { signal }) {
  new RequestList(signal).start(main);
}

class RequestList {
  #cursor = null;
  #latestLoad = 0; // Number of the newest load. Results of older loads are dropped.

  constructor(signal) {
    this.signal = signal;
    this.filter = h("select", { id: "status" },
      h("option", { value: "" }, "All statuses"), Object.entries(STATUS).map(([value, text]) => h("option", { value }, text)));
    this.search = h("input", { type: "search", id: "name-search", placeholder: "Search by name", autocomplete: "off" });
    this.table = new RequestTable("Requests");
    this.chart = savingsChart();
    this.totals = h("section", { class: "panel totals stack", "aria-labelledby": "totals-title", hidden: true },
      h("h2", { id: "totals-title", class: "label" }), this.chart.element);
    this.list = h("div", { class: "stack" });
    this.more = h("button", { type: "button", hidden: true, on: { click: () => this.#load(false) } }, "Show older requests");
  }

  start(main) {
    const label = (id, text) => h("label", { class: "visually-hidden", for: id }, text);
    main.append(
      h("div", { class: "section-head" }, heading("Requests"),
        h("div", { class: "field inline list-filters" },
          label("name-search", "Search by name"), this.search, label("status", "Status"), this.filter)),
      this.totals, this.list, h("div", { class: "buttons" }, this.more));
    let timer = 0;
    this.search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.#load(true), SEARCH_DELAY_MS);
    });
    this.filter.addEventListener("change", () => this.#load(true));
    this.#load(true);
    keepFresh(() => this.#refresh(), this.signal);
  }

  #query() {
    return { limit: PAGE_SIZE, status: this.filter.value, name: this.search.value.trim() };
  }

  async #load(reset) {
    this.#latestLoad += 1;
    const current = this.#latestLoad;
    if (reset) {
      this.#cursor = null;
      if (!this.list.querySelector("tbody")) this.list.replaceChildren(skeleton(5));
    }
    this.more.disabled = true;
    try {
      const page = await call("GET", "listRequests", { query: { ...this.#query(), cursor: this.#cursor }, signal: this.signal });
      if (current === this.#latestLoad) this.#show(page, reset);
    } catch (problem) {
      if (this.signal.aborted || current !== this.#latestLoad) return;
      if (reset) this.list.replaceChildren();
      this.list.append(problemPanel(problem, () => this.#load(reset)));
    }
    this.more.disabled = false;
  }

  #show({ requests, nextCursor, totals }, reset) {
    this.#cursor = nextCursor;
    this.more.hidden = !nextCursor;
    this.list.querySelector(".problem")?.remove();
    if (reset) this.table.update(requests, true);
    else this.table.append(requests);
    this.#showTable(totals);
    announce(`${plural(this.table.size, "request")} shown.`);
  }

  /** Load the newest requests again. Return whether one of the list is unfinished. */
  async #refresh() {
    const current = this.#latestLoad;
    const { requests, nextCursor, totals } = await call("GET", "listRequests", { query: this.#query(), signal: this.signal, quiet: true });
    if (current !== this.#latestLoad || this.list.querySelector(".problem")) return false;
    this.table.update(requests, !nextCursor);
    this.#showTable(totals);
    return this.table.isBusy;
  }

  #showTable(totals) {
    const shown = this.table.size ? this.table.element : emptyList(this.filter.value, this.search.value.trim());
    if (this.list.firstChild !== shown || this.list.children.length > 1) this.list.replaceChildren(shown);
    this.totals.hidden = !totals?.inputBytes;
    if (this.totals.hidden) return;
    this.totals.querySelector("h2").textContent = totalsText(totals);
    this.chart.update({ input: totals.inputBytes, output: totals.outputBytes });
  }
}

function emptyList(status, name) {
  const isFiltered = status || name;
  const title = name ? `No request is named “${name}”` : status ? `No requests with the status “${STATUS[status]}”` : "No requests yet";
  return h("div", { class: "panel empty" },
    h("h2", {}, title),
    h("p", { class: "muted" }, isFiltered ? "Clear the search or choose another status." : "Your uploads appear here."),
    !isFiltered && h("a", { class: "button primary changes", href: "#/" }, "Upload a CSV"));
}
