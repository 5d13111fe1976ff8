/**
 * Whether WebSockets get through from here: what is learned of that, remembered for the
 * tab's session, and when to try them again.
 * Never here: a socket, a timer, a page.
 *
 * The proof is always the same: a WebSocket failed, and polling reached the server right
 * after it. Where both fail, the server or the network is away, and nothing was learned.
 */

import { backoff } from "./backoff.js";
import type { Surroundings } from "./surroundings.js";
import { isObject } from "./wire.js";

/** A WebSocket that ends before so many milliseconds was cut, or its server ended. */
const SHORT = 120_000;
/** So many short ones in a row, all as long, and it may be a proxy. */
const CUTS = 3;
/** Milliseconds, and the part of a life, by which such lives may differ. */
const DIFFERENCE = { ms: 1_000, part: 0.1 };
/** How long a trial must last at least. */
const STEADY = 3_000;
/** Pauses between trials. */
const PAUSES = { first: 5_000, longest: 600_000 };

/** What is remembered while WebSockets are blocked. */
interface Blocked {
  /** Trials that failed. */
  readonly trials: number;
  /** When to try next, on the wall clock. */
  readonly due: number;
  /** Milliseconds that the longest of those that were cut had lasted. */
  readonly lasted: number;
}

export class Fallback {
  private blocked: Blocked | null;
  private suspected = false;
  private cuts = 0;
  private lasted = 0;

  constructor(private readonly surroundings: Pick<Surroundings, "now" | "random" | "memory">) {
    this.blocked = readBlocked(surroundings.memory.load());
  }

  /** Whether the next attempt should leave WebSockets out. */
  get avoids(): boolean {
    return this.suspected || this.blocked !== null;
  }

  /** Milliseconds until the next trial beside a connection that polls, or null. */
  get trialIn(): number | null {
    if (!this.blocked) return null;
    // A wall clock may have been set back.
    const wait = this.blocked.due - this.surroundings.now();
    return Math.min(Math.max(wait, 0), PAUSES.longest);
  }

  /** Milliseconds that a trial must last: longer than those that were cut. */
  get proof(): number {
    return STEADY + 1.5 * (this.blocked?.lasted ?? 0);
  }

  /** A WebSocket was asked for, and nothing came of it in time. */
  silent(): void {
    this.suspected = true;
  }

  /** A WebSocket that had been up for so long was ended, and not by us. */
  cut(lasted: number): void {
    if (lasted >= SHORT) return this.disturbed();
    const longest = Math.max(lasted, this.lasted);
    const alike =
      Math.abs(lasted - this.lasted) <= DIFFERENCE.ms + DIFFERENCE.part * longest;
    // A proxy has a limit; servers that restart have none.
    if (this.cuts === 0 || !alike) this.disturbed();
    this.cuts++;
    this.lasted = this.cuts === 1 ? lasted : longest;
    if (this.cuts >= CUTS) this.suspected = true;
  }

  /** Something happened that ends WebSockets without a proxy: nothing counts so far. */
  disturbed(): void {
    this.suspected = false;
    this.cuts = 0;
    this.lasted = 0;
  }

  /** The server was reached, by what was left when everything before it had failed. */
  reached(transport: "websocket" | "polling"): void {
    if (transport === "websocket") {
      if (this.blocked) this.remember(null);
    } else if (!this.blocked) {
      this.pause(0, this.lasted);
      this.disturbed();
    }
  }

  /** A trial failed, after it had been up for so long. */
  trialFailed(lasted: number): void {
    if (this.blocked) {
      const longest = Math.max(this.blocked.lasted, lasted);
      this.pause(this.blocked.trials + 1, Math.min(longest, SHORT));
    }
  }

  /** The page may be in another network now. */
  elsewhere(): void {
    this.disturbed();
    if (this.blocked) this.pause(0, this.blocked.lasted);
  }

  private pause(trials: number, lasted: number): void {
    const { now, random } = this.surroundings;
    this.remember({ trials, lasted, due: now() + backoff(trials + 1, random, PAUSES) });
  }

  private remember(blocked: Blocked | null): void {
    this.blocked = blocked;
    this.surroundings.memory.save(blocked && JSON.stringify(blocked));
  }
}

// Anything may stand in a page's storage.
function readBlocked(text: string | null): Blocked | null {
  let value: unknown = null;
  try {
    value = JSON.parse(text ?? "null");
  } catch {
    // Not ours.
  }
  if (!isObject(value)) return null;
  const { trials, due, lasted } = value;
  if (!isAmount(trials) || !isAmount(due) || !isAmount(lasted)) return null;
  return { trials, due, lasted: Math.min(lasted, SHORT) };
}

function isAmount(value: unknown): value is number {
  return typeof value === "number" && value >= 0 && Number.isFinite(value);
}
