// The list of requests, and the names of requests.

import { announce, h, storage } from "./dom.js";
import { call } from "./api.js";
import { STATUS, bytes, count, dateTime, plural, sizeChange } from "./format.js";
import { badge, heading, problemPanel, skeleton } from "./components.js";

const PAGE_SIZE = 50;

/** Return the name of a request, else the start of its ID. Version 1.0 stored names in the browser. */
export const requestName = (id, name) => name ?? new Map(storedNames()).get(id) ?? `Request ${id.slice(0, 8)}`;

function storedNames() {
  try {
    return JSON.parse(storage.get("names")) ?? [];
  } catch {
    return [];
  }
}

/** Return a table of requests. They come newest first. */
export function requestTable(requests, label) {
  return h("table", { class: "requests", "aria-label": label },
    h("thead", {}, h("tr", {},
      ["Request", "Created", "Images", "Saved", "Status"].map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", {}, requests.map(requestRow)));
}

function requestRow({ requestId, name, status, createdAt, progress, bytes: sizes }) {
  const done = progress.completed + progress.failed + progress.cancelled;
  const unfinished = done < progress.total;
  return h("tr", {},
    h("th", { scope: "row" }, h("a", { href: `#/request/${encodeURIComponent(requestId)}` }, requestName(requestId, name))),
    h("td", { class: "muted" }, h("time", { datetime: createdAt }, dateTime(createdAt))),
    h("td", { data: { label: "Images" } },
      unfinished ? `${count(done)} of ${count(progress.total)}` : count(progress.total),
      progress.failed > 0 && h("span", { class: "bad" }, ` · ${count(progress.failed)} failed`)),
    h("td", { data: { label: "Saved" } },
      sizes?.input ? `${bytes(sizes.input - sizes.output)} (${sizeChange(Math.round((1 - sizes.output / sizes.input) * 100))})` : "–"),
    h("td", {}, badge(status, progress.failed)));
}

/** Show the view in `main` until `signal` aborts. */
export function view(main, { signal }) {
  const filter = h("select", { id: "status" },
    h("option", { value: "" }, "All statuses"), Object.entries(STATUS).map(([value, text]) => h("option", { value }, text)));
  const list = h("div", { class: "stack" });
  const more = h("button", { type: "button", hidden: true }, "Show older requests");
  main.append(
    h("div", { class: "section-head" }, heading("Requests"),
      h("div", { class: "field inline" }, h("label", { class: "visually-hidden", for: "status" }, "Status"), filter)),
    list, h("div", { class: "buttons" }, more));
  let cursor = null;
  let latestLoad = 0; // Number of the newest load. Results of older loads are dropped.

  async function load(reset) {
    latestLoad += 1;
    const current = latestLoad;
    if (reset) {
      cursor = null;
      list.replaceChildren(skeleton(5));
    }
    more.disabled = true;
    try {
      const page = await call("GET", "listRequests", { query: { limit: PAGE_SIZE, status: filter.value, cursor }, signal });
      if (current === latestLoad) show(page, reset);
    } catch (problem) {
      if (signal.aborted || current !== latestLoad) return;
      if (reset) list.replaceChildren();
      list.append(problemPanel(problem, () => load(reset)));
    }
    more.disabled = false;
  }

  function show({ requests, nextCursor }, reset) {
    cursor = nextCursor;
    more.hidden = !nextCursor;
    list.querySelector(".problem")?.remove();
    if (!reset) list.querySelector("tbody").append(...requestTable(requests, "").tBodies[0].rows);
    else list.replaceChildren(requests.length ? requestTable(requests, "Requests") : emptyList(filter.value));
    announce(`${plural(list.querySelectorAll("tbody tr").length, "request")} shown.`);
  }

  filter.addEventListener("change", () => load(true));
  more.addEventListener("click", () => load(false));
  load(true);
}

function emptyList(status) {
  return h("div", { class: "panel empty" },
    h("h2", {}, status ? `No requests with the status “${STATUS[status]}”` : "No requests yet"),
    h("p", { class: "muted" }, status ? "Choose another status above." : "Your uploads appear here."),
    !status && h("a", { class: "button primary changes", href: "#/" }, "Upload a CSV"));
}
