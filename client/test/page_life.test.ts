/** Pages that are put away, sleep, and lose the network. */

import { beforeEach, expect, test } from "vitest";
import type { Room } from "../src/api.js";
import { FakePage } from "./fake_surroundings.js";
import { Setting, recovered } from "./setting.js";

let page: FakePage;
let setting: Setting;
let room: Room;

beforeEach(() => {
  page = new FakePage();
  setting = new Setting({ page });
  room = setting.live.room("chat:1", { since: null });
  setting.start(room);
  setting.socket.calls.length = 0;
});

const reconnected = ["disconnect", "connect"];

test("a page put away closes its connection, and recovers when it is brought back", () => {
  page.fire("pagehide");
  expect([setting.live.state, setting.socket.connected]).toEqual(["offline", false]);
  page.fire("pageshow");
  expect(setting.live.state).toBe("connecting");
  setting.socket.accept();
  expect(setting.next().message).toMatchObject({ since: { epoch: "e", offset: 5 } });
});

test("a page brought back stays as it was left: disconnected or refused", () => {
  setting.live.disconnect();
  page.fire("pagehide");
  page.fire("pageshow");
  expect(setting.live.state).toBe("offline");
  setting.live.connect();
  setting.socket.refuse("no");
  page.fire("pagehide");
  page.fire("pageshow");
  expect(setting.live.state).toBe("refused");
});

test("the first pageshow of a page means nothing", () => {
  page.fire("pageshow");
  expect([setting.live.state, setting.socket.calls]).toEqual(["live", []]);
});

test("a page shown again asks whether the connection is alive, quietly", () => {
  page.show("hidden");
  setting.surroundings.pass(5_000);
  page.show("visible");
  const question = setting.next();
  expect(question.message).toMatchObject({ since: { epoch: "e", offset: 5 } });
  expect(setting.live.state).toBe("live");
  question.answer(recovered(6, { event: "ping", data: 1, offset: 6 }));
  setting.surroundings.pass(3_000);
  expect([room.position?.offset, setting.socket.calls]).toEqual([6, []]);
});

test("a glance at another tab asks nothing", () => {
  page.show("hidden");
  setting.surroundings.pass(4_999);
  page.show("visible");
  page.show("visible");
  setting.surroundings.settle();
  expect(setting.socket.sent).toEqual([]);
});

test("a connection that does not answer in three seconds is made anew", () => {
  page.show("hidden");
  setting.surroundings.sleep(600_000);
  page.show("visible");
  setting.surroundings.pass(2_999);
  expect(setting.socket.calls).toEqual([]);
  setting.surroundings.pass(1);
  expect(setting.socket.calls).toEqual(reconnected);
  expect(setting.live.state).toBe("offline");
  setting.socket.accept();
  setting.next().answer(recovered(5));
  expect(setting.live.state).toBe("live");
});

test("anything that arrives shows that the connection is alive", () => {
  page.show("hidden");
  setting.surroundings.pass(5_000);
  page.show("visible");
  setting.socket.push("ping");
  setting.surroundings.pass(3_000);
  expect(setting.socket.calls).toEqual([]);
});

test("a connection made meanwhile is not the one that was silent", () => {
  page.show("hidden");
  setting.surroundings.pass(5_000);
  page.show("visible");
  setting.socket.cut();
  setting.socket.accept();
  setting.surroundings.pass(3_000);
  expect(setting.socket.calls).toEqual([]);
});

test("a computer that slept asks when it wakes", () => {
  setting.surroundings.pass(60_000);
  expect(setting.socket.sent).toEqual([]);
  setting.surroundings.sleep(60_000);
  setting.surroundings.pass(0);
  expect(setting.next().event).toBe("livepush.subscribe");
});

test("a hidden page whose timers are slowed down does not", () => {
  page.show("hidden");
  setting.surroundings.sleep(60_000);
  setting.surroundings.pass(5_000);
  expect(setting.socket.sent).toEqual([]);
});

test("waking up without a connection tries at once", () => {
  setting.socket.cut();
  page.show("hidden");
  setting.surroundings.pass(5_000);
  page.show("visible");
  expect(setting.socket.calls).toEqual(reconnected);
});

test("online tries at once where there is no connection, and asks where there is", () => {
  setting.socket.cut();
  page.fire("online");
  expect(setting.socket.calls).toEqual(reconnected);
  setting.socket.accept();
  setting.next().answer(recovered(5));
  page.fire("online");
  expect(setting.next().event).toBe("livepush.subscribe");
});

test("offline is shown promptly, and tried again like any other loss", () => {
  page.fire("offline");
  setting.surroundings.pass(0);
  expect([setting.live.state, setting.socket.calls]).toEqual(["offline", reconnected]);
});

test("offline leaves alone what socket.io-client has closed itself", () => {
  page.fire("offline");
  setting.socket.cut();
  setting.surroundings.pass(0);
  expect([setting.live.state, setting.socket.calls]).toEqual(["offline", []]);
});

test("after disconnect() the page is not watched any more", () => {
  setting.live.disconnect();
  setting.socket.calls.length = 0;
  for (const event of ["pagehide", "pageshow", "offline", "online"]) page.fire(event);
  expect(setting.surroundings.waiting).toBe(0);
  expect(setting.socket.calls).toEqual([]);
});

test("a page without rooms has nothing to ask", () => {
  room.leave();
  setting.next("livepush.unsubscribe").answer({ ok: true });
  page.show("hidden");
  setting.surroundings.pass(5_000);
  page.show("visible");
  setting.surroundings.pass(3_000);
  expect([setting.socket.sent, setting.socket.calls]).toEqual([[], []]);
});

test("an attached socket is asked, never closed", () => {
  const attached = new Setting({ owned: false, page: (page = new FakePage()) });
  attached.socket.accept();
  attached.start(attached.live.room("chat:1", { since: null }));
  page.fire("pagehide");
  page.fire("offline");
  page.show("hidden");
  attached.surroundings.sleep(60_000);
  page.show("visible");
  expect(attached.next().event).toBe("livepush.subscribe");
  attached.surroundings.pass(3_000);
  page.fire("online");
  attached.surroundings.pass(3_000);
  expect([attached.live.state, attached.socket.calls]).toEqual(["live", []]);
});

test("nothing that happens to the page brings back a login that has ended", () => {
  const page = new FakePage();
  const { live, socket, surroundings } = new Setting({ page });
  live.connect();
  socket.accept();
  socket.push("livepush.ended", { code: 103, message: "Signed out." });
  socket.calls.length = 0;
  for (const event of ["offline", "online", "pagehide", "pageshow"]) page.fire(event);
  page.show("hidden");
  surroundings.pass(60_000);
  page.show("visible");
  surroundings.sleep(600_000);
  surroundings.pass(60_000);
  expect([live.state, live.error?.code]).toEqual(["refused", 103]);
  expect(socket.calls).not.toContain("connect");
});

test("a page that wakes while its login is renewed asks no second time", () => {
  const page = new FakePage();
  const { live, socket, surroundings } = new Setting({ page });
  live.connect();
  socket.refuse("renew", { code: 109, message: "renew", temporary: true });
  surroundings.pass(0);
  socket.calls.length = 0;
  page.fire("online");
  expect([surroundings.renewals.length, socket.calls]).toEqual([1, []]);
  page.fire("pagehide");
  expect(surroundings.renewals).toEqual([]);
  page.fire("pageshow");
  socket.accept();
  expect(live.state).toBe("live");
});
