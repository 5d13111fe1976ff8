/** A store: the rows of one kind with their subscribers. */

import type { PositionSource, State, Store, StoreOptions } from "./api.js";
import { Value } from "./value.js";
import { Merges } from "./merges.js";
import { parsePositionHeader } from "./position_header.js";
import { Rows, type Verb } from "./rows.js";
import { includes } from "./sequence.js";
import type { KindSnapshot, Meta, Position } from "./wire.js";

/** What a store needs of its room. */
export interface StoreRoom {
  readonly name: string;
  readonly position: Position | null;
  readonly state: State;
  /** Publish pending changes to subscribers, unless a commit is still arriving. */
  settle(): void;
  /** Rows were merged that the room has yet to catch up with. */
  awaitMerges(): void;
  report(error: unknown): void;
}

const EMPTY: readonly never[] = [];

export class KindStore<R extends object> implements Store<R> {
  /** True once the rows are those of the room's position. */
  filled = false;
  /** True once the application asked for this store. */
  claimed = false;
  readonly merges = new Merges<R>();
  private readonly rows = new Rows<R>();
  private readonly shown: Value<readonly R[]>;
  private changed = false;
  private index: Map<string, R> | null = null;

  constructor(
    readonly kind: string,
    private readonly room: StoreRoom,
  ) {
    this.shown = new Value<readonly R[]>(EMPTY, room.report);
    this.subscribe = this.shown.subscribe;
    this.getSnapshot = this.shown.getSnapshot;
  }

  readonly subscribe: Store<R>["subscribe"];
  readonly getSnapshot: Store<R>["getSnapshot"];

  /**
   * Take the application's options. Its rows are shown until a snapshot comes; with
   * `current` they are those of the room's position, and none has to come.
   */
  claim(options: StoreOptions<R>, current: boolean): void {
    const { rows, key = "id", partial = false } = options;
    this.claimed = true;
    this.rows.arrange(options);
    if (!this.filled) {
      this.rows.replace(rows ?? EMPTY, key, partial);
      this.filled = current && rows !== undefined;
    }
    this.changed = true;
    this.commit();
  }

  get(key: string | number): R | undefined {
    if (!this.index) {
      this.index = new Map();
      for (const row of this.getSnapshot()) this.index.set(this.rows.keyOf(row) as string, row);
    }
    return this.index.get(String(key));
  }

  merge(rows: R | readonly R[], response?: PositionSource): void {
    // Nothing else is heard then.
    const off = this.room.state === "off";
    const header = off ? null : headerOf(response);
    const awaited = header ? parsePositionHeader(header).get(this.room.name) : undefined;
    const seen = this.room.position;
    // The echo was shown already, and maybe something newer since.
    if (awaited && seen && includes(seen, awaited)) return;
    for (const row of Array.isArray(rows) ? (rows as readonly R[]) : [rows as R]) {
      const key = this.rows.keyOf(row);
      if (key === null) continue;
      const isNews = off || !this.rows.knows(key);
      if (awaited ? this.merges.add(key, row, awaited) : isNews) this.put(row);
    }
    this.room.settle();
    if (this.merges.pending) this.room.awaitMerges();
  }

  /** Apply one publication of this kind. */
  apply(verb: Verb, row: unknown, meta: Meta): void {
    const change = { verb, row, stamp: meta.stamp };
    const key = this.rows.keyOf(row);
    if (key !== null && this.merges.hold(key, meta, change)) return;
    this.change(verb, row, meta.stamp);
  }

  /** The room has reached this position. */
  reach(position: Position): void {
    for (const { verb, row, stamp } of this.merges.reached(position)) {
      this.change(verb, row, stamp);
    }
  }

  /** Start over from a snapshot; one without this kind has no rows of it. */
  replace(content: KindSnapshot | undefined, position: Position): void {
    if (content) this.rows.replace(content.rows, content.key, content.partial);
    else this.rows.replace(EMPTY, this.rows.key, false);
    const newer = this.merges.restart(position, (key) => this.rows.get(key));
    for (const row of newer) this.put(row);
    this.filled = true;
    this.changed = true;
  }

  /** Make the next array if something changed; true when subscribers should know. */
  commit(): boolean {
    if (!this.changed) return false;
    this.changed = false;
    this.index = null;
    this.shown.assign(this.sorted());
    return true;
  }

  notify(): void {
    this.shown.notify();
  }

  private sorted(): readonly R[] {
    try {
      return this.rows.sorted();
    } catch (error) {
      // The application's comparison, of a row that lacks a field maybe; all are shown.
      this.room.report(error);
      return this.rows.sorted(true);
    }
  }

  private put(row: R): void {
    this.change("created", row, undefined);
  }

  private change(verb: Verb, row: unknown, stamp: number | undefined): void {
    if (this.rows.apply(verb, row, stamp)) this.changed = true;
  }
}

function headerOf(source: PositionSource | undefined): string | null {
  if (!source || typeof source === "string") return source || null;
  return ("headers" in source ? source.headers : source).get("Livepush-Position");
}
