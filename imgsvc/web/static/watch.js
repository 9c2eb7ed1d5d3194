// Following a request: by server-sent events, or by asking again and again where these do not come.

import { call, url } from "./api.js";

const POLL_SECONDS = 2;
const MOST_PAUSE_SECONDS = 15;

/**
 * Tell `onStatus` the request's status (without products) whenever it changes, until it has finished
 * or `signal` aborts. `onLost(true)` says that the connection is gone for now, `onLost(false)` that it
 * is back. A hidden page holds no connection: a browser has only six for a host, over all its tabs.
 */
export function watch(id, signal, { onStatus, onLost, onProblem }) {
  let source = null;
  let polling = false;

  function open() {
    if (source || polling || signal.aborted || document.hidden) return;
    source = new EventSource(url(`watchStatus/${encodeURIComponent(id)}`));
    for (const name of ["message", "progress", "status", "finished"]) source.addEventListener(name, took);
    source.onopen = () => onLost(false);
    source.onerror = () => {
      onLost(true);
      if (source?.readyState !== EventSource.CLOSED) return; // The browser tries again by itself.
      close();
      poll();
    };
  }

  function close() {
    source?.close();
    source = null;
  }

  function took(event) {
    if (signal.aborted) return;
    let status = null;
    try {
      status = JSON.parse(event.data);
    } catch {
      return;
    }
    if (!status?.progress) return;
    tell(status);
  }

  function tell(status) {
    if (status.finishedAt) {
      close();
      document.removeEventListener("visibilitychange", visible);
    }
    onStatus(status);
  }

  async function poll() {
    polling = true;
    let pause = POLL_SECONDS;
    while (!signal.aborted) {
      try {
        const status = await call("GET", `checkStatus/${encodeURIComponent(id)}`, {
          query: { format: "json", products: "false" },
          signal,
        });
        onLost(false);
        pause = POLL_SECONDS;
        tell(status);
        if (status.finishedAt) return;
      } catch (problem) {
        if (signal.aborted) return;
        if (problem.status >= 400 && problem.status < 500 && problem.status !== 429) {
          onProblem(problem);
          return;
        }
        pause = Math.min(pause * 2, MOST_PAUSE_SECONDS);
      }
      await new Promise((resolve) => setTimeout(resolve, pause * 1000));
    }
  }

  function visible() {
    if (document.hidden) close();
    else open();
  }

  document.addEventListener("visibilitychange", visible, { signal });
  signal.addEventListener("abort", close);
  open();
}

/** Images per second, over the last 15 seconds. */
export class Rate {
  #samples = [];

  add(done, now = performance.now() / 1000) {
    this.#samples.push([now, done]);
    while (this.#samples.length > 2 && this.#samples[0][0] < now - 15) this.#samples.shift();
  }

  /** Null while there is too little to tell. */
  get perSecond() {
    const [[start, first], [end, last]] = [this.#samples[0] ?? [0, 0], this.#samples.at(-1) ?? [0, 0]];
    return end - start < 1.5 || last <= first ? null : (last - first) / (end - start);
  }
}
