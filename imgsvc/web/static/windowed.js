// A grid of any length that keeps only what is in sight in the document.

import { h } from "./dom.js";

const MIN_COLUMN_REM = 9.5;
const ROW_REM = 14;
const GAP_REM = 0.75;
const OVERSCAN_ROWS = 2;
const SETTLE_MS = 120;

/**
 * A list whose cards scroll with the page. `draw(item, index)` makes a card (a button) and may give it
 * a method `settle()`, which is called once it has stayed in sight for a moment: the place to load
 * pictures. The grid is one tab stop; arrow keys, Home and End move within it. A card is drawn
 * anew only where its item has become another object.
 */
export class WindowedGrid {
  #cards = new Map();
  #items = [];
  #active = 0;
  #settleTimer = 0;
  #frame = 0;

  constructor({ label, description, draw, signal }) {
    this.draw = draw;
    this.element = h("ul", { class: "cards", role: "list", "aria-label": label, "aria-describedby": description });
    this.element.addEventListener("keydown", (event) => this.#key(event));
    this.element.addEventListener("focusin", (event) => this.#focused(event));
    const soon = () => this.#later();
    addEventListener("scroll", soon, { passive: true, signal });
    const watcher = new ResizeObserver(soon);
    watcher.observe(this.element);
    signal.addEventListener("abort", () => watcher.disconnect());
  }

  /** Show these items. `same`: it is the same list, with some items replaced or added at its end. */
  show(items, same) {
    this.#items = items;
    if (!same) this.#active = 0;
    this.#active = Math.min(this.#active, Math.max(0, items.length - 1));
    this.#update();
  }

  focus(index) {
    if (!this.element.isConnected) return;
    this.#active = index;
    const { columns, height } = this.#measure();
    const top = this.element.getBoundingClientRect().top + Math.floor(index / columns) * height;
    if (top < 0) scrollBy(0, top - 16);
    else if (top + height > innerHeight) scrollBy(0, top + height - innerHeight + 16);
    this.#update();
    this.#cards.get(index)?.button.focus({ preventScroll: true });
  }

  #measure() {
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const gap = GAP_REM * rem;
    const width = this.element.clientWidth;
    const columns = Math.max(1, Math.floor((width + gap) / (MIN_COLUMN_REM * rem + gap)));
    return { columns, gap, width: (width - gap * (columns - 1)) / columns, height: ROW_REM * rem + gap };
  }

  #later() {
    if (this.#frame) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      this.#update();
    });
  }

  #update() {
    if (!this.element.isConnected || !this.element.clientWidth) return;
    const size = this.#measure();
    const rows = Math.ceil(this.#items.length / size.columns);
    const tall = `${Math.max(0, rows * size.height - size.gap)}px`;
    if (this.element.style.height !== tall) this.element.style.height = tall;
    const top = -this.element.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(top / size.height) - OVERSCAN_ROWS) * size.columns;
    const end = (Math.ceil((top + innerHeight) / size.height) + OVERSCAN_ROWS) * size.columns;
    const last = Math.min(this.#items.length, Math.max(OVERSCAN_ROWS * size.columns, end));
    this.#drop(first, last);
    for (let index = first; index < last; index += 1) this.#place(index, size);
    this.#tabStop(first, last);
    clearTimeout(this.#settleTimer);
    this.#settleTimer = setTimeout(() => this.#settle(), SETTLE_MS);
  }

  #drop(first, last) {
    for (const [index, card] of this.#cards) {
      const focused = card.button === document.activeElement && index < this.#items.length;
      if ((index >= first && index < last) || focused) continue;
      card.row.remove();
      this.#cards.delete(index);
    }
  }

  #place(index, { columns, gap, width, height }) {
    const item = this.#items[index];
    let card = this.#cards.get(index);
    if (card?.item !== item) {
      const button = this.draw(item, index);
      button.tabIndex = -1;
      const focused = card?.button === document.activeElement;
      if (card) card.row.replaceChildren(button);
      card = { item, button, row: card?.row ?? h("li", { "aria-posinset": index + 1 }) };
      if (!card.row.firstChild) card.row.append(button);
      if (!card.row.isConnected) this.#insert(card.row, index);
      if (focused) button.focus({ preventScroll: true });
      button.dataset.index = index;
      this.#cards.set(index, card);
    }
    const x = (index % columns) * (width + gap);
    const y = Math.floor(index / columns) * height;
    card.row.style.width = `${width}px`;
    card.row.style.transform = `translate(${x}px, ${y}px)`;
    card.row.setAttribute("aria-setsize", this.#items.length);
  }

  /** In the document the cards stand in their order, for whoever reads it without seeing it. */
  #insert(row, index) {
    const after = [...this.element.children].find((other) => Number(other.getAttribute("aria-posinset")) > index + 1);
    this.element.insertBefore(row, after ?? null);
  }

  #tabStop(first, last) {
    const stop = this.#cards.has(this.#active) ? this.#active : Math.min(Math.max(this.#active, first), last - 1);
    for (const [index, card] of this.#cards) card.button.tabIndex = index === stop ? 0 : -1;
  }

  #settle() {
    for (const { button } of this.#cards.values()) button.settle?.();
  }

  #focused(event) {
    const index = event.target.closest("button")?.dataset.index;
    if (index === undefined) return;
    this.#active = Number(index);
    for (const [at, card] of this.#cards) card.button.tabIndex = at === this.#active ? 0 : -1;
  }

  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const { columns } = this.#measure();
    const last = this.#items.length - 1;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
    let next = this.#active + (steps[event.key] ?? 0);
    if (event.key === "Home") next = 0;
    else if (event.key === "End") next = last;
    else if (!(event.key in steps)) return;
    event.preventDefault();
    if (next >= 0 && next <= last) this.focus(next);
  }
}
