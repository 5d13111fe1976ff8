/** What a store shows and when it tells, beyond the row rules in the vectors. */

import { expect, test } from "vitest";
import type { FollowedRoom } from "../src/room.js";
import { Rows } from "../src/rows.js";
import { Setting, recovered, snapshot, watched, type Row } from "./setting.js";

const created = (offset: number, id: number, more = false) => ({
  event: "message.created",
  data: { id },
  offset,
  ...(more && { more }),
});

function started(...rows: Row[]) {
  const setting = new Setting();
  const room = setting.live.room("chat:1", { since: null });
  const store = room.store<Row>("message");
  setting.live.connect();
  setting.socket.accept();
  setting.next().answer(snapshot(5, rows));
  return { setting, room, store };
}

test("subscribe calls at once; both functions can be taken off the store", () => {
  const { store, setting } = started({ id: 1 });
  const { subscribe, getSnapshot } = store;
  const told: unknown[] = [];
  const unsubscribe = subscribe((rows) => told.push(rows));
  expect(told).toEqual([[{ id: 1 }]]);
  expect(getSnapshot()).toBe(told[0]);
  unsubscribe();
  setting.publish("message.created", { id: 2 }, 6);
  expect(told).toHaveLength(1);
});

test("the array stays the same until something changes, and is never changed itself", () => {
  const { store, setting } = started({ id: 1 });
  const before = store.getSnapshot();
  setting.publish("other.created", { id: 2 }, 6);
  setting.publish("message.created", { body: "no key" }, 7);
  expect(store.getSnapshot()).toBe(before);
  setting.publish("message.created", { id: 2 }, 8);
  expect(store.getSnapshot()).not.toBe(before);
  expect(before).toEqual([{ id: 1 }]);
});

test("get finds by key, as a number or as text", () => {
  const { store, setting } = started({ id: 1 });
  expect([store.get(1), store.get("1"), store.get(2)]).toEqual([{ id: 1 }, { id: 1 }, undefined]);
  setting.publish("message.created", { id: 2 }, 6);
  expect(store.get("2")).toEqual({ id: 2 });
});

test("one call per kind makes the store, later ones return it", () => {
  const { store, room } = started();
  expect(room.store("message", { limit: 1 })).toBe(store);
  expect(room.store("task")).not.toBe(store);
});

test("the commit of several publications is told once", () => {
  const { store, setting } = started();
  const told = watched(store);
  setting.publish("message.created", { id: 1 }, 6, { more: true });
  setting.publish("message.created", { id: 2 }, 7, { more: true });
  expect([told, store.getSnapshot(), store.get(1)]).toEqual([[], [], undefined]);
  setting.publish("ping", {}, 8);
  expect(told).toEqual([[1, 2]]);
});

test("the stores of a room change together before anyone is told", () => {
  const { store, room, setting } = started();
  const tasks = room.store<Row>("task");
  const seen: number[][] = [];
  store.subscribe(() => seen.push([store.getSnapshot().length, tasks.getSnapshot().length]));
  setting.publish("message.created", { id: 1 }, 6, { more: true });
  setting.publish("task.created", { id: 1 }, 7);
  expect(seen).toEqual([[0, 0], [1, 1]]);
});

test("a commit that never ends is told when the connection does", () => {
  const { store, setting } = started();
  const told = watched(store);
  setting.publish("message.created", { id: 1 }, 6, { more: true });
  setting.socket.cut();
  expect(told).toEqual([[1]]);
  setting.socket.accept();
  setting.next().answer(recovered(7, created(7, 2)));
  expect(told).toEqual([[1], [1, 2]]);
});

test("a commit with a gap in it is told when it is whole", () => {
  const { store, room, setting } = started();
  const told = watched(store);
  setting.publish("message.created", { id: 1 }, 6, { more: true });
  setting.publish("message.created", { id: 3 }, 8);
  expect([room.state, told]).toEqual(["recovering", []]);
  setting.next().answer(recovered(8, created(7, 2, true), created(8, 3)));
  expect([room.state, told]).toEqual(["live", [[1, 2, 3]]]);
});

test("a recovery is told once", () => {
  const { store, setting } = started();
  const told = watched(store);
  setting.socket.cut();
  setting.socket.accept();
  setting.next().answer(recovered(9, created(6, 1), created(7, 2), created(8, 3), created(9, 4)));
  expect(told).toEqual([[1, 2, 3, 4]]);
});

test("a snapshot is told once per store", () => {
  const { store, room, setting } = started({ id: 1 });
  const told = watched(store);
  const toldTasks = watched(room.store<Row>("task"));
  setting.socket.cut();
  setting.socket.accept();
  setting.next().answer(snapshot(50, [{ id: 2 }]));
  expect([told, toldTasks]).toEqual([[[2]], [[]]]);
});

test("the page's rows are there at once and kept until a snapshot replaces them", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1", { since: null });
  const store = room.store<Row>("message", { rows: [{ id: 2 }, { id: 1 }], sort: "-id" });
  expect(store.getSnapshot()).toEqual([{ id: 2 }, { id: 1 }]);
  setting.live.connect();
  setting.socket.accept();
  expect(store.getSnapshot()).toHaveLength(2);
  setting.next().answer(snapshot(5, [{ id: 7 }, { id: 8 }]));
  expect(store.getSnapshot()).toEqual([{ id: 8 }, { id: 7 }]);
});

