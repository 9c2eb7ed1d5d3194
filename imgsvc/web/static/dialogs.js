// The page's small dialogs: are you sure, and which key.

import { h, announce, memory, toast } from "./dom.js";
import { call, whenKeyIsWanted } from "./api.js";

/**
 * Open a modal dialog; when it closes, it goes away and the focus returns to where it was. It belongs to
 * its view: going back closes it.
 */
export function openDialog(dialog) {
  const before = document.activeElement;
  document.body.append(dialog);
  const leave = () => dialog.close();
  addEventListener("hashchange", leave);
  dialog.addEventListener("close", () => {
    removeEventListener("hashchange", leave);
    dialog.remove();
    if (before?.isConnected) before.focus();
  });
  dialog.showModal();
  return dialog;
}

/** Ask before something that cannot be undone. Resolves to true or false. */
export function confirm({ title, text, action, keep = "Keep it" }) {
  return new Promise((resolve) => {
    const dialog = h(
      "dialog",
      { class: "small", "aria-labelledby": "confirm-title", "aria-describedby": "confirm-text" },
      h("form", { method: "dialog" },
        h("h2", { id: "confirm-title" }, title),
        h("p", { id: "confirm-text" }, text),
        h("div", { class: "buttons end" },
          h("button", { value: "", autofocus: true }, keep),
          h("button", { value: "yes", class: "danger" }, action))),
    );
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"));
    openDialog(dialog);
  });
}

let asking = null;

/** Ask for an API key and trade it for a session. Resolves to whether there is one now. */
export function signIn() {
  asking ??= ask().finally(() => {
    asking = null;
  });
  return asking;
}

function ask() {
  return new Promise((resolve) => {
    const input = h("input", {
      type: "password", id: "key", name: "key", required: true, autofocus: true,
      autocomplete: "current-password", spellcheck: "false", "aria-describedby": "key-note key-error",
    });
    const error = h("p", { id: "key-error", class: "field-error", role: "alert" });
    const button = h("button", { class: "primary" }, "Sign in");
    const form = h("form", {},
      h("h2", { id: "key-title" }, "This service wants an API key"),
      h("p", { id: "key-note", class: "muted" },
        "Whoever runs the service has it. It is traded for a session cookie and not kept by the page."),
      h("label", { for: "key" }, "API key"), input, error,
      h("div", { class: "buttons end" },
        h("button", { type: "button", on: { click: () => dialog.close() } }, "Not now"), button));
    const dialog = h("dialog", { class: "small", "aria-labelledby": "key-title" }, form);
    let signedIn = false;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      button.disabled = true;
      error.textContent = "";
      try {
        await call("POST", "session", { json: { apiKey: input.value.trim() }, quiet: true });
        signedIn = true;
        setSignedIn(true);
        announce("Signed in.");
        dialog.close();
      } catch (problem) {
        error.textContent = problem.status === 401 ? "This key does not fit." : problem.message;
        input.setAttribute("aria-invalid", "true");
        input.focus();
        input.select();
      }
      button.disabled = false;
    });
    dialog.addEventListener("close", () => resolve(signedIn));
    openDialog(dialog);
  });
}

// The cookie itself is out of a script's reach; this only decides whether "Sign out" is shown.
function setSignedIn(value) {
  memory.set("signedIn", value ? "yes" : null);
  document.getElementById("sign-out").hidden = !value;
}

/** Make the key dialog answer every call that needs a key, and wire the "Sign out" button. */
export function startSession(onSignedOut) {
  whenKeyIsWanted(signIn);
  setSignedIn(memory.get("signedIn") === "yes");
  document.getElementById("sign-out").addEventListener("click", async () => {
    try {
      await call("DELETE", "session", { quiet: true });
    } catch (problem) {
      if (problem.status !== 401) {
        toast(`${problem.title}. ${problem.message}`);
        return;
      }
    }
    setSignedIn(false);
    announce("Signed out.");
    onSignedOut();
  });
}
