// The cards of the gallery, and the items that they show.

import { h, icon } from "./dom.js";
import { STATUS, bytes, errorText, savedPercent, sizeChange } from "./format.js";
import { copyButton, downloadLink, thumbnailUrl } from "./outputs.js";

/** Return the item of the gallery for an image of a product. `page` is the page of the status that has it. */
export function createItem(product, image, imageIndex, page) {
  const position = product.images.length > 1 ? `${imageIndex + 1} of ${product.images.length}` : "";
  return {
    image, page, position,
    status: image.status,
    final: !["pending", "processing"].includes(image.status),
    name: product.productName,
    serial: product.serialNumber,
    searchText: `${product.productName}\n${product.serialNumber}\n${image.inputUrl}`.toLowerCase(),
  };
}

/**
 * Return the card of an item, a button. `open` is called when the user chooses it.
 *
 * Its `actions` are shown beside it. They are not tab stops, because the list is one; the dialog has them too.
 */
export function card(item, open) {
  const { image } = item;
  const frame = h("span", { class: "thumb" });
  const button = h("button", { type: "button", class: `card ${item.status}`, on: { click: open } },
    frame,
    h("span", { class: "card-name" }, h("span", {}, item.name), item.position && [" ", h("span", { class: "muted" }, item.position)]),
    h("span", { class: "card-line" }, cardLine(image)));
  button.item = item;
  if (image.outputUrl) showThumbnail(button, frame, image.outputUrl);
  else if (image.status === "failed") frame.append(icon("alert"));
  else if (!item.final) frame.append(icon("clock"));
  return button;
}

function showThumbnail(button, frame, outputUrl) {
  button.onVisible = () => {
    if (frame.firstChild) return;
    const img = h("img", { src: thumbnailUrl(outputUrl), alt: "", decoding: "async" });
    // The server refuses thumbnails while too many are being made.
    img.addEventListener("error", () => img.getAttribute("src") !== outputUrl && img.setAttribute("src", outputUrl));
    frame.append(img);
  };
  button.actions = h("span", { class: "card-actions" },
    copyButton(outputUrl, "Copy the new URL", { tabindex: -1 }),
    downloadLink(outputUrl, { class: "button quiet icon-button", tabindex: -1, "aria-label": "Download the image", title: "Download the image" }));
}

function cardLine(image) {
  if (image.status === "failed") return h("span", { class: "bad" }, errorText(image.error?.code ?? "failed", image.error?.message));
  if (image.status !== "completed") return STATUS[image.status];
  const percent = savedPercent(image.inputBytes, image.outputBytes);
  return [
    h("span", {}, bytes(image.inputBytes), h("span", { "aria-hidden": "true" }, " → "), h("span", { class: "visually-hidden" }, " to "), bytes(image.outputBytes)),
    image.kept ? h("span", { class: "tag" }, "unchanged") : h("span", { class: "tag good" }, percent === null ? "" : sizeChange(percent)),
  ];
}
