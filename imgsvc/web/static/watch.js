// Following a request: by server-sent events, or by asking again and again where these do not come.

import { call, url } from "./api.js";

const POLL_SECONDS = 2;
const HIDDEN_SECONDS = 10;
const MOST_PAUSE_SECONDS = 30;

/**
 * Tell `onStatus` the request's status (without products) whenever it changes, until it has finished
 * or `signal` aborts. `onLost(true)` says that the connection is gone for now, `onLost(false)` that it
 * is back; `onProblem` ends it.
 */
export function watch(id, signal, { onStatus, onLost, onProblem }) {
  let source = null;
  let ended = false;
  let poll = 0; // The number of the polling loop that goes on; another number ends it.

  function listen() {
    source = new EventSource(url(`watchStatus/${encodeURIComponent(id)}`));
    for (const name of ["message", "progress", "status", "finished"]) source.addEventListener(name, take);
    source.onopen = () => onLost(false);
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED) onLost(true); // The browser tries again by itself.
      else ask(POLL_SECONDS);
    };
  }

  function stop() {
    source?.close();
    source = null;
    poll += 1;
  }

  function take(event) {
    let status = null;
    try {
      status = JSON.parse(event.data);
    } catch {
      return;
    }
    if (status?.progress) tell(status);
  }

  function tell(status) {
    if (signal.aborted || ended) return;
    onLost(false);
    if (status.finishedAt) {
      ended = true;
      stop();
    }
    onStatus(status);
  }

  async function ask(seconds) {
    stop();
    const mine = poll;
    let pause = seconds;
    const goOn = () => mine === poll && !signal.aborted;
    while (goOn()) {
      try {
        const query = { format: "json", products: "false" };
        const status = await call("GET", `checkStatus/${encodeURIComponent(id)}`, { query, signal });
        if (!goOn()) return;
        pause = seconds;
        tell(status);
      } catch (problem) {
        if (!goOn()) return;
        if (problem.status >= 400 && problem.status < 500 && problem.status !== 429) return onProblem(problem);
        onLost(true);
        pause = Math.min(pause * 2, MOST_PAUSE_SECONDS);
      }
      await new Promise((resolve) => setTimeout(resolve, pause * 1000));
    }
  }

  // A hidden page holds no connection open: a browser has only six for a host, over all its tabs.
  function follow() {
    if (ended) return;
    stop();
    if (document.hidden) ask(HIDDEN_SECONDS);
    else listen();
  }

  document.addEventListener("visibilitychange", follow, { signal });
  signal.addEventListener("abort", stop);
  follow();
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
