/** The licences of what is in a bundle, which must stay with every copy of it. */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/**
 * A comment with each bundled package's copyright and licence text.
 *
 * @param {string[]} inputs The bundled files, relative to `root`.
 * @param {string} root The folder that holds `node_modules`.
 */
export function licencesOf(inputs, root) {
  const names = new Set(inputs.map(packageOf).filter((name) => name !== null));
  /** @type {Map<string, string[]>} the packages of each licence text */
  const texts = new Map();
  for (const name of [...names].sort()) {
    const folder = join(root, "node_modules", name);
    const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    const { copyright, text } = licenceIn(folder, name);
    const title = `${name} ${version} (${license}). ${copyright}`;
    texts.set(text, [...(texts.get(text) ?? []), title]);
  }
  const parts = [...texts].map(([text, titles]) => `${titles.join("\n")}\n\n${text}`);
  return `/*! Bundled:\n\n${parts.join("\n\n")}\n*/\n`;
}

/** "@socket.io/component-emitter" of "node_modules/@socket.io/component-emitter/lib/…". */
function packageOf(input) {
  return /.*node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input)?.[1] ?? null;
}

function licenceIn(folder, name) {
  const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
  if (!file) throw new Error(`${name} has no licence file: it may not be bundled.`);
  const text = readFileSync(join(folder, file), "utf8").replace(/\r/g, "").replace(/\*\//g, "* /");
  const copyright = /^\s*(copyright .*)$/im.exec(text);
  if (!copyright) throw new Error(`${name}: no copyright line in ${file}.`);
  // Once for all packages that differ in white space and the copyright line alone.
  const rest = text
    .replace(copyright[0], "")
    .split(/\n\s*\n/)
    .map((paragraph) => paragraph.replace(/\s+/g, " ").trim())
    .filter((paragraph) => paragraph && !/^\(?(the )?MIT( license)?\)?$/i.test(paragraph));
  return { copyright: copyright[1].trim(), text: rest.join("\n\n") };
}
