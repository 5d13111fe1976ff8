/**
 * Makes the bundles, in memory and the same on every machine: no time, no path, and
 * library versions from package-lock.json.
 */

import { build } from "esbuild";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, brotliDecompressSync, constants, gunzipSync, gzipSync } from "node:zlib";
import { licencesOf } from "./licences.mjs";

export const client = fileURLToPath(new URL("..", import.meta.url));
export const staticScript = fileURLToPath(
  new URL("../../flask_livepush/static/livepush.js", import.meta.url),
);

/** What lies beside the script for browsers that take it, which is all of them. */
export const encodings = [
  {
    suffix: ".gz",
    encode: (text) => gzipSync(text, { level: 9 }),
    decode: gunzipSync,
  },
  {
    suffix: ".br",
    encode: (text) => brotliCompressSync(text, { params: { [constants.BROTLI_PARAM_SIZE_HINT]: text.length } }),
    decode: brotliDecompressSync,
  },
].map((encoding) => ({
  ...encoding,
  /** Whether a file holds a text. */
  holds(file, text) {
    try {
      return encoding.decode(readFileSync(file)).toString() === text;
    } catch {
      return false;
    }
  },
}));

const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url)));

const settings = {
  absWorkingDir: client,
  bundle: true,
  charset: "utf8",
  legalComments: "eof",
  logLevel: "warning",
  metafile: true,
  platform: "browser",
  target: "es2020",
  write: false,
};

/** The script for pages: everything in one file, `LivePush` a global. */
export async function bundleScript() {
  const { outputFiles, metafile } = await build({
    ...settings,
    banner: { js: `/*! flask_livepush ${version}, MIT licence; bundled licences at the end */` },
    entryPoints: ["src/browser.ts"],
    format: "iife",
    minify: true,
  });
  const text = outputFiles[0].text + licencesOf(Object.keys(metafile.inputs), client);
  if (/node_modules|\bsrc\/|file:\/\//.test(text)) throw new Error("a path is in the bundle");
  return text;
}

/** The module for bundlers, which bring socket.io-client themselves. */
export async function bundleModule() {
  const { outputFiles } = await build({
    ...settings,
    entryPoints: ["src/index.ts"],
    external: ["socket.io-client"],
    format: "esm",
    platform: "neutral",
  });
  // The names of our own files stand in comments; a reader of the bundle likes them.
  return outputFiles[0].text;
}
