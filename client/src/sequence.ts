/** Where a publication stands against what a subscription has already seen. */

import type { Position } from "./wire.js";

/**
 * - `next`: follows directly, may be shown.
 * - `duplicate`: was shown already, is dropped.
 * - `gap`: something between is missing; nothing may be shown until it is there.
 * - `foreign`: belongs to another history, so offsets say nothing.
 */
export type Place = "next" | "duplicate" | "gap" | "foreign";

export function placeOf(seen: Position, incoming: Position): Place {
  if (incoming.epoch !== seen.epoch) return "foreign";
  if (incoming.offset <= seen.offset) return "duplicate";
  return incoming.offset === seen.offset + 1 ? "next" : "gap";
}

/**
 * Tell whether a position says that the room had no history then: whatever it has now
 * follows, from its first publication on, if the server says so.
 */
export function isNothing(position: Position): boolean {
  return position.epoch.startsWith("none.") && position.offset === 0;
}

/** Tell whether `seen` includes everything up to and with `other`. */
export function includes(seen: Position, other: Position): boolean {
  return seen.epoch === other.epoch && seen.offset >= other.offset;
}
