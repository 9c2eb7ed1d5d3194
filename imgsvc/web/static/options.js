// How the images are to be compressed, and who is to be told.

import { h } from "./dom.js";

const FORMATS = [
  ["", "Standard"],
  ["keep", "Keep each image’s own"],
  ["jpeg", "JPEG"],
  ["webp", "WebP"],
  ["avif", "AVIF"],
  ["png", "PNG"],
];
const QUALITIES = [
  ["", "Standard"],
  ["%", "A share of the original’s"],
  ["=", "The same for all"],
];

/** A form that ends in `action`; `onSubmit` is given the upload's options, empty ones left out. */
export function optionsForm(action, onSubmit) {
  const quality = select("quality", QUALITIES);
  const amount = h("input", { type: "range", id: "amount", min: 1, max: 100, value: 50 });
  const shown = h("output", { for: "amount" });
  const share = h("div", { class: "field amount", hidden: true },
    h("label", { for: "amount" }, "How much"), h("div", { class: "with-output" }, amount, shown));
  const format = select("format", FORMATS);
  const webhook = h("input", {
    type: "url", id: "webhook", pattern: "https?://.+", placeholder: "https://", autocomplete: "off", "aria-describedby": "webhook-hint",
    on: {
      // Where it is folded away the browser could not show what is wrong, and would do nothing at all.
      invalid: () => {
        webhook.closest("details").open = true;
      },
    },
  });
  const summary = h("span", { class: "muted" });

  function refresh() {
    share.hidden = !quality.value;
    const unit = quality.value === "%" ? "%" : "";
    shown.textContent = `${amount.value}${unit}`;
    amount.setAttribute("aria-valuetext", unit ? `${amount.value} percent of the original’s quality` : `quality ${amount.value} of 100`);
    const name = (list) => list.selectedOptions[0].textContent.toLowerCase();
    summary.textContent = [
      quality.value ? `quality ${shown.textContent}` : "standard quality",
      format.value ? (format.value === "keep" ? "own formats" : format.value.toUpperCase()) : `${name(format)} format`,
      webhook.value && "webhook",
    ].filter(Boolean).join(", ");
  }

  const form = h("form", { class: "stack", on: { input: refresh, submit } },
    h("details", { class: "options" },
      h("summary", {}, "Options ", summary),
      h("div", { class: "fields" },
        h("div", { class: "field" }, h("label", { for: "quality" }, "Quality"), quality,
          h("p", { class: "hint" }, "Standard is what this service is set to: half of each image’s own quality, unless it was changed.")),
        share,
        h("div", { class: "field" }, h("label", { for: "format" }, "Format"), format,
          h("p", { class: "hint" }, "Converting to WebP or AVIF saves most; an image’s own format suits every reader.")),
        h("div", { class: "field" }, h("label", { for: "webhook" }, "Webhook URL ", h("span", { class: "muted" }, "optional")), webhook,
          h("p", { class: "hint", id: "webhook-hint" }, "Is called by POST when the request has finished.")))),
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
