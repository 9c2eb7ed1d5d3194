// Reads the rows that the service found fault with from the file itself, to show them in place.
// The service alone judges; this only has to find the same rows.

const MOST_BYTES = 64 * 2 ** 20;
const PIECE = 2 ** 20;
const HINT = /^sep=([,;\t])(?:\r\n?|\n|$)/i; // A first line that Excel understands and does not count.

/**
 * Read records from a file: the header, the first that is not blank, as {number, cells}, and a Map of
 * the wanted numbers to their cells. Null where the file is too large or unreadable.
 */
export async function readRows(file, wanted) {
  if (file.size > MOST_BYTES) return null;
  try {
    const whole = decode(new Uint8Array(await file.arrayBuffer()));
    const [hint = "", mark] = HINT.exec(whole) ?? [];
    const text = whole.slice(hint.length);
    const last = Math.max(0, ...wanted);
    const keep = new Set(wanted);
    const rows = new Map();
    let header = null;
    let number = 0;
    let pause = PIECE;
    for (const [cells, position] of records(text, mark ?? delimiter(text))) {
      number += 1;
      if (!header && cells.some((cell) => cell.trim())) header = { number, cells };
      if (keep.has(number)) rows.set(number, cells);
      if (header && number >= last) break;
      if (position > pause) {
        pause = position + PIECE;
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

/** The delimiter that occurs most often outside quotes in the first line that is not blank. */
export function delimiter(text) {
  const lines = text.slice(0, 10_000).replaceAll(/"[^"]*"/g, "x").split(/[\r\n]/);
  const line = lines.find((each) => /[^\s,;]/.test(each)) ?? "";
  const times = (mark) => line.split(mark).length;
  return [",", ";", "\t"].reduce((best, mark) => (times(mark) > times(best) ? mark : best));
}

/** Yields [cells, position after them]; blank lines count, as they do in a spreadsheet. */
export function* records(text, mark) {
  const end = new RegExp(`[${mark}\r\n]`, "g");
  let cells = [];
  let at = 0;
  while (at < text.length) {
    let cell = "";
    if (text[at] === '"') {
      [cell, at] = quoted(text, at + 1);
    }
    end.lastIndex = at;
    const stop = end.exec(text)?.index ?? text.length;
    cells.push(cell + text.slice(at, stop));
    at = stop + 1;
    if (text[stop] === mark) {
      if (at === text.length) cells.push("");
      continue;
    }
    if (text[stop] === "\r" && text[at] === "\n") at += 1;
    yield [cells, at];
    cells = [];
  }
  if (cells.length) yield [cells, at];
}

function quoted(text, start) {
  let cell = "";
  let at = start;
  for (;;) {
    const close = text.indexOf('"', at);
    if (close < 0) return [cell + text.slice(at), text.length];
    cell += text.slice(at, close);
    if (text[close + 1] !== '"') return [cell, close + 1];
    cell += '"';
    at = close + 2;
  }
}
