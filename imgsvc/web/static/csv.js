// Reads the invalid rows from the file, to show them with their errors. Only the server validates the
// file; this parser only has to count rows in the same way.

const MAX_BYTES = 64 * 2 ** 20; // Larger files are not read.
const CHUNK_LENGTH = 2 ** 20; // Characters to parse before the browser gets time for other work.
const SEP_LINE = /^sep=([,;\t])(?:\r\n?|\n|$)/i; // Optional first line of Excel that sets the delimiter. It does not count as a row.

/**
 * Read the rows with the given `numbers` from a file. Return {header, rows}: `header` is the first row
 * that is not blank, as {number, cells}; `rows` is a Map of row numbers to cells. Return null if the file
 * is too large or unreadable.
 */
export async function readRows(file, numbers) {
  if (file.size > MAX_BYTES) return null;
  try {
    const decoded = decode(new Uint8Array(await file.arrayBuffer()));
    const [sepLine = "", sep] = SEP_LINE.exec(decoded) ?? [];
    const text = decoded.slice(sepLine.length);
    const last = Math.max(0, ...numbers);
    const requested = new Set(numbers);
    const rows = new Map();
    let header = null;
    let number = 0;
    let nextPause = CHUNK_LENGTH;
    for (const [cells, position] of records(text, sep ?? detectDelimiter(text))) {
      number += 1;
      if (!header && cells.some((cell) => cell.trim())) header = { number, cells };
      if (requested.has(number)) rows.set(number, cells);
      if (header && number >= last) break;
      if (position > nextPause) {
        nextPause = position + CHUNK_LENGTH;
        await new Promise((resolve) => setTimeout(resolve));
      }
    }
    return { header, rows };
  } catch {
    return null;
  }
}

function decode(data) {
  if (data[0] === 0xff && data[1] === 0xfe) return new TextDecoder("utf-16le").decode(data);
  if (data[0] === 0xfe && data[1] === 0xff) return new TextDecoder("utf-16be").decode(data);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(data);
  } catch {
    return new TextDecoder("windows-1252").decode(data);
  }
}

/** Return the delimiter that occurs most often outside quotes in the first line that is not blank. */
export function detectDelimiter(text) {
  const lines = text.slice(0, 10_000).replaceAll(/"[^"]*"/g, "x").split(/[\r\n]/);
  const line = lines.find((candidate) => /[^\s,;]/.test(candidate)) ?? "";
  const occurrences = (delimiter) => line.split(delimiter).length;
  return [",", ";", "\t"].reduce((best, delimiter) => (occurrences(delimiter) > occurrences(best) ? delimiter : best));
}

/** Yield [cells, end position] for each record. Blank lines count as records, as in a spreadsheet. */
export function* records(text, delimiter) {
  const cellEnd = new RegExp(`[${delimiter}\r\n]`, "g");
  let cells = [];
  let position = 0;
  while (position < text.length) {
    let cell = "";
    if (text[position] === '"') {
      [cell, position] = readQuoted(text, position + 1);
    }
    cellEnd.lastIndex = position;
    const stop = cellEnd.exec(text)?.index ?? text.length;
    cells.push(cell + text.slice(position, stop));
    position = stop + 1;
    if (text[stop] === delimiter) {
      if (position === text.length) cells.push("");
      continue;
    }
    if (text[stop] === "\r" && text[position] === "\n") position += 1;
    yield [cells, position];
    cells = [];
  }
  if (cells.length) yield [cells, position];
}

/** Return [cell, position after the closing quote] of the quoted cell whose text begins at `start`. */
function readQuoted(text, start) {
  let cell = "";
  let position = start;
  for (;;) {
    const close = text.indexOf('"', position);
    if (close < 0) return [cell + text.slice(position), text.length];
    cell += text.slice(position, close);
    if (text[close + 1] !== '"') return [cell, close + 1];
    cell += '"';
    position = close + 2;
  }
}
