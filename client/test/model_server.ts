/**
 * A server as the protocol promises it, in memory: a database, one room's history, and
 * the faults that the client must survive. What it answers to a subscribe is always
 * either a complete recovery, or a snapshot with its position and what came after it.
 */

import type { FakeSocket, Sent } from "./fake_socket.js";

export type Random = () => number;

/** Numbers from 0 to 1 that are the same for the same seed. */
export function seeded(seed: number): Random {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export interface ModelRow {
  id: number;
  body: number;
}

interface Published {
  event: string;
  data: object;
  offset: number;
  stamp?: number;
  more?: boolean;
}

type Tables = Record<"message" | "task", Map<number, ModelRow>>;

const ROOM = "chat:1";
const HISTORY = 15;

export class ModelServer {
  readonly tables: Tables = { message: new Map(), task: new Map() };
  /** Every state that was ever committed, both tables together. */
  readonly committed = new Set<string>();
  epoch = "e0";
  offset = 0;
  /** The connection whose subscription is there. */
  private subscribed: FakeSocket | null = null;
  private epochs = 0;
  private history: Published[] = [];
  private stamp = 0;
  private lastKey = 0;
  private shared: object | null = null;
  private sharedOffset = 0;

  constructor(
    /** All connections that ever were. */
    private readonly sockets: readonly FakeSocket[],
    private readonly random: Random,
    /** How often something goes wrong, from 0 to 1. */
    public trouble: number,
  ) {
    this.remember();
  }

  // Whatever ends the connection ends the subscription.
  private get joined(): boolean {
    return this.subscribed?.connected === true;
  }

  get asked(): boolean {
    return this.sockets.some(({ sent }) => sent.length > 0);
  }

  chance(of: number): boolean {
    return this.random() < of;
  }

  /** Commit a few changes; returns the messages written, and the commit's position. */
  commit(): { rows: ModelRow[]; header: string } {
    const publications: Omit<Published, "offset">[] = [];
    const rows = new Map<number, ModelRow>();
    for (let left = 1 + Math.floor(this.random() * 4); left > 0; left--) {
      const kind = this.chance(0.6) ? "message" : "task";
      const table = this.tables[kind];
      const keys = [...table.keys()];
      const known = keys[Math.floor(this.random() * keys.length)];
      const verb =
        known === undefined || this.chance(0.5)
          ? "created"
          : this.chance(0.6)
            ? "updated"
            : "deleted";
      const id = verb === "created" ? this.newKey(table) : (known as number);
      const stamp = ++this.stamp;
      const row = { id, body: stamp };
      if (verb === "deleted") table.delete(id);
      else table.set(id, row);
      if (kind === "message") verb === "deleted" ? rows.delete(id) : rows.set(id, row);
      const data = verb === "deleted" ? { id } : row;
      publications.push({ event: `${kind}.${verb}`, data, stamp });
    }
    this.remember();
    this.publish(publications);
    const header = `${encodeURIComponent(ROOM)}=${this.epoch}:${this.offset}`;
    return { rows: [...rows.values()], header };
  }

  /** Change rows behind the session's back, and say only that copies are stale. */
  bulk(): void {
    for (const [id, row] of this.tables.message) {
      if (this.chance(0.3)) this.tables.message.delete(id);
      else this.tables.message.set(id, { ...row, body: ++this.stamp });
    }
    this.remember();
    this.publish([{ event: "message.invalidated", data: {} }]);
  }

  /** Redis comes back empty: another epoch, offsets from 1. */
  loseHistory(): void {
    this.epoch = `e${++this.epochs}`;
    this.offset = 0;
    this.history = [];
    this.shared = null;
  }

  resetClient(): void {
    const socket = this.subscribed;
    if (!socket || !this.joined) return;
    this.subscribed = null;
    socket.push("livepush.reset", { room: ROOM, within: this.random() * 5 });
  }

  /** This server is going. */
  sendAway(): void {
    if (!this.joined) return;
    this.subscribed?.push("livepush.reconnect", { within: this.random() * 5 });
  }

  /** Write again what the client has seen. */
  repeat(seen: number): void {
    const old = this.history[Math.floor(this.random() * this.history.length)];
    if (old && this.joined && old.offset <= seen) this.write(old);
  }

  /** Answer the oldest question of the client, mostly. */
  answer(): void {
    const socket = this.sockets.find(({ sent }) => sent.length > 0);
    const sent = socket?.sent.shift();
    if (!socket || !sent) return;
    if (sent.event === "livepush.unsubscribe") {
      this.subscribed = null;
      return sent.answer({ ok: true });
    }
    if (this.chance(this.trouble * 0.2)) return; // lost: the client's patience ends
    if (this.chance(this.trouble * 0.3)) {
      const error = { code: 120, message: "unavailable", temporary: true };
      return sent.answer({ ok: false, error });
    }
    this.subscribed = socket;
    this.subscribe(sent);
  }

  private subscribe(sent: Sent): void {
    const since = sent.message.since as { epoch: string; offset: number } | undefined;
    const first = this.history[0]?.offset ?? this.offset + 1;
    const { epoch, offset } = this;
    const known = since?.epoch === epoch && since.offset >= first - 1 && since.offset <= offset;
    if (since && known && !this.chance(this.trouble * 0.3)) {
      const publications = this.history.filter((publication) => publication.offset > since.offset);
      return sent.answer({ ok: true, room: ROOM, epoch, offset, recovered: true, publications });
    }
    // Newcomers of the same moment share a snapshot; what came since follows the answer.
    const shareable = this.shared && this.sharedOffset >= first - 1;
    if (!shareable || this.chance(0.5)) {
      this.shared = this.snapshot();
      this.sharedOffset = offset;
    }
    const from = this.sharedOffset;
    sent.answer({
      ok: true,
      room: ROOM,
      epoch,
      offset: from,
      recovered: false,
      publications: [],
      snapshot: this.shared,
    });
    for (const publication of this.history) if (publication.offset > from) this.write(publication);
  }

  private publish(publications: Omit<Published, "offset">[]): void {
    // The whole commit may be lost on the way: a gap, seen with the next one.
    const lost = this.chance(this.trouble * 0.3);
    const batch = publications.map((publication, index) => ({
      ...publication,
      offset: ++this.offset,
      ...(index < publications.length - 1 && { more: true }),
    }));
    this.history = [...this.history, ...batch].slice(-HISTORY);
    if (this.joined && !lost) for (const publication of batch) this.write(publication);
  }

  private write({ event, data, ...marks }: Published): void {
    this.subscribed?.push(event, data, { room: ROOM, epoch: this.epoch, ...marks });
  }

  private snapshot(): object {
    const kind = (table: Map<number, ModelRow>) => {
      return { key: "id", rows: [...table.values()], partial: false };
    };
    return { kinds: { message: kind(this.tables.message), task: kind(this.tables.task) } };
  }

  // Mostly a new one; sometimes one that was deleted.
  private newKey(table: Map<number, ModelRow>): number {
    const old = 1 + Math.floor(this.random() * this.lastKey);
    return this.lastKey > 0 && this.chance(0.2) && !table.has(old) ? old : ++this.lastKey;
  }

  private remember(): void {
    this.committed.add(stateOf(rowsOf(this.tables.message), rowsOf(this.tables.task)));
  }
}

export function rowsOf(table: Map<number, ModelRow>): ModelRow[] {
  return [...table.values()].sort((one, other) => one.id - other.id);
}

export function stateOf(messages: readonly ModelRow[], tasks: readonly ModelRow[]): string {
  return JSON.stringify([messages, tasks]);
}
