/** WebSockets that do not get through, and when they are tried again. */

import { expect, test } from "vitest";
import { FakeMemory, FakePage } from "./fake_surroundings.js";
import { Setting, recovered, snapshot } from "./setting.js";

const both = ["websocket", "polling"];

/** A client that polls because its WebSocket was refused, with one room. */
function polling(options: ConstructorParameters<typeof Setting>[0] = {}) {
  const setting = new Setting(options);
  const room = setting.live.room("chat:1");
  const states: string[] = [];
  setting.live.connect();
  setting.socket.accept("polling");
  setting.next().answer(snapshot(5));
  setting.live.status.subscribe((state) => states.push(`${state} ${setting.live.transport}`));
  return { setting, room, states, first: setting.socket };
}

/** The same, and the WebSocket of a trial is on its way. */
function trying(options: ConstructorParameters<typeof Setting>[0] = {}) {
  const polled = polling(options);
  polled.setting.surroundings.pass(3_750);
  expect(polled.setting.sockets.length).toBe(2);
  return { ...polled, trial: polled.setting.socket };
}

test("a WebSocket that is not answered in three seconds is left for polling", () => {
  const { live, socket, surroundings } = new Setting();
  live.connect();
  surroundings.pass(3_000);
  expect(socket.io.engine?.transport.name).toBe("websocket");
  surroundings.pass(100);
  expect(socket.io.engine?.transport.name).toBe("polling");
  expect(live.state).toBe("connecting");
  socket.accept();
  expect([live.state, live.transport]).toEqual(["live", "polling"]);
});

test("a WebSocket that was closed before the first word is left too", () => {
  const { live, socket, surroundings } = new Setting();
  live.connect();
  socket.io.engine?.close();
  surroundings.pass(3_100);
  expect(socket.io.engine?.transport.name).toBe("polling");
});

test("a WebSocket through which nothing comes after the first word has ten seconds", () => {
  const { live, socket, surroundings } = new Setting();
  live.connect();
  socket.reach("websocket");
  surroundings.pass(10_100);
  expect(socket.io.engine?.transport.name).toBe("websocket");
  surroundings.pass(100);
  expect(socket.io.engine?.transport.name).toBe("polling");
});

test("one that is answered in time is left alone", () => {
  const { live, socket, surroundings } = new Setting();
  live.connect();
  socket.calls.length = 0;
  socket.accept();
  surroundings.pass(60_000);
  expect([live.transport, socket.calls]).toEqual(["websocket", []]);
});

test("polling that follows a refused WebSocket has all the time it needs", () => {
  const { live, socket, surroundings } = new Setting();
  live.connect();
  socket.calls.length = 0;
  socket.reach("polling");
  surroundings.pass(60_000);
  expect(socket.calls).toEqual([]);
});

test("an attempt that socket.io-client makes by itself is watched as well", () => {
  const { live, socket, surroundings } = new Setting();
  live.connect();
  socket.accept();
  socket.cut();
  surroundings.pass(60_000);
  socket.retry();
  surroundings.pass(3_100);
  expect(socket.io.engine?.transport.name).toBe("polling");
});

test("where polling gets no answer either, WebSockets go first again", () => {
  const { live, socket, surroundings } = new Setting();
  live.connect();
  surroundings.pass(3_100);
  expect(socket.io.opts.transports).toEqual(["polling"]);
  socket.miss("timeout");
  surroundings.pass(60_000);
  socket.retry();
  expect(socket.io.opts.transports).toEqual(both);
});

test("a laptop that slept while a WebSocket was opened tries it again", () => {
  const { live, socket, surroundings } = new Setting();
  live.connect();
  socket.calls.length = 0;
  surroundings.sleep(600_000);
  surroundings.pass(200);
  expect([socket.calls, socket.io.opts.transports]).toEqual([["disconnect", "connect"], both]);
});

test("the next page of the tab polls at once, another tab does not", () => {
  const memory = new FakeMemory();
  polling({ memory });
  const next = new Setting({ memory });
  next.live.connect();
  expect(next.socket.io.opts.transports).toEqual(["polling"]);
  const other = new Setting();
  other.live.connect();
  expect(other.socket.io.opts.transports).toEqual(both);
});

