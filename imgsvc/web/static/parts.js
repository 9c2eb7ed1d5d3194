// Pieces that several views show.

import { h, icon } from "./dom.js";
import { STATUS, many } from "./format.js";
import { signIn } from "./dialogs.js";

/** A status as a word in its colour. */
export const badge = (status) => h("span", { class: `badge ${status}` }, STATUS[status] ?? status);

/** A refusal in words. `retry`, where given, is offered as a button. */
export function problemPanel(problem, retry) {
  const wantsKey = problem.status === 401;
  const causes = problem.errors.map((e) => h("li", {}, e.message ?? String(e)));
  return h("section", { class: "panel problem", role: "alert" },
    h("h2", {}, icon("alert"), wantsKey ? "An API key is needed" : problem.title ?? "Something went wrong"),
    h("p", {}, wantsKey ? "Sign in with the key that this service was set up with." : problem.message),
    causes.length > 0 && h("ul", {}, causes),
    retry && h("div", { class: "buttons" },
      h("button", { class: wantsKey ? "primary" : "", on: { click: async () => {
        if (!wantsKey || (await signIn())) retry();
      } } }, wantsKey ? "Enter the key" : "Try again")));
}

/** Grey bars in the place of what is still on its way. */
export const skeleton = (lines = 3) =>
  h("div", { class: "skeletons", "aria-hidden": "true" },
    Array.from({ length: lines }, () => h("div", { class: "skeleton" })));

/** The view's heading, which takes the focus when the view opens. */
export const heading = (...text) => h("h1", { tabindex: "-1" }, ...text);

/** A bar that shows how many images are done, failed and cancelled. `update(progress)` redraws it. */
export function progressBar(label) {
  const parts = ["completed", "failed", "cancelled", "processing"].map((name) => [name, h("span", { class: name })]);
  const bar = h("div", { class: "progress", role: "progressbar", "aria-label": label, "aria-valuemin": 0 },
    parts.map(([, part]) => part));
  return {
    element: bar,
    update(progress) {
      const done = progress.completed + progress.failed + progress.cancelled;
      bar.setAttribute("aria-valuemax", progress.total);
      bar.setAttribute("aria-valuenow", done);
      bar.setAttribute("aria-valuetext", `${done} of ${many(progress.total, "image")}`);
      for (const [name, part] of parts) part.style.width = `${(progress[name] / (progress.total || 1)) * 100}%`;
    },
  };
}
