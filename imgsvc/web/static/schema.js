// Renders the JSON schemas of the OpenAPI description as nested lists.

import { h } from "./dom.js";

const MAX_DEPTH = 6; // Levels of nested properties to show.

/** Return the target of a `$ref`, or the node itself if it is not a reference. */
export function resolve(api, node) {
  if (!node?.$ref) return node ?? {};
  const target = node.$ref.replace(/^#\//, "").split("/")
    .reduce((parent, name) => parent?.[name.replaceAll("~1", "/").replaceAll("~0", "~")], api);
  return resolve(api, target ?? {});
}

/** Return text in which `backticks` mark code. */
export const coded = (text) => text.split(/`([^`]+)`/).map((part, index) => (index % 2 ? h("code", {}, part) : part));

/** Return the paragraphs of a text, which blank lines separate. Return null if there is no text. */
export function prose(text) {
  if (!text) return null;
  return text.trim().split(/\n\s*\n/).map((paragraph) => h("p", { class: "prose" }, coded(paragraph)));
}

/** Return the description of a schema: its type, limits and properties. */
export function schemaView(api, reference, depth = 0) {
  const schema = resolve(api, reference);
  const properties = Object.entries(schema.properties ?? {});
  const required = new Set(schema.required ?? []);
  const items = schema.items && resolve(api, schema.items);
  return h("div", { class: "schema" },
    h("p", {}, h("span", { class: "type" }, typeText(api, schema)), limitsText(schema)),
    depth > 0 && prose(schema.description),
    depth < MAX_DEPTH && properties.length > 0 && h("dl", { class: "properties" }, properties.map(([name, child]) =>
      h("div", {},
        h("dt", {}, h("code", {}, name), required.has(name) && h("span", { class: "required" }, " required")),
        h("dd", {}, schemaView(api, child, depth + 1))))),
    depth < MAX_DEPTH && (items?.properties || items?.anyOf || items?.oneOf) && schemaView(api, items, depth + 1));
}

function typeText(api, schema) {
  const options = schema.anyOf ?? schema.oneOf ?? schema.allOf;
  if (options) return [...new Set(options.map((option) => typeText(api, resolve(api, option))))].join(schema.allOf ? " and " : " or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  const name = Array.isArray(schema.type) ? schema.type.join(" or ") : schema.type ?? (schema.properties ? "object" : "any");
  if (schema.items) return `array of ${typeText(api, resolve(api, schema.items))}`;
  return schema.format ? `${name} (${schema.format})` : name;
}

const listText = (values) => values.map((v) => JSON.stringify(v)).join(", ");

function limitsText(schema) {
  const limitTexts = [
    schema.enum && `one of ${listText(schema.enum)}`,
    schema["x-extensible-enum"] && `for now one of ${listText(schema["x-extensible-enum"])}`,
    schema.default !== undefined && `default ${JSON.stringify(schema.default)}`,
    schema.minimum !== undefined && `at least ${schema.minimum}`,
    schema.maximum !== undefined && `at most ${schema.maximum}`,
    schema.minLength !== undefined && `at least ${schema.minLength} characters`,
    schema.maxLength !== undefined && `at most ${schema.maxLength} characters`,
    schema.pattern && `matches ${schema.pattern}`,
    schema.examples?.length && `for example ${JSON.stringify(schema.examples[0])}`,
    schema.example !== undefined && `for example ${JSON.stringify(schema.example)}`,
  ].filter(Boolean);
  return limitTexts.length ? h("span", { class: "muted" }, `, ${limitTexts.join(", ")}`) : null;
}
