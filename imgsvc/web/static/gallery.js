// Every image of a request: read page by page, filtered here, drawn only where it is in sight.

import { h, icon } from "./dom.js";
import { call } from "./api.js";
import { STATUS, bytes, change, count, many, reason, savedPercent } from "./format.js";
import { problemPanel } from "./parts.js";
import { Compare } from "./compare.js";
import { WindowedGrid } from "./windowed.js";

const FIRST_PRODUCTS = 25;
const IMAGES_A_PAGE = 600;
const MOST_IMAGES = 20_000; // Then a button asks for as many again: a browser is no database.
const REFRESH_MS = 1000;
const TYPING_MS = 120;
const FILTERS = [
  ["all", "All", () => true],
  ["completed", STATUS.completed, (status) => status === "completed"],
  ["failed", STATUS.failed, (status) => status === "failed"],
  ["waiting", STATUS.pending, (status) => status === "pending" || status === "processing"],
  ["cancelled", STATUS.cancelled, (status) => status === "cancelled"],
];

export class Gallery {
  #pages = [];
  #productsTotal = null;
  #limit = MOST_IMAGES;
  #items = [];
  #shown = [];
  #status = "all";
  #text = "";
  #state = "";
  #failed = 0;
  #retries = 0;
  #finished = false;
  #wake = () => {};

  constructor(id, signal) {
    Object.assign(this, { id, signal });
    this.grid = new WindowedGrid({
      label: "Images", description: "gallery-keys", signal,
      draw: (item, index) => card(item, () => this.compare.open(this.#shown, index)),
    });
    this.compare = new Compare((item) => this.#items[item.index], (item, index) => {
      const at = this.#shown.indexOf(item);
      this.grid.focus(at < 0 ? Math.min(index, this.#shown.length - 1) : at);
    });
    this.chips = FILTERS.map(([value, text]) => chip(value, text));
    this.search = h("input", { type: "search", id: "search", placeholder: "Name, number or URL", autocomplete: "off" });
    this.found = h("p", { class: "muted found", role: "status" });
    this.more = h("button", { type: "button", hidden: true }, `Read the next ${count(MOST_IMAGES)} images`);
    this.problem = h("div", {});
    this.element = this.#build();
  }

  #build() {
    let typing = 0;
    this.search.addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => {
        this.#text = this.search.value.trim().toLowerCase();
        this.#refilter(false);
      }, TYPING_MS);
    });
    this.more.addEventListener("click", () => {
      this.#limit += MOST_IMAGES;
      this.more.hidden = true;
      this.#wake();
    });
    const set = h("fieldset", { class: "chips", on: { change: (event) => this.#choose(event.target.value) } },
      h("legend", { class: "hidden-visually" }, "Show images that are"), this.chips.map((c) => c.element));
    return h("section", { class: "gallery stack", "aria-labelledby": "gallery-title" },
      h("h2", { id: "gallery-title" }, "Images"),
      h("div", { class: "toolbar" }, set,
        h("div", { class: "field inline grow" }, h("label", { class: "hidden-visually", for: "search" }, "Find images"), this.search)),
      this.found,
      h("p", { id: "gallery-keys", class: "hidden-visually" }, "Arrow keys move from image to image, Enter compares before and after."),
      this.grid.element, this.problem, h("div", { class: "buttons" }, this.more));
  }

  /** Show only the images of one status, and go there. */
  filter(status) {
    this.#choose(status);
    this.element.scrollIntoView({ block: "start" });
    this.chips.find((c) => c.value === status).input.focus();
  }

  #choose(status) {
    this.#status = status;
    for (const c of this.chips) c.input.checked = c.value === status;
    this.#refilter(false);
  }

  /** Read and show; `progressed` comes first. */
  start() {
    this.#run();
  }

  /** The request has come further: what is not final yet is read again, what is in sight first. */
  progressed(progress, finished) {
    this.#drawChips(progress);
    const { completed, failed, cancelled, processing } = progress;
    const state = JSON.stringify([completed, failed, cancelled, processing, finished]);
    if (state === this.#state) return;
    this.#state = state;
    this.#finished = finished;
    if (failed < this.#failed) this.#outdate();
    this.#failed = failed;
    this.#wake();
  }

  /** Failed images are tried again, here or from another page: they are final no longer. */
  #outdate() {
    this.#retries += 1;
    for (const page of this.#pages) {
      if (page.items.some((item) => item.status === "failed")) Object.assign(page, { state: null, settled: false });
    }
  }

  #drawChips(progress) {
    const counts = { ...progress, all: progress.total, waiting: progress.pending + progress.processing };
    for (const c of this.chips) {
      c.number.textContent = count(counts[c.value]);
      c.element.hidden = !counts[c.value] && c.value !== "all" && c.value !== this.#status;
    }
  }

