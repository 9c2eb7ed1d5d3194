// The API documentation, rendered from openapi.json, with a form to send each API call.

import { h, icon } from "./dom.js";
import { call, url } from "./api.js";
import { startSession } from "./dialogs.js";
import { problemPanel, skeleton } from "./components.js";
import { coded, prose, resolve, schemaView } from "./schema.js";
import { startTheme } from "./theme-button.js";
import { tryForm } from "./try.js";

const METHODS = ["get", "post", "put", "patch", "delete", "head", "options"];
const main = document.getElementById("main");
const operationsArea = document.getElementById("operations"); // The errors below it are part of the page.

startTheme(document.getElementById("theme"));
startSession({ onSignIn() {}, onSignOut() {} });
show();

async function show() {
  operationsArea.replaceChildren(skeleton(6));
  try {
    render(await call("GET", "openapi.json"));
  } catch (problem) {
    operationsArea.replaceChildren(problemPanel(problem, show));
  }
}

function render(api) {
  const operations = [...listOperations(api, api.paths), ...listOperations(api, api.webhooks ?? {}, true)];
  const groups = Map.groupBy(operations, (operation) => operation.isWebhook ? "Webhooks" : operation.tags?.[0] ?? "API");
  const tags = new Map((api.tags ?? []).map((tag) => [tag.name, tag.description]));
  const key = h("input", { type: "password", id: "api-key", autocomplete: "off", spellcheck: "false" });
  operationsArea.replaceChildren(
    h("div", { class: "stack" },
      h("h1", { tabindex: "-1" }, api.info.title ?? "API", " ", h("small", { class: "muted" }, api.info.version)),
      prose(api.info.description),
      h("p", {}, "OpenAPI description: ", h("a", { href: url("openapi.json").href }, "openapi.json"), " · Postman collection: ", h("a", { href: url("postman.json").href, download: "imgsvc.postman_collection.json" }, "postman.json")),
      h("section", { class: "panel stack", "aria-labelledby": "base-title" },
        h("h2", { id: "base-title" }, "Base URL and key"),
        h("p", {}, "Base URL ", h("code", {}, baseUrl())),
        h("div", { class: "field narrow" }, h("label", { for: "api-key" }, "API key for the calls below ", h("span", { class: "muted" }, "if this server requires one")), key,
          h("p", { class: "hint" }, "Sent as Authorization: Bearer, not stored. Not needed if you are signed in.")))),
    ...[...groups].map(([name, list]) => h("section", { class: "group stack", "aria-label": name },
      h("h2", {}, name), prose(tags.get(name)), list.map((o) => operationView(api, o, () => key.value)))));
  document.getElementById("contents").replaceChildren(...[...groups].map(([name, list]) => h("div", {},
    h("p", { class: "muted" }, name),
    h("ul", {}, list.map((o) => h("li", {}, h("a", { href: `#${o.anchor}` }, method(o.method), h("span", {}, o.path))))))), errorContents());
  scrollToAnchor();
}

/** Return the table of contents of the error codes: a link to the first entry of each kind. */
const errorContents = () => h("div", {},
  h("p", { class: "muted" }, "Errors"),
  h("ul", {}, [...document.querySelectorAll("#errors > section")].map((section) =>
    h("li", {}, h("a", { href: `#${section.id}` }, h("span", {}, section.getAttribute("aria-label")))))));

const baseUrl = () => url(".").href.replace(/\/$/, "");

/** Return the operations of `paths`, or of `webhooks`: calls by the server, whose path is the event's name. */
function listOperations(api, items, isWebhook = false) {
  return Object.entries(items).flatMap(([path, item]) =>
    METHODS.filter((name) => item[name]).map((name) => ({
      ...item[name],
      path,
      isWebhook,
      method: name,
      anchor: item[name].operationId ?? `${name}${path.replaceAll(/[^\w]+/g, "-")}`,
      parameters: [...(item.parameters ?? []), ...(item[name].parameters ?? [])].map((p) => resolve(api, p)),
      requestBody: item[name].requestBody && resolve(api, item[name].requestBody),
    })));
}

const method = (name) => h("span", { class: `method ${name}` }, name.toUpperCase());

function operationView(api, operation, key) {
  const { parameters, requestBody, responses = {} } = operation;
  return h("article", { class: "operation panel stack", id: operation.anchor, tabindex: "-1", "aria-labelledby": `${operation.anchor}-title` },
    h("h3", { id: `${operation.anchor}-title` }, method(operation.method), h("code", {}, operation.path)),
    operation.summary && h("p", { class: "summary" }, coded(operation.summary)),
    prose(operation.description),
    parameters.length > 0 && [h("h4", {}, "Parameters"), parametersView(api, parameters)],
    requestBody && bodyView(api, requestBody),
    h("h4", {}, "Responses"),
    h("div", { class: "responses" }, Object.entries(responses).map(([status, r]) => responseView(api, status, resolve(api, r)))),
    !operation.isWebhook && h("details", { class: "try" }, h("summary", {}, icon("next"), "Try it"), tryForm(api, operation, key)));
}

function parametersView(api, parameters) {
  return h("dl", { class: "properties" }, parameters.map((p) => h("div", {},
    h("dt", {}, h("code", {}, p.name), h("span", { class: "muted" }, ` ${p.in}`), p.required && h("span", { class: "required" }, " required")),
    h("dd", {}, prose(p.description), schemaView(api, p.schema ?? {})))));
}

function bodyView(api, body) {
  return [
    h("h4", {}, "Body", body.required && h("span", { class: "required" }, " required")),
    prose(body.description),
    Object.entries(body.content ?? {}).map(([type, { schema }]) =>
      h("details", {}, h("summary", {}, h("code", {}, type)), schemaView(api, schema ?? {}))),
  ];
}

function responseView(api, status, response) {
  const content = Object.entries(response.content ?? {});
  const headers = Object.entries(response.headers ?? {});
  const head = [h("span", { class: `status s${status[0]}` }, status), " ", h("span", {}, coded(response.description))];
  if (!content.length && !headers.length) return h("p", { class: "response-line" }, head);
  return h("details", {}, h("summary", { class: "response-line" }, head),
    headers.length > 0 && h("dl", { class: "properties" }, headers.map(([name, header]) =>
      h("div", {}, h("dt", {}, h("code", {}, name), h("span", { class: "muted" }, " header")), h("dd", {}, prose(resolve(api, header).description))))),
    content.map(([type, { schema, example }]) => [
      h("p", {}, h("code", {}, type)), schema && schemaView(api, schema),
      example !== undefined && h("pre", { tabindex: "0" }, typeof example === "string" ? example : JSON.stringify(example, null, 2)),
    ]));
}

function scrollToAnchor() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target !== main) {
    target.scrollIntoView();
    target.focus({ preventScroll: true });
  }
}
addEventListener("hashchange", scrollToAnchor);
