/** What is passed in by mistake is told at the call, in a sentence. */

import { expect, test } from "vitest";
import { connect } from "../src/index.js";
import { Setting } from "./setting.js";

test("the name of a room", () => {
  const { live } = new Setting();
  const rule = 'The name of a room must be a text such as "chat:42"; it is ';
  expect(() => live.room("")).toThrow(new TypeError(`${rule}"".`));
  expect(() => live.room(42 as any)).toThrow(new TypeError(`${rule}42.`));
});

test("the kind, the order and the rows of a store", () => {
  const room = new Setting().live.room("chat:1");
  const store = (...args: unknown[]) => () => room.store(...(args as [string]));
  const rule = '"sort" of the store "n" must be a field, "-field" or a comparison; it is 5.';
  expect(store("n", { sort: 5 })).toThrow(new TypeError(rule));
  const rows = '"rows" of the store "n" must be an array; it is ';
  expect(store("n", { rows: {} })).toThrow(new TypeError(`${rows}[object Object].`));
  expect(store("n", { rows: null })).toThrow(new TypeError(`${rows}null.`));
  expect(store()).toThrow(TypeError);
  for (const sort of ["id", "-id", () => 0, undefined]) store("n", { sort, rows: undefined })();
});

test("the transports", () => {
  const to = (transports: any) => () => connect({ transports, autoConnect: false });
  const rule = '"transports" must be an array of "websocket" and "polling"; it is websockets.';
  expect(to(["websockets"])).toThrow(new TypeError(rule));
  expect(to("websocket")).toThrow(TypeError);
  expect(to([])).toThrow(TypeError);
  for (const known of [["polling"], ["websocket", "webtransport"], undefined]) to(known)();
});
