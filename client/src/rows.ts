/**
 * The rows of one kind, and the rules that keep them right. Pure: no subscribers, no
 * clock, no socket. The rules are written down in `tests/vectors/client_rows.json`.
 */

import { field, orderBy, type Order, type Sort } from "./order.js";

/** What a publication does to one row. */
export type Verb = "created" | "updated" | "deleted";

/** Deletions remembered per kind; older ones can no longer be undone by mistake anyway. */
const TOMBSTONES = 1_000;

interface Kept<R> {
  readonly row: R;
  readonly stamp: number | undefined;
}

export interface RowsOptions<R> {
  readonly sort?: Sort<R>;
  readonly limit?: number;
}

export class Rows<R extends object> {
  /** True when there are older rows than these. */
  partial = false;
  /** The field that tells rows apart. */
  key = "id";
  private kept = new Map<string, Kept<R>>();
  // Stamps of deleted rows, the oldest deletion first.
  private tombstones = new Map<string, number | undefined>();
  private order: Order<R>;

  constructor(private options: RowsOptions<R> = {}) {
    this.order = orderBy(options.sort, this.key);
  }

  arrange(options: RowsOptions<R>): void {
    this.options = options;
    this.order = orderBy(options.sort, this.key);
  }

  /**
   * Start over from these rows. Stamps are forgotten: the snapshot may come from a
   * database that was restored, and what follows it follows in order.
   */
  replace(rows: readonly object[], key: string, partial: boolean): void {
    this.key = key;
    this.partial = partial;
    this.arrange(this.options);
    this.kept = new Map();
    this.tombstones = new Map();
    for (const row of rows) this.apply("created", row);
  }

  /** The key of a row, or null for what is no row of this kind. */
  keyOf(row: unknown): string | null {
    if (typeof row !== "object" || row === null) return null;
    const key = field(row, this.key);
    return typeof key === "string" || typeof key === "number" ? String(key) : null;
  }

  get(key: string): R | undefined {
    return this.kept.get(key)?.row;
  }

  /** Tell whether this row is here, or was and is known to be deleted. */
  knows(key: string): boolean {
    return this.kept.has(key) || this.tombstones.has(key);
  }

  /** Apply what happened to one row; false when that changes nothing. */
  apply(verb: Verb, row: unknown, stamp?: number): boolean {
    const key = this.keyOf(row);
    if (key === null) return false;
    const known = this.kept.has(key) ? this.kept.get(key)?.stamp : this.tombstones.get(key);
    // Two commits of one row may be published in the other order; the later commit wins.
    if (stamp !== undefined && known !== undefined && stamp < known) return false;
    if (verb === "deleted") return this.bury(key, stamp ?? known);
    // In a partial kind an unknown row is older than the window that is kept.
    if (verb === "updated" && this.partial && !this.kept.has(key)) return false;
    this.kept.set(key, { row: row as R, stamp: stamp ?? known });
    this.tombstones.delete(key);
    return true;
  }

  /** The rows in order, after the limit took away what it must; or the same by their keys. */
  sorted(byKey = false): readonly R[] {
    const { compare } = byKey ? orderBy<R>(undefined, this.key) : this.order;
    const rows = Array.from(this.kept.values(), ({ row }) => row).sort(compare);
    const surplus = rows.length - (this.options.limit ?? Infinity);
    if (surplus <= 0) return rows;
    this.partial = true;
    const cut = this.order.newestFirst ? rows.splice(-surplus) : rows.splice(0, surplus);
    for (const row of cut) this.kept.delete(this.keyOf(row) as string);
    return rows;
  }

  private bury(key: string, stamp: number | undefined): boolean {
    this.tombstones.delete(key);
    this.tombstones.set(key, stamp);
    if (this.tombstones.size > TOMBSTONES) {
      this.tombstones.delete(this.tombstones.keys().next().value as string);
    }
    return this.kept.delete(key);
  }
}
