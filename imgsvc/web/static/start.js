// The first view: choose a file, have it checked, say how, send it.

import { announce, h, icon } from "./dom.js";
import { call, randomKey, upload, url } from "./api.js";
import { bytes, many } from "./format.js";
import { heading, problemPanel, skeleton } from "./parts.js";
import { optionsForm } from "./options.js";
import { rememberName, requestTable } from "./requests.js";

const CHECK_BYTES = 16 * 2 ** 20; // A larger file is sent once, and checked as it arrives.

/** Show the view in `main` until `signal` aborts. */
export function view(main, { signal, go }) {
  const stage = h("div", { class: "stage" });
  const recent = h("section", { class: "recent", "aria-labelledby": "recent-title" });
  main.append(
    h("div", { class: "intro" },
      heading("Lighter images for a whole spreadsheet"),
      h("p", { class: "lead" },
        "Drop a CSV of products and image URLs. Every image is fetched, compressed and hosted, and the same CSV comes back with the new URLs.")),
    stage, recent);
  let last = null;
  const take = (file) => {
    last?.abort(); // Another file was chosen: what was under way with the last one ends.
    last = new AbortController();
    return examine(file, { ...context, signal: AbortSignal.any([signal, last.signal]) });
  };
  const context = { stage, signal, go, take };
  acceptDrops(take, signal);
  offer(context);
  showRecent(recent, signal);
}

function offer({ stage, take }) {
  const input = h("input", {
    type: "file", id: "file", class: "hidden-visually", accept: ".csv,.tsv,.txt,text/csv,text/plain",
    on: { change: () => input.files[0] && take(input.files[0]) },
  });
  const problem = h("div", {});
  stage.replaceChildren(
    h("div", { class: "drop" },
      icon("upload"),
      h("p", { class: "drop-title" }, h("span", { class: "wide-only" }, "Drop a CSV here, or "), h("span", { class: "narrow-only" }, "Begin with a CSV")),
      input,
      h("label", { for: "file", class: "button primary" }, icon("file"), "Choose a file"),
      h("p", { class: "muted" },
        "No file at hand? ",
        h("button", { type: "button", class: "link", on: { click: () => sample(take, problem) } }, "Try the sample"),
        ": seven rows of public pictures, one address wrong on purpose. The service needs the internet for it.")),
    problem, example());
}

function example() {
  const row = (...cells) => h("tr", {}, cells.map((cell) => h("td", {}, cell)));
  return h("details", { class: "example" },
    h("summary", {}, "What the file looks like"),
    h("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": "Example of a CSV" },
      h("table", { class: "rows" },
        h("thead", {}, h("tr", {}, ["S. No.", "Product Name", "Input Image Urls"].map((t) => h("th", { scope: "col" }, t)))),
        h("tbody", {},
          row("1", "Desk lamp", "https://shop.example/lamp-1.jpg, https://shop.example/lamp-2.jpg"),
          row("2", "Oak shelf", "https://shop.example/shelf.png")))),
    h("p", { class: "muted" },
      "Product Name and Input Image Urls must be there; several URLs are parted by commas. S. No. may be missing, and further columns come back as they were. Comma, semicolon or tab; what Excel saves as CSV is fine. ",
      h("a", { href: url("static/sample.csv").href, download: "sample.csv" }, "Download the sample")));
}

async function sample(take, problem) {
  try {
    const answer = await fetch(url("static/sample.csv"));
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    take(new File([await answer.blob()], "sample.csv", { type: "text/csv" }));
  } catch (error) {
    problem.replaceChildren(problemPanel({ title: "The sample did not load", message: error.message, errors: [] }));
  }
}

function acceptDrops(take, signal) {
  const has = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const mark = (on) => document.body.classList.toggle("dropping", on);
  addEventListener("dragover", (event) => {
    if (!has(event)) return;
    event.preventDefault();
    mark(true);
  }, { signal });
  addEventListener("dragleave", (event) => !event.relatedTarget && mark(false), { signal });
  addEventListener("drop", (event) => {
    mark(false);
    if (!has(event)) return;
    event.preventDefault();
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  }, { signal });
  signal.addEventListener("abort", () => mark(false));
}

