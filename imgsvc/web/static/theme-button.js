// The button that switches between the light and the dark theme.

import { icon, storage } from "./dom.js";

const systemDark = matchMedia("(prefers-color-scheme: dark)");

/** Make `button` switch the theme. The choice is stored only if it differs from the system's theme. */
export function startTheme(button) {
  const currentTheme = () => document.documentElement.dataset.theme ?? (systemDark.matches ? "dark" : "light");
  function draw() {
    const other = currentTheme() === "dark" ? "light" : "dark";
    button.replaceChildren(icon(other === "dark" ? "moon" : "sun"));
    button.setAttribute("aria-label", `Use the ${other} theme`);
    button.title = `Use the ${other} theme`;
  }
  button.addEventListener("click", () => {
    const next = currentTheme() === "dark" ? "light" : "dark";
    const differs = next !== (systemDark.matches ? "dark" : "light");
    if (differs) document.documentElement.dataset.theme = next;
    else delete document.documentElement.dataset.theme;
    storage.set("theme", differs ? next : null);
    draw();
  });
  systemDark.addEventListener("change", draw);
  draw();
}
