// A form that sends one of the API's calls, and shows it as a curl command, and its answer.

import { announce, h } from "./dom.js";
import { url } from "./api.js";
import { bytes } from "./format.js";
import { resolve } from "./schema.js";

const MOST_SHOWN = 100_000;
const quote = (text) => `'${String(text).replaceAll("'", `'\\''`)}'`;
let forms = 0;

/** The form for an operation; `key` gives the API key that the page's reader entered. */
export function tryForm(api, operation, key) {
  forms += 1;
  const prefix = `try${forms}`;
  const fields = operation.parameters.map((p, at) => parameterField(api, p, `${prefix}-${at}`));
  const body = operation.requestBody && bodyField(api, operation.requestBody, `${prefix}-body`);
  const curl = h("pre", { tabindex: "0", role: "group", "aria-label": "curl command" });
  const answer = h("div", { class: "answer stack", role: "group", "aria-label": "Answer", hidden: true });
  const send = h("button", { class: "primary" }, "Send");
  const stop = h("button", { type: "button", hidden: true }, "Stop");
  const compose = () => callOf(operation, fields, body, key());
  const refresh = () => {
    curl.textContent = asCurl(compose());
  };
  const form = h("form", { class: "stack", on: { input: refresh, change: refresh, submit } },
    fields.length > 0 && h("div", { class: "fields" }, fields.map((f) => f.element)),
    body?.element,
    h("div", {}, h("p", { class: "muted" }, "On the command line"), curl),
    h("div", { class: "buttons" }, send, stop),
    answer);
  document.getElementById("api-key")?.addEventListener("input", refresh);

  async function submit(event) {
    event.preventDefault();
    const aborter = new AbortController();
    stop.onclick = () => aborter.abort();
    send.disabled = true;
    stop.hidden = false;
    await show(compose(), answer, aborter.signal);
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
    h("div", { class: "field" }, h("label", { for: file.id }, "Body from a file"), file),
    h("div", { class: "field wide" }, h("label", { for: id }, "or as text"), text));
  return { element, type: () => type.value, file: () => file.files[0] ?? null, text: () => text.value };
}

/** What is to be sent: {method, address, headers, body, file, name}. */
function callOf({ method, path, parameters }, fields, body, key) {
  const filled = fields.filter((f) => f.value());
  let to = path;
  for (const p of parameters.filter((q) => q.in === "path")) {
    const value = filled.find((f) => f.parameter === p)?.value();
    to = to.replace(`{${p.name}}`, value ? encodeURIComponent(value) : `{${p.name}}`);
  }
  const query = Object.fromEntries(filled.filter((f) => f.parameter.in === "query").map((f) => [f.parameter.name, f.value()]));
  const headers = Object.fromEntries(filled.filter((f) => f.parameter.in === "header").map((f) => [f.parameter.name, f.value()]));
  if (key) headers.Authorization = `Bearer ${key}`;
  const made = { method: method.toUpperCase(), address: url(to.replace(/^\//, ""), query).href, headers, body: null, file: null };
  if (!body) return made;
  const content = body.file() ?? body.text();
  if (body.type() === "multipart/form-data") {
    made.body = new FormData();
    made.body.append("file", content instanceof File ? content : new File([content], "products.csv", { type: "text/csv" }));
    made.form = true;
  } else {
    headers["Content-Type"] = body.type();
    made.body = content;
  }
  made.file = body.file()?.name ?? (made.form ? "products.csv" : null);
  return made;
}

function asCurl({ method, address, headers, body, file, form }) {
  const parts = [`curl ${method === "GET" ? "" : `-X ${method} `}${quote(address)}`];
  for (const [name, value] of Object.entries(headers)) {
    parts.push(`-H ${quote(`${name}: ${name === "Authorization" ? "Bearer YOUR_KEY" : value}`)}`);
  }
  if (form) parts.push(`-F ${quote(`file=@${file}`)}`);
  else if (file) parts.push(`--data-binary ${quote(`@${file}`)}`);
  else if (body) parts.push(`--data-binary ${quote(body)}`);
  return parts.join(" \\\n  ");
}

async function show(what, box, signal) {
  const started = performance.now();
  const status = h("p", {}, "Sending…");
  const content = h("div", { class: "stack" });
  box.hidden = false;
  box.replaceChildren(status, content);
  try {
    const answer = await fetch(what.address, { ...what, signal, credentials: "same-origin" });
    const line = `${answer.status} ${answer.statusText}`;
    status.replaceChildren(h("span", { class: `status s${String(answer.status)[0]}` }, line), h("span", { class: "muted" }, ` after ${Math.round(performance.now() - started)} ms`));
    announce(`Answer: ${line}`);
    const headers = [...answer.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
    content.append(h("details", {}, h("summary", {}, "Headers"), h("pre", { tabindex: "0" }, headers)));
    await showBody(answer, content);
  } catch (error) {
    status.textContent = signal.aborted ? "Stopped." : `The call did not arrive: ${error.message}`;
  }
}

async function showBody(answer, content) {
  const type = answer.headers.get("Content-Type") ?? "";
  if (type.startsWith("text/event-stream")) return showStream(answer, content);
  const blob = await answer.blob();
  if (!blob.size) return content.append(h("p", { class: "muted" }, "No body."));
  const address = URL.createObjectURL(blob);
  if (/^image\//.test(type)) return content.append(h("img", { src: address, alt: "The answer" }));
  if (!/json|text|xml/.test(type)) {
    return content.append(h("p", {}, `${bytes(blob.size)} of ${type || "unknown type"}. `, h("a", { href: address, download: "answer" }, "Save")));
  }
  const whole = await blob.slice(0, MOST_SHOWN).text();
  const shown = h("pre", { tabindex: "0", role: "group", "aria-label": "Body" }, pretty(whole, type));
  return content.append(shown, blob.size > MOST_SHOWN && h("p", { class: "muted" }, `The first ${bytes(MOST_SHOWN)} of ${bytes(blob.size)}.`) || "");
}

async function showStream(answer, content) {
  const shown = h("pre", { tabindex: "0", role: "group", "aria-label": "Events" });
  content.append(shown);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    shown.append(value);
    while (shown.childNodes.length > 200) shown.firstChild.remove();
    shown.scrollTop = shown.scrollHeight;
  }
}

function pretty(text, type) {
  if (!type.includes("json")) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
