/**
 * The connection to the server, over one line after another.
 * Never here: rooms, positions, stores.
 */

import type { SocketLike, State, Transport } from "./api.js";
import { backoff, REFUSED } from "./backoff.js";
import { Credentials, type Authenticate } from "./credentials.js";
import { Fallback } from "./fallback.js";
import { Line, type Dial, type LineWatcher } from "./line.js";
import { Moves } from "./moves.js";
import { Patience } from "./patience.js";
import { RENEW, Renewal } from "./renewal.js";
import type { Cancel, Surroundings } from "./surroundings.js";
import { readRefusal, type Refusal } from "./wire.js";

/** A socket that the application made, or how to make those that are ours alone. */
export type Source = SocketLike | Dial;

const ENDED = "the server ended the connection";

/** What a connection tells. */
export interface Watcher {
  /** A new connection is there: the server remembers nothing of an earlier one. */
  up(): void;
  /** The same, and the earlier one was there until now. */
  moved(): void;
  down(): void;
  message(event: string, args: unknown[]): void;
  /** @param allowed Whether the server let us in before. */
  refused(error: Refusal, allowed: boolean): void;
  /** The state, the error or the transport may have changed. */
  refresh(): void;
}

/**
 * - `idle`: nobody wants a connection (yet, or any more);
 * - `opening`: `open()` was called, and there was no connection since;
 * - `up`;
 * - `retrying`: it was lost, and is being made again;
 * - `refused`: the server does not want us; only `open()` tries again.
 */
type Phase = "idle" | "opening" | "up" | "retrying" | "refused";

export class Connection {
  error: Refusal | null = null;
  /** Grows with all that arrives: where it stands still, nothing does. */
  heard = 0;
  /** Whether the lines are ours alone, to close and to open. */
  readonly owned: boolean;
  private line: Line;
  private phase: Phase = "idle";
  private everUp = false;
  private refusals = 0;
  private timer: Cancel | null = null;
  private since = 0;
  /** What may be tried, in that order. */
  private readonly transports: readonly string[];
  /** Whether it is for us to choose: WebSocket goes first, and polling may follow. */
  private readonly choosing: boolean;
  private readonly patience: Patience;
  private readonly fallback: Fallback;
  private readonly moves: Moves;
  private readonly renewal: Renewal;
  /** True once the developer was told that the application could not say who it is. */
  private toldNameless = false;

  constructor(
    source: Source,
    private readonly watcher: Watcher,
    private readonly surroundings: Surroundings,
    authenticate: Authenticate | null = null,
  ) {
    this.owned = typeof source === "function";
    const dial = (): Line => {
      const credentials = authenticate && new Credentials(authenticate, surroundings);
      return new Line(source, surroundings.soon, credentials);
    };
    this.line = dial();
    this.line.watcher = this.watching();
    this.transports = this.line.transports;
    this.choosing =
      this.owned && this.transports[0] === "websocket" && this.transports.includes("polling");
    const dialBy = (transports: readonly string[]): Line => {
      const line = dial();
      if (this.choosing) line.transports = transports;
      return line;
    };
    this.patience = new Patience(surroundings, {
      silent: () => {
        this.fallback.silent();
        this.restart();
      },
      slept: () => this.restart(),
    });
    this.fallback = new Fallback(surroundings);
    this.renewal = new Renewal(surroundings);
    this.moves = new Moves(
      this.fallback,
      this.renewal,
      surroundings,
      () => dialBy([this.transport ?? "websocket"]),
      () => dialBy(["websocket"]),
      (line) => this.take(line),
    );
  }

  get up(): boolean {
    // Both: an emit on a socket that has just gone would wait for the next connection.
    return this.phase === "up" && this.line.connected;
  }

  get state(): "up" | Exclude<State, "live" | "recovering"> {
    switch (this.phase) {
      case "up":
      case "refused":
        return this.phase;
      case "opening":
        return "connecting";
      default:
        return "offline";
    }
  }

  get transport(): Transport | null {
    return this.up ? this.line.transport : null;
  }

  open(): void {
    if (this.phase === "up") return;
    this.stopWaiting();
    this.error = null;
    this.phase = "opening";
    if (this.line.connected) return this.connected();
    if (this.owned) this.restart();
    else if (!this.line.active) this.line.open();
    this.watcher.refresh();
  }

  close(): void {
    this.stop();
    this.phase = "idle";
    if (this.owned) this.line.close();
    this.tellLost();
  }

  /** Close for a while; true if there is something that `open` should resume. */
  suspend(): boolean {
    if (!this.owned || this.phase === "idle" || this.phase === "refused") return false;
    this.close();
    return true;
  }

  /** Give up on a connection that is silent, and make a new one. */
  drop(): void {
    if (!this.owned || this.phase !== "up") return;
    const heir = this.moves.inherit();
    this.phase = "retrying";
    if (heir) this.succeed(heir);
    else this.restart();
    this.tellLost();
  }

  /** Try now instead of at the end of a pause. */
  hurry(): void {
    if (!this.owned || (this.phase !== "retrying" && this.phase !== "opening")) return;
    if (this.renewal.busy) return;
    this.stopWaiting();
    this.restart();
  }

  /** Leave for a new connection at a random moment within so many seconds. */
  move(within: number): void {
    if (this.owned && this.phase === "up") this.moves.within(within);
  }

  /** What ends now, or has just ended, is nobody's fault but the network's. */
  disturbed(): void {
    this.fallback.disturbed();
  }

