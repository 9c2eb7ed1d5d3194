// The view of one request: progress, bytes saved, downloads and all images.

import { announce, h, icon, toast } from "./dom.js";
import { call, url } from "./api.js";
import { count, dateTime, duration, errorText, layoutTitle, plural, timeLeft } from "./format.js";
import { badge, heading, problemPanel, progressBar, skeleton } from "./components.js";
import { confirm } from "./dialogs.js";
import { savingsChart } from "./chart.js";
import { Gallery } from "./gallery.js";
import { requestName } from "./requests.js";
import { SkippedRows } from "./skipped-rows.js";
import { Rate, watch } from "./watch.js";

const ANNOUNCE_SECONDS = 15; // Least time between two announcements of the progress.
const MAX_FAILURES = 5; // Rows of the table of failures.

/** Show the view in `main` until `signal` aborts. */
export async function view(main, { id, signal, navigate }) {
  const title = heading(requestName(id));
  const body = h("div", { class: "stack" }, skeleton(4));
  main.append(h("a", { class: "back", href: "#/requests" }, icon("back"), "Requests"), h("div", { class: "section-head" }, title), body);
  try {
    const status = await call("GET", apiPath("checkStatus", id), { query: { format: "json", products: "false" }, signal });
    if (!signal.aborted) new RequestPage(id, main, title, body, signal, navigate).start(status);
  } catch (problem) {
    if (signal.aborted) return;
    if (problem.status === 404) {
      problem.title = "Request not found";
      problem.message = "It may have been deleted, or the link is incomplete.";
    }
    body.replaceChildren(problemPanel(problem, () => {
      main.replaceChildren();
      view(main, { id, signal, navigate });
    }));
  }
}

const apiPath = (name, id) => `${name}/${encodeURIComponent(id)}`;

class RequestPage {
  #rate = new Rate();
  #announcedAt = 0; // Seconds.
  #finished = false;

  constructor(id, main, title, body, signal, navigate) {
    Object.assign(this, { id, main, title, body, signal, navigate });
    this.badge = h("span", {});
    title.after(this.badge);
    this.bar = progressBar("Images done");
    this.line = h("p", { class: "progress-line" });
    this.detail = h("p", { class: "muted" });
    this.connectionLost = h("p", { class: "notice", role: "status", hidden: true }, "Connection lost. Reconnecting…");
    this.chart = savingsChart();
    this.actions = h("div", { class: "stack" });
    this.problem = h("div", {});
    this.failures = h("section", { class: "panel stack", "aria-labelledby": "failures-title", hidden: true });
    this.skipped = new SkippedRows(id, signal);
    this.facts = h("div", { class: "facts" });
    this.gallery = new Gallery(id, signal);
  }

