/** Fails when the checked-in script is not what the sources build. */

import { readFileSync } from "node:fs";
import { bundleScript, staticScript } from "./bundle.mjs";

const built = await bundleScript();
if (readFileSync(staticScript, "utf8") !== built) {
  console.error(
    "flask_livepush/static/livepush.js is not what client/src builds; " +
      'run "npm ci && npm run build" in client/ and check the file in.',
  );
  process.exit(1);
}
