/**
 * How long an attempt may be a WebSocket. A proxy may swallow a handshake without refusing
 * it, or all that comes after it: nothing but the time it takes tells.
 */

import type { Line } from "./line.js";
import type { Cancel, Surroundings } from "./surroundings.js";

/** What comes of waiting. */
export interface Verdict {
  /** The WebSocket gives no sign, and will not. */
  silent(): void;
  /** The page did not run meanwhile: nothing can be said. */
  slept(): void;
}

/** Milliseconds in which the server should say something. */
const FIRST_WORD = 3_000;
/** Milliseconds that it then has, at most, to let us in. */
const ENTRY = 7_000;
/** Milliseconds in which a page that was busy takes note of what came meanwhile. */
const BREATH = 100;
/** Being late by so many milliseconds means that the page did not run. */
export const SLEPT = 1_000;

export class Patience {
  private timer: Cancel | null = null;

  constructor(
    private readonly surroundings: Surroundings,
    private readonly verdict: Verdict,
  ) {}

  /** Watch the attempt that this line begins now. */
  begin(line: Line): void {
    this.wait(FIRST_WORD, () => {
      if (line.webSocket === "asked") this.verdict.silent();
      else this.awaitEntry(line);
    });
  }

  stop(): void {
    this.timer?.();
    this.timer = null;
  }

  private awaitEntry(line: Line): void {
    this.wait(ENTRY, () => {
      // What the application takes to say who it is, is nobody's silence.
      if (line.heldUp()) this.awaitEntry(line);
      else if (line.webSocket) this.verdict.silent();
    });
  }

  private wait(ms: number, judge: () => void): void {
    const { now, after } = this.surroundings;
    const due = now() + ms;
    this.stop();
    this.timer = after(ms, () => {
      this.timer = after(BREATH, () => (now() - due < SLEPT ? judge() : this.verdict.slept()));
    });
  }
}
