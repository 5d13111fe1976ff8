/** A server that asks its clients to come back, on another connection. */

import { beforeEach, expect, test } from "vitest";
import type { Room } from "../src/api.js";
import type { FakeSocket } from "./fake_socket.js";
import { FakePage } from "./fake_surroundings.js";
import { Setting, recovered, snapshot } from "./setting.js";

let setting: Setting;
let room: Room;
let first: FakeSocket;
let states: string[];

function begin(options: ConstructorParameters<typeof Setting>[0] = {}): void {
  setting = new Setting(options);
  room = setting.live.room("chat:1", { since: null });
  setting.start(room);
  first = setting.socket;
  states = [];
  setting.live.status.subscribe((state) => states.push(state));
  room.status.subscribe((state) => states.push(`room ${state}`));
}

/** The server asks, and the client's moment (half of the time) comes. */
function move(within = 4): FakeSocket {
  first.push("livepush.reconnect", { within });
  setting.surroundings.pass(within * 500);
  expect(setting.sockets.length).toBe(2);
  return setting.socket;
}

beforeEach(() => begin());

test("moves at a random moment, and stays on the old connection until then", () => {
  first.push("livepush.reconnect", { within: 4 });
  setting.surroundings.pass(1_999);
  expect(setting.sockets.length).toBe(1);
  setting.surroundings.pass(1);
  expect([setting.sockets.length, setting.socket.calls]).toEqual([2, ["connect"]]);
  setting.publish("ping", 1, 6);
  first.push("ping", 1, { room: "chat:1", epoch: "e", offset: 6 });
  expect([room.position?.offset, first.connected]).toEqual([6, true]);
});

test("the rooms recover on the new connection, and nobody sees it", () => {
  const second = move();
  second.accept();
  expect([first.connected, first.active]).toEqual([false, false]);
  const question = setting.next();
  expect(question.message).toEqual({ v: 1, room: "chat:1", since: { epoch: "e", offset: 5 } });
  question.answer(recovered(6, { event: "ping", data: 1, offset: 6 }));
  first.push("ping", 1, { room: "chat:1", epoch: "e", offset: 7 });
  expect(room.position?.offset).toBe(6);
  second.push("ping", 1, { room: "chat:1", epoch: "e", offset: 7 });
  expect(room.position?.offset).toBe(7);
  expect(states).toEqual(["live", "room live"]);
});

test("a room that the new connection does not answer is not called live for ever", () => {
  move().accept();
  setting.surroundings.pass(10_000);
  expect(states).toEqual(["live", "room live", "room recovering", "recovering"]);
});

test("a room that may not be joined any more says so", () => {
  move().accept();
  setting.next().answer({ ok: false, error: { code: 103, message: "no", temporary: false } });
  expect([room.state, room.error?.code]).toEqual(["refused", 103]);
});

test("a question that the old connection has not answered is asked again", () => {
  const other = setting.live.room("chat:2");
  setting.next();
  move().accept();
  expect([setting.next().message.room, setting.next().message.room]).toEqual(["chat:1", "chat:2"]);
  expect(other.state).toBe("connecting");
});

test("whispers of the moment between wait for the room", () => {
  move().accept();
  room.whisper("typing");
  const question = setting.next();
  expect(setting.socket.sent).toEqual([]);
  question.answer(recovered(5));
  expect(setting.next("livepush.whisper").message).toMatchObject({ event: "typing" });
});

test("asked twice, it moves once, and as soon as it was asked to", () => {
  first.push("livepush.reconnect", { within: 20 });
  first.push("livepush.reconnect", { within: 4 });
  first.push("livepush.reconnect", { within: 40 });
  setting.surroundings.pass(2_000);
  expect(setting.sockets.length).toBe(2);
  first.push("livepush.reconnect", { within: 0 });
  setting.surroundings.pass(1_000);
  setting.socket.accept();
  setting.surroundings.pass(60_000);
  expect(setting.sockets.length).toBe(2);
});

test("the new connection's server may ask again", () => {
  const second = move();
  second.accept();
  setting.next().answer(recovered(5));
  second.push("livepush.reconnect", { within: 0 });
  setting.surroundings.pass(0);
  expect(setting.sockets.length).toBe(3);
});

test.each([[{}], [null], ["soon"], [{ within: -1 }], [{ within: "4" }], [{ within: NaN }]])(
  "%j: within two seconds",
  (data) => {
    first.push("livepush.reconnect", data);
    setting.surroundings.pass(999);
    expect(setting.sockets.length).toBe(1);
    setting.surroundings.pass(1);
    expect(setting.sockets.length).toBe(2);
  },
);

test("a time that no timer can wait for is a day at most", () => {
  first.push("livepush.reconnect", { within: Infinity });
  setting.surroundings.pass(43_199_999);
  expect(setting.sockets.length).toBe(1);
  setting.surroundings.pass(1);
  expect(setting.sockets.length).toBe(2);
});