  start(status) {
    this.body.replaceChildren(
      h("div", { class: "overview" },
        h("section", { class: "panel stack", "aria-label": "Progress" }, this.line, this.bar.element, this.detail, this.connectionLost, this.chart.element, this.facts),
        h("div", { class: "stack" },
          this.problem,
          h("section", { class: "panel stack", "aria-label": "Downloads and actions" }, this.actions),
          this.failures,
          this.skipped.element)),
      this.gallery.element);
    this.follow(status);
    this.gallery.start();
    // Another page may have retried or deleted a finished request.
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
      onStatus: (next) => this.update(next),
      onLost: (lost) => {
        this.connectionLost.hidden = !lost;
      },
      onProblem: (problem) => this.body.replaceChildren(problemPanel(problem)),
    });
  }

  async update(next) {
    if (this.signal.aborted) return;
    this.connectionLost.hidden = true;
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
      const status = await call("GET", apiPath("checkStatus", this.id), { query: { format: "json", products: "false" }, signal: this.signal, quiet: true });
      if (this.#finished && !status.finishedAt) this.follow(status); // Another page has retried it.
      else this.show(status);
    } catch (problem) {
      // After other errors, keep what is shown. The next event or the next visit updates it.
      if (problem.status === 404) this.body.replaceChildren(problemPanel(problem));
    }
  }

  show(status) {
    this.status = status;
    const { progress } = status;
    const done = progress.completed + progress.failed + progress.cancelled;
    this.#rate.add(done);
    const name = requestName(this.id, status.name);
    if (this.title.textContent !== name) this.title.textContent = name;
    this.badge.replaceChildren(badge(status.status, progress.failed));
    this.bar.update(progress);
    this.bar.element.classList.toggle("moving", !status.finishedAt);
    this.line.replaceChildren(h("strong", {}, count(done)), ` of ${plural(progress.total, "image")}`);
    this.detail.textContent = status.finishedAt ? resultText(status) : this.forecastText(progress, done);
    this.chart.update(status.bytes);
    document.title = status.finishedAt ? `${name} · imgsvc` : `${Math.floor((done / (progress.total || 1)) * 100)}% · ${name} · imgsvc`;
    this.showActions(status);
    this.showDetails(status);
    this.skipped.show(status.skipped ?? 0);
    this.gallery.progressed(progress, Boolean(status.finishedAt));
    this.announceProgress(progress, done);
  }

  forecastText(progress, done) {
    const rate = this.#rate.perSecond;
    const left = progress.etaSeconds ?? (rate ? (progress.total - done) / rate : null);
    const speed = rate && (rate >= 1 ? `${plural(Math.round(rate), "image")}/s` : `${plural(Math.max(1, Math.round(rate * 60)), "image")}/min`);
    const parts = [speed, left !== null && timeLeft(left)].filter(Boolean);
    return parts.length ? parts.join(" · ") : progress.processing || done ? "Downloading and compressing…" : "Queued";
  }

  announceProgress(progress, done) {
    const now = performance.now() / 1000;
    if (this.#finished || now - this.#announcedAt < ANNOUNCE_SECONDS) return;
    this.#announcedAt = now;
    announce(`${count(done)} of ${plural(progress.total, "image")} done. ${this.detail.textContent}`);
  }

  showDetails(status) {
    const state = JSON.stringify([status.failures, status.webhook, status.expiresAt, status.finishedAt]);
    if (state === this.detailState) return;
    this.detailState = state;
    this.failures.hidden = !status.failures?.length;
    this.failures.replaceChildren(...failureTable(status, () => this.gallery.filter("failed")));
    this.facts.replaceChildren(...[webhookNotice(status), requestFacts(status)].filter(Boolean));
  }

  // New buttons lose the focus, so they are only rebuilt when the set of actions changes.
  showActions(status) {
    const { progress } = status;
    const actionState = JSON.stringify([Boolean(status.finishedAt), progress.completed > 0, progress.failed, status.skipped]);
    if (actionState === this.actionState) return;
    const focused = this.actions.contains(document.activeElement) ? document.activeElement.dataset.action : null;
    this.actionState = actionState;
    this.actions.replaceChildren(...this.downloadLinks(status), this.requestActions(status));
    if (focused) (this.actions.querySelector(`[data-action="${focused}"]`) ?? this.title).focus();
  }

  downloadLinks({ finishedAt, progress, layout, skipped, name }) {
    const link = (action, text, target, style = "") =>
      h("a", { class: `button ${style}`, href: target.href, download: "", data: { action } }, icon("download"), text);
    const table = (query) => url(apiPath("checkStatus", this.id), { format: "csv", ...query });
    const isWorkbook = /\.xlsx$/i.test(name ?? "");
    const main = finishedAt ? "primary" : "";
    return [
      h("h2", { class: "label" }, finishedAt ? "Download" : "Download what is ready"),
      h("div", { class: "buttons" },
        // Version 1.0 did not store enough of the file to return it.
        layout && link("shop", "Download for your shop", table({ layout: "input", ...(isWorkbook && { format: "xlsx" }) }), main),
        link("excel", "For Excel", table({ excel: "true" }), layout ? "" : main)),
      layout && h("p", { class: "hint" }, "For your shop: the file that you uploaded, with the new URLs in place."),
      h("div", { class: "buttons" },
        link("csv", "CSV", table({}), "quiet small-text"),
        progress.completed > 0 && link("zip", "Images as ZIP", url(apiPath("downloadImages", this.id)), "quiet small-text"),
        (progress.failed > 0 || skipped > 0) && link("failed", "Failed rows only", table({ only: "failed" }), "quiet small-text")),
    ];
  }

  requestActions({ finishedAt, progress }) {
    const button = (action, iconName, text, onClick, style = "") =>
      h("button", { type: "button", class: style, data: { action }, on: { click: onClick } }, icon(iconName), text);
    return h("div", { class: "buttons separated changes" },
      finishedAt && progress.failed > 0 && button("retry", "retry", `Try ${plural(progress.failed, "failed image")} again`, () => this.retry()),
      !finishedAt && button("cancel", "stop", "Cancel", () => this.cancel(), "danger-quiet"),
      finishedAt && button("delete", "stop", "Delete", () => this.remove(), "danger-quiet"));
  }

  async runAction(method, name, onSuccess) {
    if (this.busy) return; // A disabled button would lose the focus.
    this.busy = true;
    this.problem.replaceChildren();
    try {
      onSuccess(await call(method, apiPath(name, this.id), { signal: this.signal }));
    } catch (problem) {
      if (this.signal.aborted) return;
      this.problem.replaceChildren(problemPanel(problem));
      // Another page may have cancelled it, or it may have finished: show its current state.
      if (problem.status === 409) await this.reload();
    }
    this.busy = false;
  }

  async cancel() {
    const confirmed = await confirm({
      title: "Cancel this request?",
      text: "Unfinished images are skipped. Finished images stay and can be downloaded.",
      action: "Cancel the request",
      decline: "Keep going",
    });
    if (confirmed) await this.runAction("POST", "cancelRequest", (status) => {
      toast("Cancelled.");
      this.update(status);
    });
  }

  async retry() {
    await this.runAction("POST", "retryFailed", (status) => {
      toast("Trying the failed images again.");
      this.follow({ ...this.status, ...status });
    });
  }

  async remove() {
    const confirmed = await confirm({
      title: "Delete this request?",
      text: "Its images are deleted from the server and their URLs stop working. This cannot be undone.",
      action: "Delete permanently",
    });
    if (confirmed) await this.runAction("DELETE", "deleteRequest", () => {
      toast("Deleted.");
      this.navigate("#/requests");
    });
  }
}

