// The start view: choose a file, check it, choose the options, upload it.

import { announce, h, icon } from "./dom.js";
import { call, randomKey, upload, url } from "./api.js";
import { bytes, plural } from "./format.js";
import { heading, problemPanel, skeleton } from "./components.js";
import { optionsForm } from "./options.js";
import { storeName, requestTable } from "./requests.js";

const CHECK_BYTES = 16 * 2 ** 20; // A larger file is only checked during its upload.

/** Show the view in `main` until `signal` aborts. */
export function view(main, { signal, navigate }) {
  const area = h("div", { class: "upload-area" });
  const recent = h("section", { class: "recent", "aria-labelledby": "recent-title" });
  main.append(
    h("div", { class: "intro" },
      heading("Compress every image in your spreadsheet"),
      h("p", { class: "lead" },
        "Upload a CSV with products and image URLs. imgsvc downloads, compresses and hosts every image, and returns your CSV with the new URLs.")),
    area, recent);
  let current = null;
  const chooseFile = (file) => {
    current?.abort(); // Stop the check or upload of the previous file.
    current = new AbortController();
    return checkFile(file, { ...context, signal: AbortSignal.any([signal, current.signal]) });
  };
  const context = { area, signal, navigate, chooseFile };
  acceptDrops(chooseFile, signal);
  showDropZone(context);
  showRecentRequests(recent, signal);
}

function showDropZone({ area, chooseFile }) {
  const input = h("input", {
    type: "file", id: "file", class: "visually-hidden", accept: ".csv,.tsv,.txt,text/csv,text/plain",
    on: { change: () => input.files[0] && chooseFile(input.files[0]) },
  });
  const problem = h("div", {});
  area.replaceChildren(
    h("div", { class: "drop-zone" },
      icon("upload"),
      h("p", { class: "drop-zone-title" }, h("span", { class: "wide-only" }, "Drop a CSV here, or "), h("span", { class: "narrow-only" }, "Start with a CSV")),
      input,
      h("label", { for: "file", class: "button primary" }, icon("file"), "Choose a file"),
      h("p", { class: "muted" },
        "No file yet? ",
        h("button", { type: "button", class: "link", on: { click: () => loadSample(chooseFile, problem) } }, "Try a sample"),
        " (7 products, one broken on purpose). It needs an internet connection.")),
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
      "Product Name and Input Image Urls are required. Separate several URLs with commas. S. No. is optional. All other columns are kept. The delimiter can be a comma, semicolon or tab. CSV files saved by Excel work. ",
      h("a", { href: url("static/sample.csv").href, download: "sample.csv" }, "Download the sample")));
}

async function loadSample(chooseFile, problem) {
  try {
    const response = await fetch(url("static/sample.csv"));
    if (!response.ok) throw new Error(`The server returned status ${response.status}.`);
    chooseFile(new File([await response.blob()], "sample.csv", { type: "text/csv" }));
  } catch (error) {
    problem.replaceChildren(problemPanel({ title: "The sample did not load", message: error.message, errors: [] }));
  }
}

function acceptDrops(chooseFile, signal) {
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const highlight = (enabled) => document.body.classList.toggle("drag-over", enabled);
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    highlight(true);
  }, { signal });
  addEventListener("dragleave", (event) => !event.relatedTarget && highlight(false), { signal });
  addEventListener("drop", (event) => {
    highlight(false);
    if (!hasFiles(event)) return;
    event.preventDefault();
    if (event.dataTransfer.files[0]) chooseFile(event.dataTransfer.files[0]);
  }, { signal });
  signal.addEventListener("abort", () => highlight(false));
}

