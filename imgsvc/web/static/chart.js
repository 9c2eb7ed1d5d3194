// The bytes saved, as two bars on the same scale.

import { h, s } from "./dom.js";
import { bytes, savedPercent } from "./format.js";

/** Return a chart of the bytes before and after compression, as {element, update}. `update({input, output})` redraws it. */
export function savingsChart() {
  const title = s("title", {});
  const before = s("rect", { class: "before", y: 0, height: 22, rx: 4 });
  const after = s("rect", { class: "after", y: 34, height: 22, rx: 4 });
  const saved = s("rect", { class: "saved", y: 34, height: 22, rx: 4 });
  const bars = s("svg", { class: "savings-bars", height: 56, role: "img" }, title, before, saved, after);
  const headline = h("strong", {});
  const detail = h("span", { class: "muted" });
  const values = [h("dd", {}), h("dd", {})];
  const element = h("figure", { class: "savings" },
    h("figcaption", {}, headline, " ", detail),
    h("div", { class: "savings-rows" },
      h("dl", {}, h("div", {}, h("dt", {}, "Before"), values[0]), h("div", {}, h("dt", {}, "After"), values[1])),
      bars));

  function update({ input, output }) {
    element.hidden = !input; // There is nothing to show yet.
    const percent = savedPercent(input, output);
    const longest = Math.max(input, output, 1);
    const width = (n) => `${(n / longest) * 100}%`;
    before.setAttribute("width", width(input));
    after.setAttribute("width", width(output));
    saved.setAttribute("x", 0);
    saved.setAttribute("width", width(Math.max(0, input)));
    values[0].textContent = input ? bytes(input) : "–";
    values[1].textContent = input ? bytes(output) : "–";
    headline.textContent = percent === null ? "No image finished yet" : percent === 0 ? "Almost the same size" : percent > 0 ? `${percent}% saved` : `${-percent}% larger`;
    detail.textContent = percent === null ? "" : `${bytes(Math.abs(input - output))} ${percent >= 0 ? "smaller" : "larger"}`;
    title.textContent =
      percent === null ? "No image finished yet." : `Before ${bytes(input)}, after ${bytes(output)}: ${headline.textContent}.`;
  }
  return { element, update };
}
