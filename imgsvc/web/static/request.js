// One request: its progress, what it saved, its downloads, and every image.

import { announce, h, icon, toast } from "./dom.js";
import { call, url } from "./api.js";
import { count, duration, many, reason, roughly, when } from "./format.js";
import { badge, heading, problemPanel, progressBar, skeleton } from "./parts.js";
import { confirm } from "./dialogs.js";
import { savingsChart } from "./chart.js";
import { Gallery } from "./gallery.js";
import { nameOf } from "./requests.js";
import { Rate, watch } from "./watch.js";

const ANNOUNCE_SECONDS = 15;
const MOST_FAILURES = 5;

/** Show the view in `main` until `signal` aborts. */
export async function view(main, { id, signal, go }) {
  const title = heading(nameOf(id));
  const body = h("div", { class: "stack" }, skeleton(4));
  main.append(h("a", { class: "back", href: "#/requests" }, icon("back"), "Requests"), h("div", { class: "section-head" }, title), body);
  try {
    const status = await call("GET", path("checkStatus", id), { query: { format: "json", products: "false" }, signal });
    if (!signal.aborted) new RequestPage(id, main, title, body, signal, go).start(status);
  } catch (problem) {
    if (signal.aborted) return;
    if (problem.status === 404) {
      problem.title = "There is no such request";
      problem.message = "It may have been deleted, or the address is incomplete.";
    }
    body.replaceChildren(problemPanel(problem, () => {
      main.replaceChildren();
      view(main, { id, signal, go });
    }));
  }
}

const path = (name, id) => `${name}/${encodeURIComponent(id)}`;

class RequestPage {
  #rate = new Rate();
  #announced = 0;
  #finished = false;

  constructor(id, main, title, body, signal, go) {
    Object.assign(this, { id, main, title, body, signal, go });
    this.badge = h("span", {});
    title.after(this.badge);
    this.bar = progressBar("Images done");
    this.line = h("p", { class: "progress-line" });
    this.detail = h("p", { class: "muted" });
    this.lost = h("p", { class: "notice", role: "status", hidden: true }, "The connection is lost; trying again…");
    this.chart = savingsChart();
    this.actions = h("div", { class: "stack" });
    this.problem = h("div", {});
    this.failures = h("section", { class: "panel stack", "aria-labelledby": "failures-title", hidden: true });
    this.facts = h("div", { class: "facts" });
    this.gallery = new Gallery(id, signal);
  }

