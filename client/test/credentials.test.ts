/** What an application gives with each CONNECT, and what becomes of it where it can't. */

import { expect, test } from "vitest";
import type { Authenticate } from "../src/credentials.js";
import { Setting } from "./setting.js";

/** An application that answers when the test says so. */
class Application {
  readonly asked: { resolve(payload: unknown): void; reject(error: unknown): void }[] = [];

  readonly authenticate = (): Promise<unknown> => {
    return new Promise((resolve, reject) => this.asked.push({ resolve, reject }));
  };
}

/** Let promises that are settled tell. */
async function settled(): Promise<void> {
  for (let turns = 0; turns < 5; turns++) await Promise.resolve();
}

function begin(authenticate: (() => unknown) | Authenticate): Setting {
  const setting = new Setting({ authenticate: authenticate as Authenticate });
  setting.live.connect();
  return setting;
}

test.each<[string, Authenticate]>([
  ["a function", (() => ({ token: "t" })) as Authenticate],
  ["a promise", (async () => ({ token: "t" })) as Authenticate],
  ["as socket.io-client has it", (give) => give({ token: "t" })],
  ["as socket.io-client has it, later", async (give) => (await settled(), give({ token: "t" }))],
])("%s says who it is", async (_, authenticate) => {
  const { live, socket } = begin(authenticate);
  socket.reach();
  await settled();
  await settled();
  expect(socket.payloads).toEqual([{ token: "t" }]);
  socket.accept();
  expect(live.state).toBe("live");
});

test("null is nothing, and no failure", async () => {
  const { socket, surroundings } = begin(async () => null);
  socket.reach();
  await settled();
  expect([socket.payloads, surroundings.reported]).toEqual([[{}], []]);
});

test("each connection is asked for anew", async () => {
  let token = 0;
  const { socket, live } = begin(async () => ({ token: ++token }));
  for (let connection = 0; connection < 3; connection++) {
    socket.reach();
    await settled();
    socket.accept();
    expect(live.state).toBe("live");
    socket.cut();
    socket.retry();
  }
  expect(socket.payloads).toEqual([{ token: 1 }, { token: 2 }, { token: 3 }]);
});

test("a move asks for its own", async () => {
  let token = 0;
  const setting = begin(async () => ({ token: ++token }));
  const first = setting.socket;
  first.reach();
  await settled();
  first.accept();
  first.push("livepush.reconnect", { within: 0 });
  setting.surroundings.pass(0);
  setting.socket.reach();
  await settled();
  expect([first.payloads, setting.socket.payloads]).toEqual([[{ token: 1 }], [{ token: 2 }]]);
});

test("a failure is temporary, told once, and tried again ever more slowly", async () => {
  const error = new Error("no token to be had");
  let works = false;
  const { socket, live, surroundings } = begin(async () => {
    if (!works) throw error;
    return { token: "t" };
  });
  for (const pause of [750, 1_500, 3_000, 6_000, 12_000, 24_000, 45_000, 45_000]) {
    socket.reach();
    await settled();
    // It does not keep the server waiting.
    expect([live.state, socket.active, socket.io.engine?.readyState]).toEqual(["offline", false, "closed"]);
    expect(live.error).toEqual({ code: 0, message: '"auth" failed: no token to be had', temporary: true });
    socket.calls.length = 0;
    surroundings.pass(pause - 1);
    expect(socket.calls).toEqual([]);
    surroundings.pass(1);
    expect(socket.calls).toContain("connect");
  }
  expect([surroundings.reported, surroundings.warned, socket.payloads]).toEqual([[error], [], []]);
  works = true;
  socket.reach();
  await settled();
  socket.accept();
  expect([live.state, live.error]).toEqual(["live", null]);
});

test("a failure that comes back after a success is told again", async () => {
  let fails = true;
  const { socket, surroundings } = begin(async () => {
    if (fails) throw new Error("no token");
    return {};
  });
  const attempt = async (): Promise<void> => {
    socket.reach();
    await settled();
  };
  await attempt();
  fails = false;
  surroundings.pass(750);
  await attempt();
  socket.accept();
  socket.cut();
  socket.retry();
  fails = true;
  await attempt();
  expect(surroundings.reported).toHaveLength(2);
});

test.each<[string, unknown, string]>([
  ["a text", "token", 'it gave token'],
  ["nothing", undefined, "it gave undefined"],
  ["a list", ["token"], "it gave token"],
])("%s is a failure with a sentence", async (_, payload, sentence) => {
  const { socket, live, surroundings } = begin(async () => payload);
  socket.reach();
  await settled();
  expect(live.error?.message).toContain(sentence);
  expect(String(surroundings.reported)).toContain('"auth" must give an object');
});

test("a function that throws at once", () => {
  const { socket, live } = begin(() => {
    throw new Error("no storage");
  });
  socket.reach();
  expect([live.state, live.error?.message]).toEqual(["offline", '"auth" failed: no storage']);
});

test("an answer that never comes is a failure after 20 seconds, and no silence of a proxy", () => {
  const { socket, live, surroundings } = begin(new Application().authenticate);
  socket.reach();
  surroundings.pass(19_999);
  expect([live.state, socket.io.opts.transports]).toEqual(["connecting", ["websocket", "polling"]]);
  surroundings.pass(1);
  expect([live.state, live.error?.message]).toEqual([
    "offline",
    '"auth" failed: "auth" gave nothing within 20 seconds.',
  ]);
});

test("the server's time to let us in begins when the application has answered", async () => {
  const application = new Application();
  const { socket, surroundings } = begin(application.authenticate);
  socket.reach();
  surroundings.pass(9_500);
  application.asked[0]?.resolve({ token: "t" });
  await settled();
  surroundings.pass(6_500);
  expect(socket.io.opts.transports).toEqual(["websocket", "polling"]);
  surroundings.pass(10_000);
  expect(socket.io.opts.transports).toEqual(["polling"]);
});

test("what is said for an earlier connection counts no more", async () => {
  const application = new Application();
  const { socket, live, surroundings } = begin(application.authenticate);
  socket.reach();
  socket.breakOff();
  socket.retry();
  application.asked[0]?.resolve({ token: "old" });
  await settled();
  expect(socket.payloads).toEqual([]);
  socket.reach();
  application.asked[1]?.resolve({ token: "new" });
  await settled();
  expect(socket.payloads).toEqual([{ token: "new" }]);
  socket.accept();
  application.asked[0]?.reject(new Error("late"));
  await settled();
  surroundings.pass(60_000);
  expect([live.state, surroundings.reported]).toEqual(["live", []]);
});

test("disconnect() while the application is asked ends the attempt", async () => {
  const application = new Application();
  const { socket, live, surroundings } = begin(application.authenticate);
  socket.reach();
  live.disconnect();
  application.asked[0]?.reject(new Error("late"));
  await settled();
  expect([live.state, surroundings.reported, surroundings.waiting]).toEqual(["offline", [], 0]);
});

test("a failure while a move is made leaves the connection where it is", async () => {
  let fails = false;
  const setting = begin(async () => {
    if (fails) throw new Error("no token");
    return {};
  });
  const first = setting.socket;
  first.reach();
  await settled();
  first.accept();
  fails = true;
  first.push("livepush.reconnect", { within: 0 });
  setting.surroundings.pass(0);
  const second = setting.socket;
  second.reach();
  await settled();
  expect([second.active, setting.live.state]).toEqual([false, "live"]);
  fails = false;
  setting.surroundings.pass(750);
  second.reach();
  await settled();
  second.accept();
  expect([first.connected, setting.live.state]).toEqual([false, "live"]);
});