test("the next page goes on with the trials where the last one stopped", () => {
  const memory = new FakeMemory();
  const { setting, trial } = trying({ memory });
  trial.miss();
  setting.surroundings.pass(7_499);
  setting.live.disconnect();
  const next = new Setting({ memory });
  next.surroundings.sleep(3_750 + 7_499);
  next.live.connect();
  next.socket.accept();
  next.surroundings.pass(999);
  expect(next.sockets.length).toBe(1);
  next.surroundings.pass(1);
  expect(next.sockets.length).toBe(2);
});

test("a trial is a second connection, by WebSocket alone; the first goes on", () => {
  const { setting, room, states, first, trial } = trying();
  expect([trial.calls, trial.io.opts.transports]).toEqual([["connect"], ["websocket"]]);
  trial.accept();
  trial.push("ping", 1, { room: "chat:1", epoch: "e", offset: 6 });
  expect(room.position?.offset).toBe(5);
  first.push("ping", 1, { room: "chat:1", epoch: "e", offset: 6 });
  expect(room.position?.offset).toBe(6);
  setting.surroundings.pass(2_999);
  expect([first.connected, trial.sent]).toEqual([true, []]);
  expect(states).toEqual(["live polling"]);
});

test("a trial that lasted goes on with the rooms, from where they are, unseen", () => {
  const { setting, room, states, first, trial } = trying();
  trial.accept();
  setting.surroundings.pass(3_000);
  expect([first.connected, first.active]).toEqual([false, false]);
  const question = setting.next();
  expect(question.message).toEqual({ v: 1, room: "chat:1", since: { epoch: "e", offset: 5 } });
  question.answer(recovered(6, { event: "ping", data: 1, offset: 6 }));
  expect([room.state, room.position?.offset]).toEqual(["live", 6]);
  expect(states).toEqual(["live polling", "live websocket"]);
  trial.push("ping", 1, { room: "chat:1", epoch: "e", offset: 7 });
  expect(room.position?.offset).toBe(7);
  setting.surroundings.pass(3_600_000);
  expect(setting.sockets.length).toBe(2);
  trial.cut();
  trial.retry();
  expect(trial.io.opts.transports).toEqual(both);
});

test.each<[string, (setting: Setting) => void]>([
  ["is refused", ({ socket }) => socket.miss()],
  ["is not let in", ({ socket }) => socket.refuse("full")],
  ["is not answered", ({ surroundings }) => surroundings.pass(10_000)],
  ["is cut before it is let in", ({ socket }) => socket.breakOff()],
  ["is cut", ({ socket }) => (socket.accept(), socket.cut())],
])("a trial that %s is not seen, and followed by another later", (_what, fail) => {
  const { setting, states, first, trial } = trying();
  fail(setting);
  expect([trial.active, trial.connected, first.connected]).toEqual([false, false, true]);
  setting.surroundings.pass(7_499);
  expect(setting.sockets.length).toBe(2);
  setting.surroundings.pass(1);
  expect(setting.sockets.length).toBe(3);
  expect(states).toEqual(["live polling"]);
});

test("a trial that was up while the laptop slept proves nothing", () => {
  const { setting, first, trial } = trying();
  trial.accept();
  setting.surroundings.sleep(600_000);
  setting.surroundings.pass(0);
  expect([first.connected, trial.active]).toEqual([true, false]);
  setting.surroundings.pass(1_000);
  expect(setting.sockets.length).toBe(3);
});

test("a connection that polls and is lost takes its trial with it", () => {
  const { setting, first, trial } = trying();
  first.cut();
  expect([trial.active, setting.live.state]).toEqual([false, "offline"]);
  setting.surroundings.pass(60_000);
  expect(setting.sockets.length).toBe(2);
  first.retry();
  expect(first.io.opts.transports).toEqual(["polling"]);
  first.accept();
  setting.surroundings.pass(1_000);
  expect(setting.sockets.length).toBe(3);
});

test("disconnect() ends a trial, and the plan of one", () => {
  const { setting, trial } = trying();
  setting.live.disconnect();
  expect([trial.active, setting.surroundings.waiting]).toEqual([false, 0]);
  const planned = polling().setting;
  planned.live.disconnect();
  expect(planned.surroundings.waiting).toBe(0);
});

