// The forms that ask how a file is read: its columns and its encoding. Chosen columns are stored in this
// browser, for the next file with the same header.

import { h, icon, storage } from "./dom.js";

const MAX_REMEMBERED = 200; // Headers for which the chosen columns are stored.
const MAX_IMAGE_COLUMNS = 100; // The server accepts no more.
const ENCODINGS = [
  ["utf-8", "UTF-8"],
  ["cp1252", "Western European (Windows-1252)"],
  ["cp1250", "Central European (Windows-1250)"],
  ["iso8859-2", "Central European (ISO 8859-2)"],
  ["cp1257", "Baltic (Windows-1257)"],
  ["cp1251", "Cyrillic (Windows-1251)"],
  ["koi8-r", "Cyrillic (KOI8-R)"],
  ["cp1253", "Greek (Windows-1253)"],
  ["cp1254", "Turkish (Windows-1254)"],
  ["cp1255", "Hebrew (Windows-1255)"],
  ["cp1256", "Arabic (Windows-1256)"],
  ["gb18030", "Simplified Chinese (GB 18030, GBK)"],
  ["big5", "Traditional Chinese (Big5)"],
  ["cp932", "Japanese (Shift-JIS)"],
  ["euc_jp", "Japanese (EUC-JP)"],
  ["cp949", "Korean (EUC-KR)"],
  ["mac_roman", "Western European (Mac)"],
];
// What headers of a name column contain, the surest first.
const NAME_WORDS = [/name|naam|nazwa|bezeichnung|nom(bre)?\b|nome|наименование|название|名/i, /tit(le|el|re|ul|ol)|título/i, /produ[ckt]|prodotto|artik|article|artículo|item|товар|商品/i];

let formNumber = 0; // Makes the ids of the fields unique.

/** Return the title of an encoding, by its Python codec. */
export const encodingTitle = (codec) => ENCODINGS.find(([value]) => value === codec)?.[1] ?? codec.toUpperCase().replaceAll("_", "-");

/**
 * Return the form that asks which columns hold the images and the names.
 *
 * `names` are the file's headers, `reading` the options so far, `suggestions` those of the server.
 * `required` ({image, name}): whether "Automatic" is no choice. `onSubmit` gets {imageColumn, nameColumn}.
 */
export function columnForm({ names, reading, required, suggestions = [], action, onSubmit }) {
  const headers = [...new Set(names.map((name) => name.trim()).filter(Boolean))];
  const examples = new Map(suggestions.map(({ value, example }) => [value, example]));
  const suggested = suggestions.map(({ value }) => value).filter((value) => headers.includes(value));
  const chosen = reading.imageColumn?.length ? reading.imageColumn : suggested;
  const images = h("div", { class: "stack image-columns" });
  const id = nextId();

  function addImageColumn(value) {
    const number = images.children.length + 1;
    const hint = h("p", { class: "hint url" });
    const isFirst = number === 1;
    const column = select(`${id}-image-${number}`, [isFirst && !required.image && ["", "Automatic"], isFirst && required.image && ["", "Choose a column"], !isFirst && ["", "None"], ...headers.map((name) => [name, name])], value);
    column.required = isFirst && required.image;
    const showExample = () => {
      hint.textContent = examples.get(column.value) ?? "";
    };
    column.addEventListener("change", showExample);
    showExample();
    images.append(h("div", { class: "field" }, h("label", { for: column.id }, isFirst ? "Column with image URLs" : `Image column ${number}`), column, hint));
    more.hidden = number >= Math.min(MAX_IMAGE_COLUMNS, headers.length);
    return column;
  }

  const more = h("button", { type: "button", class: "link", on: { click: () => addImageColumn("").focus() } }, "Add another image column");
  const name = select(`${id}-name`, [
    required.name ? ["", "Choose a column"] : ["", required.image ? "None" : "Automatic"],
    ...headers.map((each) => [each, each]),
  ], reading.nameColumn || (required.image || required.name ? guessName(headers, chosen) : ""));
  name.required = required.name;
  for (const value of chosen.length ? chosen : [""]) addImageColumn(value);
  const submit = (event) => {
    event.preventDefault();
    const values = [...images.querySelectorAll("select")].map((column) => column.value).filter(Boolean);
    onSubmit({ imageColumn: [...new Set(values)], nameColumn: name.value });
  };
  return h("form", { class: "stack reading-form", on: { submit } },
    h("div", { class: "fields" },
      h("div", { class: "stack image-field" }, images, h("div", { class: "buttons" }, more)),
      h("div", { class: "field" }, h("label", { for: name.id }, "Column with product names"), name)),
    submitButton(action, required.image || required.name));
}

