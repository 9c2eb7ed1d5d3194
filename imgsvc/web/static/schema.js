// JSON schemas of the API's description, as nested lists.

import { h } from "./dom.js";

const MOST_DEPTH = 6;

/** Follow a `$ref` within the description. */
export function resolve(api, thing) {
  if (!thing?.$ref) return thing ?? {};
  const found = thing.$ref.replace(/^#\//, "").split("/")
    .reduce((at, name) => at?.[name.replaceAll("~1", "/").replaceAll("~0", "~")], api);
  return resolve(api, found ?? {});
}

/** Text with its `backticks` as code. */
export const coded = (text) => text.split(/`([^`]+)`/).map((part, at) => (at % 2 ? h("code", {}, part) : part));

/** The same with its blank lines as paragraphs. Nothing where there is none. */
export function prose(text) {
  if (!text) return null;
  return text.trim().split(/\n\s*\n/).map((paragraph) => h("p", { class: "prose" }, coded(paragraph)));
}

/** What a value of this schema looks like. */
export function schemaView(api, schema, depth = 0) {
  const it = resolve(api, schema);
  const properties = Object.entries(it.properties ?? {});
  const required = new Set(it.required ?? []);
  const inner = it.items && resolve(api, it.items);
  return h("div", { class: "schema" },
    h("p", {}, h("span", { class: "type" }, typeOf(api, it)), limits(it)),
    depth > 0 && prose(it.description),
    depth < MOST_DEPTH && properties.length > 0 && h("dl", { class: "properties" }, properties.map(([name, child]) =>
      h("div", {},
        h("dt", {}, h("code", {}, name), required.has(name) && h("span", { class: "required" }, " required")),
        h("dd", {}, schemaView(api, child, depth + 1))))),
    depth < MOST_DEPTH && (inner?.properties || inner?.anyOf || inner?.oneOf) && schemaView(api, inner, depth + 1));
}

function typeOf(api, schema) {
  const many = schema.anyOf ?? schema.oneOf ?? schema.allOf;
  if (many) return many.map((one) => typeOf(api, resolve(api, one))).join(schema.allOf ? " and " : " or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  const name = Array.isArray(schema.type) ? schema.type.join(" or ") : schema.type ?? (schema.properties ? "object" : "any");
  if (schema.items) return `list of ${typeOf(api, resolve(api, schema.items))}`;
  return schema.format ? `${name} (${schema.format})` : name;
}

function limits(schema) {
  const words = [
    schema.enum && `one of ${schema.enum.map((v) => JSON.stringify(v)).join(", ")}`,
    schema.default !== undefined && `default ${JSON.stringify(schema.default)}`,
    schema.minimum !== undefined && `at least ${schema.minimum}`,
    schema.maximum !== undefined && `at most ${schema.maximum}`,
    schema.minLength !== undefined && `at least ${schema.minLength} characters`,
    schema.maxLength !== undefined && `at most ${schema.maxLength} characters`,
    schema.pattern && `matches ${schema.pattern}`,
    schema.examples?.length && `such as ${JSON.stringify(schema.examples[0])}`,
    schema.example !== undefined && `such as ${JSON.stringify(schema.example)}`,
  ].filter(Boolean);
  return words.length ? h("span", { class: "muted" }, `, ${words.join(", ")}`) : null;
}
