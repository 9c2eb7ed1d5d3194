// The small dialogs of the page: confirmation and sign-in.

import { h, announce, toast } from "./dom.js";
import { call, onUnauthorized } from "./api.js";

/**
 * Open a modal dialog. When it closes, it is removed and the focus returns to the element that had it.
 * Navigating to another view closes the dialog.
 */
export function openDialog(dialog) {
  const previousFocus = document.activeElement;
  document.body.append(dialog);
  const close = () => dialog.close();
  addEventListener("hashchange", close);
  dialog.addEventListener("close", () => {
    removeEventListener("hashchange", close);
    dialog.remove();
    if (previousFocus?.isConnected) previousFocus.focus();
  });
  dialog.showModal();
  return dialog;
}

/** Ask the user to confirm an action that cannot be undone. Resolves to true or false. */
export function confirm({ title, text, action, decline = "Keep it" }) {
  return new Promise((resolve) => {
    const dialog = h(
      "dialog",
      { class: "small", "aria-labelledby": "confirm-title", "aria-describedby": "confirm-text" },
      h("form", { method: "dialog" },
        h("h2", { id: "confirm-title" }, title),
        h("p", { id: "confirm-text" }, text),
        h("div", { class: "buttons end" },
          h("button", { value: "", autofocus: true }, decline),
          h("button", { value: "yes", class: "danger" }, action))),
    );
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"));
    openDialog(dialog);
  });
}

let signingIn = null; // The promise of the dialog that is open.

/** Ask for the API key and start a session. Resolves to true if the user signed in. */
export function signIn() {
  signingIn ??= showSignIn().finally(() => {
    signingIn = null;
  });
  return signingIn;
}

function showSignIn() {
  return new Promise((resolve) => {
    const input = h("input", {
      type: "password", id: "key", name: "key", required: true, autofocus: true,
      autocomplete: "current-password", spellcheck: "false", "aria-describedby": "key-hint key-error",
    });
    const error = h("p", { id: "key-error", class: "field-error", role: "alert" });
    const button = h("button", { class: "primary" }, "Sign in");
    const form = h("form", {},
      h("h2", { id: "key-title" }, "Sign in"),
      h("p", { id: "key-hint", class: "muted" },
        "Ask the person who runs this server for the API key. This page does not store it."),
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
        showCaller();
        announce("Signed in.");
        dialog.close();
      } catch (problem) {
        error.textContent = problem.status === 401 ? "Wrong API key." : problem.message;
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

/** Show "Sign in" or "Sign out" if the service has keys. The style sheet hides what the role may not do. */
async function showCaller() {
  let caller;
  try {
    caller = await call("GET", "session", { quiet: true });
  } catch (problem) {
    caller = { signedOut: problem.status === 401 };
  }
  document.getElementById("sign-in").hidden = !caller.signedOut;
  document.getElementById("sign-out").hidden = !caller.name;
  document.documentElement.dataset.role = caller.role ?? (caller.signedOut ? "none" : "");
}

/** Show the sign-in dialog on every 401 response, and set up the buttons. */
export function startSession({ onSignIn, onSignOut }) {
  onUnauthorized(signIn);
  showCaller();
  document.getElementById("sign-in").addEventListener("click", async () => {
    if (await signIn()) onSignIn();
  });
  document.getElementById("sign-out").addEventListener("click", async () => {
    try {
      await call("DELETE", "session", { quiet: true });
    } catch (problem) {
      if (problem.status !== 401) {
        toast(`${problem.title}. ${problem.message}`);
        return;
      }
    }
    await showCaller();
    toast("Signed out.");
    onSignOut();
  });
}