test("the page's rows can be partial and have another key", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1", { since: { epoch: "e", offset: 5 } });
  const options = { rows: [{ slug: "b" }], key: "slug", partial: true };
  const store = room.store<{ slug: string; body?: string }>("message", options);
  setting.live.connect();
  setting.socket.accept();
  setting.next().answer(recovered(5));
  setting.publish("message.updated", { slug: "a", body: "older than the window" }, 6);
  setting.publish("message.updated", { slug: "b", body: "B" }, 7);
  expect(store.getSnapshot()).toEqual([{ slug: "b", body: "B" }]);
});

test("a store made after the snapshot has its rows, kept in step", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1", { since: null });
  setting.live.connect();
  setting.socket.accept();
  setting.next().answer(snapshot(5, [{ id: 1 }, { id: 2 }]));
  setting.publish("message.deleted", { id: 1 }, 6);
  const store = room.store<Row>("message", { sort: "-id", rows: [{ id: 99 }] });
  setting.publish("message.created", { id: 3 }, 7);
  expect(store.getSnapshot()).toEqual([{ id: 3 }, { id: 2 }]);
  expect(room.store("task").getSnapshot()).toEqual([]);
  setting.surroundings.settle();
  expect(setting.socket.sent).toEqual([]);
});

test("a store made in a room that never had a snapshot brings one", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1", { since: { epoch: "e", offset: 5 } });
  setting.live.connect();
  setting.socket.accept();
  setting.next().answer(recovered(5));
  const store = room.store<Row>("message");
  expect(setting.next().message).toEqual({ v: 1, room: "chat:1" });
  expect(room.state).toBe("recovering");
  expect(store.getSnapshot()).toEqual([]);
});

test("a store made while the room is being joined brings a snapshot afterwards", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1", { since: { epoch: "e", offset: 5 } });
  setting.live.connect();
  setting.socket.accept();
  const question = setting.next();
  const store = room.store<Row>("message");
  setting.surroundings.settle();
  expect(setting.socket.sent).toEqual([]);
  question.answer(recovered(5));
  setting.next().answer(snapshot(6, [{ id: 1 }]));
  expect(store.getSnapshot()).toEqual([{ id: 1 }]);
  expect(room.state).toBe("live");
});

test("rows given late count only if nothing came after the page", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1", { since: { epoch: "e", offset: 5 } });
  setting.live.connect();
  setting.socket.accept();
  setting.next().answer(recovered(5));
  room.store<Row>("message", { rows: [{ id: 1 }] });
  setting.surroundings.settle();
  expect(setting.socket.sent).toEqual([]);
  setting.publish("message.created", { id: 2 }, 6);
  const late = room.store<Row>("task", { rows: [{ id: 1 }] });
  expect(late.getSnapshot()).toEqual([{ id: 1 }]);
  expect(setting.next().message).toEqual({ v: 1, room: "chat:1" });
});

// Bug: a row without the field that it compares, and the store stood still for ever.
test("a comparison that throws is reported, and the rows stand by their keys", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1", { since: null });
  const sort = () => {
    throw new Error("in a comparison");
  };
  const store = room.store<Row>("message", { sort });
  setting.start(room);
  setting.publish("message.created", { id: 1 }, 6);
  setting.publish("message.created", { id: 2 }, 7);
  expect(store.getSnapshot()).toEqual([{ id: 1 }, { id: 2 }]);
  expect(setting.surroundings.reported.map(String)).toEqual(["Error: in a comparison"]);
  expect(room.state).toBe("live");
});

test("a new start forgets stamps and deletions", () => {
  const { store, setting } = started();
  setting.publish("message.created", { id: 1 }, 6, { stamp: 100 });
  setting.publish("message.deleted", { id: 1 }, 7, { stamp: 110 });
  setting.socket.cut();
  setting.socket.accept();
  setting.next().answer(snapshot(3, [], "f"));
  const place = { room: "chat:1", epoch: "f", offset: 4, stamp: 50 };
  setting.socket.push("message.created", { id: 1 }, place);
  expect(store.getSnapshot()).toEqual([{ id: 1 }]);
});

test("deletions are remembered for a thousand rows, the oldest forgotten first", () => {
  const rows = new Rows<Row>();
  for (let id = 0; id <= 1_000; id++) rows.apply("deleted", { id }, 10);
  expect([rows.knows("0"), rows.knows("1"), rows.knows("1000")]).toEqual([false, true, true]);
  expect(rows.apply("created", { id: 0 }, 5)).toBe(true);
  expect(rows.apply("created", { id: 1 }, 5)).toBe(false);
});

test("a row that came back and was cut off is unknown again", () => {
  const rows = new Rows<Row>({ limit: 1 });
  rows.apply("deleted", { id: 1 }, 10);
  rows.apply("created", { id: 1 }, 20);
  rows.apply("created", { id: 2 }, 30);
  expect(rows.sorted()).toEqual([{ id: 2 }]);
  expect(rows.knows("1")).toBe(false);
});

test("a snapshot in the middle of a commit is told at once", () => {
  const { store, room, setting } = started();
  const told = watched(store);
  (room as FollowedRoom).subscription.probe();
  setting.publish("message.created", { id: 1 }, 6, { more: true });
  setting.next().answer(snapshot(9, [{ id: 9 }]));
  expect(told).toEqual([[9]]);
});
