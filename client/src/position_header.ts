/**
 * The `Livepush-Position` response header: up to which position a view's own commit
 * brought each room.
 *
 * Comma-separated `encodeURIComponent(room)=epoch:offset`. A comma, an equals sign or a
 * letter outside ASCII in a room's name arrives percent-encoded, so splitting is safe.
 */

import type { Position } from "./wire.js";

/** Letters, digits and what base64url and UUIDs need; offsets without leading zeros. */
const ENTRY = /^([^=\s]+)=([\w.~-]+):(0|[1-9]\d{0,15})$/;

/** Parse the header. Entries that make no sense are skipped: it never throws. */
export function parsePositionHeader(header: string): Map<string, Position> {
  const positions = new Map<string, Position>();
  for (const entry of header.split(",")) {
    const [, name, epoch, digits] = ENTRY.exec(entry.trim()) ?? [];
    if (name === undefined || epoch === undefined) continue;
    const room = decoded(name);
    const offset = Number(digits);
    if (room === null || !Number.isSafeInteger(offset)) continue;
    positions.set(room, { epoch, offset });
  }
  return positions;
}

function decoded(name: string): string | null {
  try {
    return decodeURIComponent(name);
  } catch {
    return null; // a lone "%", or bytes that are not UTF-8
  }
}
