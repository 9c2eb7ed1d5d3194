// Helpers that build the document. Text is only inserted as text nodes, so nothing from a file or from the
// server can become markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Create an HTML element. `properties`: `on` ({event: handler}), `data` (dataset); everything else is an
 * attribute. True sets an empty attribute; false, null and undefined leave it out. Children are nodes,
 * strings or lists of these; null, undefined and false are skipped.
 */
export function h(tag, properties, ...children) {
  return populate(document.createElement(tag), properties, children);
}

/** Create an SVG element, in the same way as `h`. */
export function s(tag, properties, ...children) {
  return populate(document.createElementNS(SVG, tag), properties, children);
}

function populate(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    } else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

const ICONS = {
  upload: "M12 16V4m0 0L7 9m5-5 5 5M4 16v3a1 1 0 0 0 1 1h14a1 1 0 0 0 1-1v-3",
  file: "M14 3H6a1 1 0 0 0-1 1v16a1 1 0 0 0 1 1h12a1 1 0 0 0 1-1V8zm0 0v5h5M9 13h6m-6 4h6",
  download: "M12 4v12m0 0-5-5m5 5 5-5M4 20h16",
  check: "m5 13 4 4L19 7",
  alert: "M12 8v5m0 3.5v.1M12 3 2 20h20z",
  clock: "M12 7v5l3 2m6-2a9 9 0 1 1-18 0 9 9 0 0 1 18 0",
  stop: "M6 6l12 12M18 6 6 18",
  back: "M15 5l-7 7 7 7",
  next: "M9 5l7 7-7 7",
  sun: "M12 3v2m0 14v2m9-9h-2M5 12H3m15.4-6.4L17 7M7 17l-1.4 1.4m12.8 0L17 17M7 7 5.6 5.6M16 12a4 4 0 1 1-8 0 4 4 0 0 1 8 0",
  moon: "M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5",
  copy: "M9 9h10v11H9zM5 15V4h10",
  trash: "M4 7h16M9 7V4h6v3m3 0-1 13H7L6 7m4 4v5m4-5v5",
  repeat: "M17 3l3 3-3 3M4 11V9a3 3 0 0 1 3-3h13M7 21l-3-3 3-3m13-2v2a3 3 0 0 1-3 3H4",
  retry: "M4 12a8 8 0 1 0 2.5-5.8L4 8.500M4 4v4.500h4.500",
};

/** Return a small line icon. It is hidden from screen readers: the text beside it has the meaning. */
export function icon(name) {
  const path = s("path", { d: ICONS[name] });
  return s("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, path);
}

/** Announce a text to screen readers, without moving the focus. */
export function announce(text) {
  document.getElementById("live-region").textContent = text;
}

/** Copy a text to the clipboard, and say so. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copySelection(text); // The clipboard is only available on https pages and on localhost.
  }
  toast("Copied.");
}

function copySelection(text) {
  const area = h("textarea", { class: "visually-hidden", readonly: true, "aria-hidden": "true" }, text);
  const focused = document.activeElement;
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  focused?.focus();
}

let toastTimer = 0;

/** Show a short message at the bottom of the page for 5 seconds. */
export function toast(text) {
  const box = document.getElementById("toast");
  clearTimeout(toastTimer);
  box.textContent = text;
  box.hidden = false;
  box.hidePopover?.();
  box.showPopover?.(); // Above an open dialog.
  toastTimer = setTimeout(() => {
    box.hidden = true;
  }, 5000);
}

/** Return the URL if it is http or https, else null. Links to other schemes, such as `javascript:`, are unsafe. */
export function safeHref(url) {
  try {
    return ["http:", "https:"].includes(new URL(url).protocol) ? url : null;
  } catch {
    return null;
  }
}

/** This browser's localStorage. If it is blocked, `get` returns null and `set` does nothing. */
export const storage = {
  get(key) {
    try {
      return localStorage.getItem(`imgsvc.${key}`);
    } catch {
      return null;
    }
  },
  set(key, value) {
    try {
      if (value === null) localStorage.removeItem(`imgsvc.${key}`);
      else localStorage.setItem(`imgsvc.${key}`, value);
    } catch {
      // Blocked or full. The page also works without storage.
    }
  },
};
