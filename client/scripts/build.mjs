/** Writes the script that the Python package ships, and the npm package's files. */

import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { bundleModule, bundleScript, client, encodings, staticScript } from "./bundle.mjs";

const dist = join(client, "dist");
const script = await bundleScript();

rmSync(dist, { recursive: true, force: true });
for (const [file, text] of [
  [staticScript, script],
  [join(dist, "livepush.js"), script],
  [join(dist, "livepush.mjs"), await bundleModule()],
]) {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, text);
}
for (const { suffix, holds, encode } of encodings) {
  const file = staticScript + suffix;
  // Another version of zlib writes other bytes that hold the same.
  if (!holds(file, script)) writeFileSync(file, encode(script));
}
