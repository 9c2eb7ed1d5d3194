// Components that several views use.

import { h, icon } from "./dom.js";
import { STATUS, count, plural } from "./format.js";
import { signIn } from "./dialogs.js";

/** Return the coloured label for a status. `failed` is the number of failed images of a request. */
export const badge = (status, failed = 0) =>
  h("span", { class: `badge ${status}` }, status === "partial" && failed ? `Finished, ${count(failed)} failed` : STATUS[status] ?? status);

/** Return a panel that shows an error. `retry` is optional: the action of the button "Try again". */
export function problemPanel(problem, retry) {
  const needsKey = problem.status === 401;
  const errors = problem.errors.map((error) => h("li", {}, error.message ?? String(error)));
  return h("section", { class: "panel problem", role: "alert" },
    h("h2", {}, icon("alert"), needsKey ? "Please sign in" : problem.title ?? "Something went wrong"),
    h("p", {}, needsKey ? "You need the API key of this server." : problem.message),
    errors.length > 0 && h("ul", {}, errors),
    retry && h("div", { class: "buttons" },
      h("button", { class: needsKey ? "primary" : "", on: { click: async () => {
        if (!needsKey || (await signIn())) retry();
      } } }, needsKey ? "Sign in" : "Try again")));
}

/** Return a thin bar of the progress of a request, for a row of a list. The text beside it has the numbers. */
export const thinBar = (progress) => {
  const bar = h("span", { class: "thin-bar", "aria-hidden": "true" }, h("span", {}));
  const done = progress.completed + progress.failed + progress.cancelled;
  bar.firstChild.style.width = `${(done / (progress.total || 1)) * 100}%`;
  return bar;
};

/** Return grey bars, shown while content loads. */
export const skeleton = (lines = 3) =>
  h("div", { class: "skeletons", "aria-hidden": "true" },
    Array.from({ length: lines }, () => h("div", { class: "skeleton" })));

/** Return the heading of a view. It gets the focus when the view opens. */
export const heading = (...text) => h("h1", { tabindex: "-1" }, ...text);

/** Return a bar of the images done, failed and cancelled, as {element, update}. `update(progress)` redraws it. */
export function progressBar(label) {
  const segments = ["completed", "failed", "cancelled", "processing"].map((name) => [name, h("span", { class: name })]);
  const bar = h("div", { class: "progress", role: "progressbar", "aria-label": label, "aria-valuemin": 0 },
    segments.map(([, segment]) => segment));
  return {
    element: bar,
    update(progress) {
      const done = progress.completed + progress.failed + progress.cancelled;
      bar.setAttribute("aria-valuemax", progress.total);
      bar.setAttribute("aria-valuenow", done);
      bar.setAttribute("aria-valuetext", `${done} of ${plural(progress.total, "image")}`);
      for (const [name, segment] of segments) segment.style.width = `${(progress[name] / (progress.total || 1)) * 100}%`;
    },
  };
}
