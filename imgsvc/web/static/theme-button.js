// The button that turns the page light or dark.

import { icon, memory } from "./dom.js";

const dark = matchMedia("(prefers-color-scheme: dark)");

/** Make `button` switch the theme. A choice that is the system's own again is forgotten. */
export function startTheme(button) {
  const now = () => document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
  function draw() {
    const other = now() === "dark" ? "light" : "dark";
    button.replaceChildren(icon(other === "dark" ? "moon" : "sun"));
    button.setAttribute("aria-label", `Use the ${other} theme`);
    button.title = `Use the ${other} theme`;
  }
  button.addEventListener("click", () => {
    const next = now() === "dark" ? "light" : "dark";
    const chosen = next !== (dark.matches ? "dark" : "light");
    if (chosen) document.documentElement.dataset.theme = next;
    else delete document.documentElement.dataset.theme;
    memory.set("theme", chosen ? next : null);
    draw();
  });
  dark.addEventListener("change", draw);
  draw();
}
