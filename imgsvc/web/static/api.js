// Calls to the service. Every URL is relative to the page, so that a path prefix works.

const BASE = new URL(".", document.baseURI);

/** The URL of one of the service's paths, with a query. Empty values are left out. */
export function url(path, query = {}) {
  const address = new URL(path, BASE);
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") address.searchParams.set(name, value);
  }
  return address;
}

/** A call that was refused with a code, or did not arrive (`status` 0). `errors` are its several causes. */
export class Problem extends Error {
  constructor(status, body = {}) {
    super(body.detail || body.title || `The server answered ${status}.`);
    this.status = status;
    this.code = body.type?.split(":").at(-1) ?? "";
    this.title = body.title || "That did not work";
    this.errors = Array.isArray(body.errors) ? body.errors : [];
    this.errorCount = body.errorCount ?? this.errors.length;
  }
}

const unreachable = (detail = "Check that it is running and that you are connected, then try again.") =>
  new Problem(0, { title: "The service cannot be reached", detail });

let askForKey = async () => false;

/** Set what happens where the service wants a key: a function that tells whether one was given. */
export function whenKeyIsWanted(ask) {
  askForKey = ask;
}

/**
 * Call the service and return its JSON (null where there is none). Raises `Problem`.
 * `quiet`: where a key is wanted, fail instead of asking for it.
 */
export async function call(method, path, { query, json, signal, quiet } = {}) {
  for (;;) {
    let answer;
    try {
      answer = await fetch(url(path, query), {
        method,
        signal,
        credentials: "same-origin",
        headers: { Accept: "application/json", ...(json && { "Content-Type": "application/json" }) },
        body: json && JSON.stringify(json),
      });
      const text = await answer.text();
      if (answer.ok) return text ? JSON.parse(text) : null;
      throw new Problem(answer.status, parse(text));
    } catch (error) {
      if (signal?.aborted) throw error;
      if (!(error instanceof Problem)) throw unreachable();
      if (error.status !== 401 || quiet || !(await askForKey())) throw error;
    }
  }
}

/** Upload a file and return the answer; `onProgress` is told the share that has been sent, 0 to 1. */
export async function upload(file, query, { key, signal, onProgress }) {
  for (;;) {
    const { status, text } = await send(file, query, { key, signal, onProgress });
    if (status >= 200 && status < 300) return JSON.parse(text);
    const problem = status
      ? new Problem(status, parse(text))
      : unreachable("Check that it is running, and that the file has not changed since you chose it; then try again.");
    if (status !== 401 || !(await askForKey())) throw problem;
  }
}

function send(file, query, { key, signal, onProgress }) {
  return new Promise((resolve, reject) => {
    // fetch() cannot tell how much of a body has been sent.
    const sender = new XMLHttpRequest();
    sender.open("POST", url("processImages", query));
    sender.setRequestHeader("Content-Type", "text/csv");
    sender.setRequestHeader("Accept", "application/json");
    if (key) sender.setRequestHeader("Idempotency-Key", key);
    sender.upload.onprogress = (event) => onProgress?.(event.total ? event.loaded / event.total : 0);
    sender.onload = () => resolve({ status: sender.status, text: sender.responseText });
    sender.onerror = () => resolve({ status: 0, text: "" });
    signal?.addEventListener("abort", () => {
      sender.abort();
      reject(signal.reason);
    });
    sender.send(file);
  });
}

function parse(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}

/** A random key, also where the page came over plain http and `crypto.randomUUID` is missing. */
export function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}
