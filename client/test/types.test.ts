/** What TypeScript must and must not accept; checked by `npm run check`. */

import { io } from "socket.io-client";
import { expect, test } from "vitest";
import { LivePush, attach, connect, type Store } from "../src/index.js";

interface Message {
  id: number;
  body: string;
}

function accepted(): void {
  const live: LivePush = connect({ path: "/live", auth: { token: "t" }, withCredentials: true });
  attach(io());
  LivePush.attach(io());
  const room = LivePush.connect().room("chat:1", { since: { epoch: "e", offset: 5 } });
  room.on<Message>("message.created", ({ body }, { offset, stamp }) => [body, offset, stamp]);
  room.on("message.deleted", ({ id }) => id);
  room.on("livepush.snapshot", ({ kinds }) => kinds.message?.rows);
  const store: Store<Message> = room.store<Message>("message", { sort: "-id", limit: 50 });
  room.store<Message>("message", { sort: (one, other) => one.id - other.id });
  const body: string | undefined = store.get(5)?.body;
  store.merge({ id: 1, body: body ?? "" }, new Response());
  const unsubscribe: () => void = store.subscribe((rows) => rows[0]?.body);
  unsubscribe();
  live.status.subscribe((state) => state === "live");
  // @ts-expect-error: the array must not be changed
  store.getSnapshot().push({ id: 1, body: "" });
  // @ts-expect-error: no such state
  live.status.subscribe((state) => state === "dead");
  // @ts-expect-error: a row has a body
  store.merge({ id: 1 });
}

test("the package exports what it says", () => {
  expect(accepted).toBeTypeOf("function");
  expect(LivePush).toEqual({ connect, attach });
});
