// The view of one request: progress, bytes saved, downloads and all images.

import { announce, h, icon } from "./dom.js";
import { call } from "./api.js";
import { count, plural, timeLeft } from "./format.js";
import { badge, heading, problemPanel, progressBar, skeleton } from "./components.js";
import { savingsChart } from "./chart.js";
import { Gallery } from "./gallery.js";
import { RequestActions, apiPath } from "./request-actions.js";
import { countLine, failureTable, requestFacts, timeText, webhookNotice } from "./request-details.js";
import { requestName } from "./requests.js";
import { SkippedRows } from "./skipped-rows.js";
import { WaitingHosts } from "./waiting-hosts.js";
import { Rate, watch } from "./watch.js";

const ANNOUNCE_SECONDS = 15; // Least time between two announcements of the progress.
const REFRESH_MS = 10_000; // Another page may retry a finished request, or delete it.

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
    const retry = () => {
      main.replaceChildren();
      view(main, { id, signal, navigate });
    };
    body.replaceChildren(problemPanel(problem, problem.status === 404 ? null : retry));
  }
}

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
    this.actions = new RequestActions(this);
    this.badge.after(this.actions.changes);
    this.waiting = new WaitingHosts((host) => this.actions.stopHost(host), signal);
    this.failures = h("section", { class: "panel stack", "aria-labelledby": "failures-title", hidden: true });
    this.skipped = new SkippedRows(id, signal);
    this.facts = h("div", { class: "facts" });
    this.gallery = new Gallery(id, signal);
  }

  start(status) {
    this.body.replaceChildren(
      this.facts,
      this.actions.problem,
      h("div", { class: "overview" },
        h("section", { class: "panel stack", "aria-label": "Progress" }, this.line, this.bar.element, this.detail, this.connectionLost, this.chart.element),
        h("section", { class: "panel stack", "aria-label": "Downloads" }, this.actions.downloads),
        h("div", { class: "stack issues" }, this.waiting.element, this.failures, this.skipped.element)),
      this.gallery.element);
    this.follow(status);
    this.gallery.start();
    const refresh = () => !document.hidden && this.#finished && this.reload();
    const timer = setInterval(refresh, REFRESH_MS);
    this.signal.addEventListener("abort", () => clearInterval(timer));
    document.addEventListener("visibilitychange", refresh, { signal: this.signal });
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
    this.line.replaceChildren(...countLine(status));
    this.detail.textContent = status.finishedAt ? timeText(status) : this.forecastText(status, done);
    this.chart.update(status.bytes);
    this.waiting.show(status.finishedAt ? [] : status.waiting ?? []);
    document.title = status.finishedAt ? `${name} · imgsvc` : `${Math.floor((done / (progress.total || 1)) * 100)}% · ${name} · imgsvc`;
    this.actions.show(status);
    this.showDetails(status);
    this.skipped.show(status.skipped ?? 0);
    this.gallery.progressed(progress, Boolean(status.finishedAt));
    this.announceProgress(progress, done);
  }

  /** Return the speed and the remaining time. There is none while every unfinished image waits for another attempt. */
  forecastText({ progress, waiting = [] }, done) {
    const isHeld = waiting.reduce((sum, entry) => sum + entry.count, 0) >= progress.total - done;
    if (isHeld && done < progress.total) return "Waiting for hosts that do not answer";
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
    this.facts.replaceChildren(...[webhookNotice(status), requestFacts(status)].flat().filter(Boolean));
  }
}
