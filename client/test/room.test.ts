/** What happens in a room, beyond what stands in the vectors. */

import { expect, test, vi } from "vitest";
import { Client } from "../src/client.js";
import { FakePage } from "./fake_surroundings.js";
import { Setting, recovered, snapshot, watched, type Row } from "./setting.js";

test("one object per name until it is left", () => {
  const { live } = new Setting();
  const room = live.room("chat:1");
  expect(live.room("chat:1")).toBe(room);
  expect(live.room("chat:2")).not.toBe(room);
  room.leave();
  expect(live.room("chat:1")).not.toBe(room);
});

test("stores made in the same breath as the room count", () => {
  const setting = new Setting();
  setting.start();
  const room = setting.live.room("chat:1", { since: { epoch: "e", offset: 5 } });
  expect(setting.socket.sent).toEqual([]);
  room.store("message");
  expect(setting.next().message).toEqual({ v: 1, room: "chat:1" });
});

test("the position is taken from the page, unless one is given", () => {
  const printed = '{"room": "chat:1", "epoch": "p", "offset": 3}';
  const setting = new Setting({ page: new FakePage([printed]) });
  setting.start();
  const room = setting.live.room("chat:1");
  expect(setting.next().message).toMatchObject({ since: { epoch: "p", offset: 3 } });
  room.leave();
  setting.live.room("chat:1", { since: null });
  setting.socket.sent = [];
  setting.live.room("chat:2");
  expect(setting.next().message).toEqual({ v: 1, room: "chat:2" });
});

test("handlers get data and meta, in the order in which they were added", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1");
  const calls: unknown[] = [];
  room.on("message.created", (data, meta) => calls.push(["first", data, meta]));
  room.on("message.created", (data) => calls.push(["second", data]));
  setting.start(room);
  setting.publish("message.created", { id: 1 }, 6, { stamp: 60, more: false });
  const meta = { room: "chat:1", epoch: "e", offset: 6, stamp: 60 };
  expect(calls).toEqual([["first", { id: 1 }, meta], ["second", { id: 1 }]]);
});

test("handlers can be taken off: by the returned function, one, or all", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1");
  const [one, two, three] = [vi.fn(), vi.fn(), vi.fn()];
  const unsubscribe = room.on("ping", one);
  room.on("ping", two);
  room.on("ping", three);
  setting.start(room);
  setting.publish("ping", 1, 6);
  unsubscribe();
  setting.publish("ping", 1, 7);
  room.off("ping", two);
  setting.publish("ping", 1, 8);
  room.off("ping");
  setting.publish("ping", 1, 9);
  expect([one, two, three].map(({ mock }) => mock.calls.length)).toEqual([1, 2, 3]);
});

test("a handler or subscriber that throws is reported and harms no other", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1");
  const store = room.store<Row>("message");
  const seen = vi.fn();
  room.on("message.created", () => {
    throw new Error("in a handler");
  });
  room.on("message.created", seen);
  store.subscribe(() => {
    throw new Error("in a subscriber");
  });
  const told = watched(store);
  setting.start(room);
  setting.publish("message.created", { id: 1 }, 6);
  expect(seen).toHaveBeenCalledOnce();
  expect(told).toEqual([[], [1]]);
  expect(setting.surroundings.reported.map(String)).toEqual([
    "Error: in a subscriber",
    "Error: in a subscriber",
    "Error: in a subscriber",
    "Error: in a handler",
  ]);
  expect(room.state).toBe("live");
});

test("a handler sees the store with what it is called for", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1");
  const store = room.store<Row>("message");
  const seen: unknown[] = [];
  room.on("message.created", ({ id }) => seen.push(store.get(id)));
  setting.start(room);
  setting.publish("message.created", { id: 1 }, 6);
  expect(seen).toEqual([{ id: 1 }]);
});

test("livepush.snapshot tells of a new start, the stores being in step", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1");
  const store = room.store<Row>("message");
  const starts: unknown[] = [];
  room.on("livepush.snapshot", (content, meta) => {
    starts.push([content.state, meta, store.getSnapshot().length]);
  });
  setting.live.connect();
  setting.socket.accept();
  const message = { key: "id", rows: [{ id: 1 }], partial: false };
  const content = { kinds: { message }, state: { topic: "x" } };
  setting.next().answer({ ...snapshot(5), snapshot: content });
  expect(starts).toEqual([[{ topic: "x" }, { room: "chat:1", epoch: "e", offset: 5 }, 1]]);
  expect(room.snapshotState).toEqual({ topic: "x" });
});

test("status tells each state once, and at once", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1");
  const states: string[] = [];
  room.status.subscribe((state) => states.push(state));
  setting.start(room);
  setting.socket.cut();
  setting.socket.accept();
  setting.next().answer(recovered(5));
  const all = ["offline", "connecting", "live", "offline", "recovering", "live"];
  expect(states).toEqual(all);
});

