// From a chosen file to its request: check the file, show how it is read, ask for what is unclear, upload it.

import { announce, h, icon } from "./dom.js";
import { randomKey, upload } from "./api.js";
import { bytes, plural } from "./format.js";
import { problemPanel, skeleton } from "./components.js";
import { optionsForm } from "./options.js";
import { columnForm, encodingForm, forgetColumns, rememberColumns, rememberedColumns, rowsForm } from "./reading-forms.js";
import { tablePreview } from "./table-preview.js";
import { Trial } from "./trial.js";

const MAX_CHECKED_BYTES = 16 * 2 ** 20; // Of a larger file only the start is checked before its upload.
const START_BYTES = 2 ** 20;
const MAX_NAME_LENGTH = 200; // Characters of a request's name.
const NOT_CHECKED = "Will be checked during the upload";

/**
 * The upload of one file. `context`: {area, signal, navigate, showDropZone, startOver}.
 *
 * `reading` are the options that say how the file is read. `required` says which columns must be chosen,
 * because the header is unknown.
 */
export class FileUpload {
  #reading = {};
  #required = { image: false, name: false };
  #remembered = false; // Whether the columns are those of an earlier file.

  constructor(file, context) {
    Object.assign(this, { file, context });
  }

  /** Check the file with the server, then show the form that uploads it. */
  async check() {
    const { area, signal } = this.context;
    this.#show("Chosen file", h("p", { class: "busy" }, "Checking every row…"), skeleton(2));
    announce(`Checking ${this.file.name}.`);
    const isWhole = this.file.size <= MAX_CHECKED_BYTES;
    let result = null;
    try {
      result = await this.#dryRunWithMemory(isWhole ? this.file : await startOf(this.file), isWhole ? {} : { onInvalid: "skip" });
    } catch (problem) {
      // Errors in the start alone can come from the cut.
      if (isWhole || asksForReading(problem)) {
        await this.#showProblem(problem, () => this.check());
        return;
      }
    }
    if (!signal.aborted) this.#showForm(result, isWhole && result !== null);
    if (!signal.aborted) area.querySelector("form.upload button.primary").focus({ preventScroll: true });
  }

  #dryRun(file, options = {}) {
    return upload(file, { dryRun: "true", ...this.#reading, ...options }, { signal: this.context.signal });
  }

  /** Make a dry run, with the columns that were chosen for an earlier file with the same header, if any. */
  async #dryRunWithMemory(file, options) {
    const isChosen = this.#hasChosenColumns();
    let result = null;
    let problem = null;
    try {
      result = await this.#dryRun(file, options);
    } catch (error) {
      if (!error.columns?.length) throw error;
      problem = error;
    }
    const names = result ? result.columns.map((column) => column.name) : problem.columns;
    if (isChosen && result) rememberColumns(names, this.#reading);
    const remembered = isChosen ? null : rememberedColumns(names);
    if (!remembered) {
      if (problem) throw problem;
      return result;
    }
    if (problem) this.#require(problem);
    Object.assign(this.#reading, remembered);
    this.#remembered = true;
    return this.#dryRun(file, options);
  }

  #hasChosenColumns() {
    return Boolean(this.#reading.nameColumn || this.#reading.imageColumn?.length);
  }

  /** Record which columns the user must choose. With a chosen image column, names are optional. */
  #require(problem) {
    const missing = problem.errors.filter((error) => error.code === "missing_column").map((error) => error.column);
    if (!missing.length) return;
    const image = missing.includes("Input Image Urls");
    this.#required = { image, name: !image };
  }

  #show(label, ...content) {
    const card = this.#card();
    this.context.area.replaceChildren(h("section", { class: "panel stack", "aria-label": label }, card.element, ...content));
    return card;
  }

