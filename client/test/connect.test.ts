/** What `connect` makes of its options, seen by a server. */

import { createServer, type IncomingMessage } from "node:http";
import { expect, test } from "vitest";
import { connect } from "../src/index.js";
import type { ConnectOptions } from "../src/api.js";

/** Connect, and return the first request that the server gets of it. */
async function firstRequest(options: ConnectOptions): Promise<IncomingMessage> {
  let came: (request: IncomingMessage) => void;
  const request = new Promise<IncomingMessage>((resolve) => (came = resolve));
  const server = createServer((request, response) => {
    came(request);
    response.writeHead(400, { Connection: "close" }).end();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", () => resolve()));
  const { port } = server.address();
  const live = connect({ url: `http://127.0.0.1:${port}`, transports: ["polling"], ...options });
  try {
    return await request;
  } finally {
    live.disconnect();
    server.close();
  }
}

test("requests of one that says who it is bear a key of its own", async () => {
  const keys = new Set<unknown>();
  for (const auth of [{ token: "t" }, async () => ({ token: "t" }), { token: "t" }]) {
    keys.add((await firstRequest({ auth })).headers["livepush-key"]);
  }
  expect(keys.size).toBe(3);
  for (const key of keys) expect(key).toMatch(/^[0-9a-f]{32}$/);
});

test("others bear none: across origins that would cost a preflight", async () => {
  expect((await firstRequest({})).headers).not.toHaveProperty("livepush-key");
});

test("the application's own headers and options of transports stay", async () => {
  const one = await firstRequest({
    auth: { token: "t" },
    extraHeaders: { "X-One": "1", "X-Two": "2" },
    transportOptions: { polling: { extraHeaders: { "X-Two": "3" } } },
  });
  expect(one.headers).toMatchObject({ "x-one": "1", "x-two": "3", "livepush-key": expect.anything() });
});

test.each([["token"], [5], [["t"]], [null]])("auth %j is told where it is given", (auth) => {
  expect(() => connect({ auth: auth as never, autoConnect: false })).toThrow(
    '"auth" must be an object such as {token}, or a function that gives one; it is',
  );
});
