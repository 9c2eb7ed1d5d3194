// The downloads of a request, and the buttons that change it.

import { h, icon, toast } from "./dom.js";
import { call, url } from "./api.js";
import { plural } from "./format.js";
import { problemPanel } from "./components.js";
import { confirm } from "./dialogs.js";
import { askForSettings } from "./repeat.js";

const CANCELLED_TOO_LATE = "It finished before it could be cancelled.";

/** Return the path of an API call for one request. */
export const apiPath = (name, id) => `${name}/${encodeURIComponent(id)}`;

export class RequestActions {
  #state = "";
  #isBusy = false; // A disabled button would lose the focus.

  /** `page`: the request page, with {id, signal, navigate, title} and the methods `follow`, `update` and `reload`. */
  constructor(page) {
    this.page = page;
    this.problem = h("div", {});
    this.downloads = h("div", { class: "stack" });
    this.changes = h("div", { class: "buttons changes" });
  }

  // New buttons lose the focus, so they are only rebuilt when the set of actions changes.
  show(status) {
    this.problem.replaceChildren(); // The server has answered.
    const { progress } = status;
    const state = JSON.stringify([Boolean(status.finishedAt), progress.completed > 0, progress.failed, progress.cancelled, status.skipped]);
    if (state === this.#state) return;
    const areas = [this.downloads, this.changes];
    const focused = areas.some((area) => area.contains(document.activeElement)) ? document.activeElement.dataset.action : null;
    this.#state = state;
    this.downloads.replaceChildren(...this.#downloads(status).filter(Boolean));
    this.changes.replaceChildren(...this.#changes(status).filter(Boolean));
    if (focused) (document.querySelector(`main [data-action="${focused}"]`) ?? this.page.title).focus();
  }

  #downloads({ finishedAt, progress, layout, skipped, name }) {
    const { id } = this.page;
    const link = (action, text, target, style = "") =>
      h("a", { class: `button ${style}`, href: target.href, download: "", data: { action } }, icon("download"), text);
    const table = (query) => url(apiPath("checkStatus", id), { format: "csv", ...query });
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
        progress.completed > 0 && link("zip", "Images as ZIP", url(apiPath("downloadImages", id)), "quiet small-text"),
        (progress.failed > 0 || skipped > 0) && link("failed", "Failed rows only", table({ only: "failed" }), "quiet small-text")),
    ];
  }

  #changes({ finishedAt, progress }) {
    const { failed, cancelled } = progress;
    const button = (action, iconName, text, onClick, style = "") =>
      h("button", { type: "button", class: style, data: { action }, on: { click: onClick } }, icon(iconName), text);
    const continued = `Continue with ${plural(failed + cancelled, failed ? "failed or cancelled image" : "cancelled image")}`;
    return [
      finishedAt && failed > 0 && button("retry", "retry", `Try ${plural(failed, "failed image")} again`, () => this.#retry()),
      finishedAt && cancelled > 0 && button("continue", "next", continued, () => this.#retry({ include: "cancelled" })),
      finishedAt && button("repeat", "repeat", "Run again", () => this.#repeat()),
      !finishedAt && button("cancel", "stop", "Cancel", () => this.#cancel(), "danger-quiet"),
      finishedAt && button("delete", "trash", "Delete", () => this.#remove(), "danger-quiet"),
    ];
  }

  async #run(method, name, query, onSuccess, conflictText = null) {
    const { id, signal } = this.page;
    if (this.#isBusy) return;
    this.#isBusy = true;
    this.problem.replaceChildren();
    try {
      onSuccess(await call(method, apiPath(name, id), { query, signal }));
    } catch (problem) {
      if (signal.aborted) return;
      // Another page may have changed it, or it may have finished: show its current state.
      if (problem.status === 409) {
        toast(conflictText ?? problem.message);
        await this.page.reload();
      } else this.problem.replaceChildren(problemPanel(problem));
    }
    this.#isBusy = false;
  }

  async #cancel() {
    const confirmed = await confirm({
      title: "Cancel this request?",
      text: "Unfinished images are skipped. Finished images stay and can be downloaded.",
      action: "Cancel the request",
      decline: "Keep going",
    });
    if (confirmed) await this.#run("POST", "cancelRequest", {}, (status) => {
      toast("Cancelled.");
      this.page.update(status);
    }, CANCELLED_TOO_LATE);
  }

  /** Cancel the images of one host. */
  async stopHost(host) {
    await this.#run("POST", "cancelRequest", { host }, (status) => {
      toast(`Stopped trying ${host}.`);
      this.page.update(status);
    }, CANCELLED_TOO_LATE);
  }

  async #retry(query = {}) {
    await this.#run("POST", "retryFailed", query, (status) => {
      toast("Retrying these images.");
      this.page.follow({ ...this.page.status, ...status });
    });
  }

  async #repeat() {
    const options = await askForSettings(this.page.status);
    if (options) await this.#run("POST", "repeatRequest", options, ({ requestId }) => this.page.navigate(`#/request/${requestId}`));
  }

  async #remove() {
    const confirmed = await confirm({
      title: "Delete this request?",
      text: "Its images are deleted from the server and their URLs stop working. This cannot be undone.",
      action: "Delete permanently",
    });
    if (confirmed) await this.#run("DELETE", "deleteRequest", {}, () => {
      toast("Deleted.");
      this.page.navigate("#/requests");
    });
  }
}
