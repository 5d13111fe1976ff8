/** What a developer reads in the console when the server says no. */

import { expect, test } from "vitest";
import { Setting, refused, snapshot } from "./setting.js";

test("a connection that is refused is told once, however often it is tried", () => {
  const { live, socket, surroundings } = new Setting();
  for (let attempt = 0; attempt < 3; attempt++) {
    live.connect();
    socket.refuse("Not logged in.", { code: 103, message: "Not logged in." });
  }
  expect(surroundings.warned).toEqual([
    "LivePush: the server refused the connection (code 103; only connect() tries again): " +
      "Not logged in.",
  ]);
});

test("a server that says not now is told once a code", () => {
  const { live, socket, surroundings } = new Setting();
  live.connect();
  socket.refuse("full", { code: 120, message: "full", temporary: true });
  surroundings.pass(60_000);
  socket.refuse("full", { code: 120, message: "full", temporary: true });
  socket.refuse("Not logged in.", { code: 103, message: "Not logged in." });
  expect(surroundings.warned).toHaveLength(2);
  expect(surroundings.warned[0]).toContain("(code 120; tried again by itself): full");
});

test("a room that is refused is told by its name, also when it is made again", () => {
  const setting = new Setting();
  setting.start();
  for (let attempt = 0; attempt < 2; attempt++) {
    const room = setting.live.room("chart:1");
    setting.next().answer(refused(101, "No rule knows a room of this name."));
    room.leave();
  }
  setting.live.room("chat:1");
  setting.next().answer(refused(103, "The room's rule does not allow it."));
  expect(setting.surroundings.warned).toEqual([
    'LivePush: the server refused the room "chart:1" (code 101; only connect() tries again): ' +
      "No rule knows a room of this name.",
    'LivePush: the server refused the room "chat:1" (code 103; only connect() tries again): ' +
      "The room's rule does not allow it.",
  ]);
});

test("a room whose rule or snapshot fails is told once, not with each attempt", () => {
  const setting = new Setting();
  setting.start();
  setting.live.room("chat:1");
  for (let attempt = 0; attempt < 3; attempt++) {
    setting.next().answer(refused(120, "The server failed; try again later.", true));
    setting.surroundings.pass(60_000);
  }
  expect(setting.surroundings.warned).toEqual([
    'LivePush: the server refused the room "chat:1" (code 120; tried again by itself): ' +
      "The server failed; try again later.",
  ]);
});

test("a logout is no mistake, nor is a right that is lost", () => {
  const setting = new Setting();
  const { live, socket, surroundings } = setting;
  const room = live.room("chat:1");
  setting.start(room);
  socket.push("livepush.reset", { room: "chat:1", within: 0 });
  surroundings.pass(1);
  setting.next().answer(refused(103, "no"));
  socket.cut("io server disconnect");
  live.connect();
  socket.refuse("Not logged in.", { code: 103, message: "Not logged in." });
  expect([live.state, room.state, surroundings.warned]).toEqual(["refused", "refused", []]);
});

test("a snapshot that fails later is told: nobody meant it", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1");
  setting.live.connect();
  setting.socket.accept();
  setting.next().answer(snapshot(5));
  room.store("message");
  setting.socket.push("livepush.reset", { room: "chat:1", within: 0 });
  setting.surroundings.pass(1);
  setting.next().answer(refused(120, "failed", true));
  expect(setting.surroundings.warned).toHaveLength(1);
});

test("no network and no answer are no refusals", () => {
  const { live, socket, surroundings } = new Setting();
  live.room("chat:1");
  live.connect();
  socket.miss();
  socket.accept();
  surroundings.pass(60_000);
  expect(surroundings.warned).toEqual([]);
});
