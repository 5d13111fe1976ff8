/** Who is in a room, and what its subscribers whisper. */

import { expect, test, vi } from "vitest";
import { Setting, recovered, snapshot, watched, type Row } from "./setting.js";

const ada = { id: "1", info: { name: "Ada" } };
const ben = { id: "2" };

test("the server is asked who is there only when somebody wants to know", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1");
  setting.start(room);
  expect(setting.socket.sent).toEqual([]);
  const told: string[][] = [];
  room.presence.subscribe((users) => told.push(users.map(({ id }) => id)));
  const asked = setting.next();
  const since = { epoch: "e", offset: 5 };
  expect(asked.message).toEqual({ v: 1, room: "chat:1", since, presence: true });
  expect(room.state).toBe("live");
  asked.answer({ ...recovered(5), presence: [ada] });
  room.presence.subscribe(() => {});
  setting.surroundings.settle();
  expect(setting.socket.sent).toEqual([]);
  expect(told).toEqual([[], ["1"]]);
});

test("who wants to know in the same breath is answered with the first answer", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1");
  expect(room.presence.getSnapshot()).toEqual([]);
  setting.live.connect();
  setting.socket.accept();
  const asked = setting.next();
  expect(asked.message).toEqual({ v: 1, room: "chat:1", presence: true });
  asked.answer({ ...snapshot(5), presence: [ada, ben] });
  expect(room.presence.getSnapshot()).toEqual([ada, ben]);
  expect(setting.socket.sent).toEqual([]);
});

test("who wants to know while the server is being asked is answered after that", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1");
  setting.live.connect();
  setting.socket.accept();
  const first = setting.next();
  room.presence.getSnapshot();
  setting.surroundings.settle();
  first.answer(snapshot(5));
  setting.next().answer({ ...recovered(5), presence: [ada] });
  expect(room.presence.getSnapshot()).toEqual([ada]);
  expect(room.state).toBe("live");
});

test("comings and goings change the list, and nonsense does not", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1");
  room.presence.getSnapshot();
  setting.live.connect();
  setting.socket.accept();
  setting.next().answer({ ...snapshot(5), presence: [ada, null, { id: 3 }] });
  const change = (joined: unknown, left: unknown, name = "chat:1") =>
    setting.socket.push("livepush.presence", { room: name, joined, left });
  change([ben], []);
  expect(room.presence.getSnapshot()).toEqual([ada, ben]);
  const renamed = { id: "1", info: { name: "Countess" } };
  change([renamed], []);
  expect(room.presence.getSnapshot()).toEqual([renamed, ben]);
  change([], [renamed]);
  change("x", undefined);
  change([{}], [1]);
  change([], [ben], "chat:2");
  setting.socket.push("livepush.presence", null);
  expect(room.presence.getSnapshot()).toEqual([ben]);
});

test("the list of a new connection replaces the old one", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1");
  room.presence.getSnapshot();
  setting.live.connect();
  setting.socket.accept();
  setting.next().answer({ ...snapshot(5), presence: [ada, ben] });
  setting.socket.cut();
  expect(room.presence.getSnapshot()).toEqual([ada, ben]);
  setting.socket.accept();
  const asked = setting.next();
  expect(asked.message).toMatchObject({ since: { epoch: "e", offset: 5 }, presence: true });
  asked.answer({ ...recovered(5), presence: [ben] });
  expect(room.presence.getSnapshot()).toEqual([ben]);
});

test("a whisper is heard by handlers alone", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1");
  const store = room.store<Row>("message");
  setting.start(room);
  const told = watched(store);
  const heard = vi.fn();
  room.on("typing", heard);
  const meta = { room: "chat:1", whisper: true, from: "2" };
  setting.socket.push("typing", { on: true }, meta);
  setting.socket.push("message.created", { id: 9 }, meta);
  setting.socket.push("message.invalidated", {}, meta);
  setting.socket.push("typing", 1, { ...meta, room: "chat:2" });
  setting.socket.push("typing", 1, { ...meta, whisper: 1 });
  expect(heard.mock.calls).toEqual([[{ on: true }, { ...meta, epoch: "", offset: 0 }]]);
  expect(told).toEqual([]);
  expect(room.position).toEqual({ epoch: "e", offset: 5 });
  expect(setting.socket.sent).toEqual([]);
});

test("whispers go out while the room is joined, and refusals are reported", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1");
  room.whisper("typing");
  setting.start(room);
  room.whisper("typing", { on: true });
  const sent = setting.next("livepush.whisper");
  expect(sent.message).toEqual({ v: 1, room: "chat:1", event: "typing", data: { on: true } });
  sent.answer({ ok: true });
  expect(setting.surroundings.reported).toEqual([]);
  room.whisper("typing");
  const refused = setting.next("livepush.whisper");
  refused.answer({ ok: false, error: { code: 103, message: "not here", temporary: false } });
  expect(String(setting.surroundings.reported[0])).toContain('"typing" was refused: not here');
  setting.socket.cut();
  room.whisper("typing");
  setting.surroundings.settle();
  expect(setting.socket.sent).toEqual([]);
});