test("another network is a reason to try soon", () => {
  const page = new FakePage();
  const { setting, first } = trying({ page });
  setting.surroundings.pass(3_600_000);
  const tried = setting.sockets.length;
  page.fire("online");
  first.sent.shift()?.answer(recovered(5));
  setting.surroundings.pass(3_749);
  expect(setting.sockets.length).toBe(tried);
  setting.surroundings.pass(1);
  expect(setting.sockets.length).toBe(tried + 1);
});

test("another network leaves a trial alone that is under way", () => {
  const page = new FakePage();
  const { setting, first, trial } = trying({ page });
  page.fire("online");
  first.sent.shift()?.answer(recovered(5));
  setting.surroundings.pass(9_999);
  expect([setting.sockets.length, trial.active]).toEqual([2, true]);
  setting.surroundings.pass(1);
  expect(trial.active).toBe(false);
});

function cutThrice({ live, socket, surroundings }: Setting, between: () => void): void {
  live.connect();
  for (let lives = 0; lives < 3; lives++) {
    socket.accept("websocket");
    surroundings.pass(2_000);
    socket.cut();
    if (lives < 2) {
      surroundings.pass(1_000);
      between();
      socket.retry();
    }
  }
}

test("WebSockets that were cut three times in a row are left, at once", () => {
  const setting = new Setting();
  const { live, socket, surroundings } = setting;
  cutThrice(setting, () => {});
  socket.calls.length = 0;
  surroundings.pass(0);
  expect([socket.calls, socket.io.opts.transports]).toEqual([
    ["disconnect", "connect"],
    ["polling"],
  ]);
  socket.accept();
  expect([live.state, live.transport]).toEqual(["live", "polling"]);
  // A trial has to outlive those that were cut.
  surroundings.pass(3_750);
  setting.socket.accept();
  surroundings.pass(5_999);
  expect(live.transport).toBe("polling");
  surroundings.pass(1);
  expect(live.transport).toBe("websocket");
});

test("WebSockets that are cut before the server lets anybody in are left as well", () => {
  const { live, socket, surroundings } = new Setting();
  live.connect();
  for (let attempts = 0; attempts < 3; attempts++) {
    if (attempts > 0) surroundings.pass(5_000);
    if (attempts > 0) socket.retry();
    socket.reach("websocket");
    socket.breakOff();
  }
  surroundings.pass(0);
  expect(socket.io.engine?.transport.name).toBe("polling");
});

test("a server that restarts again and again is not taken for a proxy", () => {
  const setting = new Setting();
  cutThrice(setting, () => setting.socket.miss());
  setting.socket.retry();
  expect(setting.socket.io.opts.transports).toEqual(both);
});

test("a network that comes and goes is not taken for a proxy", () => {
  const page = new FakePage();
  const setting = new Setting({ page });
  cutThrice(setting, () => {});
  page.fire("offline");
  setting.surroundings.pass(0);
  expect(setting.socket.io.opts.transports).toEqual(both);
});

test("a server that asked its clients to go, and then ended, is not taken for a proxy", () => {
  const setting = new Setting();
  setting.socket.on("connect", () => setting.socket.push("livepush.reconnect", { within: 60 }));
  cutThrice(setting, () => {});
  setting.surroundings.pass(0);
  expect(setting.socket.io.opts.transports).toEqual(both);
});

test.each([[["polling"]], [["websocket"]], [["polling", "websocket"]]])(
  "what the application chose stays: %s",
  (transports) => {
    const memory = new FakeMemory();
    polling({ memory });
    const setting = new Setting({ memory, transports });
    const { live, socket, surroundings } = setting;
    live.connect();
    surroundings.pass(60_000);
    socket.accept();
    surroundings.pass(60_000);
    cutThrice(setting, () => {});
    expect([setting.sockets.length, socket.io.opts.transports]).toEqual([1, transports]);
  },
);

test("an attached socket is never told what to use", () => {
  const setting = new Setting({ owned: false });
  const { live, socket, surroundings } = setting;
  live.connect();
  surroundings.pass(60_000);
  expect([socket.calls, socket.io.opts.transports]).toEqual([["connect"], both]);
  cutThrice(setting, () => {});
  surroundings.pass(0);
  socket.accept("polling");
  surroundings.pass(60_000);
  expect([setting.sockets.length, socket.io.opts.transports]).toEqual([1, both]);
});
