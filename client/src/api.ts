/** The public contract: what an application sees. Implementations say only what differs. */

import type { ManagerOptions, SocketOptions } from "socket.io-client";
import type { Sort } from "./order.js";
import type { Unsubscribe } from "./listeners.js";
import type { Meta, Position, Refusal, Snapshot, User } from "./wire.js";

export type { Meta, Position, Refusal, Snapshot, Sort, Unsubscribe, User };

/**
 * How a room or the whole client is doing, in words for a person.
 *
 * - `connecting`: the first connection is being made, or the first rooms are being joined.
 * - `live`: everything shown follows the server. Of the client: connected, and every room
 *   that was not refused is live.
 * - `recovering`: connected, and catching up with what was missed. Of the client: some room
 *   is catching up or being joined.
 * - `offline`: there is no connection; unless `disconnect()` was called, it is being tried
 *   again.
 * - `refused`: a room may not be joined, or not any more (see `room.error`); or the server
 *   refused or ended the connection (see `live.error`). Only `connect()` tries again.
 */
export type State = "connecting" | "live" | "recovering" | "offline" | "refused";

export type Transport = "websocket" | "polling" | "webtransport";

/**
 * A value that can be subscribed to: a Svelte store as it is, and the two arguments of
 * React's `useSyncExternalStore`. Both functions may be taken off the object.
 */
export interface Readable<T> {
  /** Call `call` with the current value at once, and with each later one. */
  readonly subscribe: (call: (value: T) => void) => Unsubscribe;
  readonly getSnapshot: () => T;
}

/**
 * Have a function called when the server has refused or ended something for good, with
 * the reason; at once where it has already. May be taken off the object.
 */
export type OnRefused = (call: (error: Refusal) => void) => Unsubscribe;

/** Everything that socket.io-client takes, with our defaults for some of it. */
export interface ConnectOptions extends Partial<ManagerOptions & Omit<SocketOptions, "auth">> {
  /** Where the server is. Default: where the page came from. */
  url?: string;
  /**
   * What the server's `authenticate` hook is given; or a function, asked anew for each
   * connection, that returns it, or a promise of it, or null for nothing.
   */
  auth?: Auth;
  /**
   * Where a login is renewed. Default: beside the script that the server's pages load, or
   * `/livepush/login` at the server.
   */
  loginUrl?: string;
}

export type Auth =
  | Readonly<Record<string, unknown>>
  | (() => object | null | Promise<object | null>)
  | ((give: (payload: object) => void) => void);

/** One connection to the server, and the rooms followed over it. */
export interface LivePush {
  readonly state: State;
  /** `state` to subscribe to; subscribers are also told when the transport changes. */
  readonly status: Readable<State>;
  /** Why the connection was refused, or null. */
  readonly error: Refusal | null;
  /** For when the server refuses or ends the connection: a logout (103), say. */
  readonly onRefused: OnRefused;
  /** What carries the connection now, or null without one. */
  readonly transport: Transport | null;
  /** The room of that name: always the same object until it is left. */
  room(name: string, options?: RoomOptions): Room;
  /**
   * Stop following, and do not come back by itself. A connection of our own is closed;
   * on an attached socket the rooms are only left.
   */
  disconnect(): void;
  /** Connect again after `disconnect()` or a refusal; refused rooms are tried again too. */
  connect(): void;
}

export interface RoomOptions {
  /**
   * What the page already shows. Default: what the server printed into the page for
   * this room; `null` for nothing.
   */
  since?: Position | null;
}

export type Handler<T> = (data: T, meta: Meta) => void;

