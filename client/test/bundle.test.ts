/** The checked-in script, as a page gets it. */

import { expect, test } from "vitest";
import script from "../../flask_livepush/static/livepush.js?raw";

test("it makes LivePush a global and nothing else", () => {
  const before = new Set(Object.getOwnPropertyNames(globalThis));
  // Indirect, as a <script> element is: what it declares would become global.
  (0, eval)(script);
  const made = Object.getOwnPropertyNames(globalThis).filter((name) => !before.has(name));
  expect(made).toEqual(["LivePush"]);
  const { LivePush } = globalThis as any;
  const live = LivePush.connect({ autoConnect: false });
  const states = [live.state, live.transport, live.room("chat:1").state];
  expect(states).toEqual(["offline", null, "offline"]);
});

test("it carries the licence of every package in it", () => {
  const notice = script.slice(script.lastIndexOf("/*!"));
  for (const name of [
    "@socket.io/component-emitter",
    "engine.io-client",
    "engine.io-parser",
    "socket.io-client",
    "socket.io-parser",
  ]) {
    expect(notice).toMatch(new RegExp(`^${name} \\d+\\.\\d+\\.\\d+ \\(MIT\\)\\. Copyright`, "m"));
  }
  expect(notice).toContain("Permission is hereby granted, free of charge");
  expect(notice).toContain('THE SOFTWARE IS PROVIDED "AS IS"');
});

test("it runs under a strict Content-Security-Policy", () => {
  expect(script).not.toMatch(/\beval\(|new Function|\.style\b|innerHTML|createElement\("style/);
});
