// Shows how the server reads a file: its layout, the roles of its columns, and the first products.

import { h } from "./dom.js";
import { count, layoutTitle, plural } from "./format.js";
import { encodingTitle } from "./reading-forms.js";

const MAX_NAMES = 8; // Names of columns of one role that are shown.
const MAX_URLS = 2; // URLs of a product that are shown.
const ROLES = [
  ["image", "Images"],
  ["name", "Product names"],
  ["serial", "Serial numbers"],
  ["group", "Products grouped by"],
  ["extra", "Kept unchanged"],
  ["dropped", "Replaced"],
];
const DELIMITERS = { ",": "commas", ";": "semicolons", "\t": "tabs", "|": "pipes" };

/**
 * Return a section that shows the result of a dry run. `isChosen`: the user chose columns; `isRemembered`:
 * for an earlier file. `forms` change how the file is read.
 */
export function tablePreview(result, { isChosen, isRemembered }, forms) {
  const title = isChosen ? "Columns as you chose them" : layoutTitle(result.layout);
  return h("section", { class: "stack preview", "aria-labelledby": "preview-title" },
    h("div", { class: "section-head" },
      h("h3", { id: "preview-title" }, title),
      h("p", { class: "muted" }, fileType(result))),
    isRemembered && h("p", { class: "notice" }, "You chose these columns for an earlier file with the same header."),
    roleList(result.columns),
    previewTable(result),
    h("details", {}, h("summary", {}, "Change how the file is read"), h("div", { class: "stack change-reading" }, forms)));
}

function fileType({ delimiter, encoding }) {
  if (delimiter === null) return "Excel workbook (.xlsx)";
  return `CSV with ${DELIMITERS[delimiter] ?? delimiter} · ${encodingTitle(encoding)}`;
}

function roleList(columns) {
  const rows = ROLES.map(([role, title]) => {
    const names = columns.filter((column) => column.role === role).map((column) => column.name.trim()).filter(Boolean);
    return names.length > 0 && h("div", {}, h("dt", {}, title), h("dd", {}, nameList(names)));
  });
  return h("dl", { class: "roles" }, rows);
}

function nameList(names) {
  const more = names.length - MAX_NAMES;
  return [
    names.slice(0, MAX_NAMES).map((name) => h("code", { class: "column-name" }, name)),
    more > 0 && h("span", { class: "muted" }, `and ${count(more)} more`),
  ];
}

function previewTable({ preview }) {
  return h("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": "First products" },
    h("table", { class: "rows first-products" },
      h("thead", {}, h("tr", {}, ["Row", "Product", "Images"].map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, preview.map(({ row, productName, inputUrls }) => h("tr", {},
        h("th", { scope: "row" }, count(row)),
        h("td", {}, productName),
        h("td", {}, urlList(inputUrls)))))));
}

function urlList(urls) {
  if (!urls.length) return h("span", { class: "muted" }, "none");
  const more = urls.length - MAX_URLS;
  return [
    urls.slice(0, MAX_URLS).map((url) => h("div", { class: "preview-url", title: url }, url)),
    more > 0 && h("div", { class: "muted" }, `and ${plural(more, "more URL")}`),
  ];
}
