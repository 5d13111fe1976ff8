/**
 * A second line beside the connection that is up, to take its place: because the server
 * asked for it (a move), or to see whether WebSockets get through again (a trial).
 * The connection goes on delivering until the second line is there; so neither is seen.
 * Never here: rooms, or what happens when the connection itself is lost.
 */

import { backoff, REFUSED } from "./backoff.js";
import type { Fallback } from "./fallback.js";
import { Line, type LineWatcher } from "./line.js";
import { SLEPT } from "./patience.js";
import { RENEW, type Renewal } from "./renewal.js";
import type { Cancel, Surroundings } from "./surroundings.js";
import type { Refusal } from "./wire.js";

/** Milliseconds in which a trial's WebSocket must be there. */
const TRIAL_WITHIN = 10_000;
/** Milliseconds between a connection and its first trial: pages have better things to do. */
const SOON = 1_000;

export class Moves {
  private move: Line | null = null;
  private trial: Line | null = null;
  private moveTimer: Cancel | null = null;
  private trialTimer: Cancel | null = null;
  private due = 0;
  private refusals = 0;

  constructor(
    private readonly fallback: Fallback,
    private readonly renewal: Renewal,
    private readonly surroundings: Surroundings,
    /** Make a line that uses the transports which the connection uses now. */
    private readonly dialAlike: () => Line,
    /** Make a line that uses WebSockets alone. */
    private readonly dialWebSocket: () => Line,
    /** Let the connection go on over this line, which is up. */
    private readonly take: (line: Line) => void,
  ) {}

  /** Whether the server has asked us to go. */
  get asked(): boolean {
    return this.move !== null || this.moveTimer !== null;
  }

  /** Move at a random moment within so many seconds, or when that was due anyway. */
  within(seconds: number): void {
    if (this.move) return;
    const wait = this.surroundings.random() * seconds * 1_000;
    const due = this.surroundings.now() + wait;
    if (this.moveTimer && this.due <= due) return;
    this.moveTimer?.();
    this.due = due;
    this.moveTimer = this.surroundings.after(wait, () => this.begin());
  }

  /** Try a WebSocket when that is due, and nothing else is going on. */
  planTrial(): void {
    if (this.trial) return;
    this.trialTimer?.();
    this.trialTimer = null;
    const wait = this.fallback.trialIn;
    if (wait === null) return;
    this.trialTimer = this.surroundings.after(Math.max(wait, SOON), () => this.beginTrial());
  }

  /** Forget all plans, and close what is beside the connection. */
  stop(): void {
    this.inherit()?.discard();
  }

  /** The same, but hand over the line of a move that is under way. */
  inherit(): Line | null {
    const line = this.move;
    this.moveTimer?.();
    this.moveTimer = null;
    this.move = null;
    this.refusals = 0;
    this.endTrial();
    return line;
  }

  private begin(): void {
    this.moveTimer = null;
    this.endTrial();
    const line = this.dialAlike();
    this.move = line;
    line.watcher = {
      ...silent,
      up: () => this.hand(line),
      down: () => this.stop(),
      refused: (error) => this.refused(line, error),
      nameless: () => this.later(line),
    };
    line.open();
  }

  // Full for the moment: the connection may yet live for a while. Otherwise it is left to
  // its end, and what is tried then is told to the page.
  private refused(line: Line, { code, temporary }: Refusal): void {
    if (!temporary) return this.stop();
    if (code !== RENEW) return this.later(line);
    this.renewal.begin((error) => {
      if (this.move !== line) return;
      if (error) this.refused(line, error);
      else line.restart();
    });
  }

  private later(line: Line): void {
    const wait = backoff(++this.refusals, this.surroundings.random, REFUSED);
    this.moveTimer = this.surroundings.after(wait, () => {
      this.moveTimer = null;
      line.restart();
    });
  }

  private beginTrial(): void {
    this.trialTimer = null;
    if (this.move) return;
    const line = this.dialWebSocket();
    this.trial = line;
    const { now, after } = this.surroundings;
    let since: number | null = null;
    const failed = (): void => {
      this.fallback.trialFailed(since === null ? 0 : now() - since);
      this.endTrial();
      this.planTrial();
    };
    const passed = (due: number): void => {
      if (now() - due < SLEPT) return this.hand(line);
      // The page did not run meanwhile: the line may be dead, and nobody was told.
      this.endTrial();
      this.planTrial();
    };
    this.trialTimer = after(TRIAL_WITHIN, failed);
    line.watcher = {
      ...silent,
      up: () => {
        since = now();
        const due = since + this.fallback.proof;
        this.trialTimer?.();
        this.trialTimer = after(this.fallback.proof, () => passed(due));
      },
      down: failed,
      missed: failed,
      brokeOff: failed,
      refused: failed,
      nameless: failed,
    };
    line.open();
  }

  private endTrial(): void {
    this.trialTimer?.();
    this.trialTimer = null;
    this.trial?.discard();
    this.trial = null;
  }

  private hand(line: Line): void {
    if (this.move === line) this.move = null;
    if (this.trial === line) this.trial = null;
    this.stop();
    this.take(line);
  }
}

const silent: LineWatcher = {
  up() {},
  down() {},
  missed() {},
  brokeOff() {},
  refused() {},
  nameless() {},
  retrying() {},
  upgraded() {},
  message() {},
};
