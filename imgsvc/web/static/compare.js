// The dialog that compares one image before and after compression, with a slider.

import { h, icon, safeHref } from "./dom.js";
import { bytes, count, errorText, savedPercent, sizeChange } from "./format.js";
import { badge } from "./components.js";
import { openDialog } from "./dialogs.js";

const MAX_FITTING_WIDTH = 400; // In pixels. A wider image may be scaled down to fit the dialog.
const MAX_TITLE_LENGTH = 40; // A longer name may be cut off in the title, so it is repeated below.

/** `latest(item)` returns the current version of an item. `onClosed(item, index)` gets the item that was shown last. */
export class CompareDialog {
  constructor(latest, onClosed) {
    this.latest = latest;
    this.onClosed = onClosed;
  }

  /** Open the dialog with these gallery items and show the one at `index`. */
  open(items, index) {
    this.items = items;
    this.title = h("h2", { id: "compare-title", tabindex: "-1", autofocus: true });
    this.position = h("p", { class: "muted", role: "status" });
    this.body = h("div", { class: "compare-body" });
    const step = (label, iconName, by) =>
      h("button", { type: "button", class: "quiet icon-button", "aria-label": label, title: label, on: { click: () => this.#show(this.index + by) } }, icon(iconName));
    this.previous = step("Previous image", "back", -1);
    this.next = step("Next image", "next", 1);
    const dialog = h("dialog", { class: "compare", "aria-labelledby": "compare-title" },
      h("header", {},
        h("div", { class: "compare-heading" }, this.title, this.position),
        this.previous, this.next,
        h("button", { type: "button", class: "quiet icon-button", "aria-label": "Close", title: "Close", on: { click: () => dialog.close() } }, icon("stop"))),
      this.body);
    this.dialog = dialog;
    // A click outside the dialog closes it.
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    openDialog(dialog);
    dialog.addEventListener("close", () => this.onClosed(this.item, this.index));
    this.#show(index);
  }

  /** Redraw the image if its item has been replaced. */
  refresh() {
    if (this.dialog?.open && this.latest(this.item) !== this.item) this.#show(this.index);
  }

  #show(index) {
    this.index = index;
    const item = this.latest(this.items[index]);
    this.item = item;
    this.title.textContent = item.name;
    const position = [item.serial && `No. ${item.serial}`, item.position && `image ${item.position}`].filter(Boolean).join(", ");
    this.position.textContent = `${position}${position ? " · " : ""}${count(index + 1)} of ${count(this.items.length)}`;
    // A disabled button loses the focus, so move the focus to the title.
    const focused = document.activeElement;
    this.previous.disabled = index === 0;
    this.next.disabled = index === this.items.length - 1;
    if (focused?.disabled) this.title.focus();
    this.body.replaceChildren(...imageComparison(item.image), imageDetails(item));
  }
}

function imageComparison(image) {
  const source = safeHref(image.inputUrl);
  const after = image.outputUrl && h("img", { class: "after", alt: "The compressed image", src: image.outputUrl });
  // The browser loads the original from its host, without a referrer.
  const before = source && h("img", { class: "before", alt: "The original", referrerpolicy: "no-referrer", src: source });
  const pair = h("div", { class: "image-pair" }, after, before);
  const viewport = h("div", { class: "viewport" }, pair);
  const frame = h("div", { class: "frame" }, viewport);
  const { width = 4, height = 3 } = image.width ? image : {};
  frame.style.setProperty("--ratio", Math.min(4, Math.max(0.3, width / height)));
  frame.style.setProperty("--width", `${Math.max(320, image.width ?? 320)}px`);
  frame.style.setProperty("--natural", `${width}px`);
  const slider = after && comparisonSlider(image, frame, viewport, pair);
  const unavailable = h("p", { class: "unavailable", hidden: true }, "The original cannot be shown here (its host blocks it or it has moved).");
  before?.addEventListener("error", () => {
    before.remove();
    frame.classList.add("output-only");
    frame.hidden = !after;
    if (slider) slider.hidden = true;
    unavailable.hidden = false;
  });
  return [h("div", { class: "compare-box" }, frame, slider, unavailable)];
}

function comparisonSlider(image, frame, viewport, pair) {
  const range = h("input", { type: "range", id: "split", min: 0, max: 100, value: 50, step: 1 });
  const actual = h("button", { type: "button", class: "small-text", "aria-pressed": "false", on: { click: zoom } }, "Actual size");
  const isZoomed = () => actual.getAttribute("aria-pressed") === "true";

  function move() {
    // At actual size the image is larger than the viewport. The dividing line stays inside the viewport.
    const split = isZoomed() ? `${viewport.scrollLeft + (viewport.clientWidth * range.value) / 100}px` : `${range.value}%`;
    pair.style.setProperty("--split", split);
    range.setAttribute("aria-valuetext", `${range.value}% original, ${100 - range.value}% compressed`);
  }
  function zoom() {
    const enabled = !isZoomed();
    actual.setAttribute("aria-pressed", enabled);
    frame.classList.toggle("actual", enabled);
    for (const [name, value] of Object.entries({ tabindex: "0", role: "group", "aria-label": "Image at actual size" })) {
      if (enabled) viewport.setAttribute(name, value);
      else viewport.removeAttribute(name);
    }
    viewport.scrollTo((viewport.scrollWidth - viewport.clientWidth) / 2, (viewport.scrollHeight - viewport.clientHeight) / 2);
    move();
  }
  function drag(event) {
    const { left, width } = viewport.getBoundingClientRect();
    range.value = Math.round(((event.clientX - left) / width) * 100);
    move();
  }
  range.addEventListener("input", move);
  viewport.addEventListener("scroll", move, { passive: true });
  pair.addEventListener("pointerdown", (event) => {
    if (isZoomed() && event.pointerType !== "mouse") return; // Touch scrolls the enlarged image.
    event.preventDefault();
    pair.setPointerCapture(event.pointerId);
    drag(event);
    range.focus();
  });
  pair.addEventListener("pointermove", (event) => pair.hasPointerCapture(event.pointerId) && drag(event));
  pair.append(h("span", { class: "handle", "aria-hidden": "true" }));
  frame.append(h("span", { class: "corner left", "aria-hidden": "true" }, "Before"), h("span", { class: "corner right", "aria-hidden": "true" }, "After"));
  move();
  return h("div", { class: "split" },
    h("label", { for: "split" }, "Before ", h("span", { class: "visually-hidden" }, "and after: share of the original to show")),
    range, h("span", { "aria-hidden": "true" }, "After"), image.width > MAX_FITTING_WIDTH && actual);
}

function imageDetails({ image, name }) {
  const percent = savedPercent(image.inputBytes, image.outputBytes);
  const fact = (term, value) => value !== null && value !== undefined && value !== "" && h("div", {}, h("dt", {}, term), h("dd", {}, value));
  const done = image.status === "completed";
  const link = (text, href) => safeHref(href) && h("a", { href, target: "_blank", rel: "noreferrer noopener" }, text);
  return h("div", { class: "about" },
    name.length > MAX_TITLE_LENGTH && h("p", { class: "url" }, name),
    image.error && h("p", { class: "notice bad-notice" }, h("b", {}, errorText(image.error.code, image.error.message), ". "), image.error.message),
    h("dl", { class: "facts-grid" },
      fact("Status", done ? null : badge(image.status)),
      fact("Before", done ? `${bytes(image.inputBytes)} ${(image.inputFormat ?? "").toUpperCase()}` : null),
      fact("After", done ? `${bytes(image.outputBytes)} ${(image.outputFormat ?? "").toUpperCase()}` : null),
      fact("Saved", percent === null ? null : `${bytes(image.inputBytes - image.outputBytes)} (${sizeChange(percent)})`),
      fact("Quality", done ? qualityText(image) : null),
      fact("Size", image.width ? `${count(image.width)} × ${count(image.height)} pixels` : null),
      fact("Attempts", image.attempts > 1 ? count(image.attempts) : null)),
    h("p", { class: "links" }, link("Open the original", image.inputUrl), image.outputUrl && [" · ", link("Open the compressed image", image.outputUrl)]),
    h("p", { class: "muted url" }, image.inputUrl));
}

function qualityText({ kept, sourceQuality, quality }) {
  if (kept) return "Original kept: it was already smaller";
  return `${sourceQuality ?? "unknown"} → ${quality}`;
}