test("a move that misses tries again, while the old connection lives", () => {
  const second = move();
  second.miss();
  second.miss();
  expect([second.active, first.connected, setting.live.state]).toEqual([true, true, "live"]);
  second.accept();
  setting.next().answer(recovered(5));
  expect(states).toEqual(["live", "room live"]);
});

test("a move that is told to come later does", () => {
  const second = move();
  second.refuse("full", { code: 120, message: "full", temporary: true });
  setting.surroundings.pass(749);
  expect(second.calls).toEqual(["connect"]);
  setting.surroundings.pass(1);
  expect(second.calls).toEqual(["connect", "disconnect", "connect"]);
  second.accept();
  expect(first.connected).toBe(false);
});

test("a move that is refused leaves the old connection to its end", () => {
  const second = move();
  second.refuse("log in first", { code: 103, message: "log in first" });
  expect([second.active, setting.live.state, setting.live.error]).toEqual([false, "live", null]);
  setting.publish("ping", 1, 6);
  first.cut();
  expect(setting.live.state).toBe("offline");
  first.refuse("log in first", { code: 103, message: "log in first" });
  expect(setting.live.error?.code).toBe(103);
});

test("the old connection ends first: the move is the retry", () => {
  const second = move();
  first.cut();
  expect([setting.live.state, second.active, first.active]).toEqual(["offline", true, false]);
  second.miss();
  second.retry();
  expect(second.io.opts.transports).toEqual(["websocket", "polling"]);
  second.accept();
  setting.next().answer(recovered(5));
  expect(setting.live.state).toBe("live");
  setting.surroundings.pass(60_000);
  expect(setting.sockets.length).toBe(2);
});

test("the old connection ends in a pause of the move: no silence of a WebSocket", () => {
  const second = move();
  second.miss();
  first.cut();
  setting.surroundings.pass(20_000);
  expect([second.calls, second.io.opts.transports]).toEqual([
    ["connect"],
    ["websocket", "polling"],
  ]);
});

test("the old connection ends while the move was told to come later", () => {
  const second = move();
  second.refuse("full", { code: 120, message: "full", temporary: true });
  first.cut();
  expect(second.active).toBe(true);
  second.accept();
  setting.surroundings.pass(60_000);
  expect([setting.live.state, second.connected]).toEqual(["recovering", true]);
});

test("the old connection ends before the moment has come: retried as usual", () => {
  first.push("livepush.reconnect", { within: 4 });
  first.cut();
  setting.surroundings.pass(60_000);
  expect([setting.sockets.length, first.active]).toEqual([1, true]);
});

test("the server ends the connection for good: no move brings it back", () => {
  const second = move();
  first.cut("io server disconnect");
  expect([setting.live.state, second.active]).toEqual(["refused", false]);
  begin();
  first.push("livepush.reconnect", { within: 4 });
  first.cut("io server disconnect");
  setting.surroundings.pass(60_000);
  expect([setting.live.state, setting.sockets.length]).toEqual(["refused", 1]);
});

test("disconnect() ends a move, and the plan of one", () => {
  const second = move();
  setting.live.disconnect();
  expect([second.active, setting.surroundings.waiting]).toEqual([false, 0]);
  begin();
  first.push("livepush.reconnect", { within: 4 });
  setting.live.disconnect();
  expect(setting.surroundings.waiting).toBe(0);
});

test("an application that disconnects when it hears of the loss has no heir", () => {
  const second = move();
  setting.live.status.subscribe((state) => state === "offline" && setting.live.disconnect());
  first.cut();
  expect(second.active).toBe(false);
});

test("a page put away while it moves is put away", () => {
  const page = new FakePage();
  begin({ page });
  const second = move();
  page.fire("pagehide");
  expect([second.active, first.active]).toEqual([false, false]);
  page.fire("pageshow");
  first.accept();
  expect(first.sent[0]?.message).toMatchObject({ since: { epoch: "e", offset: 5 } });
});

test("a silent connection that is given up during a move leaves it the rest", () => {
  const page = new FakePage();
  begin({ page });
  const second = move();
  page.show("hidden");
  setting.surroundings.pass(5_000);
  page.show("visible");
  setting.surroundings.pass(3_000);
  expect([setting.live.state, first.active, second.active]).toEqual(["offline", false, true]);
  second.accept();
  setting.next().answer(recovered(5));
  expect(setting.live.state).toBe("live");
});

test("a connection that polls moves to one that polls, and its trials go on", () => {
  begin();
  setting.live.disconnect();
  setting = new Setting();
  setting.live.connect();
  first = setting.socket;
  first.accept("polling");
  first.push("livepush.reconnect", { within: 4 });
  setting.surroundings.pass(2_000);
  expect(setting.socket.io.opts.transports).toEqual(["polling"]);
  setting.socket.accept();
  expect(setting.live.transport).toBe("polling");
  setting.surroundings.pass(1_750);
  expect(setting.socket.io.opts.transports).toEqual(["websocket"]);
  setting.socket.accept();
  setting.surroundings.pass(3_000);
  expect([setting.live.transport, setting.sockets.length]).toEqual(["websocket", 3]);
});

