// The form for the options of an upload: quality, format and webhook.

import { h } from "./dom.js";

const FORMATS = [
  ["", "Default"],
  ["keep", "Same as the original"],
  ["jpeg", "JPEG"],
  ["webp", "WebP"],
  ["avif", "AVIF"],
  ["png", "PNG"],
];
const QUALITIES = [
  ["", "Default"],
  ["%", "Percent of the original"],
  ["=", "Fixed quality"],
];

/** Return the form. `action` is the text of its button; `onSubmit` gets the options, with "" for defaults. */
export function optionsForm(action, onSubmit) {
  const quality = select("quality", QUALITIES);
  const amount = h("input", { type: "range", id: "amount", min: 1, max: 100, value: 50 });
  const amountText = h("output", { for: "amount" });
  const amountField = h("div", { class: "field amount", hidden: true },
    h("label", { for: "amount" }, "Quality value"), h("div", { class: "with-output" }, amount, amountText));
  const format = select("format", FORMATS);
  const webhook = h("input", {
    type: "url", id: "webhook", pattern: "https?://.+", placeholder: "https://", autocomplete: "off", "aria-describedby": "webhook-hint",
    on: {
      // The browser cannot show its message at a hidden field, and would not submit either.
      invalid: () => {
        webhook.closest("details").open = true;
      },
    },
  });
  const summary = h("span", { class: "muted" });

  function refresh() {
    amountField.hidden = !quality.value;
    const unit = quality.value === "%" ? "%" : "";
    amountText.textContent = `${amount.value}${unit}`;
    amount.setAttribute("aria-valuetext", unit ? `${amount.value} percent of the original’s quality` : `quality ${amount.value} of 100`);
    summary.textContent = [
      quality.value ? `quality ${amountText.textContent}` : "default quality",
      format.value ? (format.value === "keep" ? "same format" : format.value.toUpperCase()) : "default format",
      webhook.value && "webhook",
    ].filter(Boolean).join(" · ");
  }

  const form = h("form", { class: "stack", on: { input: refresh, submit } },
    h("details", { class: "options" },
      h("summary", {}, "Options ", summary),
      h("div", { class: "fields" },
        h("div", { class: "field" }, h("label", { for: "quality" }, "Quality"), quality,
          h("p", { class: "hint" }, "Default: half of each image’s own quality, unless this server is set up differently.")),
        amountField,
        h("div", { class: "field" }, h("label", { for: "format" }, "Format"), format,
          h("p", { class: "hint" }, "WebP and AVIF save the most; the original format works everywhere.")),
        h("div", { class: "field" }, h("label", { for: "webhook" }, "Webhook URL ", h("span", { class: "muted" }, "optional")), webhook,
          h("p", { class: "hint", id: "webhook-hint" }, "We call this URL (POST) when all images are done.")))),
    h("div", { class: "buttons" }, h("button", { class: "primary large" }, action)));

  function submit(event) {
    event.preventDefault();
    onSubmit({
      quality: quality.value && `${amount.value}${quality.value === "%" ? "%" : ""}`,
      format: format.value,
      webhookUrl: webhook.value.trim(),
    });
  }
  refresh();
  return form;
}

function select(id, choices) {
  return h("select", { id }, choices.map(([value, text]) => h("option", { value }, text)));
}
