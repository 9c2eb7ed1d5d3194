// One image, before and after, under a slider.

import { h, icon, safeHref } from "./dom.js";
import { bytes, change, count, reason, savedPercent } from "./format.js";
import { badge } from "./parts.js";
import { openDialog } from "./dialogs.js";

const MOST_FITTING = 400; // A wider picture may be shown smaller than it is.
const MOST_TITLE = 40; // A longer name may be cut in the title, and stands below as well.

/** `newest(item)` gives what an item has become since; `onClosed(item, index)` is told which was shown last. */
export class Compare {
  constructor(newest, onClosed) {
    this.newest = newest;
    this.onClosed = onClosed;
  }

  /** Open the dialog at one of these gallery items. */
  open(items, index) {
    this.items = items;
    this.title = h("h2", { id: "compare-title", tabindex: "-1", autofocus: true });
    this.place = h("p", { class: "muted", role: "status" });
    this.body = h("div", { class: "compare-body" });
    const step = (label, glyph, by) =>
      h("button", { type: "button", class: "quiet icon", "aria-label": label, title: label, on: { click: () => this.#show(this.index + by) } }, icon(glyph));
    this.previous = step("Previous image", "back", -1);
    this.next = step("Next image", "next", 1);
    const dialog = h("dialog", { class: "compare", "aria-labelledby": "compare-title" },
      h("header", {},
        h("div", { class: "compare-heading" }, this.title, this.place),
        this.previous, this.next,
        h("button", { type: "button", class: "quiet icon", "aria-label": "Close", title: "Close", on: { click: () => dialog.close() } }, icon("stop"))),
      this.body);
    this.dialog = dialog;
    // A click beside the dialog closes it.
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    openDialog(dialog);
    dialog.addEventListener("close", () => this.onClosed(this.item, this.index));
    this.#show(index);
  }

  /** Show the image anew where its item has become another object. */
  refresh() {
    if (this.dialog?.open && this.newest(this.item) !== this.item) this.#show(this.index);
  }

  #show(index) {
    this.index = index;
    const item = this.newest(this.items[index]);
    this.item = item;
    this.title.textContent = item.name;
    const where = [item.serial && `No. ${item.serial}`, item.place && `image ${item.place}`].filter(Boolean).join(", ");
    this.place.textContent = `${where}${where ? " · " : ""}${count(index + 1)} of ${count(this.items.length)}`;
    // A disabled button loses the focus; the title takes it.
    const focused = document.activeElement;
    this.previous.disabled = index === 0;
    this.next.disabled = index === this.items.length - 1;
    if (focused?.disabled) this.title.focus();
    this.body.replaceChildren(...pictures(item.image), about(item));
  }
}

function pictures(image) {
  const source = safeHref(image.inputUrl);
  const after = image.outputUrl && h("img", { class: "after", alt: "The compressed image", src: image.outputUrl });
  // The browser asks the original's host itself, and does not say where it was named.
  const before = source && h("img", { class: "before", alt: "The original", referrerpolicy: "no-referrer", src: source });
  const box = h("div", { class: "pictures" }, after, before);
  const view = h("div", { class: "view" }, box);
  const frame = h("div", { class: "frame" }, view);
  const { width = 4, height = 3 } = image.width ? image : {};
  frame.style.setProperty("--ratio", Math.min(4, Math.max(0.3, width / height)));
  frame.style.setProperty("--width", `${Math.max(320, image.width ?? 320)}px`);
  frame.style.setProperty("--natural", `${width}px`);
  const slider = after && sliderFor(image, frame, view, box);
  const lost = h("p", { class: "lost", hidden: true }, "Your browser could not load the original from its address. The service itself may well have reached it.");
  before?.addEventListener("error", () => {
    before.remove();
    frame.classList.add("alone");
    frame.hidden = !after;
    if (slider) slider.hidden = true;
    lost.hidden = false;
  });
  return [h("div", { class: "stage-box" }, frame, slider, lost)];
}

function sliderFor(image, frame, view, box) {
  const range = h("input", { type: "range", id: "split", min: 0, max: 100, value: 50, step: 1 });
  const actual = h("button", { type: "button", class: "small-text", "aria-pressed": "false", on: { click: zoom } }, "Actual size");
  const zoomed = () => actual.getAttribute("aria-pressed") === "true";

  function move() {
    // At its actual size the picture is larger than the view, and the line stays in the view.
    const at = zoomed() ? `${view.scrollLeft + (view.clientWidth * range.value) / 100}px` : `${range.value}%`;
    box.style.setProperty("--split", at);
    range.setAttribute("aria-valuetext", `${range.value}% original, ${100 - range.value}% compressed`);
  }
  function zoom() {
    const on = !zoomed();
    actual.setAttribute("aria-pressed", on);
    frame.classList.toggle("actual", on);
    for (const [name, value] of Object.entries({ tabindex: "0", role: "group", "aria-label": "Picture at its actual size" })) {
      if (on) view.setAttribute(name, value);
      else view.removeAttribute(name);
    }
    view.scrollTo((view.scrollWidth - view.clientWidth) / 2, (view.scrollHeight - view.clientHeight) / 2);
    move();
  }
  function drag(event) {
    const { left, width } = view.getBoundingClientRect();
    range.value = Math.round(((event.clientX - left) / width) * 100);
    move();
  }
  range.addEventListener("input", move);
  view.addEventListener("scroll", move, { passive: true });
  box.addEventListener("pointerdown", (event) => {
    if (zoomed() && event.pointerType !== "mouse") return; // A finger moves the picture then.
    event.preventDefault();
    box.setPointerCapture(event.pointerId);
    drag(event);
    range.focus();
  });
  box.addEventListener("pointermove", (event) => box.hasPointerCapture(event.pointerId) && drag(event));
  box.append(h("span", { class: "handle", "aria-hidden": "true" }));
  frame.append(h("span", { class: "corner left", "aria-hidden": "true" }, "Before"), h("span", { class: "corner right", "aria-hidden": "true" }, "After"));
  move();
  return h("div", { class: "split" },
    h("label", { for: "split" }, "Before ", h("span", { class: "hidden-visually" }, "and after: how much of the original to show")),
    range, h("span", { "aria-hidden": "true" }, "After"), image.width > MOST_FITTING && actual);
}

function about({ image, name }) {
  const percent = savedPercent(image.inputBytes, image.outputBytes);
  const fact = (term, value) => value !== null && value !== undefined && value !== "" && h("div", {}, h("dt", {}, term), h("dd", {}, value));
  const done = image.status === "completed";
  const link = (text, address) => safeHref(address) && h("a", { href: address, target: "_blank", rel: "noreferrer noopener" }, text);
  return h("div", { class: "about" },
    name.length > MOST_TITLE && h("p", { class: "url" }, name),
    image.error && h("p", { class: "notice bad-notice" }, h("b", {}, reason(image.error.code), ". "), image.error.message),
    h("dl", { class: "facts-grid" },
      fact("Status", done ? null : badge(image.status)),
      fact("Before", done ? `${bytes(image.inputBytes)} ${(image.inputFormat ?? "").toUpperCase()}` : null),
      fact("After", done ? `${bytes(image.outputBytes)} ${(image.outputFormat ?? "").toUpperCase()}` : null),
      fact("Saved", percent === null ? null : `${bytes(image.inputBytes - image.outputBytes)} (${change(percent)})`),
      fact("Quality", done ? quality(image) : null),
      fact("Size", image.width ? `${count(image.width)} × ${count(image.height)} pixels` : null),
      fact("Attempts", image.attempts > 1 ? count(image.attempts) : null)),
    h("p", { class: "links" }, link("Open the original", image.inputUrl), image.outputUrl && [" · ", link("Open the compressed image", image.outputUrl)]),
    h("p", { class: "muted url" }, image.inputUrl));
}

function quality({ kept, sourceQuality, quality: now }) {
  if (kept) return "kept as it was: compressing would not have made it smaller";
  return `${sourceQuality ?? "not recorded"} → ${now}`;
}
