/** Where the server has turned live updates off. */

import { afterEach, expect, test, vi } from "vitest";
import script from "../../flask_livepush/static/livepush.js?raw";
import { pageSays } from "../src/page_settings.js";
import { FakePage } from "./fake_surroundings.js";
import { Setting, type Row } from "./setting.js";

afterEach(() => vi.unstubAllGlobals());

/** A page whose script has these attributes. */
function page(attributes: Record<string, string>): object {
  return {
    visibilityState: "visible",
    addEventListener() {},
    removeEventListener() {},
    querySelectorAll: () => [],
    querySelector(selector: string) {
      const name = /^script\[([\w-]+)\]$/.exec(selector)?.[1] as string;
      return name in attributes ? { getAttribute: (of: string) => attributes[of] ?? null } : null;
    },
  };
}

test.each([true, false])("it says so, and asks for nothing (owned: %s)", (owned) => {
  const fake = new FakePage();
  const setting = new Setting({ off: true, owned, page: fake });
  const { live, surroundings, socket } = setting;
  const room = live.room("chat:1");
  const told: string[] = [];
  live.status.subscribe((state) => told.push(state));
  live.connect();
  room.whisper("typing");
  room.presence.subscribe(() => {});
  if (!owned) socket.accept();
  for (const event of ["online", "pageshow", "offline"]) fake.fire(event);
  fake.show("hidden");
  fake.show("visible");
  surroundings.pass(3_600_000);
  expect([live.state, room.state, live.transport, live.error]).toEqual(["off", "off", null, null]);
  expect(told).toEqual(["off"]);
  expect(socket.sent).toEqual([]);
  expect(setting.sockets.length).toBe(1);
  if (owned) expect([socket.connected, socket.active]).toEqual([false, false]);
  expect(surroundings.waiting).toBe(0);
  live.disconnect();
  live.connect();
  room.leave();
  expect(live.state).toBe("off");
});

test("stores show the page's rows, and the answers to its own requests", () => {
  const { live } = new Setting({ off: true });
  const store = live.room("chat:1").store<Row>("message", { rows: [{ id: 1, body: "a" }] });
  live.connect();
  store.merge({ id: 2, body: "b" });
  store.merge({ id: 1, body: "changed" }, { get: () => null });
  expect(store.getSnapshot()).toEqual([
    { id: 1, body: "changed" },
    { id: 2, body: "b" },
  ]);
  store.merge([{ id: 1, body: "again" }]);
  expect(store.get(1)).toEqual({ id: 1, body: "again" });
});

test("a position in an answer, of a server that is on again, is nothing to wait for", () => {
  const { live, surroundings } = new Setting({ off: true });
  const store = live.room("chat:1").store<Row>("message", { rows: [{ id: 1, body: "a" }] });
  store.merge({ id: 1, body: "b" }, { get: () => "chat:1=e:7" });
  store.merge({ id: 1, body: "c" }, { get: () => "chat:1=e:6" });
  surroundings.settle();
  expect(store.get(1)).toEqual({ id: 1, body: "c" });
  expect(surroundings.waiting).toBe(0);
});

test("what is said in the script's element is about the server of the page alone", () => {
  vi.stubGlobal("location", new URL("https://chat.example/app/rooms/1"));
  vi.stubGlobal("document", page({ "data-livepush-off": "", "data-livepush-path": "/app/socket.io" }));
  expect([pageSays("off"), pageSays("path")]).toEqual(["", "/app/socket.io"]);
  expect(pageSays("path", "https://chat.example/")).toBe("/app/socket.io");
  expect(pageSays("path", "wss://chat.example")).toBe("/app/socket.io");
  for (const other of ["https://other.example", "https://chat.example:8443", "http://["]) {
    expect(pageSays("path", other)).toBe(null);
  }
  vi.stubGlobal("document", page({}));
  expect([pageSays("off"), pageSays("path")]).toEqual([null, null]);
});

test("the script makes no request on such a page, and finds Socket.IO below a prefix", () => {
  const asked: string[] = [];
  class Asked {
    constructor(url: string) {
      asked.push(url);
      throw new Error("no network here");
    }
  }
  vi.stubGlobal("WebSocket", Asked);
  vi.stubGlobal("XMLHttpRequest", undefined);
  vi.stubGlobal("location", new URL("https://chat.example/app/rooms/1"));
  const timers = { setTimeout, clearTimeout, WebSocket: Asked };
  vi.stubGlobal("window", Object.assign(new EventTarget(), timers));
  vi.stubGlobal("document", page({ "data-livepush-off": "" }));
  (0, eval)(script);
  const { LivePush } = globalThis as any;
  const off = LivePush.connect();
  expect([off.state, asked]).toEqual(["off", []]);
  vi.stubGlobal("document", page({ "data-livepush-path": "/app/socket.io" }));
  const live = LivePush.connect();
  live.disconnect();
  expect(asked[0]).toMatch(/\/app\/socket\.io\/\?EIO=4&transport=websocket$/);
  const own = LivePush.connect({ path: "/elsewhere" });
  own.disconnect();
  expect(asked[1]).toMatch(/\/elsewhere\/\?EIO=4/);
});
