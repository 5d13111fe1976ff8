/** Fails when the checked-in script is not what the sources build. */

import { readFileSync } from "node:fs";
import { bundleScript, encodings, staticScript } from "./bundle.mjs";

const built = await bundleScript();
const isCurrent = encodings.every(({ suffix, holds }) => holds(staticScript + suffix, built));
if (readFileSync(staticScript, "utf8") !== built || !isCurrent) {
  console.error(
    "flask_livepush/static/livepush.js, or .gz or .br of it, is not what client/src builds; " +
      'run "npm ci && npm run build" in client/ and check the file in.',
  );
  process.exit(1);
}
