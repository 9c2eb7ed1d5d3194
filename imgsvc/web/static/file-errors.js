// Shows the errors of a file in a table of its invalid rows.

import { h, icon } from "./dom.js";
import { count, plural } from "./format.js";

const MAX_CELL_LENGTH = 400; // Characters shown of an invalid cell or value.
const MAX_CONTEXT_LENGTH = 80; // Characters shown of a valid cell, and beside an invalid value.

const MAX_EQUAL = 5; // Rows shown of those with the same problem. A button shows the others.

const HEADER_ERRORS = ["missing_column", "duplicate_column"];

/**
 * Return a section with the errors that the server found in the file. `choices` are ways to upload it
 * all the same, as [{text, action}]; `chooseFile` opens the file dialog.
 */
export function fileErrorsPanel(problem, fileName, choices, chooseFile) {
  const { errors, columns } = problem;
  // Errors of the header concern the whole file.
  const isFileLevel = (error) => !error.row || !columns.length || HEADER_ERRORS.includes(error.code);
  const fileLevel = errors.filter(isFileLevel);
  const byRow = Map.groupBy(errors.filter((error) => !isFileLevel(error)), (error) => error.row);
  const notListed = problem.errorCount - errors.length;
  return h("section", { class: "panel file-errors", "aria-labelledby": "file-errors-title" },
    h("h2", { id: "file-errors-title", tabindex: "-1" }, icon("alert"),
      `${plural(problem.errorCount, "problem")} in ${fileName}`),
    h("p", { class: "muted" }, "Nothing was uploaded. Fix the file and choose it again."),
    h("div", { class: "buttons" },
      choices.map(({ text, action }) => h("button", { type: "button", on: { click: action } }, text)),
      h("button", { type: "button", class: choices.length ? "quiet" : "", on: { click: chooseFile } }, icon("file"), "Choose the fixed file")),
    fileLevel.length > 0 && h("ul", { class: "file-level-errors" }, fileLevel.map((error) => h("li", {}, errorMessage(error)))),
    byRow.size > 0 && errorTable(byRow, columns),
    notListed > 0 && h("p", { class: "muted" }, `These are the first ${count(errors.length)} problems. There are ${count(notListed)} more.`));
}

function errorMessage(error) {
  return [error.message, error.value && [" ", h("code", {}, clip(error.value))]];
}

function errorTable(byRow, columns) {
  const rows = [...byRow].map(([number, errors]) => ({ number, errors, cells: errors[0].cells ?? [] }));
  const width = Math.max(...rows.map((row) => row.cells.length));
  // A row can have more cells than the header. Columns with errors come first: a table can be wide.
  const names = Array.from({ length: width }, (_, index) => columns[index] ?? "–");
  const invalid = new Set(rows.flatMap((row) => row.errors.map((error) => error.column)));
  const header = [...names.keys()].sort((a, b) => invalid.has(names[b]) - invalid.has(names[a])).map((index) => ({ name: names[index], index }));
  const { shown, folded } = foldEqual(rows);
  const body = h("tbody", {}, shown.map((row) => errorRow(row, header)));
  const table = h("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": "Rows with problems" },
    h("table", { class: width ? "rows" : "rows no-header" },
      h("thead", {}, h("tr", {},
        h("th", { scope: "col" }, "Row"),
        h("th", { scope: "col" }, "Problem"),
        header.map(({ name }) => h("th", { scope: "col" }, name)))),
      body));
  const more = h("button", { type: "button", class: "link", on: { click: showAll } }, `Show ${plural(folded.length, "more row")} with the same problems`);
  function showAll() {
    body.replaceChildren(...rows.map((row) => errorRow(row, header)));
    more.remove();
    table.focus();
  }
  return [table, folded.length > 0 && h("div", { class: "buttons" }, more)];
}

/** Return the first rows of each problem, and the others. */
function foldEqual(rows) {
  const counts = new Map();
  const isShown = ({ errors }) => {
    const problem = JSON.stringify(errors.map((error) => [error.column, error.code]));
    counts.set(problem, (counts.get(problem) ?? 0) + 1);
    return counts.get(problem) <= MAX_EQUAL;
  };
  const shown = rows.filter(isShown);
  return { shown, folded: rows.filter((row) => !shown.includes(row)) };
}

function errorRow(row, header) {
  return h("tr", {},
    h("th", { scope: "row" }, count(row.number)),
    h("td", { class: "messages" }, h("ul", {}, row.errors.map((error) =>
      h("li", {}, error.column && h("b", {}, error.column, ": "), errorMessage(error))))),
    header.map(({ name, index }) => {
      const errors = row.errors.filter((error) => error.column === name);
      if (!errors.length) return h("td", {}, cellText(row.cells[index] ?? "", errors));
      // Of a long cell, each error has the part around its value.
      const parts = [...new Set(errors.map((error) => error.cells?.[index] ?? ""))];
      return h("td", { class: "invalid" }, parts.map((part) => h("div", {}, cellText(part, errors))));
    }));
}

/** Return a value as in the file: the server ends values that it shortened with an ellipsis. */
const withoutEllipsis = (value) => value?.replace(/…$/, "");

const clip = (text, length = MAX_CELL_LENGTH) => (text.length > length ? `${text.slice(0, length)}…` : text);

/** Return the text of a cell, with the invalid values marked. */
function cellText(cell, errors) {
  if (!cell) return h("span", { class: "muted" }, "empty");
  const marks = [];
  for (const { value } of errors) {
    const invalid = withoutEllipsis(value);
    const start = invalid ? cell.indexOf(invalid, marks.at(-1)?.[1] ?? 0) : -1;
    if (start >= 0) marks.push([start, start + invalid.length]);
  }
  if (!marks.length) return clip(cell, errors.length ? MAX_CELL_LENGTH : MAX_CONTEXT_LENGTH);
  const pieces = marks.flatMap(([start, end], index) => {
    const before = cell.slice(marks[index - 1]?.[1] ?? 0, start);
    return [before.length > MAX_CONTEXT_LENGTH ? `…${before.slice(-MAX_CONTEXT_LENGTH)}` : before, h("mark", {}, clip(cell.slice(start, end)))];
  });
  const after = cell.slice(marks.at(-1)[1]);
  return [pieces, clip(after, MAX_CONTEXT_LENGTH)];
}
