// What is wrong with a file, shown in the file's own rows.

import { h, icon } from "./dom.js";
import { count, many } from "./format.js";
import { readRows } from "./csv.js";

const MOST_CELL = 400;
const MOST_BESIDE = 80;
const MOST_COLUMNS = 40;

/** A section with every fault the service found; rows are read from `file`, where that is possible. */
export async function faultsPanel(problem, file) {
  const faults = problem.errors;
  const table = await readRows(file, faults.map((fault) => fault.row).filter(Boolean));
  // A header's fault is the whole file's.
  const isWhole = (fault) => !fault.row || fault.row === (table?.header?.number ?? 1);
  const whole = faults.filter(isWhole);
  const byRow = Map.groupBy(faults.filter((f) => !isWhole(f)), (f) => f.row);
  const rest = problem.errorCount - faults.length;
  return h("section", { class: "panel faults", "aria-labelledby": "faults-title" },
    h("h2", { id: "faults-title", tabindex: "-1" }, icon("alert"),
      `${many(problem.errorCount, "thing")} to mend in ${file.name}`),
    h("p", { class: "muted" }, "Nothing was stored. Mend the file, save it as CSV, and choose it again."),
    whole.length > 0 && h("ul", { class: "whole-file" }, whole.map((f) => h("li", {}, sentence(f)))),
    byRow.size > 0 && rowsTable(byRow, table),
    rest > 0 && h("p", { class: "muted" }, `These are the first ${count(faults.length)}; ${count(rest)} more were found.`));
}

function sentence(fault) {
  return [fault.message, fault.value && [" ", h("code", {}, clip(fault.value))]];
}

function rowsTable(byRow, table) {
  const header = table?.header?.cells;
  const rows = [...byRow].map(([number, faults]) => ({ number, faults, cells: table?.rows.get(number) ?? [] }));
  const columns = header ? columnsWorthShowing(header, rows) : [];
  return h("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": "Rows with faults" },
    h("table", { class: header ? "rows" : "rows bare" },
      h("thead", {}, h("tr", {},
        h("th", { scope: "col" }, "Row"),
        h("th", { scope: "col" }, "What is wrong"),
        columns.map((at) => h("th", { scope: "col" }, header[at] || "–")))),
      h("tbody", {}, rows.map((row) => faultyRow(row, header, columns)))));
}

/** The columns that hold anything: the first of them, and all that hold a fault. */
function columnsWorthShowing(header, rows) {
  const all = Array.from({ length: Math.max(header.length, ...rows.map((row) => row.cells.length)) }, (_, at) => at);
  const used = all.filter((at) => header[at]?.trim() || rows.some((row) => row.cells[at]?.trim()));
  const faulty = (row, at) => faultsAt(row, header, at).some((f) => at < header.length || row.cells[at]?.includes(bare(f.value)));
  return used.filter((at, place) => place < MOST_COLUMNS || rows.some((row) => faulty(row, at)));
}

/** The faults of a row's cell. Cells beyond the header belong to a list of URLs that was never quoted. */
function faultsAt(row, header, at) {
  const name = header[Math.min(at, header.length - 1)];
  return row.faults.filter((f) => same(name, f.column));
}

function faultyRow(row, header, columns) {
  return h("tr", {},
    h("th", { scope: "row" }, count(row.number)),
    h("td", { class: "messages" }, h("ul", {}, row.faults.map((fault) =>
      h("li", {}, fault.column && h("b", {}, fault.column, ": "), sentence(fault))))),
    columns.map((at) => {
      const here = faultsAt(row, header, at);
      return h("td", { class: here.length ? "faulty" : "" }, cellText(row.cells[at] ?? "", here));
    }));
}

const same = (name, column) => column && name.trim().toLowerCase() === column.trim().toLowerCase();

/** A value as it stands in the file: one that the service shortened ends in an ellipsis. */
const bare = (value) => value?.replace(/…$/, "");

const clip = (text, most = MOST_CELL) => (text.length > most ? `${text.slice(0, most)}…` : text);

/** The cell, with what is wrong in it marked. */
function cellText(cell, faults) {
  if (!cell) return h("span", { class: "muted" }, "empty");
  const marks = [];
  for (const { value } of faults) {
    const wanted = bare(value);
    const start = wanted ? cell.indexOf(wanted, marks.at(-1)?.[1] ?? 0) : -1;
    if (start >= 0) marks.push([start, start + wanted.length]);
  }
  if (!marks.length) return clip(cell, faults.length ? MOST_CELL : MOST_BESIDE);
  const pieces = marks.flatMap(([start, end], at) => {
    const before = cell.slice(marks[at - 1]?.[1] ?? 0, start);
    return [before.length > MOST_BESIDE ? `…${before.slice(-MOST_BESIDE)}` : before, h("mark", {}, clip(cell.slice(start, end)))];
  });
  const after = cell.slice(marks.at(-1)[1]);
  return [pieces, clip(after, MOST_BESIDE)];
}
