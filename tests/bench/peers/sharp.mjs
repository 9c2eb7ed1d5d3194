// Download, encode and write images with undici and sharp (libvips). Usage: node sharp.mjs BASE NAMES_FILE CONCURRENCY OUT
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const require = createRequire(join(process.cwd(), "package.json"));
const sharp = require("sharp");
const { Agent, request } = require("undici");

const [base, namesFile, concurrency, out] = process.argv.slice(2);
const names = readFileSync(namesFile, "utf8").trim().split("\n");
const dispatcher = new Agent({ connections: Number(concurrency) });
for (const folder of new Set(names.map(dirname))) mkdirSync(join(out, folder), { recursive: true });

let bytes = 0;
const encode = async (data, name) => {
  const image = sharp(data);
  if (name.endsWith(".png")) return image.png({ palette: true, colours: 128 }).toBuffer();
  if (name.endsWith(".webp")) return image.webp({ quality: 50 }).toBuffer();
  return image.jpeg({ quality: 45, optimiseCoding: true }).toBuffer();
};
const processImage = async (name) => {
  const { body } = await request(`${base}/${name}`, { dispatcher });
  const result = await encode(Buffer.from(await body.arrayBuffer()), name);
  bytes += result.length;
  writeFileSync(join(out, name), result);
};
const started = performance.now();
const queue = names.values();
const worker = async () => { for (const name of queue) await processImage(name); };
await Promise.all(Array.from({ length: Number(concurrency) }, worker));
console.log(JSON.stringify({ seconds: (performance.now() - started) / 1000, bytes }));
