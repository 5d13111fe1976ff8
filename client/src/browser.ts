/** The script for pages without a bundler: makes `LivePush` a global. */

import { LivePush } from "./index.js";

Object.assign(globalThis, { LivePush });
