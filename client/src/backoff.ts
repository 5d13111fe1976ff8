/** How long to wait before trying again. */

/** Milliseconds: the longest pause after the first failure, and after any. */
export interface Pauses {
  readonly first: number;
  readonly longest: number;
}

const usual: Pauses = { first: 1_000, longest: 30_000 };
/** For connections that the server refuses for a while: each attempt is work for it. */
export const REFUSED: Pauses = { first: 1_000, longest: 60_000 };

/**
 * Milliseconds before attempt `failures` (1 after the first failure): doubling, capped,
 * and anywhere between half of that and all of it, so that a crowd does not come back
 * in step.
 */
export function backoff(failures: number, random: () => number, pauses = usual): number {
  const longest = Math.min(pauses.longest, pauses.first * 2 ** (failures - 1));
  return longest * (0.5 + random() / 2);
}
