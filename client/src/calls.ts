/** What an application may pass in: a mistake is told where it is made, in a sentence. */

import type { StoreOptions } from "./api.js";
import { isObject } from "./wire.js";

const TRANSPORTS: readonly unknown[] = ["websocket", "polling", "webtransport"];

export function checkRoom(name: unknown): void {
  check(isName(name), 'The name of a room must be a text such as "chat:42"', name);
}

export function checkStore(kind: unknown, { sort, rows }: StoreOptions<any>): void {
  check(isName(kind), 'The kind of a store must be a text such as "message"', kind);
  const sorts = sort === undefined || typeof sort === "function" || isName(sort);
  check(sorts, `"sort" of the store "${kind}" must be a field, "-field" or a comparison`, sort);
  const listed = rows === undefined || Array.isArray(rows);
  check(listed, `"rows" of the store "${kind}" must be an array`, rows);
}

/** socket.io-client takes classes of transports as well. */
export function checkTransports(transports: unknown): void {
  const known = (one: unknown) => typeof one === "function" || TRANSPORTS.includes(one);
  const some = Array.isArray(transports) && transports.length > 0 && transports.every(known);
  check(some || transports === undefined, '"transports" must be an array of "websocket" and "polling"', transports);
}

export function checkAuth(auth: unknown): void {
  const given = auth === undefined || typeof auth === "function" || isObject(auth);
  check(given, '"auth" must be an object such as {token}, or a function that gives one', auth);
}

function isName(value: unknown): boolean {
  return typeof value === "string" && value !== "";
}

function check(valid: boolean, rule: string, value: unknown): void {
  if (valid) return;
  throw new TypeError(`${rule}; it is ${typeof value === "string" ? `"${value}"` : String(value)}.`);
}
