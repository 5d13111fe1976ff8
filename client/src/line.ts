/**
 * One socket of socket.io-client: the only code that knows how that behaves.
 * Never here: what a connection is for, or when it should be there.
 */

import type { EngineLike, SocketLike, Transport } from "./api.js";
import type { Authenticate, Credentials } from "./credentials.js";
import { isObject, readRefusal, type Refusal } from "./wire.js";

/** What a line tells. */
export interface LineWatcher {
  /** The server let us in. */
  up(): void;
  /** @param forGood The server ended it, and no attempt will follow. */
  down(forGood: boolean): void;
  /** The server was not reached; another attempt will follow. */
  missed(): void;
  /** The server was reached, and lost before it let us in; another attempt will follow. */
  brokeOff(): void;
  /** The server said no; no attempt will follow. */
  refused(error: Refusal): void;
  /** The application could not say who it is; no attempt will follow. */
  nameless(error: unknown): void;
  /** An attempt is about to begin, by socket.io-client itself. */
  retrying(): void;
  /** A connection that polled has become a WebSocket. */
  upgraded(): void;
  message(event: string, args: unknown[]): void;
}

/** Makes a socket of our own; `authenticate` gives what goes with each of its CONNECTs. */
export type Dial = (authenticate: Authenticate) => SocketLike;

export class Line {
  /** Who is told; nobody where it is null. */
  watcher: LineWatcher | null = null;
  private engine: EngineLike | undefined;
  /** Whether an attempt is under way; between two of them there is a pause. */
  private attempting = false;
  /** True while socket.io-client tells of an end. */
  private ending = false;
  /** True while it is to be opened when that is over. */
  private reopening = false;
  /** Whether the application was asked who it is since somebody looked. */
  private asked = false;
  private readonly socket: SocketLike;

  /**
   * @param soon Runs a function after the code that is running now.
   * @param credentials Asked for each connection; null where the socket needs nothing.
   */
  constructor(
    source: SocketLike | Dial,
    private readonly soon: (run: () => void) => void,
    private readonly credentials: Credentials | null = null,
  ) {
    const socket = typeof source === "function" ? source((give) => this.authenticate(give)) : source;
    this.socket = socket;
    socket.on("connect", () => {
      this.attempting = false;
      this.watchEngine();
      this.watcher?.up();
    });
    socket.on("disconnect", (reason) => {
      this.ended((watcher, attempted) => {
        const forGood = reason === "io server disconnect";
        if (attempted && !forGood) watcher.brokeOff();
        else watcher.down(forGood);
      });
    });
    socket.on("connect_error", (error: Error & { data?: unknown }) => {
      this.ended((watcher) => {
        if (socket.active) return watcher.missed();
        // Not active any more: the server answered, and it said no.
        const why = isObject(error.data) ? error.data : error;
        watcher.refused(readRefusal(why, error.message));
      });
    });
    socket.onAny((event, ...args) => this.watcher?.message(event, args));
    socket.io.on?.("reconnect_attempt", () => {
      this.attempting = true;
      this.watcher?.retrying();
    });
  }

  get connected(): boolean {
    return this.socket.connected;
  }

  /** Whether it is there, or attempts to be. */
  get active(): boolean {
    return this.socket.active;
  }

  /** What carries it, or would if it came to be now. */
  get transport(): Transport | null {
    return (this.socket.io.engine?.transport?.name as Transport | undefined) ?? null;
  }

  /**
   * How far the WebSocket of an attempt has come: asked for, or the server has said
   * something through it; null without one. One that is closed again before the server's
   * first word stays "asked": of that socket.io-client tells nobody.
   */
  get webSocket(): "asked" | "answered" | null {
    if (!this.attempting || this.transport !== "websocket") return null;
    return this.socket.io.engine?.readyState === "open" ? "answered" : "asked";
  }

  /** Whether an attempt has waited for the application since this was asked last. */
  heldUp(): boolean {
    const { asked } = this;
    this.asked = this.credentials?.pending === true;
    return asked;
  }

  /** What the next attempts try, in this order. Empty where that cannot be told. */
  get transports(): readonly string[] {
    const { transports } = this.socket.io.opts ?? {};
    return Array.isArray(transports) && transports.every((name) => typeof name === "string")
      ? transports
      : [];
  }

  set transports(names: readonly string[]) {
    const { opts } = this.socket.io;
    if (opts) opts.transports = [...names];
  }

  open(): void {
    this.reopening = false;
    this.attempting = true;
    this.socket.connect();
  }

  // Closing the socket first takes socket.io-client out of whatever pause it is in. Its
  // engine, too: closing that alone would wait for a write that may never end.
  restart(): void {
    this.credentials?.forget();
    this.socket.disconnect();
    if (!this.ending) return this.open();
    // Opened while it tells of an end, it plans an attempt besides, which then finds the
    // first one under way, and after the next end it makes none any more.
    this.reopening = true;
    this.soon(() => this.reopening && this.open());
  }

  close(): void {
    this.reopening = false;
    this.credentials?.forget();
    this.socket.disconnect();
  }

  /** Close, and tell nobody. */
  discard(): void {
    this.watcher = null;
    this.close();
  }

  /** Send a message; `answered` gets an error if there is no answer in time. */
  request(
    event: string,
    message: object,
    ms: number,
    answered: (error: Error | null, answer?: unknown) => void,
  ): void {
    this.socket.timeout(ms).emit(event, message, answered);
  }

  private authenticate(give: (payload: object) => void): void {
    this.asked = true;
    this.credentials?.ask(give, (error) => {
      // The server would wait.
      this.close();
      this.ended((watcher) => watcher.nameless(error));
    });
  }

  private ended(tell: (watcher: LineWatcher, attempted: boolean) => void): void {
    const attempted = this.attempting;
    this.attempting = false;
    this.credentials?.forget();
    // Restarting a line that is up ends it before the new attempt begins.
    const nested = this.ending;
    this.ending = true;
    try {
      if (this.watcher) tell(this.watcher, attempted);
    } finally {
      this.ending = nested;
    }
  }

  private watchEngine(): void {
    const { engine } = this.socket.io;
    if (engine === this.engine) return;
    this.engine = engine;
    engine?.on("upgrade", () => this.watcher?.upgraded());
  }
}
