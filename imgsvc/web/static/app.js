// Entry point of the page: shows the view for the URL's hash and sets up the buttons in the header.

import { announce } from "./dom.js";
import { catchDrops } from "./drop.js";
import { startSession } from "./dialogs.js";
import { problemPanel } from "./components.js";
import { startTheme } from "./theme-button.js";

const main = document.getElementById("main");
let currentView = null; // The AbortController of the view that is shown.

// The code of a view is loaded when the view is first shown.
function viewFor(hash) {
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

async function show(isFirst) {
  currentView?.abort();
  currentView = new AbortController();
  const { signal } = currentView;
  const { title, load, id, nav } = viewFor(location.hash);
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
    view(main, { id, signal, navigate });
  } catch (error) {
    const problem = { title: "This page did not load", message: error.message, errors: [] };
    main.replaceChildren(problemPanel(problem, () => location.reload()));
  }
  if (isFirst) return;
  announce("");
  main.querySelector("h1")?.focus({ preventScroll: true });
}

function navigate(hash) {
  if (location.hash === hash) show();
  else location.hash = hash;
}

startTheme(document.getElementById("theme"));
startSession({ onSignIn: () => show(), onSignOut: () => navigate("#/") });
catchDrops(() => navigate("#/"));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // The link's hash is not a view.
  main.focus();
});
addEventListener("hashchange", () => show());
show(true);