/**
 * Return the form that asks for the encoding. `encoding` is the chosen one, `detected` the one that the
 * server found. `onSubmit` gets {encoding}.
 */
export function encodingForm({ encoding = "", detected = "", suggestions = [], action, onSubmit }) {
  const likely = suggestions.map(({ value, example }) => [value, example ? `${encodingTitle(value)}: ${example}` : encodingTitle(value)]);
  const others = ENCODINGS.filter(([value]) => !likely.some(([codec]) => codec === value));
  const field = select(`${nextId()}-encoding`, [detected && ["", encoding ? "Detect it" : `Detected: ${encodingTitle(detected)}`]]);
  if (likely.length) field.append(h("optgroup", { label: "Likely" }, options(likely)), h("optgroup", { label: "Others" }, options(others)));
  else field.append(...options(others));
  field.value = encoding || (likely[0]?.[0] ?? field.options[0].value);
  const submit = (event) => {
    event.preventDefault();
    onSubmit({ encoding: field.value });
  };
  return h("form", { class: "stack reading-form", on: { submit } },
    h("div", { class: "field" }, h("label", { for: field.id }, "Encoding of the text"), field), submitButton(action, !detected));
}

/** Return the form that asks what happens to rows without images and to invalid rows. `onSubmit` gets {allowEmpty, onInvalid}. */
export function rowsForm({ reading, action, onSubmit }) {
  const id = nextId();
  const checkbox = (name, checked) => h("input", { type: "checkbox", id: `${id}-${name}`, checked });
  const empty = checkbox("empty", reading.allowEmpty === "true");
  const skip = checkbox("skip", reading.onInvalid === "skip");
  const field = (input, text) => h("div", { class: "field inline" }, input, h("label", { for: input.id }, text));
  const submit = (event) => {
    event.preventDefault();
    onSubmit({ allowEmpty: empty.checked ? "true" : "", onInvalid: skip.checked ? "skip" : "" });
  };
  return h("form", { class: "stack reading-form", on: { submit } },
    field(empty, "Accept rows without images"), field(skip, "Leave out invalid rows"), submitButton(action, false));
}

function nextId() {
  formNumber += 1;
  return `reading-${formNumber}`;
}

const submitButton = (action, isPrimary) =>
  h("div", { class: "buttons" }, h("button", { class: isPrimary ? "primary large" : "" }, isPrimary && icon("check"), action));

const options = (choices) => choices.map(([value, text]) => h("option", { value }, text));

function select(id, choices, value = "") {
  const element = h("select", { id }, options(choices.filter(Boolean)));
  element.value = value;
  return element;
}

function guessName(headers, imageColumns) {
  const others = headers.filter((header) => !imageColumns.includes(header));
  for (const words of NAME_WORDS) {
    const found = others.find((header) => words.test(header));
    if (found) return found;
  }
  return "";
}

/** Return the columns that the user chose for an earlier file with this header, or null. */
export function rememberedColumns(names) {
  return storedChoices().find(([key]) => key === headerKey(names))?.[1] ?? null;
}

/** Store the chosen columns for files with this header. */
export function rememberColumns(names, { imageColumn = [], nameColumn = "" }) {
  store(names, [[headerKey(names), { imageColumn, nameColumn }]]);
}

/** Remove the chosen columns of files with this header. */
export function forgetColumns(names) {
  store(names, []);
}

function store(names, entries) {
  const others = storedChoices().filter(([key]) => key !== headerKey(names));
  storage.set("columns", JSON.stringify([...others, ...entries].slice(-MAX_REMEMBERED)));
}

function storedChoices() {
  try {
    return JSON.parse(storage.get("columns")) ?? [];
  } catch {
    return [];
  }
}

/** Return a hash of the names in a header (64-bit FNV-1a). Unnamed columns do not count. */
function headerKey(names) {
  let hash = 0xcbf29ce484222325n;
  for (const byte of new TextEncoder().encode(JSON.stringify(names.map((name) => name.trim()).filter(Boolean)))) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  return hash.toString(16);
}