test("leaving tells the server, forgets handlers and silences stores", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1");
  const handler = vi.fn();
  room.on("message.created", handler);
  const told = watched(room.store<Row>("message"));
  setting.start(room);
  told.length = 0;
  room.leave();
  setting.publish("message.created", { id: 1 }, 6);
  const unsubscribe = setting.next("livepush.unsubscribe");
  expect(unsubscribe.message).toEqual({ v: 1, room: "chat:1" });
  unsubscribe.answer({ ok: true });
  room.leave();
  expect(setting.socket.sent).toEqual([]);
  expect(handler).not.toHaveBeenCalled();
  expect(told).toEqual([]);
});

test("a handler may leave its room while publications are replayed", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1", { since: { epoch: "e", offset: 5 } });
  const seen: number[] = [];
  room.on("ping", (data) => {
    seen.push(data);
    room.leave();
  });
  room.on("ping", () => seen.push(-1));
  setting.live.connect();
  setting.socket.accept();
  const ping = (offset: number) => ({ event: "ping", data: offset, offset });
  setting.next().answer(recovered(7, ping(6), ping(7)));
  expect(seen).toEqual([6]);
});

test("a page from before its room had a history follows the one that began since", () => {
  const setting = new Setting();
  const nothing = { epoch: "none.1763000000000.ab12.t-_9", offset: 0 };
  const room = setting.live.room("chat:1", { since: nothing });
  const seen: number[] = [];
  room.on("ping", (data) => seen.push(data));
  setting.live.connect();
  setting.socket.accept();
  const asked = setting.next();
  expect(asked.message).toMatchObject({ since: nothing });
  asked.answer(recovered(1, { event: "ping", data: 1, offset: 1 }));
  expect(seen).toEqual([1]);
  expect(room.position).toEqual({ epoch: "e", offset: 1 });
  setting.publish("ping", 2, 2);
  expect(seen).toEqual([1, 2]);
});

test("left and joined again at once: one message at a time", () => {
  const setting = new Setting();
  setting.start();
  const first = setting.live.room("chat:1");
  const subscribe = setting.next();
  first.leave();
  const second = setting.live.room("chat:1");
  setting.surroundings.settle();
  expect(setting.socket.sent).toEqual([]);
  subscribe.answer(snapshot(5));
  const unsubscribe = setting.next("livepush.unsubscribe");
  expect(setting.socket.sent).toEqual([]);
  unsubscribe.answer({ ok: true });
  setting.next().answer(snapshot(6));
  expect(first.position).toBeNull();
  expect(second.position?.offset).toBe(6);
});

test("a room left before it was joined needs no message", () => {
  const setting = new Setting();
  setting.start();
  setting.live.room("chat:1").leave();
  setting.surroundings.settle();
  expect(setting.socket.sent).toEqual([]);
});

test("rooms do not wait for each other", () => {
  const setting = new Setting();
  setting.start();
  setting.live.room("chat:1");
  setting.live.room("chat:2");
  const rooms = [setting.next(), setting.next()].map(({ message }) => message.room);
  expect(rooms).toEqual(["chat:1", "chat:2"]);
});

test("connect() tries refused rooms again", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1");
  setting.live.connect();
  setting.socket.accept();
  const error = { code: 103, message: "no", temporary: false };
  setting.next().answer({ ok: false, error });
  expect(room.error).toEqual(error);
  setting.live.connect();
  expect(room.state).toBe("connecting");
  setting.next().answer(snapshot(5));
  expect([room.state, room.error]).toEqual(["live", null]);
});

test("a right that is lost while the room is followed ends it", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1");
  const handler = vi.fn();
  room.on("ping", handler);
  setting.start(room);
  setting.socket.push("livepush.reset", { room: "chat:1", within: 1 });
  setting.surroundings.pass(1_000);
  setting.next().answer({ ok: false, error: { code: 103, message: "no", temporary: false } });
  setting.publish("ping", 1, 6);
  expect(room.state).toBe("refused");
  expect(handler).not.toHaveBeenCalled();
});

test("a reset while a question is under way is not forgotten", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1");
  setting.start(room);
  setting.publish("ping", 1, 7);
  const question = setting.next();
  setting.socket.push("livepush.reset", { room: "chat:1", within: 1 });
  setting.surroundings.pass(1_000);
  expect(setting.socket.sent).toEqual([]);
  question.answer(recovered(5));
  expect(room.state).toBe("recovering");
  setting.next().answer(recovered(5));
  expect(room.state).toBe("live");
});

test("what is in order is shown also while a question is under way", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1");
  const seen: number[] = [];
  room.on("ping", (_data, { offset }) => seen.push(offset));
  setting.start(room);
  setting.publish("ping", 1, 7);
  const question = setting.next();
  setting.publish("ping", 1, 6);
  const ping = (offset: number) => ({ event: "ping", data: 1, offset });
  question.answer(recovered(7, ping(6), ping(7)));
  expect(seen).toEqual([6, 7]);
});

test("a room left while the connection is going away needs no message", () => {
  const setting = new Setting();
  setting.socket.on("disconnect", () => room.leave());
  const { socket, surroundings } = setting;
  const live = new Client(() => socket, surroundings);
  const room = live.room("chat:1", { since: null });
  live.connect();
  socket.accept();
  setting.next().answer(snapshot(5));
  socket.cut();
  expect(socket.sent).toEqual([]);
});
