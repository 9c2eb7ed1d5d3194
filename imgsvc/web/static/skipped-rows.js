// The rows of a request that were left out because of their errors.

import { h } from "./dom.js";
import { call } from "./api.js";
import { count, plural } from "./format.js";

const MAX_SHOWN = 5; // Rows that are listed.
const PAGE_SIZE = 1000; // Rows with failed images can precede them.

export class SkippedRows {
  #count = null;

  constructor(id, signal) {
    Object.assign(this, { id, signal });
    this.element = h("section", { class: "panel stack", "aria-labelledby": "skipped-title", hidden: true });
  }

  /** Show this number of skipped rows, and load the first of them. */
  show(number) {
    if (number === this.#count) return;
    this.#count = number;
    this.element.hidden = !number;
    if (number) this.#load();
  }

  async #load() {
    const list = h("ul", { class: "skipped-rows" });
    this.element.replaceChildren(
      h("h2", { id: "skipped-title", class: "label" }, `${plural(this.#count, "row")} skipped`),
      h("p", { class: "muted" }, "They had errors when the file was uploaded. The file for your shop has them unchanged."),
      list);
    try {
      const query = { format: "json", only: "failed", limit: PAGE_SIZE };
      const { products } = await call("GET", `checkStatus/${encodeURIComponent(this.id)}`, { query, signal: this.signal, quiet: true });
      const rows = products.filter((product) => product.status === "skipped").slice(0, MAX_SHOWN);
      list.append(...rows.map(rowItem));
      const more = this.#count - rows.length;
      if (more) this.element.append(h("p", { class: "muted" }, rows.length ? `${count(more)} more: see “Failed rows only”.` : "See “Failed rows only”."));
    } catch {
      // The number is enough. The download has the rows.
      this.element.append(h("p", { class: "muted" }, "See “Failed rows only”."));
    }
  }
}

function rowItem({ errors }) {
  const [first] = errors;
  return h("li", {},
    h("b", {}, first.row ? `Row ${count(first.row)}` : "Row"), first.column && ` · ${first.column}`, ": ",
    errors.map((error) => error.message).join(" "));
}
