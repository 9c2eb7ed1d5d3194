// One image, before and after, under a slider.

import { h, icon, safeHref } from "./dom.js";
import { bytes, change, count, reason, savedPercent } from "./format.js";
import { badge } from "./parts.js";
import { openDialog } from "./dialogs.js";

/** `onClosed(index)` is told which image was shown last. */
export class Compare {
  constructor(onClosed) {
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
    // A click beside the dialog closes it.
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    openDialog(dialog);
    dialog.addEventListener("close", () => this.onClosed(this.index));
    this.#show(index);
  }

  #show(index) {
    this.index = index;
    const item = this.items[index];
    this.title.textContent = item.name;
    const where = [item.serial && `No. ${item.serial}`, item.place && `image ${item.place}`].filter(Boolean).join(", ");
    this.place.textContent = `${where}${where ? " · " : ""}${count(index + 1)} of ${count(this.items.length)}`;
    // A disabled button loses the focus; the title takes it.
    const focused = document.activeElement;
    this.previous.disabled = index === 0;
    this.next.disabled = index === this.items.length - 1;
    if (focused?.disabled) this.title.focus();
    this.body.replaceChildren(...pictures(item.image), about(item.image));
  }
}

function pictures(image) {
  const after = image.outputUrl && h("img", { class: "after", alt: "The compressed image", src: image.outputUrl });
  const source = safeHref(image.inputUrl);
  // The browser asks the original's host itself, and does not say where it was named.
  const before = source && h("img", { class: "before", alt: "The original", referrerpolicy: "no-referrer", src: source });
  const lost = h("p", { class: "lost", hidden: true }, "Your browser could not load the original from its address. The service itself may well have reached it.");
  const box = h("div", { class: "pictures" }, after, before);
  const { width = 4, height = 3 } = image.width ? image : {};
  box.style.setProperty("--ratio", Math.min(4, Math.max(0.3, width / height)));
  box.style.setProperty("--width", `${Math.max(320, image.width ?? 320)}px`);
  if (!after) {
    before?.addEventListener("error", () => {
      box.hidden = true;
      lost.hidden = false;
    });
    return [h("div", { class: "stage-box" }, box, lost)];
  }
  const slider = sliderFor(box);
  before?.addEventListener("error", () => {
    before.remove();
    slider.hidden = true;
    box.classList.add("alone");
    lost.hidden = false;
  });
  return [h("div", { class: "stage-box" }, box, slider, lost)];
}

function sliderFor(box) {
  const range = h("input", { type: "range", id: "split", min: 0, max: 100, value: 50, step: 1 });
  function move() {
    box.style.setProperty("--split", `${range.value}%`);
    range.setAttribute("aria-valuetext", `${range.value}% original, ${100 - range.value}% compressed`);
  }
  function drag(event) {
    const { left, width } = box.getBoundingClientRect();
    range.value = Math.round(((event.clientX - left) / width) * 100);
    move();
  }
  range.addEventListener("input", move);
  box.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    box.setPointerCapture(event.pointerId);
    drag(event);
    range.focus();
  });
  box.addEventListener("pointermove", (event) => box.hasPointerCapture(event.pointerId) && drag(event));
  box.append(h("span", { class: "handle", "aria-hidden": "true" }),
    h("span", { class: "corner left", "aria-hidden": "true" }, "Before"), h("span", { class: "corner right", "aria-hidden": "true" }, "After"));
  move();
  return h("div", { class: "split" }, h("label", { for: "split" }, "Before ", h("span", { class: "hidden-visually" }, "and after: how much of the original to show")), range, h("span", { "aria-hidden": "true" }, "After"));
}

function about(image) {
  const percent = savedPercent(image.inputBytes, image.outputBytes);
  const fact = (name, value) => value !== null && value !== undefined && value !== "" && h("div", {}, h("dt", {}, name), h("dd", {}, value));
  const done = image.status === "completed";
  const link = (text, address) => safeHref(address) && h("a", { href: address, target: "_blank", rel: "noreferrer noopener" }, text);
  return h("div", { class: "about" },
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
