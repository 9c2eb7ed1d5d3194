// The URLs of outputs: their thumbnails, and the buttons that copy and download them.

import { h, icon, copy } from "./dom.js";
import { url } from "./api.js";

const MIN_TOKEN_LENGTH = 16; // Shorter folders are not tokens.

/** Return the token in an output's URL: …/TOKEN/SLUG.EXT of the server, or …/TOKEN.EXT of a bucket and of version 1.0. */
function tokenOf(outputUrl) {
  const [folder, file] = new URL(outputUrl).pathname.split("/").slice(-2);
  return folder.length >= MIN_TOKEN_LENGTH ? folder : file.split(".")[0];
}

/** Return the URL of an output's thumbnail. The server makes it, wherever it stores the output. */
export const thumbnailUrl = (outputUrl) => url(`images/${tokenOf(outputUrl)}/thumbnail`).href;

/** Return a button that copies a text, such as a URL. `label` says what it copies. */
export const copyButton = (text, label, properties = {}) =>
  h("button", { type: "button", class: "quiet icon-button", "aria-label": label, title: label, on: { click: () => copy(text) }, ...properties }, icon("copy"));

/** Return a link that saves an output. */
export const downloadLink = (outputUrl, properties = {}, ...content) =>
  h("a", { href: outputUrl, download: "", rel: "noreferrer", ...properties }, icon("download"), ...content);
