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

test("a login that is renewed is nobody's mistake; one that can't be is told by its status", () => {
  const { live, socket, surroundings } = new Setting();
  live.connect();
  const renew = { code: 109, message: "renew", temporary: true };
  socket.refuse("renew", renew);
  surroundings.pass(0);
  expect(surroundings.warned).toEqual([]);
  surroundings.answerRenewal(404);
  expect(surroundings.warned).toEqual([
    "LivePush: the server refused the connection (code 0; tried again by itself): " +
      "the login was not renewed: status 404",
  ]);
});

test("onRefused of the connection: each time, at once where it has been, and until it is taken off", () => {
  const { live, socket } = new Setting();
  const told: string[] = [];
  const { onRefused } = live;
  const stop = onRefused(({ code, message }) => told.push(`${code} ${message}`));
  live.connect();
  socket.refuse("full", { code: 107, message: "full", temporary: true });
  socket.refuse("log in", { code: 103, message: "log in" });
  expect(told).toEqual(["103 log in"]);
  onRefused(({ code }) => told.push(`late ${code}`));
  expect(told).toEqual(["103 log in", "late 103"]);
  stop();
  live.connect();
  socket.accept();
  socket.push("livepush.ended", { code: 103, message: "Signed out." });
  expect(told).toEqual(["103 log in", "late 103", "late 103"]);
});

test("onRefused of a room is about the room alone", () => {
  const setting = new Setting();
  const { live, socket } = setting;
  const [one, two] = [live.room("chat:1"), live.room("chat:2")];
  const told: unknown[] = [];
  for (const room of [one, two]) room.onRefused(({ code }) => told.push([room.name, code]));
  setting.start(one);
  setting.next().answer(refused(120, "failed", true));
  socket.push("livepush.ended", { code: 103, message: "Signed out." });
  expect([one.state, two.state, told]).toEqual(["refused", "refused", []]);
  live.connect();
  socket.accept();
  setting.next().answer(snapshot(5));
  setting.next().answer(refused(103, "no"));
  socket.push("livepush.revoked", { room: "chat:1", code: 103 });
  expect(told).toEqual([["chat:2", 103], ["chat:1", 103]]);
  one.onRefused(({ message }) => told.push(message));
  expect(told.at(-1)).toBe("no longer allowed");
});

test("a room that was left hears of no refusal", () => {
  const setting = new Setting();
  const room = setting.live.room("chat:1");
  const told: unknown[] = [];
  room.onRefused((error) => told.push(error));
  setting.start(room);
  room.leave();
  setting.socket.push("livepush.revoked", { room: "chat:1", code: 103 });
  expect(told).toEqual([]);
});

test("an onRefused that throws disturbs nothing, and one that connects is heard", () => {
  const { live, socket, surroundings } = new Setting();
  let times = 0;
  live.onRefused(() => {
    throw new Error("theirs");
  });
  live.onRefused(() => times++ === 0 && live.connect());
  live.connect();
  socket.accept();
  socket.push("livepush.ended", { code: 103, message: "Signed out." });
  expect([live.state, socket.active, surroundings.reported.length]).toEqual(["connecting", true, 1]);
  socket.accept();
  expect(live.state).toBe("live");
});
