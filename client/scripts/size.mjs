/** Fails when the script that pages load has grown too large. */

import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { staticScript } from "./bundle.mjs";

const LIMIT = 25 * 1024;

const size = gzipSync(readFileSync(staticScript), { level: 9 }).length;
console.log(`livepush.js: ${size} bytes gzipped, at most ${LIMIT} allowed`);
if (size > LIMIT) process.exit(1);
