// Shows the errors of a file in a table of its invalid rows.

import { h, icon } from "./dom.js";
import { count, plural } from "./format.js";
import { readRows } from "./csv.js";

const MAX_CELL_LENGTH = 400; // Characters shown of an invalid cell or value.
const MAX_CONTEXT_LENGTH = 80; // Characters shown of a valid cell, and beside an invalid value.
const MAX_COLUMNS = 40; // Columns shown, plus those with errors.

/** Return a section with the errors that the server found. The rows are read from `file`, if possible. */
export async function fileErrorsPanel(problem, file) {
  const { errors } = problem;
  const table = await readRows(file, errors.map((error) => error.row).filter(Boolean));
  // An error of the header is shown as an error of the file.
  const isFileLevel = (error) => !error.row || error.row === (table?.header?.number ?? 1);
  const fileLevel = errors.filter(isFileLevel);
  const byRow = Map.groupBy(errors.filter((error) => !isFileLevel(error)), (error) => error.row);
  const notListed = problem.errorCount - errors.length;
  return h("section", { class: "panel file-errors", "aria-labelledby": "file-errors-title" },
    h("h2", { id: "file-errors-title", tabindex: "-1" }, icon("alert"),
      `${plural(problem.errorCount, "problem")} in ${file.name}`),
    h("p", { class: "muted" }, "Nothing was uploaded. Fix the file, save it as CSV and choose it again."),
    fileLevel.length > 0 && h("ul", { class: "file-level-errors" }, fileLevel.map((error) => h("li", {}, errorMessage(error)))),
    byRow.size > 0 && errorTable(byRow, table),
    notListed > 0 && h("p", { class: "muted" }, `These are the first ${count(errors.length)} problems. There are ${count(notListed)} more.`));
}

function errorMessage(error) {
  return [error.message, error.value && [" ", h("code", {}, clip(error.value))]];
}

function errorTable(byRow, table) {
  const header = table?.header?.cells;
  const rows = [...byRow].map(([number, errors]) => ({ number, errors, cells: table?.rows.get(number) ?? [] }));
  const columns = header ? visibleColumns(header, rows) : [];
  return h("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": "Rows with problems" },
    h("table", { class: header ? "rows" : "rows no-header" },
      h("thead", {}, h("tr", {},
        h("th", { scope: "col" }, "Row"),
        h("th", { scope: "col" }, "Problem"),
        columns.map((column) => h("th", { scope: "col" }, header[column] || "–")))),
      h("tbody", {}, rows.map((row) => errorRow(row, header, columns)))));
}

/** Return the indexes of the columns to show: the first MAX_COLUMNS that are not empty, and all with an error. */
function visibleColumns(header, rows) {
  const all = Array.from({ length: Math.max(header.length, ...rows.map((row) => row.cells.length)) }, (_, column) => column);
  const used = all.filter((column) => header[column]?.trim() || rows.some((row) => row.cells[column]?.trim()));
  const hasError = (row, column) =>
    errorsIn(row, header, column).some((error) => column < header.length || row.cells[column]?.includes(withoutEllipsis(error.value)));
  return used.filter((column, position) => position < MAX_COLUMNS || rows.some((row) => hasError(row, column)));
}

/** Return the errors of a row's cell. Cells beyond the header come from a list of URLs without quotes. */
function errorsIn(row, header, column) {
  const name = header[Math.min(column, header.length - 1)];
  return row.errors.filter((error) => isSameName(name, error.column));
}

function errorRow(row, header, columns) {
  return h("tr", {},
    h("th", { scope: "row" }, count(row.number)),
    h("td", { class: "messages" }, h("ul", {}, row.errors.map((error) =>
      h("li", {}, error.column && h("b", {}, error.column, ": "), errorMessage(error))))),
    columns.map((column) => {
      const errors = errorsIn(row, header, column);
      return h("td", { class: errors.length ? "invalid" : "" }, cellText(row.cells[column] ?? "", errors));
    }));
}

const isSameName = (name, column) => column && name.trim().toLowerCase() === column.trim().toLowerCase();

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
