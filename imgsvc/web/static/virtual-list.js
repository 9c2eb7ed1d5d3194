// A virtual list: a grid of any number of cards that keeps only the visible ones in the document.

import { h } from "./dom.js";

const MIN_COLUMN_REM = 9.5; // Least width of a card.
const ROW_REM = 14; // Height of a card.
const GAP_REM = 0.75; // Space between cards.
const OVERSCAN_ROWS = 2; // Rows drawn above and below the window.
const VISIBLE_DELAY_MS = 120;

/**
 * A list whose cards scroll with the page. `draw(item, index)` returns a card (a button). The card may have
 * a method `onVisible()`, for example to load its image: it is called when the card is in the
 * window VISIBLE_DELAY_MS after the last scroll or change. The list is one tab stop; the arrow keys,
 * Home and End move within it. `card.actions`, if it has them, is an element that is placed beside it.
 * `header` is a bar above the list that stays at the top of the window. A card is only redrawn when its item is another object.
 */
export class VirtualList {
  #cards = new Map();
  #items = [];
  #active = 0;
  #visibleTimer = 0;
  #animationFrame = 0;

  constructor({ label, description, draw, header, signal }) {
    Object.assign(this, { draw, header });
    this.element = h("ul", { class: "cards", role: "list", "aria-label": label, "aria-describedby": description });
    this.element.addEventListener("keydown", (event) => this.#onKeyDown(event));
    this.element.addEventListener("focusin", (event) => this.#onFocusIn(event));
    const onChange = () => this.#scheduleUpdate();
    addEventListener("scroll", onChange, { passive: true, signal });
    const observer = new ResizeObserver(onChange);
    observer.observe(this.element);
    signal.addEventListener("abort", () => observer.disconnect());
  }

  /** Show these items. `isSameList`: some items of the shown list were replaced or added at its end. */
  show(items, isSameList) {
    this.#items = items;
    if (!isSameList) this.#active = 0;
    this.#active = Math.min(this.#active, Math.max(0, items.length - 1));
    this.#update();
  }

  /** Scroll to the card at `index` and focus it. */
  focus(index) {
    if (!this.element.isConnected) return;
    this.#active = index;
    const { columns, height } = this.#measure();
    const top = this.element.getBoundingClientRect().top + Math.floor(index / columns) * height;
    const covered = this.header.getBoundingClientRect().bottom + 8;
    if (top < covered) scrollBy(0, top - covered);
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

  #scheduleUpdate() {
    if (this.#animationFrame) return;
    this.#animationFrame = requestAnimationFrame(() => {
      this.#animationFrame = 0;
      this.#update();
    });
  }

  #update() {
    if (!this.element.isConnected || !this.element.clientWidth) return;
    const size = this.#measure();
    const rows = Math.ceil(this.#items.length / size.columns);
    const height = `${Math.max(0, rows * size.height - size.gap)}px`;
    if (this.element.style.height !== height) this.element.style.height = height;
    const top = -this.element.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(top / size.height) - OVERSCAN_ROWS) * size.columns;
    const end = (Math.ceil((top + innerHeight) / size.height) + OVERSCAN_ROWS) * size.columns;
    const last = Math.min(this.#items.length, Math.max(OVERSCAN_ROWS * size.columns, end));
    this.#removeHidden(first, last);
    for (let index = first; index < last; index += 1) this.#drawCard(index, size);
    this.#setTabStop(first, last);
    clearTimeout(this.#visibleTimer);
    this.#visibleTimer = setTimeout(() => this.#notifyVisible(), VISIBLE_DELAY_MS);
  }

  #removeHidden(first, last) {
    for (const [index, card] of this.#cards) {
      const focused = card.button === document.activeElement && index < this.#items.length;
      if ((index >= first && index < last) || focused) continue;
      card.row.remove();
      this.#cards.delete(index);
    }
  }

  #drawCard(index, { columns, gap, width, height }) {
    const item = this.#items[index];
    let card = this.#cards.get(index);
    if (card?.item !== item) {
      const button = this.draw(item, index);
      button.tabIndex = -1;
      const focused = card?.button === document.activeElement;
      if (card) card.row.replaceChildren(...[button, button.actions].filter(Boolean));
      card = { item, button, row: card?.row ?? h("li", { "aria-posinset": index + 1 }) };
      if (!card.row.firstChild) card.row.append(...[button, button.actions].filter(Boolean));
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

  /** Insert a row in the order of the list, so that screen readers read the cards in that order. */
  #insert(row, index) {
    const next = [...this.element.children].find((other) => Number(other.getAttribute("aria-posinset")) > index + 1);
    this.element.insertBefore(row, next ?? null);
  }

  #setTabStop(first, last) {
    const stop = this.#cards.has(this.#active) ? this.#active : Math.min(Math.max(this.#active, first), last - 1);
    for (const [index, card] of this.#cards) card.button.tabIndex = index === stop ? 0 : -1;
  }

  #notifyVisible() {
    for (const { button } of this.#cards.values()) {
      const { top, bottom } = button.getBoundingClientRect();
      if (bottom > 0 && top < innerHeight) button.onVisible?.();
    }
  }

  #onFocusIn(event) {
    const index = event.target.closest("button")?.dataset.index;
    if (index === undefined) return;
    this.#active = Number(index);
    for (const [cardIndex, card] of this.#cards) card.button.tabIndex = cardIndex === this.#active ? 0 : -1;
  }

  #onKeyDown(event) {
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
