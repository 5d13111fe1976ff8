/** A client on a fake socket, and the few moves that most tests make. */

import type { Room, Store } from "../src/api.js";
import { Client } from "../src/client.js";
import { FakeSocket, type Sent } from "./fake_socket.js";
import { FakePage, FakeSurroundings } from "./fake_surroundings.js";

export interface Row {
  id: number;
  body?: string;
}

export class Setting {
  readonly surroundings: FakeSurroundings;
  readonly socket: FakeSocket;
  readonly live: Client;

  constructor({ owned = true, page = null as FakePage | null } = {}) {
    this.surroundings = new FakeSurroundings(page);
    this.socket = new FakeSocket(this.surroundings);
    this.live = new Client(this.socket, owned, this.surroundings);
  }

  /** The next message the client has sent. */
  next(event = "livepush.subscribe"): Sent {
    this.surroundings.settle();
    const sent = this.socket.sent.shift();
    if (sent?.event !== event) throw new Error(`expected ${event}, got ${sent?.event}`);
    return sent;
  }

  /** Connect, and answer one subscribe per room with a snapshot of no rows at e:5. */
  start(...rooms: readonly Room[]): void {
    this.live.connect();
    if (!this.socket.connected) this.socket.accept();
    for (const _ of rooms) this.next().answer(snapshot(5));
  }

  publish(event: string, data: unknown, offset: number, marks: object = {}): void {
    this.socket.push(event, data, { room: "chat:1", epoch: "e", offset, ...marks });
  }
}

export function snapshot(offset: number, rows: readonly object[] = [], epoch = "e"): object {
  const message = { key: "id", rows, partial: false };
  return {
    ok: true,
    epoch,
    offset,
    recovered: false,
    publications: [],
    snapshot: { kinds: { message } },
  };
}

export function recovered(offset: number, ...publications: object[]): object {
  return { ok: true, epoch: "e", offset, recovered: true, publications };
}

/** What a store tells its subscribers, as lists of keys, without the first call. */
export function watched(store: Store<Row>): number[][] {
  const told: number[][] = [];
  store.subscribe((rows) => told.push(rows.map(({ id }) => id)));
  told.shift();
  return told;
}
