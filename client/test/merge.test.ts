/** The page's own answers and the room's echo, beyond what stands in the vectors. */

import { expect, test } from "vitest";
import type { Room } from "../src/api.js";
import { Setting, recovered, snapshot, watched, type Row } from "./setting.js";

const AT_7 = "chat%3A1=e:7";

function started() {
  const setting = new Setting();
  const room: Room = setting.live.room("chat:1", { since: null });
  const store = room.store<Row>("message");
  setting.live.connect();
  setting.socket.accept();
  setting.next().answer(snapshot(5));
  return { setting, room, store, pass: (ms: number) => setting.surroundings.pass(ms) };
}

test.each([
  ["a response", new Response("", { headers: { "Livepush-Position": AT_7 } })],
  ["headers", new Headers({ "livepush-position": AT_7 })],
  ["the header", AT_7],
])("the position is read from %s", (_from, source) => {
  const { store, setting } = started();
  store.merge([{ id: 1, body: "mine" }, { id: 2 }], source);
  setting.publish("message.deleted", { id: 1 }, 6);
  expect(store.getSnapshot()).toEqual([{ id: 1, body: "mine" }, { id: 2 }]);
});

test("several rows are told once, and nothing is told where nothing changes", () => {
  const { store } = started();
  const told = watched(store);
  store.merge([{ id: 1 }, { id: 2 }], AT_7);
  store.merge({ id: 1 }, new Response());
  expect(told).toEqual([[1, 2]]);
});

test("a merge in the middle of a commit waits for its end", () => {
  const { store, setting } = started();
  const told = watched(store);
  setting.publish("message.created", { id: 1 }, 6, { more: true });
  store.merge({ id: 2 }, "chat%3A1=e:9");
  expect(told).toEqual([]);
  setting.publish("message.created", { id: 3 }, 7);
  expect(told).toEqual([[1, 2, 3]]);
});

test("before the room is joined a merged row outlives an older snapshot", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1", { since: null });
  const store = room.store<Row>("message");
  store.merge({ id: 2, body: "mine" }, AT_7);
  setting.live.connect();
  setting.socket.accept();
  setting.next().answer(snapshot(6, [{ id: 1 }]));
  expect(store.getSnapshot()).toEqual([{ id: 1 }, { id: 2, body: "mine" }]);
  setting.publish("message.created", { id: 2, body: "echo" }, 7);
  expect(store.get(2)).toEqual({ id: 2, body: "echo" });
});

test("a snapshot that includes the commit, or is of another epoch, wins", () => {
  for (const answer of [snapshot(7), snapshot(1, [], "f")]) {
    const { store, setting } = started();
    store.merge({ id: 1 }, AT_7);
    setting.socket.cut();
    setting.socket.accept();
    setting.next().answer(answer);
    expect(store.getSnapshot()).toEqual([]);
  }
});

test("an echo that came needs no question", () => {
  const { store, setting, pass } = started();
  store.merge({ id: 1 }, "chat%3A1=e:6");
  setting.publish("message.created", { id: 1 }, 6);
  pass(60_000);
  expect(setting.socket.sent).toEqual([]);
});

test("an echo that is lost is asked for after five seconds", () => {
  const { store, setting, room, pass } = started();
  store.merge({ id: 1, body: "mine" }, "chat%3A1=e:6");
  pass(4_999);
  expect(setting.socket.sent).toEqual([]);
  pass(1);
  const question = setting.next();
  expect(question.message).toMatchObject({ since: { epoch: "e", offset: 5 } });
  expect(room.state).toBe("live");
  const echo = { event: "message.created", data: { id: 1, body: "echo" }, offset: 6 };
  question.answer(recovered(6, echo));
  expect(store.get(1)).toEqual({ id: 1, body: "echo" });
  pass(60_000);
  expect(setting.socket.sent).toEqual([]);
});

test.each([
  ["of another history", "chat%3A1=other:1"],
  ["never reached", "chat%3A1=e:99"],
])("where the position is %s, a snapshot decides", (_what, header) => {
  const { store, setting, room, pass } = started();
  store.merge({ id: 1 }, header);
  pass(5_000);
  setting.next().answer(recovered(5));
  pass(5_000);
  const question = setting.next();
  expect(question.message).toEqual({ v: 1, room: "chat:1" });
  question.answer(snapshot(5));
  expect([store.getSnapshot(), room.state]).toEqual([[], "live"]);
  pass(60_000);
  expect(setting.socket.sent).toEqual([]);
});

test("while the connection is away the echo is waited for", () => {
  const { store, setting, pass } = started();
  store.merge({ id: 1 }, "chat%3A1=e:6");
  setting.socket.cut();
  pass(60_000);
  expect(store.getSnapshot()).toEqual([{ id: 1 }]);
  setting.socket.accept();
  setting.next().answer(recovered(6, { event: "message.created", data: { id: 1 }, offset: 6 }));
  pass(60_000);
  expect(setting.socket.sent).toEqual([]);
});

test("leaving the room ends the wait", () => {
  const { store, setting, room } = started();
  store.merge({ id: 1 }, AT_7);
  room.leave();
  store.merge({ id: 2 }, AT_7);
  setting.next("livepush.unsubscribe").answer({ ok: true });
  expect(setting.surroundings.waiting).toBe(0);
});

test("what a snapshot says of a merged row is shown if nothing more is heard of it", () => {
  const { store, setting } = started();
  store.merge([{ id: 1, body: "mine" }, { id: 2, body: "mine" }], "chat%3A1=e:9");
  setting.publish("message.created", { id: 1, body: "six" }, 6);
  setting.socket.cut();
  setting.socket.accept();
  setting.next().answer(snapshot(8, [{ id: 1, body: "eight" }]));
  expect(store.getSnapshot().map(({ body }) => body)).toEqual(["mine", "mine"]);
  setting.publish("message.created", { id: 3 }, 9);
  expect(store.getSnapshot()).toEqual([{ id: 1, body: "eight" }, { id: 3 }]);
});