  #card() {
    const details = h("span", { class: "muted" }, bytes(this.file.size));
    const element = h("div", { class: "file-card" },
      icon("file"),
      h("div", {}, h("h2", {}, this.file.name), details),
      h("button", { type: "button", class: "quiet", on: { click: this.context.startOver } }, "Choose another file"));
    return {
      element,
      showResult(text, isValid) {
        details.append(` · ${text}`, isValid ? h("span", { class: "good" }, icon("check"), "No problems found") : "");
      },
    };
  }

  /** Show how the file is read, and the form that uploads it. `result`: of the dry run, or null. */
  #showForm(result, isChecked) {
    const counts = isChecked ? `${plural(result.products, "product")}, ${plural(result.images, "image")}` : NOT_CHECKED;
    const skipped = isChecked && result.skipped ? ` · ${plural(result.skipped, "row")} left out` : "";
    const action = isChecked ? `Compress ${plural(result.images, "image")}` : "Upload and compress";
    const trial = isChecked && new Trial(result.preview, result.images, this.context.signal);
    const actions = [
      h("button", { class: "primary large" }, action),
      trial && trial.urls.length > 0 && h("button", { type: "button", class: "large", on: { click: () => form.reportValidity() && trial.start(form.values()) } },
        `Try ${plural(trial.urls.length, "image")} first`),
    ];
    const form = optionsForm(actions, requestNameOf(this.file), (options) => this.#submit(options));
    form.classList.add("upload");
    const card = this.#show("Chosen file", result && this.#preview(result), form, trial && trial.element);
    card.showResult(counts + skipped, isChecked && !skipped);
    announce(isChecked ? `${this.file.name}: ${skipped ? "" : "no problems found. "}${counts}${skipped}.` : "");
  }

  #preview(result) {
    const names = result.columns.map((column) => column.name);
    const forms = [
      columnForm({ names, reading: this.#reading, required: this.#required, action: "Use these columns", onSubmit: (chosen) => {
        if (!chosen.nameColumn && !chosen.imageColumn.length) forgetColumns(names);
        this.#read(chosen);
      } }),
      result.encoding && encodingForm({ encoding: this.#reading.encoding, detected: result.encoding, action: "Use this encoding", onSubmit: (chosen) => this.#read(chosen) }),
      rowsForm({ reading: this.#reading, action: "Use these rules", onSubmit: (chosen) => this.#read(chosen) }),
    ];
    return tablePreview(result, { isChosen: this.#hasChosenColumns(), isRemembered: this.#remembered }, forms);
  }

  /** Check the file again with other options. */
  #read(options) {
    Object.assign(this.#reading, options);
    this.#remembered = false;
    return this.check();
  }

  async #showProblem(problem, retry) {
    const { area, signal, showDropZone } = this.context;
    if (signal.aborted) return;
    if (asksForReading(problem)) {
      this.#askForReading(problem);
      return;
    }
    const hasFileErrors = problem.code === "invalid-csv" && problem.errors.length > 0;
    let panel = null;
    if (hasFileErrors) {
      const [{ fileErrorsPanel }, choices] = await Promise.all([import("./file-errors.js"), this.#waysOn(problem)]);
      panel = fileErrorsPanel(problem, this.file.name, choices, () => area.querySelector("#file").click());
    } else panel = problemPanel(problem, retry);
    if (signal.aborted) return;
    showDropZone();
    area.prepend(panel);
    panel.querySelector("[tabindex='-1'], button")?.focus();
    announce(hasFileErrors ? `${plural(problem.errorCount, "problem")} found in ${this.file.name}.` : problem.message);
  }

  /** Ask for the columns or the encoding that the server does not know. */
  #askForReading(problem) {
    this.#require(problem);
    const suggestions = problem.errors.flatMap((error) => error.suggestions ?? []);
    const isEncoding = problem.errors.some((error) => error.code === "bad_encoding");
    const isUnknown = problem.errors.some((error) => error.code === "missing_column");
    const common = { suggestions, action: "Check the file", onSubmit: (chosen) => this.#read(chosen) };
    const form = isEncoding
      ? encodingForm({ ...common, encoding: this.#reading.encoding })
      : columnForm({ ...common, names: problem.columns, reading: this.#reading, required: this.#required });
    const title = isEncoding ? "Which encoding does the text have?" : "Which columns hold the images and the names?";
    const reason = isEncoding
      ? "The file is not UTF-8. Choose the encoding in which the text reads right, or save the file as UTF-8."
      : `${isUnknown ? "The header of this file is unknown." : problem.errors[0].message} Your choice is remembered in this browser for files with the same header.`;
    this.#show("Chosen file", h("div", { class: "stack ask" }, h("h2", { tabindex: "-1" }, title), h("p", { class: "muted" }, reason), form));
    form.querySelector("select").focus();
    announce(`${title} ${reason}`);
  }

  /** Return how the file can be uploaded without a change: as [{text, action}]. */
  async #waysOn(problem) {
    const { errors, columns } = problem;
    if (!columns.length) return [];
    const hasNoRows = errors.some((error) => error.code === "no_rows");
    const choose = { text: "Choose the columns", action: () => this.#askForReading(problem) };
    const others = hasNoRows || this.#hasChosenColumns() ? [choose] : [];
    if (hasNoRows) return others;
    if (this.file.size > MAX_CHECKED_BYTES) {
      const options = { onInvalid: "skip" };
      return [{ text: "Upload without the invalid rows", action: () => this.#goOn(options, null) }, ...others];
    }
    const areEmpty = errors.every((error) => error.code === "empty_value");
    const attempts = [
      { options: { onInvalid: "skip" }, text: (result) => `Upload without ${result.skipped === 1 ? "this row" : `these ${plural(result.skipped, "row")}`}` },
      areEmpty && { options: { allowEmpty: "true" }, text: () => "Keep rows without images" },
    ];
    const found = await Promise.all(attempts.filter(Boolean).map(async ({ options, text }) => {
      try {
        const result = await this.#dryRun(this.file, options);
        return [{ text: text(result), action: () => this.#goOn(options, result) }];
      } catch {
        return []; // These options do not avoid all errors.
      }
    }));
    return [...found.flat(), ...others];
  }

  #goOn(options, result) {
    Object.assign(this.#reading, options);
    this.#showForm(result, result !== null);
    this.context.area.querySelector("form.upload button.primary").focus();
  }

  /** Show the form again, with its values, after the user cancelled the upload. */
  #showAgain(previous) {
    const { area } = this.context;
    area.replaceChildren(...previous.filter((element) => !element.matches(".problem")));
    area.querySelector("form.upload button.primary").focus();
    announce("The upload was cancelled.");
  }

  /** Upload the file. Every attempt sends the same idempotency key, so a lost response does not create a second request. */
  async #submit(options, key = randomKey()) {
    const { area, signal, navigate } = this.context;
    const previous = [...area.children];
    const bar = h("progress", { max: "1", value: "0", "aria-label": "Upload" });
    const text = h("p", { class: "busy" }, "Uploading…");
    const stop = new AbortController();
    const cancel = h("button", { type: "button", on: { click: () => stop.abort() } }, icon("stop"), "Cancel upload");
    const card = this.#show("Upload", text, bar, h("div", { class: "buttons" }, cancel));
    card.element.querySelector("button").remove();
    cancel.focus();
    const warnBeforeLeaving = (event) => event.preventDefault();
    addEventListener("beforeunload", warnBeforeLeaving);
    try {
      const accepted = await upload(this.file, { ...this.#reading, ...options }, {
        key,
        signal: AbortSignal.any([signal, stop.signal]),
        onProgress(fraction) {
          bar.value = fraction;
          cancel.hidden = fraction >= 1; // Too late: the server has the file.
          if (fraction >= 1) text.textContent = "Uploaded. Checking and saving every row…";
        },
      });
      navigate(`#/request/${accepted.requestId}`);
    } catch (problem) {
      if (stop.signal.aborted) this.#showAgain(previous);
      else if (problem.code === "invalid-option") restoreForm(problem, previous, this.context);
      else await this.#showProblem(problem, () => this.#submit(options, key));
    } finally {
      removeEventListener("beforeunload", warnBeforeLeaving);
    }
  }
}

/** Return whether the server asks how to read the file: it does not know its columns or its encoding. */
function asksForReading({ code, errors, columns }) {
  if (code !== "invalid-csv") return false;
  const has = (each) => errors.some((error) => error.code === each);
  return has("bad_encoding") || (has("missing_column") && columns.length > 0);
}

/** Return the first whole lines of a file. */
async function startOf(file) {
  const start = new Uint8Array(await file.slice(0, START_BYTES).arrayBuffer());
  return file.slice(0, start.lastIndexOf(10) + 1 || START_BYTES);
}

/** Return the name of a request: its file's name without control characters. */
function requestNameOf(file) {
  return [...file.name.replace(/[\p{Cc}\p{Cs}]/gu, "").trim()].slice(0, MAX_NAME_LENGTH).join("").trim();
}

/** Show the form again, with its values, after the server rejected an option. */
function restoreForm(problem, previous, { area, signal }) {
  if (signal.aborted) return;
  area.replaceChildren(problemPanel(problem), ...previous.filter((element) => !element.matches(".problem")));
  area.querySelector(".options").open = true;
  area.querySelector("#quality").focus();
}
