/**
 * The connection to the server: the only code that knows how socket.io-client behaves.
 * Never here: rooms, positions, stores.
 */

import type { EngineLike, SocketLike, State, Transport } from "./api.js";
import { backoff } from "./backoff.js";
import type { Cancel, Surroundings } from "./surroundings.js";
import { isObject, readRefusal, type Refusal } from "./wire.js";

/** What a connection tells. */
export interface Watcher {
  /** A new connection is there: the server remembers nothing of an earlier one. */
  up(): void;
  down(): void;
  message(event: string, args: unknown[]): void;
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
  private phase: Phase = "idle";
  private refusals = 0;
  private timer: Cancel | null = null;
  private engine: EngineLike | undefined;

  /** @param owned Whether the socket is ours alone, to close and to open. */
  constructor(
    private readonly socket: SocketLike,
    private readonly owned: boolean,
    private readonly watcher: Watcher,
    private readonly surroundings: Surroundings,
  ) {
    socket.on("connect", () => this.connected());
    socket.on("disconnect", (reason: string) => this.disconnected(reason));
    socket.on("connect_error", (error: Error) => this.failed(error));
    socket.onAny((event, ...args) => {
      this.heard++;
      if (this.up) watcher.message(event, args);
    });
  }

  get up(): boolean {
    // Both: an emit on a socket that has just gone would wait for the next connection.
    return this.phase === "up" && this.socket.connected;
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
    const name = this.up ? this.socket.io.engine?.transport?.name : undefined;
    return (name as Transport | undefined) ?? null;
  }

  open(): void {
    if (this.phase === "up") return;
    this.stopWaiting();
    this.error = null;
    this.phase = "opening";
    if (this.socket.connected) return this.connected();
    if (this.owned) this.restart();
    else if (!this.socket.active) this.socket.connect();
    this.watcher.refresh();
  }

  close(): void {
    this.stopWaiting();
    this.phase = "idle";
    if (this.owned) this.socket.disconnect();
    this.lost("idle");
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
    this.lost("retrying");
    this.restart();
  }

  /** Try now instead of at the end of a pause. */
  hurry(): void {
    if (!this.owned || (this.phase !== "retrying" && this.phase !== "opening")) return;
    this.stopWaiting();
    this.restart();
  }

  /** Send a message; `answered` gets undefined if there is no answer in time. */
  request(event: string, message: object, ms: number, answered: (answer: unknown) => void): void {
    this.socket.timeout(ms).emit(event, message, (error, answer) => {
      if (!error) this.heard++;
      answered(error ? undefined : answer);
    });
  }

  // Closing the socket first takes socket.io-client out of whatever pause it is in. Its
  // engine, too: closing that alone would wait for a write that may never end.
  private restart(): void {
    this.socket.disconnect();
    this.socket.connect();
  }

  private connected(): void {
    // An attached socket lives on while nobody here wants it.
    if (this.phase === "idle") return;
    this.phase = "up";
    this.error = null;
    this.refusals = 0;
    this.heard++;
    this.watchEngine();
    this.watcher.up();
    this.watcher.refresh();
  }

  private disconnected(reason: string): void {
    if (this.phase !== "up") return; // it was us
    if (reason === "io server disconnect") {
      this.error = { code: 0, message: "the server ended the connection", temporary: false };
      this.lost("refused");
    } else {
      this.lost("retrying");
    }
  }

  private lost(phase: Phase): void {
    this.phase = phase;
    this.watcher.down();
    this.watcher.refresh();
  }

  private failed(error: Error & { data?: unknown }): void {
    if (this.phase === "idle" || this.phase === "up") return;
    if (this.socket.active) return this.unreachable(error);
    // Not active any more: the server answered, and it said no.
    this.error = readRefusal(isObject(error.data) ? error.data : error, error.message);
    if (this.error.temporary && this.owned) {
      this.phase = "retrying";
      this.timer = this.surroundings.after(
        backoff(++this.refusals, this.surroundings.random),
        () => this.restart(),
      );
    } else {
      this.phase = "refused";
    }
    this.watcher.refresh();
  }

  // A proxy may swallow WebSocket handshakes without refusing them. Nothing but a timeout
  // tells, so after one the other transport goes first.
  private unreachable(error: Error): void {
    const { opts } = this.socket.io;
    if (!this.owned || error.message !== "timeout" || !Array.isArray(opts?.transports)) return;
    opts.transports = [...opts.transports.slice(1), ...opts.transports.slice(0, 1)];
  }

  private watchEngine(): void {
    const { engine } = this.socket.io;
    if (engine === this.engine) return;
    this.engine = engine;
    engine?.on("upgrade", () => this.watcher.refresh());
  }

  private stopWaiting(): void {
    this.timer?.();
    this.timer = null;
  }
}