  start(status) {
    this.body.replaceChildren(
      h("div", { class: "overview" },
        h("section", { class: "panel stack", "aria-label": "Progress" }, this.line, this.bar.element, this.detail, this.lost, this.chart.element, this.facts),
        h("div", { class: "stack" },
          this.problem,
          h("section", { class: "panel stack", "aria-label": "Downloads and actions" }, this.actions),
          this.failures)),
      this.gallery.element);
    this.follow(status);
    this.gallery.start();
    // What is finished here may have been tried again or deleted from another page.
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && this.#finished) this.reload();
    }, { signal: this.signal });
  }

  follow(status) {
    this.#finished = Boolean(status.finishedAt);
    this.#rate = new Rate();
    this.show(status);
    if (this.#finished) return;
    watch(this.id, this.signal, {
      onStatus: (next) => this.took(next),
      onLost: (lost) => {
        this.lost.hidden = !lost;
      },
      onProblem: (problem) => this.body.replaceChildren(problemPanel(problem)),
    });
  }

  async took(next) {
    if (this.signal.aborted) return;
    this.lost.hidden = true;
    if (!next.finishedAt) {
      this.show({ ...this.status, ...next });
      return;
    }
    if (this.#finished) return;
    this.#finished = true;
    this.show({ ...this.status, ...next });
    announce(`Finished. ${this.line.textContent}`);
    await this.reload();
  }

  async reload() {
    try {
      const status = await call("GET", path("checkStatus", this.id), { query: { format: "json", products: "false" }, signal: this.signal, quiet: true });
      if (this.#finished && !status.finishedAt) this.follow(status); // Another page has it tried again.
      else this.show(status);
    } catch (problem) {
      // Else what is shown stands; the next event or visit brings the rest.
      if (problem.status === 404) this.body.replaceChildren(problemPanel(problem));
    }
  }

  show(status) {
    this.status = status;
    const { progress } = status;
    const done = progress.completed + progress.failed + progress.cancelled;
    this.#rate.add(done);
    this.badge.replaceChildren(badge(status.status));
    this.bar.update(progress);
    this.bar.element.classList.toggle("moving", !status.finishedAt);
    this.line.replaceChildren(h("strong", {}, count(done)), ` of ${many(progress.total, "image")}`);
    this.detail.textContent = status.finishedAt ? past(status) : this.forecast(progress, done);
    this.chart.update(status.bytes);
    document.title = status.finishedAt ? `${nameOf(this.id)} · imgsvc` : `${Math.floor((done / (progress.total || 1)) * 100)}% · ${nameOf(this.id)} · imgsvc`;
    this.showActions(status);
    this.showNotes(status);
    this.gallery.progressed(progress, Boolean(status.finishedAt));
    this.tell(progress, done);
  }

  forecast(progress, done) {
    const rate = this.#rate.perSecond;
    const left = progress.etaSeconds ?? (rate ? (progress.total - done) / rate : null);
    const speed = rate && (rate >= 1 ? `${many(Math.round(rate), "image")}/s` : `${many(Math.max(1, Math.round(rate * 60)), "image")}/min`);
    const parts = [speed, left !== null && roughly(left)].filter(Boolean);
    return parts.length ? parts.join(" · ") : progress.processing || done ? "Working…" : "Waiting for its turn…";
  }

  tell(progress, done) {
    const now = performance.now() / 1000;
    if (this.#finished || now - this.#announced < ANNOUNCE_SECONDS) return;
    this.#announced = now;
    announce(`${count(done)} of ${many(progress.total, "image")} done. ${this.detail.textContent}`);
  }

  showNotes(status) {
    const state = JSON.stringify([status.failures, status.webhook, status.expiresAt, status.finishedAt]);
    if (state === this.noted) return;
    this.noted = state;
    this.failures.hidden = !status.failures?.length;
    this.failures.replaceChildren(...failures(status, () => this.gallery.filter("failed")));
    this.facts.replaceChildren(...[webhook(status), facts(status)].filter(Boolean));
  }

  // Rebuilding buttons throws the focus away: that is done only when what they offer changes.
  showActions(status) {
    const { progress } = status;
    const offer = JSON.stringify([Boolean(status.finishedAt), progress.completed > 0, progress.failed]);
    if (offer === this.offer) return;
    const focused = this.actions.contains(document.activeElement) ? document.activeElement.dataset.action : null;
    this.offer = offer;
    this.actions.replaceChildren(...this.downloads(status), this.changes(status));
    if (focused) (this.actions.querySelector(`[data-action="${focused}"]`) ?? this.title).focus();
  }

  downloads({ finishedAt, progress }) {
    const link = (action, text, address, style = "") =>
      h("a", { class: `button ${style}`, href: address.href, download: "", data: { action } }, icon("download"), text);
    const csv = (query) => url(path("checkStatus", this.id), { format: "csv", ...query });
    return [
      h("h2", { class: "label" }, finishedAt ? "Download" : "Download what there is"),
      h("div", { class: "buttons" },
        link("csv", "CSV", csv({}), finishedAt ? "primary" : ""),
        progress.completed > 0 && link("zip", "Images as ZIP", url(path("downloadImages", this.id)))),
      h("div", { class: "buttons" },
        link("bom", "CSV for Excel", csv({ bom: "true" }), "quiet small-text"),
        progress.failed > 0 && link("failed", `Failed rows only`, csv({ only: "failed" }), "quiet small-text")),
    ];
  }

  changes({ finishedAt, progress }) {
    const button = (action, glyph, text, does, style = "") =>
      h("button", { type: "button", class: style, data: { action }, on: { click: does } }, icon(glyph), text);
    return h("div", { class: "buttons apart" },
      finishedAt && progress.failed > 0 && button("retry", "retry", `Try ${many(progress.failed, "failed image")} again`, () => this.retry()),
      !finishedAt && button("cancel", "stop", "Cancel", () => this.cancel(), "danger-quiet"),
      finishedAt && button("delete", "stop", "Delete", () => this.remove(), "danger-quiet"));
  }

  async act(method, name, done) {
    if (this.busy) return; // Disabling the button would throw the focus away.
    this.busy = true;
    this.problem.replaceChildren();
    try {
      done(await call(method, path(name, this.id), { signal: this.signal }));
    } catch (problem) {
      if (this.signal.aborted) return;
      this.problem.replaceChildren(problemPanel(problem));
      // Another page may have cancelled or finished it: show what it is now.
      if (problem.status === 409) await this.reload();
    }
    this.busy = false;
  }

  async cancel() {
    const sure = await confirm({
      title: "Cancel this request?",
      text: "Images that still wait are given up. What is finished stays and can be downloaded.",
      action: "Cancel the request",
      keep: "Go on",
    });
    if (sure) await this.act("POST", "cancelRequest", (status) => {
      toast("Cancelled.");
      this.took(status);
    });
  }

  async retry() {
    await this.act("POST", "retryFailed", (status) => {
      toast("Trying the failed images again.");
      this.follow({ ...this.status, ...status });
    });
  }

  async remove() {
    const sure = await confirm({
      title: "Delete this request?",
      text: "Its images are removed from the service, and their URLs stop working. This cannot be undone.",
      action: "Delete for good",
    });
    if (sure) await this.act("DELETE", "deleteRequest", () => {
      toast("Deleted.");
      this.go("#/requests");
    });
  }
}

function past({ startedAt, createdAt, finishedAt, progress }) {
  const seconds = (new Date(finishedAt) - new Date(startedAt ?? createdAt)) / 1000;
  const parts = [`${count(progress.completed)} compressed`];
  if (progress.failed) parts.push(`${count(progress.failed)} failed`);
  if (progress.cancelled) parts.push(`${count(progress.cancelled)} cancelled`);
  return `${parts.join(", ")}, in ${duration(seconds)}`;
}

function failures({ failures: list, progress }, showFailed) {
  if (!list?.length) return [];
  const rest = list.slice(MOST_FAILURES).reduce((sum, f) => sum + f.count, 0);
  return [
    h("div", { class: "section-head" }, h("h2", { id: "failures-title", class: "label" }, `${many(progress.failed, "image")} failed`),
      h("button", { type: "button", class: "link", on: { click: showFailed } }, "Show them")),
    h("table", { class: "plain", "aria-labelledby": "failures-title" },
      h("thead", { class: "hidden-visually" }, h("tr", {}, ["Reason and host", "Images"].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", {}, list.slice(0, MOST_FAILURES).map((f) =>
        h("tr", {}, h("th", { scope: "row" }, reason(f.code), h("span", { class: "muted" }, f.host)), h("td", {}, count(f.count)))))),
    rest > 0 && h("p", { class: "muted" }, `${count(rest)} more, for other reasons: see the CSV’s column Error.`),
  ].filter(Boolean);
}

function webhook({ webhook: hook, finishedAt }) {
  if (!hook?.url) return null;
  const pending = finishedAt ? "is being called" : "will be called when the request has finished";
  const words = { pending, delivered: "was called", failed: "could not be called" };
  const tries = hook.attempts ? `, ${many(hook.attempts, "attempt")}` : "";
  return h("p", { class: `notice ${hook.status === "failed" ? "bad-notice" : ""}` },
    h("b", {}, "Webhook "), h("span", { class: "url" }, hook.url), ` ${words[hook.status] ?? hook.status}${tries}`,
    hook.lastError && `: ${hook.lastError}`);
}

function facts({ requestId, createdAt, expiresAt }) {
  return h("p", { class: "muted" },
    `Created ${when(createdAt)}`, expiresAt && ` · kept until ${when(expiresAt)}`, " · id ",
    h("code", {}, requestId), " ",
    navigator.clipboard && h("button", { type: "button", class: "quiet icon", "aria-label": "Copy the id", on: {
      click: async () => {
        await navigator.clipboard.writeText(requestId);
        toast("Copied.");
      },
    } }, icon("copy")));
}
