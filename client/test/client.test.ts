/** The connection: its states, refusals, and sockets that are not ours. */

import { expect, test } from "vitest";
import { Setting, recovered, snapshot } from "./setting.js";

test("from connecting over recovering to live and back", () => {
  const setting = new Setting();
  const { live, socket } = setting;
  const states: string[] = [];
  live.status.subscribe((state) => state !== states.at(-1) && states.push(state));
  live.room("chat:1");
  live.connect();
  socket.accept();
  expect(live.state).toBe("connecting");
  setting.next().answer(snapshot(5));
  socket.cut("ping timeout");
  socket.miss();
  socket.accept();
  setting.next().answer(recovered(5));
  live.disconnect();
  live.connect();
  socket.accept();
  setting.next().answer(recovered(5));
  expect(states.join(" ")).toBe(
    "offline connecting live offline recovering live offline connecting recovering live",
  );
});

test("a server that cannot be reached at first keeps it connecting", () => {
  const { live, socket } = new Setting();
  live.connect();
  socket.miss();
  socket.miss();
  expect([live.state, live.error]).toEqual(["connecting", null]);
});

test("live once every room is, but for refused ones", () => {
  const setting = new Setting();
  const { live, socket } = setting;
  const [one, two] = [live.room("chat:1"), live.room("chat:2")];
  live.connect();
  socket.accept();
  setting.next().answer(snapshot(5));
  expect([live.state, one.state, two.state]).toEqual(["connecting", "live", "connecting"]);
  const error = { code: 103, message: "no", temporary: false };
  setting.next().answer({ ok: false, error });
  expect([live.state, two.state]).toEqual(["live", "refused"]);
  const three = live.room("chat:3");
  expect(live.state).toBe("recovering");
  three.leave();
  expect(live.state).toBe("live");
});

test("a server that says no is asked again only by connect()", () => {
  const { live, socket, surroundings } = new Setting();
  live.connect();
  socket.calls.length = 0;
  socket.refuse("log in first", { code: 103, message: "not logged in" });
  surroundings.pass(60_000);
  expect([live.state, socket.calls]).toEqual(["refused", []]);
  expect(live.error).toEqual({ code: 103, message: "not logged in", temporary: false });
  live.connect();
  expect([live.state, live.error, socket.active]).toEqual(["connecting", null, true]);
});

test("the message of a refusal without data", () => {
  const { live, socket } = new Setting();
  live.connect();
  socket.refuse("log in first");
  expect(live.error).toEqual({ code: 0, message: "log in first", temporary: false });
});

test("a server that says not now is asked again, ever more slowly", () => {
  const { live, socket, surroundings } = new Setting();
  live.connect();
  for (const pause of [750, 1_500, 3_000]) {
    socket.calls.length = 0;
    socket.refuse("full", { code: 120, message: "full", temporary: true });
    expect(live.state).toBe("offline");
    surroundings.pass(pause - 1);
    expect(socket.calls).toEqual([]);
    surroundings.pass(1);
    expect(socket.calls).toContain("connect");
  }
  socket.accept();
  expect([live.state, live.error]).toEqual(["live", null]);
});

test("a server that ends the connection is not asked again", () => {
  const { live, socket, surroundings } = new Setting();
  live.connect();
  socket.accept();
  socket.calls.length = 0;
  socket.cut("io server disconnect");
  surroundings.pass(60_000);
  expect([live.state, socket.active]).toEqual(["refused", false]);
  expect(socket.calls).not.toContain("connect");
  expect(live.error?.temporary).toBe(false);
});

test("disconnect() ends it for good, connect() recovers", () => {
  const setting = new Setting();
  const { live, socket, surroundings } = setting;
  const room = live.room("chat:1");
  setting.start(room);
  live.disconnect();
  surroundings.pass(60_000);
  expect([live.state, room.state, socket.connected]).toEqual(["offline", "offline", false]);
  live.connect();
  socket.accept();
  expect(setting.next().message).toMatchObject({ since: { epoch: "e", offset: 5 } });
});

