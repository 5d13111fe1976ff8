/** The rules that stand in tests/vectors, where other implementations read them too. */

import { describe, expect, test } from "vitest";
import type { StoreOptions } from "../src/api.js";
import { Fallback } from "../src/fallback.js";
import { orderBy } from "../src/order.js";
import { pagePosition } from "../src/page_position.js";
import { parsePositionHeader } from "../src/position_header.js";
import { Rows, type Verb } from "../src/rows.js";
import { placeOf } from "../src/sequence.js";
import connections from "../../tests/vectors/client_connection.json" with { type: "json" };
import fallbacks from "../../tests/vectors/client_fallback.json" with { type: "json" };
import headers from "../../tests/vectors/position_header.json" with { type: "json" };
import merges from "../../tests/vectors/client_merges.json" with { type: "json" };
import orders from "../../tests/vectors/client_order.json" with { type: "json" };
import pages from "../../tests/vectors/client_page_position.json" with { type: "json" };
import presences from "../../tests/vectors/presence.json" with { type: "json" };
import rooms from "../../tests/vectors/client_room.json" with { type: "json" };
import rowRules from "../../tests/vectors/client_rows.json" with { type: "json" };
import sequences from "../../tests/vectors/client_sequence.json" with { type: "json" };
import leftOut from "../../tests/vectors/left_out.json?raw";
import { FakeMemory, FakePage } from "./fake_surroundings.js";
import { Setting, snapshot, type Row } from "./setting.js";

test.each(headers)("position_header: $header", ({ header, positions }) => {
  const parsed = parsePositionHeader(header);
  expect(parsed).toEqual(new Map(Object.entries(positions)));
});

test.each(sequences)("client_sequence: $seen $incoming", ({ seen, incoming, place }) => {
  expect(placeOf(seen, incoming)).toBe(place);
});

test.each(presences)("presence: $about", ({ list, joined, left, then }) => {
  const setting = new Setting();
  const room = setting.live.room("chat:1");
  expect(room.presence.getSnapshot()).toEqual([]);
  setting.live.connect();
  setting.socket.accept();
  setting.next().answer({ ...snapshot(5), presence: list });
  expect(room.presence.getSnapshot()).toEqual(list);
  setting.socket.push("livepush.presence", { room: "chat:1", joined, left });
  expect(room.presence.getSnapshot()).toEqual(then);
});

test.each(pages)("client_page_position: $about", ({ elements, room, position }) => {
  expect(pagePosition(new FakePage(elements).document, room)).toEqual(position);
});

test.each(orders)("client_order: $about", ({ rows, keys, sort, key = "id" }) => {
  const { compare } = orderBy<Record<string, unknown>>(sort, key);
  for (const given of [rows, [...rows].reverse()]) {
    expect([...given].sort(compare).map((row) => (row as any)[key])).toEqual(keys);
  }
});

interface RowRule {
  name: string;
  key?: string;
  partial?: boolean;
  limit?: number;
  sort?: string;
  rows_before?: object[];
  steps: [Verb, unknown, number?][];
  rows: object[];
  partial_after?: boolean;
}

interface LeftOut {
  about: string;
  sent: object;
}

test.each(JSON.parse(leftOut) as LeftOut[])("left_out: $about", ({ sent }) => {
  const before = { id: 1, a: "before", b: "before" };
  for (const verb of ["created", "updated"] as const) {
    const rows = new Rows<object>();
    rows.replace([before], "id", false);
    expect(rows.apply(verb, sent)).toBe(true);
    expect(rows.sorted()).toEqual([sent]);
    expect(Object.keys(rows.sorted()[0] as object)).toEqual(Object.keys(sent));
  }
  const rows = new Rows<object>({ sort: "a" });
  rows.replace([{ id: 2, a: "after" }, sent], "id", false);
  expect(rows.sorted()[0]).toEqual("a" in sent ? { id: 2, a: "after" } : sent);
});

test.each(rowRules as unknown as RowRule[])("client_rows: $name", (rule) => {
  const { key = "id", partial = false, rows_before = [], steps, partial_after } = rule;
  const rows = new Rows<object>(rule);
  rows.replace(rows_before, key, partial);
  rows.sorted();
  for (const [verb, row, stamp] of steps) {
    rows.apply(verb, row, stamp);
    rows.sorted();
  }
  expect(rows.sorted()).toEqual(rule.rows);
  if (partial_after !== undefined) expect(rows.partial).toBe(partial_after);
});

describe("client_merges", () => {
  interface Step {
    merge?: Row;
    offset?: number;
    header?: string;
    publication?: [string, Row, number];
    rows?: Record<string, string>;
  }

  test.each(merges as unknown as { name: string; steps: Step[] }[])("$name", ({ steps }) => {
    const setting = new Setting();
    const room = setting.live.room("chat:1", { since: null });
    const store = room.store<Row>("message");
    setting.live.connect();
    setting.socket.accept();
    setting.next().answer(snapshot(5, [{ id: 1, body: "a" }]));
    for (const { merge, offset, header, publication, rows } of steps) {
      if (merge) {
        store.merge(merge, header ?? (offset === undefined ? null : `chat%3A1=e:${offset}`));
      } else if (publication) {
        setting.publish(`message.${publication[0]}`, publication[1], publication[2]);
      } else {
        const shown = store.getSnapshot().map(({ id, body }) => [id, body]);
        expect(Object.fromEntries(shown)).toMatchObject(rows ?? {});
        if (rows?.["2"] === undefined) expect(store.get(2)).toBeUndefined();
      }
    }
  });
});

