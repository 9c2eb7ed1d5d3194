// The page's start: which view the address names, and the buttons that every view shares.

import { announce } from "./dom.js";
import { startSession } from "./dialogs.js";
import { problemPanel } from "./parts.js";
import { startTheme } from "./theme-button.js";

const main = document.getElementById("main");
let leaving = null;

// A view's code is loaded when it is first shown.
function viewOf(hash) {
  const [, name = "", id = ""] = hash.replace(/^#/, "").split("/");
  if (name === "request" && id) {
    return { title: "Request", load: () => import("./request.js"), id: decode(id), nav: "#/requests" };
  }
  if (name === "requests") return { title: "Requests", load: () => import("./requests.js"), nav: "#/requests" };
  return { title: "", load: () => import("./start.js"), nav: "#/" };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

async function show(first) {
  leaving?.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const { title, load, id, nav } = viewOf(location.hash);
  for (const link of document.querySelectorAll("header nav a")) {
    if (link.getAttribute("href") === nav) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = title ? `${title} · imgsvc` : "imgsvc";
  try {
    const { view } = await load();
    if (signal.aborted) return;
    main.replaceChildren();
    scrollTo(0, 0);
    view(main, { id, signal, go });
  } catch (error) {
    const problem = { title: "This view did not load", message: error.message, errors: [] };
    main.replaceChildren(problemPanel(problem, () => location.reload()));
  }
  if (first) return;
  announce("");
  main.querySelector("h1")?.focus({ preventScroll: true });
}

function go(hash) {
  if (location.hash === hash) show();
  else location.hash = hash;
}

startTheme(document.getElementById("theme"));
startSession(() => show());
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // Its target is no view.
  main.focus();
});
addEventListener("hashchange", () => show());
show(true);
