// The list of requests.

import { announce, h, memory } from "./dom.js";
import { call } from "./api.js";
import { STATUS, bytes, change, count, many, when } from "./format.js";
import { badge, heading, problemPanel, skeleton } from "./parts.js";

const PAGE = 50;
const MOST_NAMES = 500;

/** What a request is called: its file's name where this browser sent it, else the start of its id. */
export const nameOf = (id) => new Map(names()).get(id) ?? `Request ${id.slice(0, 8)}`;

/** Remember, in this browser, the name of the file that became a request. */
export function rememberName(id, name) {
  memory.set("names", JSON.stringify([...names(), [id, name]].slice(-MOST_NAMES)));
}

function names() {
  try {
    return JSON.parse(memory.get("names")) ?? [];
  } catch {
    return [];
  }
}

/** A table of requests, newest first. */
export function requestTable(requests, label) {
  return h("table", { class: "requests", "aria-label": label },
    h("thead", {}, h("tr", {},
      ["Request", "Created", "Images", "Saved", "Status"].map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", {}, requests.map(requestRow)));
}

function requestRow({ requestId, status, createdAt, progress, bytes: sizes }) {
  const done = progress.completed + progress.failed + progress.cancelled;
  const unfinished = done < progress.total;
  return h("tr", {},
    h("th", { scope: "row" }, h("a", { href: `#/request/${encodeURIComponent(requestId)}` }, nameOf(requestId))),
    h("td", { class: "muted" }, h("time", { datetime: createdAt }, when(createdAt))),
    h("td", { data: { label: "Images" } },
      unfinished ? `${count(done)} of ${count(progress.total)}` : count(progress.total),
      progress.failed > 0 && h("span", { class: "bad" }, ` · ${count(progress.failed)} failed`)),
    h("td", { data: { label: "Saved" } },
      sizes?.input ? `${bytes(sizes.input - sizes.output)} (${change(Math.round((1 - sizes.output / sizes.input) * 100))})` : "–"),
    h("td", {}, badge(status)));
}

/** Show the view in `main` until `signal` aborts. */
export function view(main, { signal }) {
  const filter = h("select", { id: "status" },
    h("option", { value: "" }, "Any status"), Object.entries(STATUS).map(([value, text]) => h("option", { value }, text)));
  const list = h("div", { class: "stack" });
  const more = h("button", { type: "button", hidden: true }, "Show older ones");
  main.append(
    h("div", { class: "section-head" }, heading("Requests"),
      h("div", { class: "field inline" }, h("label", { class: "hidden-visually", for: "status" }, "Status"), filter)),
    list, h("div", { class: "buttons" }, more));
  let cursor = null;
  let turn = 0;

  async function load(fresh) {
    turn += 1;
    const mine = turn;
    if (fresh) {
      cursor = null;
      list.replaceChildren(skeleton(5));
    }
    more.disabled = true;
    try {
      const page = await call("GET", "listRequests", { query: { limit: PAGE, status: filter.value, cursor }, signal });
      if (mine === turn) show(page, fresh);
    } catch (problem) {
      if (signal.aborted || mine !== turn) return;
      if (fresh) list.replaceChildren();
      list.append(problemPanel(problem, () => load(fresh)));
    }
    more.disabled = false;
  }

  function show({ requests, nextCursor }, fresh) {
    cursor = nextCursor;
    more.hidden = !nextCursor;
    list.querySelector(".problem")?.remove();
    if (!fresh) list.querySelector("tbody").append(...requestTable(requests, "").tBodies[0].rows);
    else list.replaceChildren(requests.length ? requestTable(requests, "Requests") : empty(filter.value));
    announce(`${many(list.querySelectorAll("tbody tr").length, "request")} shown.`);
  }

  filter.addEventListener("change", () => load(true));
  more.addEventListener("click", () => load(false));
  load(true);
}

function empty(status) {
  return h("div", { class: "panel empty" },
    h("h2", {}, status ? `No request is “${STATUS[status].toLowerCase()}”` : "No requests yet"),
    h("p", { class: "muted" }, status ? "Choose another status above." : "What you upload is listed here."),
    !status && h("a", { class: "button primary", href: "#/" }, "Upload a CSV"));
}
