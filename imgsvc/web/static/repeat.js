// The dialog that asks for the settings with which a request runs again.

import { h } from "./dom.js";
import { openDialog } from "./dialogs.js";
import { optionFields } from "./options.js";
import { settingsText } from "./request-details.js";

/** Ask for other settings. Resolves to the options of the new request, or to null if the user closed the dialog. */
export function askForSettings({ settings, name }) {
  return new Promise((resolve) => {
    let chosen = null;
    const fields = optionFields({ name: name ?? "", unset: "Same as before", isRepeat: true });
    const submit = (event) => {
      event.preventDefault();
      chosen = fields.values();
      dialog.close();
    };
    const dialog = h("dialog", { class: "repeat", "aria-labelledby": "repeat-title" },
      h("form", { on: { submit } },
        h("h2", { id: "repeat-title", tabindex: "-1", autofocus: true }, "Run this request again"),
        h("p", { class: "muted" }, "A new request processes the same rows. This one stays as it is."),
        settings && h("p", {}, `Settings so far: ${settingsText(settings)}`),
        fields.element,
        h("div", { class: "buttons end" },
          h("button", { type: "button", on: { click: () => dialog.close() } }, "Not now"),
          h("button", { class: "primary" }, "Run again"))));
    dialog.addEventListener("close", () => resolve(chosen));
    openDialog(dialog);
  });
}
