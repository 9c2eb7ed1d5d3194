// An image before and after compression, one above the other, with a slider between them.

import { h, safeHref } from "./dom.js";

const MAX_FITTING_WIDTH = 400; // In pixels. A wider image may be scaled down to fit the dialog.
const MIN_FRAME_WIDTH = 320; // In pixels. Smaller images are enlarged.
const UNAVAILABLE = "The original cannot be shown here (its host blocks it or it has moved).";

/**
 * The comparison of a completed image. `view` ({split, isZoomed}) is read and updated, so that it can be kept for
 * the next image. `label` is the prefix of its field's id.
 */
export class ImageComparison {
  constructor(image, view, label = "split") {
    Object.assign(this, { image, view });
    const { width = 4, height = 3 } = image;
    const after = h("img", { class: "after", alt: "The compressed image", src: image.outputUrl });
    const source = safeHref(image.inputUrl);
    // The browser loads the original from its host, without a referrer.
    const before = source && h("img", { class: "before", alt: "The original", referrerpolicy: "no-referrer", src: source });
    this.pair = h("div", { class: "image-pair" }, after, before, h("span", { class: "handle", "aria-hidden": "true" }));
    this.viewport = h("div", { class: "viewport" }, this.pair);
    this.frame = h("div", { class: "frame output-only" }, this.viewport,
      h("span", { class: "corner left", "aria-hidden": "true" }, "Before"), h("span", { class: "corner right", "aria-hidden": "true" }, "After"));
    this.frame.style.setProperty("--ratio", Math.min(4, Math.max(0.3, width / height)));
    this.frame.style.setProperty("--width", `${Math.max(MIN_FRAME_WIDTH, width)}px`);
    this.frame.style.setProperty("--natural", `${width}px`);
    this.range = h("input", { type: "range", id: label, min: 0, max: 100, value: view.split, step: 1 });
    this.actual = h("button", { type: "button", class: "small-text", "aria-pressed": "false", hidden: width <= MAX_FITTING_WIDTH, on: { click: () => this.#zoom(!this.view.isZoomed) } }, "Actual size");
    this.slider = h("div", { class: "split" },
      h("label", { for: label }, "Before ", h("span", { class: "visually-hidden" }, "and after: share of the original to show")),
      this.range, h("span", { "aria-hidden": "true" }, "After"), this.actual);
    this.note = h("p", { class: "unavailable", role: "status" }, before ? "Loading the original…" : UNAVAILABLE);
    this.element = h("div", { class: "compare-box" }, this.frame, this.slider, this.note);
    this.#listen(before);
  }

  /** Show the kept view. Call it when the element is in the document. */
  start() {
    this.#zoom(this.view.isZoomed);
  }

  #listen(before) {
    // Until the original is there, the whole output is shown.
    before?.addEventListener("load", () => {
      this.frame.classList.remove("output-only");
      this.note.hidden = true;
    });
    before?.addEventListener("error", () => {
      before.remove();
      this.note.textContent = UNAVAILABLE;
      this.range.disabled = true;
    });
    this.range.addEventListener("input", () => this.#move());
    this.viewport.addEventListener("scroll", () => this.#move(), { passive: true });
    this.pair.addEventListener("dblclick", () => !this.actual.hidden && this.#zoom(!this.view.isZoomed));
    // Browsers report a pinch as a turn of the wheel with Ctrl.
    this.viewport.addEventListener("wheel", (event) => {
      if (!event.ctrlKey || this.actual.hidden) return;
      event.preventDefault();
      this.#zoom(event.deltaY < 0);
    }, { passive: false });
    this.pair.addEventListener("pointerdown", (event) => {
      if (this.#isEnlarged && event.pointerType !== "mouse") return; // Touch scrolls the enlarged image.
      event.preventDefault();
      this.pair.setPointerCapture(event.pointerId);
      this.#drag(event);
      this.range.focus();
    });
    this.pair.addEventListener("pointermove", (event) => this.pair.hasPointerCapture(event.pointerId) && this.#drag(event));
  }

  get #isEnlarged() {
    return this.view.isZoomed && !this.actual.hidden;
  }

  #move() {
    this.view.split = Number(this.range.value);
    // At actual size the image is larger than the viewport. The dividing line stays inside the viewport.
    const { scrollLeft, clientWidth } = this.viewport;
    const split = this.#isEnlarged ? `${scrollLeft + (clientWidth * this.view.split) / 100}px` : `${this.view.split}%`;
    this.pair.style.setProperty("--split", split);
    this.range.setAttribute("aria-valuetext", `${this.view.split}% original, ${100 - this.view.split}% compressed`);
  }

  #zoom(enabled) {
    this.view.isZoomed = enabled;
    const isEnlarged = this.#isEnlarged;
    this.actual.setAttribute("aria-pressed", isEnlarged);
    this.frame.classList.toggle("actual", isEnlarged);
    for (const [name, value] of Object.entries({ tabindex: "0", role: "group", "aria-label": "Image at actual size" })) {
      if (isEnlarged) this.viewport.setAttribute(name, value);
      else this.viewport.removeAttribute(name);
    }
    const { scrollWidth, clientWidth, scrollHeight, clientHeight } = this.viewport;
    this.viewport.scrollTo((scrollWidth - clientWidth) / 2, (scrollHeight - clientHeight) / 2);
    this.#move();
  }

  #drag(event) {
    const { left, width } = this.viewport.getBoundingClientRect();
    this.range.value = Math.round(((event.clientX - left) / width) * 100);
    this.#move();
  }
}
