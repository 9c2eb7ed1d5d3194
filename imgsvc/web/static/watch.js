// Watches the status of a request, by server-sent events, or by polling if these do not work.

import { call, url } from "./api.js";

const POLL_SECONDS = 2; // Polling interval.
const HIDDEN_POLL_SECONDS = 10; // Polling interval while the page is hidden.
const MAX_RETRY_SECONDS = 30; // Longest delay between polls that fail.

/**
 * Call `onStatus` with the status of the request (without products) whenever it changes, until the
 * request has finished or `signal` aborts. `onLost(true)` reports that the connection is lost,
 * `onLost(false)` that it is back. `onProblem` reports an error that ends the watch.
 */
export function watch(id, signal, { onStatus, onLost, onProblem }) {
  let source = null;
  let ended = false;
  let currentPoll = 0; // Number of the current polling loop. Loops with other numbers end.

  function listen() {
    source = new EventSource(url(`watchStatus/${encodeURIComponent(id)}`));
    for (const name of ["message", "progress", "status", "finished"]) source.addEventListener(name, onEvent);
    source.onopen = () => onLost(false);
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED) onLost(true); // The browser reconnects by itself.
      else poll(POLL_SECONDS);
    };
  }

  function stop() {
    source?.close();
    source = null;
    currentPoll += 1;
  }

  function onEvent(event) {
    let status = null;
    try {
      status = JSON.parse(event.data);
    } catch {
      return;
    }
    if (status?.progress) report(status);
  }

  function report(status) {
    if (signal.aborted || ended) return;
    onLost(false);
    if (status.finishedAt) {
      ended = true;
      stop();
    }
    onStatus(status);
  }

  async function poll(seconds) {
    stop();
    const number = currentPoll;
    let delay = seconds;
    const isCurrent = () => number === currentPoll && !signal.aborted;
    while (isCurrent()) {
      try {
        const query = { format: "json", products: "false" };
        const status = await call("GET", `checkStatus/${encodeURIComponent(id)}`, { query, signal });
        if (!isCurrent()) return;
        delay = seconds;
        report(status);
      } catch (problem) {
        if (!isCurrent()) return;
        if (problem.status >= 400 && problem.status < 500 && problem.status !== 429) return onProblem(problem);
        onLost(true);
        delay = Math.min(delay * 2, MAX_RETRY_SECONDS);
      }
      await new Promise((resolve) => setTimeout(resolve, delay * 1000));
    }
  }

  // A hidden page keeps no connection open: browsers allow only six per host, across all tabs.
  function start() {
    if (ended) return;
    stop();
    if (document.hidden) poll(HIDDEN_POLL_SECONDS);
    else listen();
  }

  document.addEventListener("visibilitychange", start, { signal });
  signal.addEventListener("abort", stop);
  start();
}

/** The number of images per second, over the last 15 seconds. */
export class Rate {
  #samples = [];

  add(done, now = performance.now() / 1000) {
    this.#samples.push([now, done]);
    while (this.#samples.length > 2 && this.#samples[0][0] < now - 15) this.#samples.shift();
  }

  /** Null if there is too little data. */
  get perSecond() {
    const [[start, first], [end, last]] = [this.#samples[0] ?? [0, 0], this.#samples.at(-1) ?? [0, 0]];
    return end - start < 1.5 || last <= first ? null : (last - first) / (end - start);
  }
}
