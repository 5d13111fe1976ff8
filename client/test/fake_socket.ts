/**
 * A socket.io-client Socket with its server's end in the test's hands. It does what the
 * real one does in the order the real one does it, as far as this client can tell.
 */

import type { SocketLike } from "../src/api.js";
import type { Authenticate } from "../src/credentials.js";
import type { FakeSurroundings } from "./fake_surroundings.js";

/** A message from the client that waits for its answer. */
export interface Sent {
  readonly event: string;
  readonly message: Record<string, unknown>;
  readonly answer: (answer: unknown) => void;
}

type Listener = (...args: any[]) => void;

export class FakeSocket implements SocketLike {
  connected = false;
  active = false;
  /** What was called on the socket, by name. */
  readonly calls: string[] = [];
  /** Messages not yet looked at, the oldest first. */
  sent: Sent[] = [];
  /** What was given with each CONNECT. */
  readonly payloads: object[] = [];
  readonly io;
  /** True while it tells of an end. */
  private ending = false;
  private readonly listeners = new Map<string, Listener[]>();
  private readonly acks = new Set<(error: Error | null, answer?: unknown) => void>();

  constructor(
    private readonly surroundings: FakeSurroundings,
    transports = ["websocket", "polling"],
    private readonly authenticate: Authenticate | null = null,
  ) {
    this.io = {
      engine: undefined as FakeEngine | undefined,
      opts: { transports },
      on: (event: string, listener: Listener): void => this.on(event, listener),
    };
  }

  connect(): void {
    if (this.ending && !this.active) {
      throw new Error("after the next loss, the real one would never come back");
    }
    this.calls.push("connect");
    this.active = true;
    this.io.engine = new FakeEngine(this.io.opts.transports[0] ?? "");
  }

  disconnect(): void {
    this.calls.push("disconnect");
    this.active = false;
    this.io.engine?.close();
    if (this.connected) this.close("io client disconnect");
  }

  on(event: string, listener: Listener): void {
    this.listeners.set(event, [...(this.listeners.get(event) ?? []), listener]);
  }

  onAny(listener: Listener): void {
    this.on("*", listener);
  }

  timeout(ms: number) {
    return {
      emit: (event: string, message: object, answered: (e: Error | null, a?: unknown) => void) => {
        if (!this.connected) throw new Error(`"${event}" would be kept for the next connection`);
        const finish = (error: Error | null, answer?: unknown): void => {
          if (!this.acks.delete(finish)) return;
          cancel();
          answered(error, answer);
        };
        const cancel = this.surroundings.after(ms, () => finish(new Error("timed out")));
        this.acks.add(finish);
        this.sent.push({
          event,
          message: JSON.parse(JSON.stringify(message)) as Record<string, unknown>,
          answer: (answer) => {
            finish(null, answer);
            this.surroundings.settle();
          },
        });
      },
    };
  }

  /** The server says something for the first time, over this transport. */
  reach(transport = this.io.engine?.transport.name ?? "websocket"): void {
    const engine = new FakeEngine(transport);
    this.io.engine = engine;
    engine.readyState = "open";
    this.authenticate?.((payload) => {
      if (this.io.engine !== engine || engine.readyState !== "open") {
        throw new Error("this CONNECT would go to another connection");
      }
      this.payloads.push(payload);
    });
  }

  /** The server lets the client in. */
  accept(transport?: string): void {
    this.active = true;
    this.connected = true;
    if (transport || this.io.engine?.readyState !== "open") this.reach(transport);
    this.emit("connect");
  }

  /** socket.io-client tries again by itself. */
  retry(): void {
    this.emit("reconnect_attempt");
    this.io.engine = new FakeEngine(this.io.opts.transports[0] ?? "");
  }

  /** The connection ends. */
  cut(reason = "transport close"): void {
    if (reason === "io server disconnect") this.active = false;
    this.close(reason);
    this.surroundings.settle();
  }

  /** The server does not let the client in. */
  refuse(message: string, data?: object): void {
    this.active = false;
    this.emit("connect_error", Object.assign(new Error(message), { data }));
  }

  /** The server cannot be reached. */
  miss(message = "websocket error"): void {
    this.io.engine?.close();
    this.emit("connect_error", new Error(message));
  }

  /** The connection ends before the server has let the client in. */
  breakOff(): void {
    this.io.engine?.close();
    this.emit("disconnect", "transport close");
  }

  /** The server sends an event. */
  push(event: string, ...args: unknown[]): void {
    this.emit("*", event, ...args);
    this.surroundings.settle();
  }

  upgrade(): void {
    this.io.engine?.upgrade();
  }

  private close(reason: string): void {
    this.connected = false;
    this.io.engine?.close();
    this.emit("disconnect", reason);
    for (const ack of this.acks) ack(new Error("socket has been disconnected"));
    this.sent = [];
  }

  private emit(event: string, ...args: unknown[]): void {
    this.ending = event === "disconnect" || event === "connect_error";
    for (const listener of this.listeners.get(event) ?? []) listener(...args);
    this.ending = false;
  }
}

class FakeEngine {
  private listeners: (() => void)[] = [];
  transport: { name: string };
  readyState = "opening";

  constructor(name: string) {
    this.transport = { name };
  }

  on(_event: "upgrade", listener: () => void): void {
    this.listeners.push(listener);
  }

  close(): void {
    this.readyState = "closed";
  }

  upgrade(): void {
    this.transport = { name: "websocket" };
    for (const listener of this.listeners) listener();
  }
}
