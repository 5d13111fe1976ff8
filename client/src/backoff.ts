/** How long to wait before trying again. */

const FIRST = 1_000;
const LONGEST = 30_000;

/**
 * Milliseconds before attempt `failures` (1 after the first failure): doubling, capped,
 * and anywhere between half of that and all of it, so that a crowd does not come back
 * in step.
 */
export function backoff(failures: number, random: () => number): number {
  const longest = Math.min(LONGEST, FIRST * 2 ** (failures - 1));
  return longest * (0.5 + random() / 2);
}