  /** The page may be in another network now. */
  elsewhere(): void {
    if (!this.choosing) return;
    this.fallback.elsewhere();
    if (this.up) this.moves.planTrial();
  }

  /** Send a message; `answered` gets undefined if there is no answer in time. */
  request(event: string, message: object, ms: number, answered: (answer: unknown) => void): void {
    this.line.request(event, message, ms, (error, answer) => {
      if (!error) this.heard++;
      answered(error ? undefined : answer);
    });
  }

  private watching(): LineWatcher {
    return {
      up: () => this.connected(),
      down: (forGood) => this.disconnected(forGood),
      missed: () => {
        this.patience.stop();
        this.fallback.disturbed();
      },
      brokeOff: () => {
        this.patience.stop();
        this.cut(0);
      },
      refused: (error) => this.refused(error),
      nameless: (error) => this.nameless(error),
      retrying: () => this.attempting(),
      upgraded: () => this.watcher.refresh(),
      message: (event, args) => {
        this.heard++;
        if (event === "livepush.ended") this.ended(readRefusal(args[0], ENDED));
        else if (this.up) this.watcher.message(event, args);
      },
    };
  }

  private restart(): void {
    this.attempting();
    this.line.restart();
  }

  private connected(): void {
    // An attached socket lives on while nobody here wants it; one of ours may have been
    // told that it has ended by what came just before this.
    if (this.phase === "idle" || !this.line.connected) return;
    this.phase = "up";
    this.arrived();
    this.watcher.up();
    this.watcher.refresh();
  }

  /** Go on over another line, without a moment between. */
  private take(line: Line): void {
    const former = this.line;
    this.line = line;
    line.watcher = this.watching();
    this.arrived();
    this.watcher.moved();
    former.discard();
    this.watcher.refresh();
  }

  private arrived(): void {
    this.error = null;
    this.everUp = true;
    this.toldNameless = false;
    this.refusals = 0;
    this.heard++;
    this.since = this.surroundings.now();
    this.stopWaiting();
    const { transport } = this;
    if (!this.choosing || (transport !== "websocket" && transport !== "polling")) return;
    this.fallback.reached(transport);
    this.moves.planTrial();
  }

  private disconnected(forGood: boolean): void {
    if (forGood) return this.ended({ code: 0, message: ENDED, temporary: false });
    if (this.phase !== "up") return; // it was us
    const { asked } = this.moves;
    const heir = this.moves.inherit();
    this.phase = "retrying";
    // A server that asked us to go has ended, as it said.
    if (asked) this.fallback.disturbed();
    else this.cut(this.surroundings.now() - this.since);
    if (heir) this.succeed(heir);
    this.tellLost();
  }

  /** The server has ended the connection, and would not let us in again. */
  private ended(error: Refusal): void {
    if (this.phase === "idle" || this.phase === "refused") return;
    this.stop();
    this.phase = "refused";
    this.error = { ...error, temporary: false };
    // Whatever becomes of its end: it must not come back.
    if (this.owned) this.line.close();
    this.tellLost();
  }

  private cut(lasted: number): void {
    if (!this.choosing || this.line.transport !== "websocket") return;
    this.fallback.cut(lasted);
    // Not by a WebSocket again: nothing has to recover meanwhile. But that the network has
    // gone may be told in the same moment, and then it was no proxy.
    if (this.fallback.avoids) this.restartSoon(0);
  }

  /** Wait for a line that was on its way to take over, as for any other from now on. */
  private succeed(heir: Line): void {
    this.line.discard();
    this.line = heir;
    heir.watcher = this.watching();
    if (heir.active) this.attempting();
    else this.restart();
  }

  // Last of all: what is told may call `close` or `open`.
  private tellLost(): void {
    this.watcher.down();
    this.watcher.refresh();
  }

  private refused(error: Refusal): void {
    if (this.phase === "idle" || this.phase === "up") return;
    this.stopWaiting();
    this.error = error;
    const again = error.temporary && this.owned;
    this.phase = again ? "retrying" : "refused";
    if (again && error.code === RENEW) {
      this.renewal.begin((still) => {
        if (this.phase !== "retrying") return;
        if (still) this.refused(still);
        else this.restart();
      });
    } else {
      if (again) this.restartLater();
      this.watcher.refused(error, this.everUp);
    }
    this.watcher.refresh();
  }

  private nameless(error: unknown): void {
    if (this.phase === "idle" || this.phase === "up") return;
    this.stopWaiting();
    if (!this.toldNameless) this.surroundings.report(error);
    this.toldNameless = true;
    const message = `"auth" failed: ${error instanceof Error ? error.message : String(error)}`;
    this.error = { code: 0, message, temporary: true };
    this.phase = "retrying";
    this.restartLater();
    this.watcher.refresh();
  }

  /** An attempt begins: what it tries, and for how long that may be a WebSocket. */
  private attempting(): void {
    this.patience.stop();
    if (!this.choosing) return;
    const { avoids } = this.fallback;
    const others = this.transports.filter((name) => name !== "websocket");
    this.line.transports = avoids ? others : this.transports;
    if (!avoids) this.patience.begin(this.line);
  }

  private restartLater(): void {
    this.restartSoon(backoff(++this.refusals, this.surroundings.random, REFUSED));
  }

  private restartSoon(wait: number): void {
    this.timer = this.surroundings.after(wait, () => this.restart());
  }

  private stop(): void {
    this.stopWaiting();
    this.moves.stop();
    this.renewal.stop();
  }

  private stopWaiting(): void {
    this.timer?.();
    this.timer = null;
    this.patience.stop();
  }
}