/** A client that polls, without rooms, and a trial on its way. */
function beginTrying(page: FakePage | null = null): FakeSocket {
  setting = new Setting({ page });
  setting.live.connect();
  first = setting.socket;
  first.accept("polling");
  setting.surroundings.pass(3_750);
  return setting.socket;
}

test("a trial that takes over was the move that is still to come", () => {
  const trial = beginTrying();
  first.push("livepush.reconnect", { within: 60 });
  trial.accept();
  setting.surroundings.pass(60_000);
  expect([setting.sockets.length, setting.live.transport]).toEqual([2, "websocket"]);
});

test("while it moves, nothing is tried beside it", () => {
  const page = new FakePage();
  beginTrying(page);
  first.push("livepush.reconnect", { within: 0 });
  setting.surroundings.pass(0);
  page.fire("online");
  setting.surroundings.pass(60_000);
  expect(setting.sockets.length).toBe(3);
});

test.each([[["polling"]], [["polling", "websocket"]]])(
  "moves by what the application chose: %s",
  (transports) => {
    setting = new Setting({ transports });
    setting.live.connect();
    first = setting.socket;
    first.accept("polling");
    expect(move().io.opts.transports).toEqual(transports);
  },
);

test("a move ends a trial that is under way", () => {
  const trial = beginTrying();
  first.push("livepush.reconnect", { within: 0 });
  setting.surroundings.pass(0);
  expect([setting.sockets.length, trial.active]).toEqual([3, false]);
});

test("an attached socket is the application's to move", () => {
  const attached = new Setting({ owned: false });
  attached.socket.accept();
  const followed = attached.live.room("chat:1", { since: null });
  attached.live.connect();
  attached.next().answer(snapshot(5));
  attached.socket.push("livepush.reconnect", { within: 0 });
  attached.surroundings.pass(60_000);
  expect([followed.state, attached.socket.calls]).toEqual(["live", []]);
});

const renew = { code: 109, message: "renew the login", temporary: true };

test("a move that needs the login renewed has that done, once", () => {
  const second = move();
  second.refuse("renew", renew);
  setting.surroundings.pass(0);
  expect([setting.surroundings.renewals.length, second.calls]).toEqual([1, ["connect"]]);
  setting.surroundings.answerRenewal(200);
  expect(second.calls).toEqual(["connect", "disconnect", "connect"]);
  second.accept();
  expect([first.connected, second.connected, setting.surroundings.warned]).toEqual([false, true, []]);
});

test("a move whose login can't be renewed leaves the old connection to its end", () => {
  const second = move();
  second.refuse("renew", renew);
  setting.surroundings.pass(0);
  setting.surroundings.answerRenewal(401);
  expect([second.active, first.connected, setting.live.state]).toEqual([false, true, "live"]);
});

test("a renewal that fails for a move is tried again later", () => {
  const second = move();
  second.refuse("renew", renew);
  setting.surroundings.pass(0);
  setting.surroundings.answerRenewal(503);
  setting.surroundings.pass(749);
  expect(second.calls).toEqual(["connect"]);
  setting.surroundings.pass(1);
  expect(second.calls).toContain("disconnect");
});

test("the old connection ends while the login is renewed for a move: still one request", () => {
  const second = move();
  second.refuse("renew", renew);
  setting.surroundings.pass(0);
  first.cut();
  second.refuse("renew", renew);
  setting.surroundings.pass(5_000);
  expect(setting.surroundings.renewals).toHaveLength(1);
  setting.surroundings.answerRenewal(200);
  second.accept();
  setting.next().answer(recovered(5));
  expect(setting.live.state).toBe("live");
});

test("a login that ends during a move ends both", () => {
  const second = move();
  first.push("livepush.ended", { code: 103, message: "Signed out." });
  expect([setting.live.state, setting.live.error?.code]).toEqual(["refused", 103]);
  expect([first.active, second.active]).toEqual([false, false]);
  begin();
  first.push("livepush.reconnect", { within: 4 });
  first.push("livepush.ended", { code: 103, message: "Signed out." });
  setting.surroundings.pass(60_000);
  expect([setting.live.state, setting.sockets.length]).toEqual(["refused", 1]);
});

test("a move that the server ends before it lets us in is over, and another may follow", () => {
  const second = move();
  second.cut("io server disconnect");
  expect([second.active, first.connected, setting.live.state]).toEqual([false, true, "live"]);
  first.push("livepush.reconnect", { within: 0 });
  setting.surroundings.pass(0);
  expect(setting.sockets.length).toBe(3);
});