  async #run() {
    while (!this.signal.aborted) {
      const page = this.#next();
      const state = this.#state;
      try {
        if (page) await this.#read(page);
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
          // News of the request say that the service is there.
          if (state === this.#state) this.#wake = resolve;
          else resolve();
        });
      }
      if (page?.again && !this.#finished) await new Promise((resolve) => setTimeout(resolve, REFRESH_MS));
    }
  }

  /**
   * The page to read now: a stale one in sight, else one not read yet, else the stale one that was read
   * longest ago. What is in sight has every second turn: it may change as long as the request goes on.
   */
  #next() {
    const stale = this.#pages.filter((page) => !page.settled && page.state !== this.#state);
    const seen = new Set([...this.grid.element.querySelectorAll("button")].map((b) => b.item?.page));
    const visible = !seen.has(this.#pages.at(-1)) && stale.find((page) => seen.has(page));
    if (visible) return visible;
    const { length } = this.#items;
    const offset = this.#pages.reduce((sum, page) => sum + page.products, 0);
    if (this.#productsTotal === null) return newPage(0, 0, FIRST_PRODUCTS);
    if (offset < this.#productsTotal) {
      if (length < this.#limit) return newPage(offset, length, Math.min(1000, Math.max(1, Math.floor((IMAGES_A_PAGE * offset) / length))));
      this.more.hidden = false;
    }
    return stale[0] ?? null;
  }

  async #read(page) {
    const state = this.#state; // What comes while it is read makes it stale.
    const retries = this.#retries;
    const answer = await call("GET", `checkStatus/${encodeURIComponent(this.id)}`, {
      query: { format: "json", offset: page.offset, limit: page.limit },
      signal: this.signal,
    });
    if (retries !== this.#retries) return; // It may tell of failures from before.
    this.#productsTotal = answer.productsTotal;
    const items = answer.products.flatMap((product) => product.images.map((image, at) => itemOf(product, image, at, page)));
    items.forEach((item, at) => {
      item.index = page.start + at;
      const known = page.items[at];
      // An item that has not changed stays the same object, so that its card is not drawn anew.
      if (known && JSON.stringify(known.image) === JSON.stringify(item.image)) items[at] = known;
      this.#items[item.index] = items[at]; // One by one: a page of long rows is more than one call can be given.
    });
    Object.assign(page, {
      items,
      state,
      products: answer.products.length,
      settled: items.every((item) => item.final),
      again: page.again || this.#pages.includes(page),
    });
    this.#pages = [...this.#pages.filter((other) => other !== page), page]; // In the order they were read in.
    if (!page.products) this.#productsTotal = Math.min(this.#productsTotal, page.offset);
    this.#refilter(true);
  }

  #refilter(same) {
    const [, , fits] = FILTERS.find(([value]) => value === this.#status);
    const everything = this.#status === "all" && !this.#text;
    this.#shown = everything ? this.#items : this.#items.filter((item) => fits(item.status) && item.hay.includes(this.#text));
    this.grid.show(this.#shown, same);
    this.compare.refresh();
    const read = this.#items.length;
    const offset = this.#pages.reduce((sum, page) => sum + page.products, 0);
    const partial = this.#productsTotal !== null && offset < this.#productsTotal;
    const words = this.#words(everything, read, partial);
    if (this.found.textContent !== words) this.found.textContent = words; // What is set anew is read out again.
  }

  #words(everything, read, partial) {
    const of = partial ? `the first ${many(read, "image")}` : many(read, "image");
    if (everything) return partial ? `Showing ${of}` : `${of}`;
    return this.#shown.length ? `${count(this.#shown.length)} of ${of}` : `None of ${of} fits. Choose another status or another word.`;
  }
}

const newPage = (offset, start, limit) => ({ offset, start, limit, items: [], products: 0, state: null, settled: false });

function itemOf(product, image, at, page) {
  const place = product.images.length > 1 ? `${at + 1} of ${product.images.length}` : "";
  return {
    image, page, place,
    status: image.status,
    final: !["pending", "processing"].includes(image.status),
    name: product.productName,
    serial: product.serialNumber,
    hay: `${product.productName}\n${product.serialNumber}\n${image.inputUrl}`.toLowerCase(),
  };
}

function chip(value, text) {
  const input = h("input", { type: "radio", name: "shown", value, checked: value === "all", id: `chip-${value}` });
  const number = h("span", { class: "number" });
  return { value, input, number, element: h("span", { class: "chip" }, input, h("label", { for: `chip-${value}` }, text, " ", number)) };
}

function card(item, open) {
  const { image } = item;
  const frame = h("span", { class: "thumb" });
  const button = h("button", { type: "button", class: `card ${item.status}`, on: { click: open } },
    frame,
    h("span", { class: "card-name" }, h("span", {}, item.name), item.place && [" ", h("span", { class: "muted" }, item.place)]),
    h("span", { class: "card-line" }, line(image)));
  button.item = item;
  if (image.outputUrl) button.settle = () => {
    if (!frame.firstChild) frame.append(h("img", { src: image.outputUrl, alt: "", decoding: "async" }));
  };
  else if (image.status === "failed") frame.append(icon("alert"));
  else if (!item.final) frame.append(icon("clock"));
  return button;
}

function line(image) {
  if (image.status === "failed") return h("span", { class: "bad" }, reason(image.error?.code ?? "failed"));
  if (image.status !== "completed") return STATUS[image.status];
  const percent = savedPercent(image.inputBytes, image.outputBytes);
  return [
    h("span", {}, bytes(image.inputBytes), h("span", { "aria-hidden": "true" }, " → "), h("span", { class: "hidden-visually" }, " to "), bytes(image.outputBytes)),
    image.kept ? h("span", { class: "tag" }, "kept") : h("span", { class: "tag good" }, percent === null ? "" : change(percent)),
  ];
}