test("an application that connects when it hears of the loss", () => {
  // Bug: socket.io-client, restarted while it told of a loss, never came back after the next.
  const { live, socket } = new Setting();
  live.connect();
  socket.accept();
  let heard = 0;
  live.status.subscribe((state) => state === "offline" && heard++ === 0 && live.connect());
  socket.calls.length = 0;
  socket.cut();
  expect([live.state, socket.calls]).toEqual(["connecting", ["disconnect", "connect"]]);
  socket.accept();
  expect(live.state).toBe("live");
});

test("an application that connects and then thinks better of it", () => {
  const { live, socket } = new Setting();
  live.connect();
  socket.accept();
  let heard = 0;
  live.status.subscribe((state) => {
    if (state !== "offline" || heard++ > 0) return;
    live.connect();
    live.disconnect();
  });
  socket.cut();
  expect([live.state, socket.active]).toEqual(["offline", false]);
});

test("disconnect() during a pause ends the pause", () => {
  const { live, socket, surroundings } = new Setting();
  live.connect();
  socket.refuse("full", { temporary: true });
  live.disconnect();
  socket.calls.length = 0;
  surroundings.pass(60_000);
  expect(socket.calls).toEqual([]);
});

test("the transport, and its upgrade, are told to subscribers of the status", () => {
  const { live, socket } = new Setting();
  const seen: unknown[] = [];
  live.status.subscribe((state) => seen.push([state, live.transport]));
  live.connect();
  socket.accept("polling");
  socket.upgrade();
  socket.cut();
  expect(seen).toEqual([
    ["offline", null],
    ["connecting", null],
    ["live", "polling"],
    ["live", "websocket"],
    ["offline", null],
  ]);
});

test("attached to a connected socket: follows at once", () => {
  const setting = new Setting({ owned: false });
  setting.socket.accept();
  setting.live.connect();
  const room = setting.live.room("chat:1");
  setting.next().answer(snapshot(5));
  expect([setting.live.state, room.state, setting.socket.calls]).toEqual(["live", "live", []]);
});

test("attached to a socket that connects later: leaves that to it", () => {
  const setting = new Setting({ owned: false });
  setting.socket.active = true;
  setting.live.connect();
  expect([setting.live.state, setting.socket.calls]).toEqual(["connecting", []]);
  setting.socket.accept();
  expect(setting.live.state).toBe("live");
});

test("attached: disconnect() leaves the rooms and never closes the socket", () => {
  const setting = new Setting({ owned: false });
  setting.socket.accept();
  const room = setting.live.room("chat:1");
  setting.start(room);
  setting.live.disconnect();
  setting.publish("ping", 1, 6);
  expect(setting.next("livepush.unsubscribe").message).toEqual({ v: 1, room: "chat:1" });
  setting.live.room("chat:2");
  setting.surroundings.settle();
  expect(setting.socket.sent).toEqual([]);
  setting.live.room("chat:2").leave();
  expect([setting.live.state, room.position?.offset]).toEqual(["offline", 5]);
  setting.socket.cut();
  setting.socket.accept();
  expect([setting.live.state, setting.socket.sent]).toEqual(["offline", []]);
  setting.live.connect();
  expect(setting.next().message).toMatchObject({ since: { epoch: "e", offset: 5 } });
  expect(setting.socket.calls).toEqual([]);
});

test("attached: the application's own events are left alone", () => {
  const setting = new Setting({ owned: false });
  setting.socket.accept();
  const room = setting.live.room("chat:1");
  setting.start(room);
  setting.socket.push("typing", { room: "chat:1" });
  setting.socket.push("typing", 1, { room: "chat:1", offset: 6 });
  expect([room.position?.offset, setting.socket.sent]).toEqual([5, []]);
});