/** Check a file with the server, then show the form that uploads it. */
async function checkFile(file, context) {
  const { area } = context;
  const card = fileCard(file, context);
  const body = h("div", { class: "stack" }, h("p", { class: "busy" }, "Checking every row…"), skeleton(2));
  area.replaceChildren(h("section", { class: "panel stack", "aria-label": "Chosen file" }, card.element, body));
  announce(`Checking ${file.name}.`);
  let counts = null;
  if (file.size <= CHECK_BYTES) {
    try {
      counts = await upload(file, { dryRun: "true" }, { signal: context.signal });
    } catch (problem) {
      await showProblem(problem, file, context, () => checkFile(file, context));
      return;
    }
  }
  if (context.signal.aborted) return;
  card.showResult(counts ? `${plural(counts.products, "product")}, ${plural(counts.images, "image")}` : "Will be checked during the upload", counts);
  const form = optionsForm(counts ? `Compress ${plural(counts.images, "image")}` : "Upload and compress", (options) =>
    submit(file, options, context));
  body.replaceChildren(form);
  form.querySelector("button.primary").focus();
  announce(counts ? `${file.name}: no problems found. ${plural(counts.products, "product")}, ${plural(counts.images, "image")}.` : "");
}

function fileCard(file, context) {
  const details = h("span", { class: "muted" }, bytes(file.size));
  const element = h("div", { class: "file-card" },
    icon("file"),
    h("div", {}, h("h2", {}, file.name), details),
    h("button", { type: "button", class: "quiet", on: { click: () => chooseAnother(context) } }, "Choose another file"));
  return {
    element,
    showResult(text, isValid) {
      details.replaceChildren(`${bytes(file.size)} · ${text}`, isValid ? h("span", { class: "good" }, icon("check"), "No problems found") : "");
    },
  };
}

function chooseAnother(context) {
  showDropZone(context);
  context.area.querySelector("input").focus();
}

async function showProblem(problem, file, context, retry) {
  const { area, signal } = context;
  if (signal.aborted) return;
  const hasFileErrors = problem.code === "invalid-csv" && problem.errors.length > 0;
  const panel = hasFileErrors ? (await import("./file-errors.js")).fileErrorsPanel(problem, file.name) : problemPanel(problem, retry);
  if (signal.aborted) return;
  showDropZone(context);
  area.prepend(panel);
  panel.querySelector("[tabindex='-1'], button")?.focus();
  announce(hasFileErrors ? `${plural(problem.errorCount, "problem")} found in ${file.name}.` : problem.message);
}

/** Upload the file. Every attempt sends the same idempotency key, so a lost response does not create a second request. */
async function submit(file, options, context, key = randomKey()) {
  const { area, signal, navigate } = context;
  const previous = [...area.children];
  const bar = h("progress", { max: "1", value: "0", "aria-label": "Upload" });
  const text = h("p", { class: "busy" }, "Uploading…");
  area.replaceChildren(h("section", { class: "panel stack", "aria-label": "Upload" }, fileCard(file, context).element, text, bar));
  const warnBeforeLeaving = (event) => event.preventDefault();
  addEventListener("beforeunload", warnBeforeLeaving);
  try {
    const accepted = await upload(file, options, {
      key,
      signal,
      onProgress(fraction) {
        bar.value = fraction;
        if (fraction >= 1) text.textContent = "Uploaded. Checking and saving every row…";
      },
    });
    storeName(accepted.requestId, file.name);
    navigate(`#/request/${accepted.requestId}`);
  } catch (problem) {
    if (problem.code === "invalid-option") restoreForm(problem, previous, context);
    else await showProblem(problem, file, context, () => submit(file, options, context, key));
  } finally {
    removeEventListener("beforeunload", warnBeforeLeaving);
  }
}

/** Show the form again, with its values, after the server rejected an option. */
function restoreForm(problem, previous, { area, signal }) {
  if (signal.aborted) return;
  area.replaceChildren(problemPanel(problem), ...previous.filter((element) => !element.matches(".problem")));
  area.querySelector(".options").open = true;
  area.querySelector("#quality").focus();
}

async function showRecentRequests(section, signal) {
  try {
    const { requests } = await call("GET", "listRequests", { query: { limit: 5 }, signal, quiet: true });
    if (!requests.length) return;
    section.append(
      h("div", { class: "section-head" }, h("h2", { id: "recent-title" }, "Recent requests"), h("a", { href: "#/requests" }, "All requests")),
      requestTable(requests, "Recent requests"));
  } catch {
    // Not signed in, or the server cannot be reached. The upload shows such errors.
  }
}
