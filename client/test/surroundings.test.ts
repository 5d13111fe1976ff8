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

interface Fetched {
  readonly url: string;
  readonly options: RequestInit;
  readonly answer: (status: number) => void;
  readonly fail: () => void;
}

/** Fetch as a page at this address does, when the script came from there. */
async function renewal(page: string, script: string | null, server?: string, loginUrl?: string) {
  vi.stubGlobal("location", new URL(page));
  vi.stubGlobal("document", { currentScript: script && { src: script } });
  const fetched: Fetched[] = [];
  vi.stubGlobal("fetch", (url: URL, options: RequestInit) => {
    return new Promise((resolve, reject) => {
      const answer = (status: number): void => resolve({ status });
      fetched.push({ url: String(url), options, answer, fail: () => reject(new TypeError("failed")) });
    });
  });
  vi.resetModules();
  const { browserSurroundings } = await import("../src/surroundings.js");
  const statuses: number[] = [];
  vi.stubGlobal("window", new EventTarget());
  const cancel = browserSurroundings(server, loginUrl).renew((status) => statuses.push(status));
  await settled();
  return { fetched: fetched[0], statuses, cancel };
}

async function settled(): Promise<void> {
  for (let turns = 0; turns < 5; turns++) await Promise.resolve();
}

const PAGE = "https://shop.example/a/page";
const OTHER = "https://api.example";

test.each([
  ["/push/it/login", PAGE, "https://shop.example/push/it/livepush.js?v=1", undefined, undefined],
  ["/app/livepush/login", PAGE, "https://shop.example/app/livepush/livepush.js", "/", undefined],
  ["/livepush/login", PAGE, "https://shop.example/static/bundle.js", undefined, undefined],
  ["/livepush/login", PAGE, "https://cdn.example/x/livepush.js", undefined, undefined],
  ["/livepush/login", PAGE, "", undefined, undefined],
  ["/livepush/login", PAGE, null, undefined, undefined],
  ["/push/login", PAGE, "https://shop.example/livepush/livepush.js", undefined, "/push/login"],
  [`${OTHER}/livepush/login`, PAGE, "https://shop.example/x/livepush.js", OTHER, undefined],
  [`${OTHER}/x/login`, PAGE, `${OTHER}/x/livepush.js`, "wss://api.example", undefined],
  [`${OTHER}/x/login`, PAGE, null, "api.example", "/x/login"],
  [`${OTHER}:8443/livepush/login`, PAGE, null, "api.example:8443", undefined],
  [`${OTHER}/livepush/login`, PAGE, null, "//api.example/", undefined],
  ["http://localhost:5000/livepush/login", "http://127.0.0.1/", null, "localhost:5000", undefined],
])("a login is renewed at %s (page %s, script %s, server %s, loginUrl %s)", async (...given) => {
  const [at, page, script, server, loginUrl] = given;
  const { fetched } = await renewal(page, script, server, loginUrl);
  expect(fetched?.url).toBe(new URL(at, page).href);
  expect(fetched?.options).toMatchObject({ credentials: "include", cache: "no-store" });
});

test("the status of a renewal is told, or 0 where there is none", async () => {
  const { fetched, statuses } = await renewal(PAGE, null);
  fetched?.answer(401);
  await settled();
  expect(statuses).toEqual([401]);
  const lost = await renewal(PAGE, null);
  lost.fetched?.fail();
  await settled();
  expect(lost.statuses).toEqual([0]);
});

test("a renewal that is given up tells nothing any more", async () => {
  const { fetched, statuses, cancel } = await renewal(PAGE, null);
  cancel();
  expect(fetched?.options.signal?.aborted).toBe(true);
  fetched?.answer(200);
  await settled();
  expect(statuses).toEqual([]);
});

test("an address that can't be meant is a renewal that failed", async () => {
  const { statuses } = await renewal(PAGE, null, "http://:", undefined);
  await settled();
  expect(statuses).toEqual([0]);
});
