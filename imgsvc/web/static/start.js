// The start view: choose a file, and see recent requests.

import { h, icon } from "./dom.js";
import { call, url } from "./api.js";
import { heading, problemPanel } from "./components.js";
import { onDroppedFile } from "./drop.js";
import { RequestTable, keepFresh, totalsText } from "./requests.js";
import { FileUpload } from "./upload.js";

const FILE_TYPES = [
  ".csv", ".tsv", ".txt", ".xlsx", "text/csv", "text/tab-separated-values", "text/plain",
  "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
].join();
const MAX_RECENT = 5; // Requests that are listed.

/** Show the view in `main` until `signal` aborts. */
export function view(main, { signal, navigate }) {
  const area = h("div", { class: "upload-area changes" });
  const recent = h("section", { class: "recent", "aria-labelledby": "recent-title" });
  main.append(
    h("div", { class: "intro" },
      heading("Compress every image in your spreadsheet"),
      h("p", { class: "lead" },
        "Upload your shop’s product export, or any table with image URLs. imgsvc downloads, compresses and hosts every image, and returns your spreadsheet with the new URLs.")),
    area, recent);
  let current = null;
  const chooseFile = (file) => {
    current?.abort(); // Stop the check or upload of the previous file.
    current = new AbortController();
    return new FileUpload(file, { ...context, signal: AbortSignal.any([signal, current.signal]) }).check();
  };
  const startOver = () => {
    current?.abort();
    showDropZone(context);
    area.querySelector("input").focus();
  };
  const context = { area, navigate, chooseFile, startOver, showDropZone: () => showDropZone(context) };
  showDropZone(context);
  showRecentRequests(recent, signal);
  onDroppedFile(chooseFile, signal);
}

function showDropZone({ area, chooseFile }) {
  const input = h("input", {
    type: "file", id: "file", class: "visually-hidden", accept: FILE_TYPES,
    on: { change: () => input.files[0] && chooseFile(input.files[0]) },
  });
  const problem = h("div", {});
  area.replaceChildren(
    h("div", { class: "drop-zone" },
      icon("upload"),
      h("p", { class: "notice sign-in-first" }, "Sign in to upload a file."),
      h("p", { class: "drop-zone-title" }, h("span", { class: "wide-only" }, "Drop a CSV or .xlsx file here, or "), h("span", { class: "narrow-only" }, "Start with a CSV or .xlsx file")),
      input,
      h("label", { for: "file", class: "button primary" }, icon("file"), "Choose a file"),
      h("p", { class: "muted" },
        "No file yet? ",
        h("button", { type: "button", class: "link", on: { click: () => loadSample(chooseFile, problem) } }, "Try a sample"),
        " (7 products, one broken on purpose).")),
    problem, exampleFile());
}

function exampleFile() {
  const row = (...cells) => h("tr", {}, cells.map((cell) => h("td", {}, cell)));
  return h("details", { class: "example" },
    h("summary", {}, "Example file"),
    h("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": "Example of a CSV" },
      h("table", { class: "rows" },
        h("thead", {}, h("tr", {}, ["S. No.", "Product Name", "Input Image Urls"].map((t) => h("th", { scope: "col" }, t)))),
        h("tbody", {},
          row("1", "Desk lamp", "https://shop.example/lamp-1.jpg, https://shop.example/lamp-2.jpg"),
          row("2", "Oak shelf", "https://shop.example/shelf.png")))),
    h("p", { class: "muted" },
      "Separate several URLs with commas. S. No. is optional. All other columns are kept. Exports of Shopify, WooCommerce, Magento and other shop systems work unchanged; of any other table you choose the columns. CSV and .xlsx files saved by Excel work. ",
      h("a", { href: url("sample/products.csv").href, download: "sample.csv" }, "Download the sample")));
}

async function loadSample(chooseFile, problem) {
  try {
    const response = await fetch(url("sample/products.csv"));
    if (!response.ok) throw new Error(`The server returned status ${response.status}.`);
    chooseFile(new File([await response.blob()], "sample.csv", { type: "text/csv" }));
  } catch (error) {
    problem.replaceChildren(problemPanel({ title: "The sample did not load", message: error.message, errors: [] }));
  }
}

async function showRecentRequests(section, signal) {
  const table = new RequestTable("Recent requests");
  const totals = h("p", { class: "muted" });
  async function refresh() {
    const page = await call("GET", "listRequests", { query: { limit: MAX_RECENT }, signal, quiet: true });
    table.update(page.requests, true);
    totals.textContent = totalsText(page.totals);
    if (table.size && !section.firstChild) {
      section.append(
        h("div", { class: "section-head" }, h("h2", { id: "recent-title" }, "Recent requests"), totals, h("a", { href: "#/requests" }, "All requests")),
        table.element);
    }
    return table.isBusy;
  }
  // Not signed in, or the server cannot be reached: the upload shows such errors.
  await refresh().catch(() => null);
  if (!signal.aborted) keepFresh(refresh, signal);
}
