/** The stores of one room: which kind has one, and when their subscribers are told. */

import type { StoreOptions } from "./api.js";
import type { Verb } from "./rows.js";
import { KindStore, type StoreRoom } from "./store.js";
import type { Meta, Position, Snapshot } from "./wire.js";

export class Kinds {
  private readonly stores = new Map<string, KindStore<any>>();

  constructor(private readonly room: StoreRoom) {}

  /** True when every store that the application asked for has its rows. */
  get filled(): boolean {
    for (const store of this.stores.values()) {
      if (store.claimed && !store.filled) return false;
    }
    return true;
  }

  get pendingMerges(): boolean {
    for (const store of this.stores.values()) if (store.merges.pending) return true;
    return false;
  }

  /**
   * The store of a kind, made or claimed by the first call.
   *
   * @param current Whether the application's rows are those of the room's position.
   * @param complete Whether a snapshot was seen: a kind that was not in it has no rows.
   */
  store<R extends object>(
    kind: string,
    options: StoreOptions<R>,
    current: boolean,
    complete: boolean,
  ): KindStore<R> {
    let store = this.stores.get(kind) as KindStore<R> | undefined;
    if (!store) {
      store = this.add<R>(kind);
      store.filled = complete;
    }
    if (!store.claimed) store.claim(options, current);
    return store;
  }

  /** Apply one publication; the room has reached `meta`. */
  apply(event: string, data: unknown, meta: Meta): void {
    const [kind, verb] = splitEvent(event);
    if (verb === "created" || verb === "updated" || verb === "deleted") {
      this.stores.get(kind)?.apply(verb satisfies Verb, data, meta);
    }
    for (const store of this.stores.values()) store.reach(meta);
  }

  /**
   * Start over from a snapshot. Kinds nobody asked for are kept in step too: a store that
   * is made later then needs no other snapshot.
   */
  replace(snapshot: Snapshot, position: Position): void {
    for (const kind of Object.keys(snapshot.kinds)) {
      if (!this.stores.has(kind)) this.add(kind);
    }
    for (const [kind, store] of this.stores) store.replace(snapshot.kinds[kind], position);
  }

  /** Tell subscribers: all stores change before anyone is told. */
  flush(): void {
    const changed = [...this.stores.values()].filter((store) => store.commit());
    for (const store of changed) store.notify();
  }

  forgetMerges(): void {
    for (const store of this.stores.values()) store.merges.clear();
  }

  private add<R extends object>(kind: string): KindStore<R> {
    const store = new KindStore<R>(kind, this.room);
    this.stores.set(kind, store);
    return store;
  }
}

/** `["message", "created"]` of "message.created". */
export function splitEvent(event: string): [kind: string, verb: string] {
  const dot = event.lastIndexOf(".");
  return [event.slice(0, Math.max(dot, 0)), event.slice(dot + 1)];
}
