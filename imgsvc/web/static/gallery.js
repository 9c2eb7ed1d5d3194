// All images of a request: loaded page by page, filtered in the browser, drawn only while visible.

import { copy, h } from "./dom.js";
import { call } from "./api.js";
import { card, createItem } from "./card.js";
import { STATUS, count, plural } from "./format.js";
import { problemPanel } from "./components.js";
import { CompareDialog } from "./compare.js";
import { VirtualList } from "./virtual-list.js";

const FIRST_PRODUCTS = 25; // Products on the first page.
const IMAGES_PER_PAGE = 600; // Approximate size of the following pages.
const MAX_IMAGES = 20_000; // Images to load before the user must click for more, to limit the browser's memory.
const REFRESH_MS = 1000; // Delay after a page was loaded again.
const SEARCH_DELAY_MS = 120; // Delay after the last key in the search field.
const FILTERS = [
  ["all", "All", () => true],
  ["completed", STATUS.completed, (status) => status === "completed"],
  ["failed", STATUS.failed, (status) => status === "failed"],
  ["waiting", "Not finished", (status) => status === "pending" || status === "processing"],
  ["cancelled", STATUS.cancelled, (status) => status === "cancelled"],
];

export class Gallery {
  #pages = [];
  #productsTotal = null;
  #limit = MAX_IMAGES;
  #items = [];
  #visible = [];
  #status = "all";
  #text = "";
  #state = "";
  #failed = 0;
  #retries = 0;
  #finished = false;
  #wake = () => {};

