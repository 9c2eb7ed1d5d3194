// The "Try it" form: sends an API call, and shows it as a curl command together with the response.

import { announce, copy, h, icon } from "./dom.js";
import { url } from "./api.js";
import { bytes } from "./format.js";
import { resolve } from "./schema.js";

const MAX_SHOWN_BYTES = 100_000; // Longer text responses are cut.
const shellQuote = (text) => `'${String(text).replaceAll("'", `'\\''`)}'`;
let formCount = 0;

/** Return the form for an operation. `getKey` returns the API key that the user entered. */
export function tryForm(api, operation, getKey) {
  formCount += 1;
  const prefix = `try${formCount}`;
  const fields = operation.parameters.map((p, index) => parameterField(api, p, `${prefix}-${index}`));
  const body = operation.requestBody && bodyField(api, operation.requestBody, `${prefix}-body`);
  const curl = h("pre", { tabindex: "0", role: "group", "aria-label": "curl command" });
  const response = h("div", { class: "response stack", role: "group", "aria-label": "Response", hidden: true });
  const send = h("button", { class: "primary" }, "Send");
  const stop = h("button", { type: "button", hidden: true }, "Stop");
  const compose = () => buildCall(operation, fields, body, getKey());
  const refresh = () => {
    curl.textContent = curlCommand(compose());
  };
  const form = h("form", { class: "stack", on: { input: refresh, change: refresh, submit } },
    fields.length > 0 && h("div", { class: "fields" }, fields.map((f) => f.element)),
    body?.element,
    h("div", {}, h("p", { class: "muted" }, "curl command ",
      h("button", { type: "button", class: "quiet icon-button", "aria-label": "Copy the command", title: "Copy", on: { click: () => copy(curl.textContent) } }, icon("copy"))), curl),
    h("div", { class: "buttons" }, send, stop),
    response);
  document.getElementById("api-key")?.addEventListener("input", refresh);

  async function submit(event) {
    event.preventDefault();
    const controller = new AbortController();
    stop.onclick = () => controller.abort();
    send.disabled = true;
    stop.hidden = false;
    await sendCall(compose(), response, controller.signal);
    send.disabled = false;
    stop.hidden = true;
  }
  refresh();
  return form;
}

function parameterField(api, parameter, id) {
  const schema = resolve(api, parameter.schema);
  const choices = schema.enum ?? (schema.const && [schema.const]) ?? (schema.type === "boolean" ? ["true", "false"] : null);
  const input = choices
    ? h("select", { id }, !parameter.required && h("option", { value: "" }, "–"), choices.map((c) => h("option", {}, String(c))))
    : h("input", {
        id, type: "text", required: parameter.required, autocomplete: "off", spellcheck: "false",
        placeholder: schema.default === undefined || schema.default === null ? null : String(schema.default),
      });
  const element = h("div", { class: "field" },
    h("label", { for: id }, parameter.name, " ", h("span", { class: "muted" }, parameter.in)), input);
  return { parameter, element, value: () => input.value.trim() };
}

function bodyField(api, requestBody, id) {
  const types = Object.keys(requestBody.content ?? {});
  const type = h("select", { id: `${id}-type` }, types.map((t) => h("option", {}, t)));
  const file = h("input", { type: "file", id: `${id}-file` });
  const text = h("textarea", { id, rows: 5, spellcheck: "false" });
  const example = Object.values(requestBody.content ?? {})[0]?.example;
  text.value = example === undefined ? (types[0]?.includes("csv") ? "Product Name,Input Image Urls\r\nLamp,https://www.gstatic.com/webp/gallery/1.jpg\r\n" : "")
    : typeof example === "string" ? example : JSON.stringify(example, null, 2);
  const element = h("div", { class: "fields" },
    h("div", { class: "field" }, h("label", { for: type.id }, "Content type"), type),
    h("div", { class: "field" }, h("label", { for: file.id }, "Body from file"), file),
    h("div", { class: "field wide" }, h("label", { for: id }, "or as text"), text));
  return { element, type: () => type.value, file: () => file.files[0] ?? null, text: () => text.value };
}

/** Return the API call to send: {method, href, headers, body, file, form, isDownload}. */
function buildCall({ method, path, parameters, responses = {} }, fields, body, key) {
  const filled = fields.filter((f) => f.value());
  let target = path;
  for (const p of parameters.filter((q) => q.in === "path")) {
    const value = filled.find((f) => f.parameter === p)?.value();
    target = target.replace(`{${p.name}}`, value ? encodeURIComponent(value) : `{${p.name}}`);
  }
  const query = Object.fromEntries(filled.filter((f) => f.parameter.in === "query").map((f) => [f.parameter.name, f.value()]));
  const headers = Object.fromEntries(filled.filter((f) => f.parameter.in === "header").map((f) => [f.parameter.name, f.value()]));
  if (key) headers.Authorization = `Bearer ${key}`;
  const apiCall = { method: method.toUpperCase(), href: url(target.replace(/^\//, ""), query).href, headers, body: null, file: null, isDownload: "application/zip" in (responses[200]?.content ?? {}) };
  if (!body) return apiCall;
  const content = body.file() ?? body.text();
  if (body.type() === "multipart/form-data") {
    apiCall.body = new FormData();
    apiCall.body.append("file", content instanceof File ? content : new File([content], "products.csv", { type: "text/csv" }));
    apiCall.form = true;
  } else {
    headers["Content-Type"] = body.type();
    apiCall.body = content;
  }
  apiCall.file = body.file()?.name ?? (apiCall.form ? "products.csv" : null);
  return apiCall;
}

function curlCommand({ method, href, headers, body, file, form, isDownload }) {
  // -OJ saves the response under the name that the server sends, instead of printing it.
  const parts = [`curl ${isDownload ? "-OJ " : ""}${method === "GET" ? "" : `-X ${method} `}${shellQuote(href)}`];
  for (const [name, value] of Object.entries(headers)) {
    parts.push(`-H ${shellQuote(`${name}: ${name === "Authorization" ? "Bearer YOUR_KEY" : value}`)}`);
  }
  if (form) parts.push(`-F ${shellQuote(`file=@${file}`)}`);
  else if (file) parts.push(`--data-binary ${shellQuote(`@${file}`)}`);
  else if (body) parts.push(`--data-binary ${shellQuote(body)}`);
  return parts.join(" \\\n  ");
}

async function sendCall(apiCall, box, signal) {
  const started = performance.now();
  const status = h("p", {}, "Sending…");
  const content = h("div", { class: "stack" });
  box.hidden = false;
  box.replaceChildren(status, content);
  try {
    const response = await fetch(apiCall.href, { ...apiCall, signal, credentials: "same-origin" });
    const line = `${response.status} ${response.statusText}`;
    status.replaceChildren(h("span", { class: `status s${String(response.status)[0]}` }, line), h("span", { class: "muted" }, ` after ${Math.round(performance.now() - started)} ms`));
    announce(`Response: ${line}`);
    const headers = [...response.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
    content.append(h("details", {}, h("summary", {}, "Headers"), h("pre", { tabindex: "0" }, headers)));
    await showBody(response, content);
  } catch (error) {
    status.textContent = signal.aborted ? "Stopped." : `The API call failed: ${error.message}`;
  }
}

async function showBody(response, content) {
  const type = response.headers.get("Content-Type") ?? "";
  if (type.startsWith("text/event-stream")) return showStream(response, content);
  const blob = await response.blob();
  if (!blob.size) return content.append(h("p", { class: "muted" }, "No body."));
  const blobUrl = URL.createObjectURL(blob);
  if (/^image\//.test(type)) return content.append(h("img", { src: blobUrl, alt: "The response" }));
  if (!/json|text|xml/.test(type)) {
    return content.append(h("p", {}, `${bytes(blob.size)} of ${type || "unknown type"}. `, h("a", { href: blobUrl, download: "response" }, "Save")));
  }
  const text = await blob.slice(0, MAX_SHOWN_BYTES).text();
  const output = h("pre", { tabindex: "0", role: "group", "aria-label": "Body" }, prettyPrint(text, type));
  return content.append(output, blob.size > MAX_SHOWN_BYTES && h("p", { class: "muted" }, `The first ${bytes(MAX_SHOWN_BYTES)} of ${bytes(blob.size)}.`) || "");
}

async function showStream(response, content) {
  const output = h("pre", { tabindex: "0", role: "group", "aria-label": "Events" });
  content.append(output);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    output.append(value);
    while (output.childNodes.length > 200) output.firstChild.remove();
    output.scrollTop = output.scrollHeight;
  }
}

function prettyPrint(text, type) {
  if (!type.includes("json")) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
