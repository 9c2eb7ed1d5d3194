// Tries a few images of a checked file with the chosen settings, before the file is uploaded. The trial is an
// ordinary request, which is deleted afterwards.

import { h } from "./dom.js";
import { call, upload, url } from "./api.js";
import { card, createItem } from "./card.js";
import { CompareDialog } from "./compare.js";
import { problemPanel } from "./components.js";
import { bytes, errorText, plural, savedPercent } from "./format.js";

export const TRIAL_IMAGES = 3;
const WAIT_SECONDS = 20;
const NAME = "Trial";

/** `preview`: the first products of the file. `images`: the number of its images. Trials end when `signal` aborts. */
export class Trial {
  #requestId = null;
  #run = 0;

  constructor(preview, images, signal) {
    this.urls = chooseUrls(preview);
    this.images = images;
    this.signal = signal;
    this.element = h("section", { class: "trial stack", "aria-labelledby": "trial-title", hidden: true });
    signal.addEventListener("abort", () => this.end());
    // The page is closed: the browser sends this request all the same.
    addEventListener("pagehide", () => this.end(), { signal });
  }

  /** Compress the images with these options, and show them before and after. */
  async start(options) {
    this.end();
    const run = this.#run;
    this.element.hidden = false;
    const title = h("h3", { id: "trial-title", tabindex: "-1" }, `Trying ${plural(this.urls.length, "image")}…`);
    const result = h("div", { class: "stack" }, h("p", { class: "busy" }, "Downloading and compressing…"));
    this.element.replaceChildren(title, result);
    try {
      const file = new File([toCsv(this.urls)], `${NAME}.csv`, { type: "text/csv" });
      const { webhookUrl, ...settings } = options;
      const { requestId } = await upload(file, { ...settings, name: NAME }, {});
      if (run !== this.#run) return discard(requestId);
      this.#requestId = requestId;
      const status = await this.#finished(requestId, run);
      if (run !== this.#run) return;
      title.textContent = forecast(status, this.images);
      result.replaceChildren(...results(status));
      title.focus({ preventScroll: true });
    } catch (problem) {
      if (run === this.#run) result.replaceChildren(problemPanel(problem));
    }
  }

  /** Delete the request of the trial. */
  end() {
    this.#run += 1;
    if (this.#requestId) discard(this.#requestId);
    this.#requestId = null;
  }

  async #finished(id, run) {
    for (;;) {
      const status = await call("GET", `checkStatus/${encodeURIComponent(id)}`, { query: { format: "json", wait: WAIT_SECONDS }, signal: this.signal });
      if (status.finishedAt || run !== this.#run) return status;
    }
  }
}

/** Return URLs of different products, as far as there are enough. */
function chooseUrls(preview) {
  const lists = preview.map((product) => product.inputUrls);
  const longest = Math.max(0, ...lists.map((list) => list.length));
  const byRank = Array.from({ length: longest }, (_, rank) => lists.map((list, index) => [list[rank], preview[index].productName]));
  return byRank.flat().filter(([address]) => address).slice(0, TRIAL_IMAGES);
}

function toCsv(urls) {
  const quoted = (text) => `"${text.replaceAll('"', '""')}"`;
  return ["Product Name,Input Image Urls", ...urls.map(([address, name]) => `${quoted(name || "Image")},${quoted(address)}`)].join("\r\n");
}

/** Return what the whole file is expected to become: "About 71% smaller: 9.1 MB → 2.7 MB expected for 60 images". */
function forecast({ bytes: sizes, progress }, images) {
  if (!progress.completed) return "No image could be tried";
  const expected = (size) => bytes((size / progress.completed) * images);
  const percent = savedPercent(sizes.input, sizes.output);
  const change = percent > 0 ? `About ${percent}% smaller` : "About the same size";
  return `${change}: ${expected(sizes.input)} → ${expected(sizes.output)} expected for ${plural(images, "image")}`;
}

function results({ products }) {
  const items = products.flatMap((product) => product.images.map((image, index) => createItem(product, image, index, null)));
  items.forEach((item, index) => {
    item.index = index;
  });
  const dialog = new CompareDialog((item) => items[item.index], (_, index) => cards[index].focus());
  const cards = items.map((item, index) => card(item, () => dialog.open(items, index)));
  for (const each of cards) each.onVisible?.();
  const failed = items.filter((item) => item.status === "failed");
  return [
    h("ul", { class: "trial-cards", role: "list" }, cards.map((each) => h("li", {}, each))),
    h("p", { class: "muted" },
      failed.length ? `${failed.length} of them failed: ${errorText(failed[0].image.error.code, failed[0].image.error.message)}.` : "Choose an image to compare before and after.",
      " The trial is deleted when you go on."),
  ];
}

/** Delete a request, even while the page is being closed. An unfinished one is cancelled first. */
async function discard(id) {
  const path = encodeURIComponent(id);
  const send = (method, name) => fetch(url(`${name}/${path}`), { method, credentials: "same-origin", keepalive: true });
  try {
    const deleted = await send("DELETE", "deleteRequest");
    if (deleted.status !== 409) return;
    await send("POST", "cancelRequest");
    await send("DELETE", "deleteRequest");
  } catch {
    // The server cannot be reached. The request stays in the list, with its name.
  }
}