  constructor(id, signal) {
    Object.assign(this, { id, signal });
    this.toolbar = h("div", { class: "toolbar" });
    this.grid = new VirtualList({
      label: "Images", description: "gallery-keys", signal, header: this.toolbar,
      draw: (item, index) => card(item, () => this.compare.open(this.#visible, index)),
    });
    this.compare = new CompareDialog((item) => this.#items[item.index], (item, index) => {
      const position = this.#visible.indexOf(item);
      this.grid.focus(position < 0 ? Math.min(index, this.#visible.length - 1) : position);
    });
    this.chips = FILTERS.map(([value, text]) => chip(value, text));
    this.search = h("input", { type: "search", id: "search", placeholder: "Name, number or URL", autocomplete: "off" });
    this.resultCount = h("p", { class: "muted result-count", role: "status" });
    this.more = h("button", { type: "button", hidden: true }, `Load the next ${count(MAX_IMAGES)} images`);
    this.copyAll = h("button", { type: "button", class: "link", hidden: true, on: { click: () => copy(this.#newUrls().join("\n")) } });
    this.problem = h("div", {});
    this.element = this.#build();
  }

  #build() {
    let searchTimer = 0;
    this.search.addEventListener("input", () => {
      clearTimeout(searchTimer);
      searchTimer = setTimeout(() => {
        this.#text = this.search.value.trim().toLowerCase();
        this.#refilter(false);
      }, SEARCH_DELAY_MS);
    });
    this.more.addEventListener("click", () => {
      this.#limit += MAX_IMAGES;
      this.more.hidden = true;
      this.#wake();
    });
    const statusFilter = h("fieldset", { class: "chips", on: { change: (event) => this.#setStatus(event.target.value) } },
      h("legend", { class: "visually-hidden" }, "Filter by status"), this.chips.map((c) => c.element));
    this.toolbar.append(statusFilter,
      h("div", { class: "field inline grow" }, h("label", { class: "visually-hidden", for: "search" }, "Search images"), this.search));
    return h("section", { class: "gallery stack", "aria-labelledby": "gallery-title" },
      h("h2", { id: "gallery-title" }, "Images"),
      this.toolbar,
      h("div", { class: "section-head" }, this.resultCount, this.copyAll),
      h("p", { id: "gallery-keys", class: "visually-hidden" }, "Use the arrow keys to move between images. Press Enter to compare before and after."),
      this.grid.element, this.problem, h("div", { class: "buttons" }, this.more));
  }

  /** Show only the images with one status, and scroll to the gallery. */
  filter(status) {
    this.#setStatus(status);
    this.element.scrollIntoView({ block: "start" });
    this.chips.find((c) => c.value === status).input.focus();
  }

  #setStatus(status) {
    this.#status = status;
    for (const c of this.chips) c.input.checked = c.value === status;
    this.#refilter(false);
  }

  /** Load and show the images. Call `progressed` first. */
  start() {
    this.#loadPages();
  }

  /** Update the gallery to the progress of the request. Pages that are not final are loaded again, visible ones first. */
  progressed(progress, finished) {
    this.#drawChips(progress);
    const { completed, failed, cancelled, processing } = progress;
    const state = JSON.stringify([completed, failed, cancelled, processing, finished]);
    if (state === this.#state) return;
    this.#state = state;
    this.#finished = finished;
    if (failed < this.#failed) this.#markFailedStale();
    this.#failed = failed;
    this.#wake();
  }

  /** Mark pages with failed images as stale: the images were retried, here or on another page. */
  #markFailedStale() {
    this.#retries += 1;
    for (const page of this.#pages) {
      if (page.items.some((item) => item.status === "failed")) Object.assign(page, { state: null, final: false });
    }
  }

  #drawChips(progress) {
    const counts = { ...progress, all: progress.total, waiting: progress.pending + progress.processing };
    for (const c of this.chips) {
      c.number.textContent = count(counts[c.value]);
      c.element.hidden = !counts[c.value] && c.value !== "all" && c.value !== this.#status;
    }
  }

  async #loadPages() {
    while (!this.signal.aborted) {
      const page = this.#nextPage();
      const state = this.#state;
      try {
        if (page) await this.#loadPage(page);
        else await new Promise((resolve) => {
          this.#wake = resolve;
          this.signal.addEventListener("abort", resolve, { once: true });
        });
        this.problem.replaceChildren();
      } catch (problem) {
        if (this.signal.aborted) return;
        await new Promise((resolve) => {
          this.problem.replaceChildren(problemPanel(problem, resolve));
          if (problem.status === 401) return;
          // A new state of the request shows that the server can be reached.
          if (state === this.#state) this.#wake = resolve;
          else resolve();
        });
      }
      if (page?.reloaded && !this.#finished) await new Promise((resolve) => setTimeout(resolve, REFRESH_MS));
    }
  }

  /**
   * Return the page to load next: a visible stale page, else a page not loaded yet, else the stale page
   * that was loaded longest ago. Return null if there is none. A visible page is not loaded twice in a
   * row, because it may stay stale for as long as the request runs.
   */
  #nextPage() {
    const stale = this.#pages.filter((page) => !page.final && page.state !== this.#state);
    const visiblePages = new Set([...this.grid.element.querySelectorAll("button")].map((b) => b.item?.page));
    const visible = !visiblePages.has(this.#pages.at(-1)) && stale.find((page) => visiblePages.has(page));
    if (visible) return visible;
    const loaded = this.#items.length;
    const offset = this.#pages.reduce((sum, page) => sum + page.products, 0);
    if (this.#productsTotal === null) return newPage(0, 0, FIRST_PRODUCTS);
    if (offset < this.#productsTotal) {
      if (loaded < this.#limit) return newPage(offset, loaded, Math.min(1000, Math.max(1, Math.floor((IMAGES_PER_PAGE * offset) / loaded))));
      this.more.hidden = false;
    }
    return stale[0] ?? null;
  }

  async #loadPage(page) {
    const state = this.#state; // A state that changes during the load makes the page stale.
    const retries = this.#retries;
    const response = await call("GET", `checkStatus/${encodeURIComponent(this.id)}`, {
      query: { format: "json", offset: page.offset, limit: page.limit },
      signal: this.signal,
    });
    if (retries !== this.#retries) return; // The response may contain failures from before the retry.
    this.#productsTotal = response.productsTotal;
    const items = response.products.flatMap((product) => product.images.map((image, imageIndex) => createItem(product, image, imageIndex, page)));
    items.forEach((item, position) => {
      item.index = page.start + position;
      const previous = page.items[position];
      // An unchanged item stays the same object, so that its card is not redrawn.
      if (previous && JSON.stringify(previous.image) === JSON.stringify(item.image)) items[position] = previous;
      this.#items[item.index] = items[position]; // One at a time: a page can have more images than a call can have arguments.
    });
    Object.assign(page, {
      items,
      state,
      products: response.products.length,
      final: items.every((item) => item.final),
      reloaded: page.reloaded || this.#pages.includes(page),
    });
    this.#pages = [...this.#pages.filter((other) => other !== page), page]; // In the order in which they were loaded.
    if (!page.products) this.#productsTotal = Math.min(this.#productsTotal, page.offset);
    this.#refilter(true);
  }

  #refilter(isSameList) {
    const [, , matches] = FILTERS.find(([value]) => value === this.#status);
    const isUnfiltered = this.#status === "all" && !this.#text;
    this.#visible = isUnfiltered ? this.#items : this.#items.filter((item) => matches(item.status) && item.searchText.includes(this.#text));
    this.grid.show(this.#visible, isSameList);
    this.compare.refresh();
    const urls = this.#newUrls().length;
    this.copyAll.hidden = !urls;
    this.copyAll.textContent = `Copy ${plural(urls, "new URL")}`;
    const loaded = this.#items.length;
    const offset = this.#pages.reduce((sum, page) => sum + page.products, 0);
    const partial = this.#productsTotal !== null && offset < this.#productsTotal;
    const text = this.#countText(isUnfiltered, loaded, partial);
    if (this.resultCount.textContent !== text) this.resultCount.textContent = text; // Screen readers repeat a text that is set again.
  }

  #newUrls() {
    return this.#visible.map((item) => item.image.outputUrl).filter(Boolean);
  }

  #countText(isUnfiltered, loaded, partial) {
    const total = partial ? `the first ${plural(loaded, "image")}` : plural(loaded, "image");
    if (isUnfiltered) return partial ? `Showing ${total}` : total;
    if (this.#visible.length) return `${count(this.#visible.length)} of ${total}`;
    return `No image matches${partial ? ` among ${total}` : ""}. Clear the search or filter.`;
  }
}

const newPage = (offset, start, limit) => ({ offset, start, limit, items: [], products: 0, state: null, final: false });

function chip(value, text) {
  const input = h("input", { type: "radio", name: "status-filter", value, checked: value === "all", id: `chip-${value}` });
  const number = h("span", { class: "number" });
  return { value, input, number, element: h("span", { class: "chip" }, input, h("label", { for: `chip-${value}` }, text, " ", number)) };
}
