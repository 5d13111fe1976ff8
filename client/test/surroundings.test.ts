/** What the browser has, and what it may not have. */

import { afterEach, expect, test, vi } from "vitest";
import { browserSurroundings } from "../src/surroundings.js";

afterEach(() => vi.unstubAllGlobals());

class Storage {
  readonly items = new Map<string, string>();
  getItem = (key: string): string | null => this.items.get(key) ?? null;
  setItem = (key: string, text: string): void => void this.items.set(key, text);
  removeItem = (key: string): void => void this.items.delete(key);
}

test("the tab's session remembers, for each server by itself", () => {
  const storage = new Storage();
  vi.stubGlobal("sessionStorage", storage);
  browserSurroundings().memory.save("a");
  browserSurroundings("https://other.example").memory.save("b");
  expect([...storage.items.keys()]).toEqual([
    "livepush.websocket:",
    "livepush.websocket:https://other.example",
  ]);
  expect(browserSurroundings().memory.load()).toBe("a");
  browserSurroundings().memory.save(null);
  expect(browserSurroundings().memory.load()).toBe(null);
  expect(storage.items.size).toBe(1);
});

test("no storage: nothing is remembered, and nothing fails", () => {
  vi.stubGlobal("sessionStorage", undefined);
  const { memory } = browserSurroundings();
  memory.save("a");
  memory.save(null);
  expect(memory.load()).toBe(null);
});

test("a storage that throws when it is looked at, as in a sandboxed frame", () => {
  const deny = (): never => {
    throw new Error("SecurityError");
  };
  const { memory } = browserSurroundings();
  const before = Object.getOwnPropertyDescriptor(globalThis, "sessionStorage");
  Object.defineProperty(globalThis, "sessionStorage", { get: deny, configurable: true });
  try {
    memory.save("a");
    expect(memory.load()).toBe(null);
  } finally {
    if (before) Object.defineProperty(globalThis, "sessionStorage", before);
    else delete (globalThis as { sessionStorage?: unknown }).sessionStorage;
  }
});

test("a storage that is full, or that gives no storage but functions that throw", () => {
  const full = (): never => {
    throw new Error("QuotaExceededError");
  };
  vi.stubGlobal("sessionStorage", { getItem: full, setItem: full, removeItem: full });
  const { memory } = browserSurroundings();
  memory.save("a");
  memory.save(null);
  expect(memory.load()).toBe(null);
});

test("what is told in words is a warning in the console", () => {
  const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
  browserSurroundings().warn("the server refused");
  expect(warn.mock.calls).toEqual([["the server refused"]]);
  warn.mockRestore();
});