describe("client_fallback", () => {
  interface Rule {
    about: string;
    steps: Record<string, any>[];
  }

  // Chance at its lowest, and at its highest: the ends of each pause.
  const ends = (fallbacks as unknown as Rule[]).flatMap((rule) => [
    { ...rule, end: 0 },
    { ...rule, end: 1 },
  ]);

  test.each(ends)("$about ($end)", ({ steps, end }) => {
    let time = 1_000_000_000;
    const memory = new FakeMemory();
    const surroundings = { now: () => time, random: () => end, memory };
    let fallback = new Fallback(surroundings);
    const moves: Record<string, (value: any) => void> = {
      silent: () => fallback.silent(),
      cut: (lasted) => fallback.cut(lasted),
      disturbed: () => fallback.disturbed(),
      reached: (transport) => fallback.reached(transport),
      trial_failed: (lasted) => fallback.trialFailed(lasted),
      elsewhere: () => fallback.elsewhere(),
      after: (ms) => (time += ms),
      page: () => (fallback = new Fallback(surroundings)),
      remembered: (text) => {
        memory.text = text;
        fallback = new Fallback(surroundings);
      },
      avoids: (avoids) => expect(fallback.avoids).toBe(avoids),
      trial_in: (pause) => expect(fallback.trialIn).toBe(pause && pause[end]),
      proof: (ms) => expect(fallback.proof).toBe(ms),
    };
    for (const step of steps) {
      for (const [move, value] of Object.entries(step)) {
        expect(moves).toHaveProperty(move);
        moves[move]?.(value);
      }
    }
  });
});

describe("client_connection", () => {
  interface Scenario {
    about: string;
    attached?: boolean;
    steps: Record<string, any>[];
  }

  test.each(connections as unknown as Scenario[])("$about", ({ attached = false, steps }) => {
    const setting = new Setting({ owned: !attached });
    const { live, socket, surroundings } = setting;
    const refusals: number[] = [];
    live.onRefused(({ code }) => refusals.push(code));
    live.connect();
    let done = 0;
    const moves: Record<string, (value: any) => void> = {
      accept: () => socket.accept(),
      // What socket.io-client does by itself where an attempt may follow.
      reconnect: () => socket.retry(),
      push: (args: [string]) => socket.push(...args),
      end: (reason) => socket.cut(reason),
      refuse: (error) => socket.refuse(error.message ?? "no", error),
      answer: (status) => surroundings.answerRenewal(status),
      after: (ms) => surroundings.pass(ms),
      connect: () => live.connect(),
      state: (state) => expect(live.state).toBe(state),
      error: (code) => expect(live.error?.code ?? null).toBe(code),
      message: (text) => expect(live.error?.message).toBe(text),
      refused: (codes) => expect(refusals).toEqual(codes),
      renewals: (count) => expect(surroundings.renewals).toHaveLength(count),
      attempts: (count) => {
        const all = socket.calls.filter((call) => call === "connect").length;
        expect(all - done).toBe(count);
        done = all;
      },
    };
    for (const step of steps) {
      for (const [move, value] of Object.entries(step)) {
        expect(moves).toHaveProperty(move);
        moves[move]?.(value);
      }
      surroundings.settle();
    }
    expect(surroundings.reported).toEqual([]);
  });
});

describe("client_room", () => {
  interface Scenario {
    name: string;
    since?: { epoch: string; offset: number };
    store?: StoreOptions<Row>;
    presence?: boolean;
    steps: Record<string, any>[];
  }

  test.each(rooms as unknown as Scenario[])("$name", ({ since = null, store, presence, steps }) => {
    const setting = new Setting();
    const { live, socket, surroundings } = setting;
    const room = live.room("chat:1", { since });
    const rows = store && room.store<Row>("message", store);
    const delivered: number[] = [];
    for (const event of ["message.created", "message.deleted", "message.invalidated", "ping"]) {
      room.on(event, (_data, { offset }) => delivered.push(offset));
    }
    if (presence) room.presence.subscribe(() => {});
    const heard: unknown[] = [];
    room.on("typing", (_data, { from }) => heard.push(from));
    const refusals: number[] = [];
    room.onRefused(({ code }) => refusals.push(code));
    live.connect();
    let asked: ReturnType<Setting["next"]> | undefined;
    const moves: Record<string, (value: any) => void> = {
      connect: () => socket.accept(),
      disconnect: (reason) => socket.cut(reason),
      answer: (answer) => asked?.answer(answer),
      publication: ([event, data, place]) => socket.push(event, data, { room: "chat:1", ...place }),
      push: (args: [string]) => socket.push(...args),
      reset: (within) => socket.push("livepush.reset", { room: "chat:1", within }),
      whisper: ([event, from]) => socket.push(event, null, { room: "chat:1", whisper: true, from }),
      retry: () => live.connect(),
      after: (ms) => surroundings.pass(ms),
      sent: (rest) => {
        asked = setting.next();
        expect(asked.message).toEqual({ v: 1, room: "chat:1", ...rest });
      },
      silent: () => expect(socket.sent).toEqual([]),
      state: (state) => expect(room.state).toBe(state),
      error: (code) => expect(room.error?.code ?? null).toBe(code),
      position: (position) => expect(room.position).toEqual(position),
      rows: (keys) => expect(rows?.getSnapshot().map(({ id }) => id)).toEqual(keys),
      delivered: (offsets) => expect(delivered).toEqual(offsets),
      heard: (count) => expect(heard).toHaveLength(count),
      present: (ids) => expect(room.presence.getSnapshot().map(({ id }) => id)).toEqual(ids),
      refused: (codes) => expect(refusals).toEqual(codes),
    };
    for (const step of steps) {
      surroundings.settle();
      for (const [move, value] of Object.entries(step)) {
        expect(moves).toHaveProperty(move);
        moves[move]?.(value);
      }
    }
    expect(surroundings.reported).toEqual([]);
  });
});