/** A named place whose publications this page follows. */
export interface Room {
  readonly name: string;
  readonly state: State;
  readonly status: Readable<State>;
  /** Why the room could not be joined, or was left by the server; or null. */
  readonly error: Refusal | null;
  /** For when this room may not be joined, or not any more; its stores keep their rows. */
  readonly onRefused: OnRefused;
  /** Up to where this page has seen everything, or null before that is known. */
  readonly position: Position | null;
  /** What the room's own snapshot function returned, as of the last snapshot. */
  readonly snapshotState: unknown;
  /** Called when the page had to start over from a snapshot, stores being in step. */
  on(event: "livepush.snapshot", handler: Handler<Snapshot>): Unsubscribe;
  /**
   * Called for each publication, in order and once; and for each whisper, which its meta
   * tells apart.
   */
  on<T = any>(event: string, handler: Handler<T>): Unsubscribe;
  /** Remove one handler, or all of an event. */
  off<T = any>(event: string, handler?: Handler<T>): void;
  /**
   * The rows of one kind, kept in step with the database. One store per kind: options
   * count the first time.
   *
   * A row lacks a field whose value the server can't send (NaN, half an emoji, an integer
   * beyond ±(2^53-1) …): declare those optional in R that a visitor may fill with such.
   */
  store<R extends object = Record<string, any>>(kind: string, options?: StoreOptions<R>): Store<R>;
  /**
   * Who is in the room, each user once. The server is asked when this is used first; while
   * there is no connection, the last answer stays.
   */
  readonly presence: Readable<readonly User[]>;
  /**
   * Tell the room's other subscribers something that is kept nowhere: it arrives at once or
   * not at all, and not where the room does not allow an event of this name.
   */
  whisper(event: string, data?: unknown): void;
  /** Stop following the room and forget its stores and handlers. */
  leave(): void;
}

export interface StoreOptions<R extends object> {
  /** Default: by key ascending. A field's name, "-" and a name, or a comparison. */
  sort?: Sort<R>;
  /**
   * Keep this many rows: the last in sort order, or with "-field" the first, which are
   * the same rows upside down. Default: all.
   */
  limit?: number;
  /** What the server-rendered page already shows, at the room's `since`. */
  rows?: readonly R[];
  /** The field that tells rows apart, until a snapshot says it. Default: "id". */
  key?: string;
  /** Whether the server has older rows than `rows`, until a snapshot says it. */
  partial?: boolean;
}

/** The rows of one kind. The array is new after each change, and never changed itself. */
export interface Store<R extends object> extends Readable<readonly R[]> {
  readonly kind: string;
  /** The row with this key; 5 and "5" are the same key. */
  get(key: string | number): R | undefined;
  /**
   * Show what the page's own request was answered, without losing or doubling what comes
   * over the room.
   *
   * @param rows The row, or rows, that the application answered with.
   * @param response That answer (or its headers, or its `Livepush-Position` header):
   *   it tells which publications the rows are older than. Without it only rows
   *   whose key is unknown are shown.
   */
  merge(rows: R | readonly R[], response?: PositionSource): void;
}

/** Something that carries a `Livepush-Position` header. */
export type PositionSource =
  | string
  | null
  | { get(name: string): string | null }
  | { readonly headers: { get(name: string): string | null } };

/** What is needed of a socket.io-client Socket on the default namespace. */
export interface SocketLike {
  readonly connected: boolean;
  /** Whether it connects again by itself. */
  readonly active: boolean;
  readonly io: {
    readonly engine?: EngineLike | undefined;
    opts?: { transports?: unknown };
    on?(event: "reconnect_attempt", listener: () => void): unknown;
  };
  connect(): unknown;
  disconnect(): unknown;
  on(event: string, listener: (...args: any[]) => void): unknown;
  onAny(listener: (event: string, ...args: any[]) => void): unknown;
  timeout(milliseconds: number): {
    emit(
      event: string,
      message: object,
      answered: (error: Error | null, answer?: unknown) => void,
    ): unknown;
  };
}

export interface EngineLike {
  readonly readyState?: string;
  readonly transport?: { readonly name: string };
  on(event: "upgrade", listener: () => void): unknown;
}
