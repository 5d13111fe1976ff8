/**
 * Rows that the page's own request was answered with, until the room has caught up.
 *
 * 1. The page posts a change; the view commits it as publication 7 of the room.
 * 2. The answer arrives while the room is at 5: the row is shown at once.
 * 3. Publication 6, somebody's older change of the same row, arrives: it is held back, or
 *    the older value would flash.
 * 4. Publication 7, the echo, arrives: the room is there, and what came last is shown.
 *
 * In a commit of several rows this row's echo may be publication 6 and another row's 7:
 * what was held back last is the row's value at 7 all the same. Pure: no clock, no socket.
 */

import type { Verb } from "./rows.js";
import { includes } from "./sequence.js";
import type { Position } from "./wire.js";

/** One publication about one row. */
export interface RowChange {
  readonly verb: Verb;
  readonly row: unknown;
  readonly stamp: number | undefined;
}

interface Merge<R> {
  readonly row: R;
  /** Up to here publications are older than the row, or its echo. */
  readonly position: Position;
  /** The last of them. */
  held?: RowChange;
}

export class Merges<R> {
  private readonly merges = new Map<string, Merge<R>>();

  get pending(): boolean {
    return this.merges.size > 0;
  }

  /** Await the echo of a row; false if a later version of it is awaited already. */
  add(key: string, row: R, position: Position): boolean {
    const earlier = this.merges.get(key);
    // Answers may overtake each other too.
    if (earlier && includes(earlier.position, position)) return false;
    this.merges.set(key, { row, position });
    return true;
  }

  /** Hold back a publication about a merged row until the room has caught up with it. */
  hold(key: string, at: Position, change: RowChange): boolean {
    const merge = this.merges.get(key);
    if (merge?.position.epoch !== at.epoch) return false;
    merge.held = change;
    return true;
  }

  /** Forget what the room has caught up with; returns what was held back of it. */
  reached(position: Position): RowChange[] {
    const due: RowChange[] = [];
    for (const [key, { position: awaited, held }] of this.merges) {
      if (!includes(position, awaited)) continue;
      this.merges.delete(key);
      if (held) due.push(held);
    }
    return due;
  }

  /**
   * Go on from a snapshot; returns the rows that are newer than it.
   *
   * @param shown The snapshot's version of a row: what to show at the merge's position if
   *   nothing more is heard of it.
   */
  restart(position: Position, shown: (key: string) => R | undefined): R[] {
    const newer: R[] = [];
    for (const [key, merge] of this.merges) {
      if (merge.position.epoch === position.epoch && merge.position.offset > position.offset) {
        const row = shown(key);
        const verb = row ? "created" : "deleted";
        merge.held = { verb, row: row ?? merge.row, stamp: undefined };
        newer.push(merge.row);
      } else {
        this.merges.delete(key);
      }
    }
    return newer;
  }

  clear(): void {
    this.merges.clear();
  }
}
