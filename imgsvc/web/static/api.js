// API calls. Every URL is relative to the page, so that the server can run under a path prefix.

const BASE = new URL(".", document.baseURI);

/** Return the URL of an API path with a query. Empty values are left out; a list repeats its name. */
export function url(path, query = {}) {
  const result = new URL(path, BASE);
  for (const [name, value] of Object.entries(query)) {
    for (const each of [value].flat()) {
      if (each !== null && each !== undefined && each !== "") result.searchParams.append(name, each);
    }
  }
  return result;
}

/** An error response of the API (RFC 9457), or no response at all (`status` 0). `errors` lists the single errors, `columns` the columns of their cells. */
export class ProblemError extends Error {
  constructor(status, body = {}) {
    super(body.detail || body.title || `The server returned status ${status}.`);
    this.status = status;
    this.code = body.type?.split(":").at(-1) ?? "";
    this.title = body.title || "Something went wrong";
    this.errors = Array.isArray(body.errors) ? body.errors : [];
    this.errorCount = body.errorCount ?? this.errors.length;
    this.columns = Array.isArray(body.columns) ? body.columns : [];
  }
}

const unreachable = (detail = "Check that it is running and that you are connected, then try again.") =>
  new ProblemError(0, { title: "The server cannot be reached", detail });

let signIn = async () => false;

/** Set the function to call on a 401 response. It resolves to true if the user signed in. */
export function onUnauthorized(handler) {
  signIn = handler;
}

/**
 * Make an API call and return the JSON of the response, or null if it has no body. Throws `ProblemError`.
 * `quiet`: throw on a 401 response instead of asking the user to sign in.
 */
export async function call(method, path, { query, json, signal, quiet } = {}) {
  for (;;) {
    let response;
    try {
      response = await fetch(url(path, query), {
        method,
        signal,
        credentials: "same-origin",
        headers: { Accept: "application/json", ...(json && { "Content-Type": "application/json" }) },
        body: json && JSON.stringify(json),
      });
      const text = await response.text();
      if (response.ok) return text ? JSON.parse(text) : null;
      throw new ProblemError(response.status, parse(text));
    } catch (error) {
      if (signal?.aborted) throw error;
      if (!(error instanceof ProblemError)) throw unreachable();
      if (error.status !== 401 || quiet || !(await signIn())) throw error;
    }
  }
}

/** Upload a file and return the JSON of the response. `onProgress` gets the fraction sent so far, 0 to 1. */
export async function upload(file, query, { key, signal, onProgress }) {
  for (;;) {
    const { status, text } = await send(file, query, { key, signal, onProgress });
    if (status >= 200 && status < 300) return JSON.parse(text);
    const problem = status
      ? new ProblemError(status, parse(text))
      : unreachable("Check that it is running, and that the file has not changed since you chose it; then try again.");
    if (status !== 401 || !(await signIn())) throw problem;
  }
}

function send(file, query, { key, signal, onProgress }) {
  return new Promise((resolve, reject) => {
    // fetch() does not report upload progress.
    const xhr = new XMLHttpRequest();
    xhr.open("POST", url("processImages", query));
    xhr.setRequestHeader("Content-Type", "text/csv");
    xhr.setRequestHeader("Accept", "application/json");
    if (key) xhr.setRequestHeader("Idempotency-Key", key);
    xhr.upload.onprogress = (event) => onProgress?.(event.total ? event.loaded / event.total : 0);
    xhr.onload = () => resolve({ status: xhr.status, text: xhr.responseText });
    xhr.onerror = () => resolve({ status: 0, text: "" });
    signal?.addEventListener("abort", () => {
      xhr.abort();
      reject(signal.reason);
    });
    xhr.send(file);
  });
}

function parse(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}

/** Return a random key. `crypto.randomUUID` is not available on pages served over plain http. */
export function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}
