/** A client on a fake socket, and the few moves that most tests make. */

import type { Room, Store } from "../src/api.js";
import { Client } from "../src/client.js";
import type { Authenticate } from "../src/credentials.js";
import { FakeSocket, type Sent } from "./fake_socket.js";
import { FakeMemory, FakePage, FakeSurroundings } from "./fake_surroundings.js";

export interface Row {
  id: number;
  body?: string;
}

export class Setting {
  readonly surroundings: FakeSurroundings;
  /** All that were made, the oldest first. */
  readonly sockets: FakeSocket[] = [];
  readonly live: Client;

  constructor({
    owned = true,
    page = null as FakePage | null,
    memory = new FakeMemory(),
    random = () => 0.5,
    transports = ["websocket", "polling"],
    authenticate = null as Authenticate | null,
  } = {}) {
    this.surroundings = new FakeSurroundings(page, random, memory);
    const dial = (asked: Authenticate | null): FakeSocket => {
      // As `connect` does: a socket asks nobody where there is no function.
      this.sockets.push(new FakeSocket(this.surroundings, transports, authenticate && asked));
      return this.socket;
    };
    this.live = new Client(owned ? dial : dial(null), this.surroundings, authenticate);
  }

  /** The newest of its sockets. */
  get socket(): FakeSocket {
    return this.sockets.at(-1) as FakeSocket;
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

export function refused(code: number, message: string, temporary = false): object {
  return { ok: false, error: { code, message, temporary } };
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