/** A chosen file: check it with the service, then offer to send it. */
async function examine(file, context) {
  const { stage } = context;
  const card = fileCard(file, context);
  const body = h("div", { class: "stack" }, h("p", { class: "busy" }, "Checking every row…"), skeleton(2));
  stage.replaceChildren(h("section", { class: "panel stack", "aria-label": "The chosen file" }, card.element, body));
  announce(`Checking ${file.name}.`);
  let counts = null;
  if (file.size <= CHECK_BYTES) {
    try {
      counts = await upload(file, { dryRun: "true" }, { signal: context.signal });
    } catch (problem) {
      await refuse(problem, file, context, () => examine(file, context));
      return;
    }
  }
  if (context.signal.aborted) return;
  card.say(counts ? `${many(counts.products, "product")}, ${many(counts.images, "image")}` : "Checked as it is sent", counts);
  const form = optionsForm(counts ? `Compress ${many(counts.images, "image")}` : "Upload and compress", (options) =>
    submit(file, options, context));
  body.replaceChildren(form);
  form.querySelector("button.primary").focus();
  announce(counts ? `${file.name} is in order: ${many(counts.products, "product")}, ${many(counts.images, "image")}.` : "");
}

function fileCard(file, context) {
  const note = h("span", { class: "muted" }, bytes(file.size));
  const element = h("div", { class: "file-card" },
    icon("file"),
    h("div", {}, h("h2", {}, file.name), note),
    h("button", { type: "button", class: "quiet", on: { click: () => offerAgain(context) } }, "Choose another"));
  return {
    element,
    say(text, good) {
      note.replaceChildren(`${bytes(file.size)} · ${text}`, good ? h("span", { class: "good" }, icon("check"), "in order") : "");
    },
  };
}

function offerAgain(context) {
  offer(context);
  context.stage.querySelector("input").focus();
}

async function refuse(problem, file, context, retry) {
  const { stage, signal } = context;
  if (signal.aborted) return;
  const faulty = problem.code === "invalid-csv" && problem.errors.length > 0;
  const panel = faulty ? await (await import("./faults.js")).faultsPanel(problem, file) : problemPanel(problem, retry);
  if (signal.aborted) return;
  offer(context);
  stage.prepend(panel);
  panel.querySelector("[tabindex='-1'], button")?.focus();
  announce(faulty ? `${many(problem.errorCount, "fault")} found in ${file.name}.` : problem.message);
}

/** Send the file. Every attempt has the same key: a lost answer does not make two requests of it. */
async function submit(file, options, context, key = randomKey()) {
  const { stage, signal, go } = context;
  const form = [...stage.children];
  const bar = h("progress", { max: "1", value: "0", "aria-label": "Upload" });
  const text = h("p", { class: "busy" }, "Sending the file…");
  stage.replaceChildren(h("section", { class: "panel stack", "aria-label": "Upload" }, fileCard(file, context).element, text, bar));
  const warn = (event) => event.preventDefault();
  addEventListener("beforeunload", warn);
  try {
    const accepted = await upload(file, options, {
      key,
      signal,
      onProgress(share) {
        bar.value = share;
        if (share >= 1) text.textContent = "Sent. Checking and storing every row…";
      },
    });
    rememberName(accepted.requestId, file.name);
    go(`#/request/${accepted.requestId}`);
  } catch (problem) {
    if (problem.code === "invalid-option") reconsider(problem, form, context);
    else await refuse(problem, file, context, () => submit(file, options, context, key));
  } finally {
    removeEventListener("beforeunload", warn);
  }
}

/** An option was refused: show the form as it was. */
function reconsider(problem, form, { stage, signal }) {
  if (signal.aborted) return;
  stage.replaceChildren(problemPanel(problem), ...form.filter((element) => !element.matches(".problem")));
  stage.querySelector(".options").open = true;
  stage.querySelector("#quality").focus();
}

async function showRecent(section, signal) {
  try {
    const { requests } = await call("GET", "listRequests", { query: { limit: 5 }, signal, quiet: true });
    if (!requests.length) return;
    section.append(
      h("div", { class: "section-head" }, h("h2", { id: "recent-title" }, "Recent requests"), h("a", { href: "#/requests" }, "All requests")),
      requestTable(requests, "Recent requests"));
  } catch {
    // Without a key, or without a service: the upload will say so when it matters.
  }
}