function resultText({ startedAt, createdAt, finishedAt, progress }) {
  const seconds = (new Date(finishedAt) - new Date(startedAt ?? createdAt)) / 1000;
  const parts = [`${count(progress.completed)} compressed`];
  if (progress.failed) parts.push(`${count(progress.failed)} failed`);
  if (progress.cancelled) parts.push(`${count(progress.cancelled)} cancelled`);
  return `${parts.join(", ")} in ${duration(seconds)}`;
}

function failureTable({ failures: list, progress }, showFailed) {
  if (!list?.length) return [];
  const others = list.slice(MAX_FAILURES).reduce((sum, f) => sum + f.count, 0);
  return [
    h("div", { class: "section-head" }, h("h2", { id: "failures-title", class: "label" }, `${plural(progress.failed, "image")} failed`),
      h("button", { type: "button", class: "link", on: { click: showFailed } }, "Show them")),
    h("table", { class: "simple", "aria-labelledby": "failures-title" },
      h("thead", { class: "visually-hidden" }, h("tr", {}, ["Reason and host", "Images"].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", {}, list.slice(0, MAX_FAILURES).map((f) =>
        h("tr", {}, h("th", { scope: "row" }, errorText(f.code), h("span", { class: "muted" }, f.host)), h("td", {}, count(f.count)))))),
    others > 0 && h("p", { class: "muted" }, `${count(others)} more for other reasons. See the Error column of the CSV.`),
  ].filter(Boolean);
}

function webhookNotice({ webhook: hook, finishedAt }) {
  if (!hook?.url) return null;
  const pending = finishedAt ? "is being called" : "will be called when all images are done";
  const texts = { pending, delivered: "was called", failed: "could not be called" };
  const attempts = hook.attempts ? `, ${plural(hook.attempts, "attempt")}` : "";
  return h("p", { class: `notice ${hook.status === "failed" ? "bad-notice" : ""}` },
    h("b", {}, "Webhook "), h("span", { class: "url" }, hook.url), ` ${texts[hook.status] ?? hook.status}${attempts}`,
    hook.lastError && `: ${hook.lastError}`);
}

function requestFacts({ requestId, createdAt, expiresAt, layout }) {
  return h("p", { class: "muted" },
    layout && layout !== "standard" && `${layoutTitle(layout)} · `, `Created ${dateTime(createdAt)}`, expiresAt && ` · kept until ${dateTime(expiresAt)}`, " · ID ",
    h("code", {}, requestId), " ",
    navigator.clipboard && h("button", { type: "button", class: "quiet icon-button", "aria-label": "Copy ID", on: {
      click: async () => {
        await navigator.clipboard.writeText(requestId);
        toast("Copied.");
      },
    } }, icon("copy")));
}
