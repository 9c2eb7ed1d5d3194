// What is wrong with a file, shown in the file's own rows.

import { h, icon } from "./dom.js";
import { count, many } from "./format.js";
import { readRows } from "./csv.js";

const MOST_CELL = 400;
const MOST_BESIDE = 80;

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
  return h("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": "Rows with faults" },
    h("table", { class: header ? "rows" : "rows bare" },
      h("thead", {}, h("tr", {},
        h("th", { scope: "col" }, "Row"),
        h("th", { scope: "col" }, "What is wrong"),
        header?.map((name) => h("th", { scope: "col" }, name || "–")))),
      h("tbody", {}, [...byRow].map(([number, faults]) => faultyRow(number, faults, header, table?.rows.get(number))))));
}

function faultyRow(number, faults, header, cells) {
  const broken = Map.groupBy(faults, (f) => header?.findIndex((name) => same(name, f.column)) ?? -1);
  return h("tr", {},
    h("th", { scope: "row" }, count(number)),
    h("td", { class: "messages" }, h("ul", {}, faults.map((fault) =>
      h("li", {}, fault.column && h("b", {}, fault.column, ": "), sentence(fault))))),
    header && Array.from({ length: Math.max(header.length, cells?.length ?? 0) }, (_, at) => {
      // Cells beyond the header belong to a list of URLs that was never quoted.
      const here = broken.get(at) ?? (at >= header.length ? broken.get(header.length - 1) : undefined);
      return h("td", { class: here ? "faulty" : "" }, cellText(cells?.[at] ?? "", here ?? []));
    }));
}

const same = (name, column) => column && name.trim().toLowerCase() === column.trim().toLowerCase();

const clip = (text, most = MOST_CELL) => (text.length > most ? `${text.slice(0, most)}…` : text);

/** The cell, with what is wrong in it marked. A value that the service shortened ends in an ellipsis. */
function cellText(cell, faults) {
  if (!cell) return h("span", { class: "muted" }, "empty");
  const marks = [];
  for (const { value } of faults) {
    const wanted = value?.replace(/…$/, "");
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
