/** One connection and its rooms: passes events on, and sums their states up. */

import type { LivePush, OnRefused, Room, RoomOptions, State, Transport } from "./api.js";
import { checkRoom } from "./calls.js";
import { Connection, type Source } from "./connection.js";
import type { Authenticate } from "./credentials.js";
import { pagePosition } from "./page_position.js";
import { watchPage } from "./page_life.js";
import { Refusals } from "./refusals.js";
import { Requests } from "./requests.js";
import { FollowedRoom, type RoomClient } from "./room.js";
import type { Cancel, Surroundings } from "./surroundings.js";
import { Value } from "./value.js";
import { isObject, readMeta, readRefusal, readUsers, readWhisper, readWithin, type Refusal } from "./wire.js";

/** Milliseconds in which a connection that is alive answers. */
const PROBE_WITHIN = 3_000;
/** Seconds in which to come back where the server did not say. */
const RESET_WITHIN = 2;

export class Client implements LivePush, RoomClient {
  readonly status: Value<State>;
  readonly refusals: Refusals;
  private readonly connection: Connection;
  private readonly requests: Requests;
  private readonly rooms = new Map<string, FollowedRoom>();
  private shownTransport: Transport | null = null;
  private wasLive = false;
  private suspended = false;
  private stopWatching: Cancel | null = null;

  constructor(
    source: Source,
    private readonly surroundings: Surroundings,
    authenticate: Authenticate | null = null,
  ) {
    this.status = new Value<State>("offline", surroundings.report);
    this.refusals = new Refusals(surroundings.warn);
    this.connection = new Connection(
      source,
      {
        up: () => this.restart((room) => room.subscription.up()),
        moved: () => this.restart((room) => room.subscription.moved()),
        down: () => this.restart((room) => room.subscription.down()),
        message: (event, args) => this.receive(event, args),
        refused: (error, allowed) => this.refusals.tell("the connection", error, allowed),
        refresh: () => this.refreshAll(),
      },
      surroundings,
      authenticate,
    );
    this.requests = new Requests(this.connection);
  }

  get state(): State {
    return this.status.getSnapshot();
  }

  get error(): Refusal | null {
    return this.connection.error;
  }

  readonly onRefused: OnRefused = (call) => {
    return this.status.subscribe((state) => {
      if (state === "refused" && this.error) call(this.error);
    });
  };

  get transport(): Transport | null {
    return this.connection.transport;
  }

  get connectionState(): "up" | State {
    return this.connection.state;
  }

  room(name: string, options: RoomOptions = {}): Room {
    checkRoom(name);
    let room = this.rooms.get(name);
    if (!room) {
      const since = options.since === undefined ? this.printed(name) : options.since;
      room = new FollowedRoom(name, since, this, this.requests, this.surroundings);
      this.rooms.set(name, room);
      this.refresh();
    }
    return room;
  }

  connect(): void {
    this.suspended = false;
    this.watch();
    this.connection.open();
    for (const room of this.list()) room.subscription.retry();
  }

  disconnect(): void {
    this.suspended = false;
    this.stopWatching?.();
    this.stopWatching = null;
    // A socket that goes on without us would keep bringing what nobody reads.
    if (!this.connection.owned) for (const room of this.list()) room.subscription.pause();
    this.connection.close();
  }

  forget(room: Room): void {
    this.rooms.delete(room.name);
    this.refresh();
  }

  refresh(): void {
    const state = this.stateNow();
    const { transport } = this;
    const moved = transport !== this.shownTransport;
    this.shownTransport = transport;
    if (state !== this.state) this.status.set(state);
    else if (moved) this.status.notify();
  }

  private stateNow(): State {
    const { connectionState } = this;
    if (connectionState !== "up") return connectionState;
    const live = this.list().every((room) => room.state === "live" || room.state === "refused");
    this.wasLive ||= live;
    return live ? "live" : this.wasLive ? "recovering" : "connecting";
  }

  private refreshAll(): void {
    for (const room of this.list()) room.refresh();
    this.refresh();
  }

  private restart(tell: (room: FollowedRoom) => void): void {
    this.requests.drop();
    this.list().forEach(tell);
  }

  private receive(event: string, args: readonly unknown[]): void {
    const [data, second] = args;
    const room = isObject(data) ? this.rooms.get(String(data.room)) : undefined;
    if (event === "livepush.reset" && isObject(data)) {
      room?.subscription.reset(readWithin(data.within, RESET_WITHIN));
    }
    if (event === "livepush.revoked") {
      room?.subscription.revoked(readRefusal(data, "no longer allowed"));
    }
    if (event === "livepush.reconnect") {
      this.connection.move(readWithin(isObject(data) && data.within, RESET_WITHIN));
    }
    if (event === "livepush.presence" && isObject(data) && room?.state !== "refused") {
      room?.presence.change(readUsers(data.joined), readUsers(data.left));
    }
    // Anything else without meta is the application's, or a newer server's.
    const meta = readMeta(second);
    if (meta) this.rooms.get(meta.room)?.subscription.receive(event, data, meta);
    const whisper = readWhisper(second);
    if (whisper) this.rooms.get(whisper.room)?.hear(event, data, whisper);
  }

  private watch(): void {
    const { page } = this.surroundings;
    if (!page || this.stopWatching) return;
    const { connection } = this;
    this.stopWatching = watchPage(
      page,
      {
        // Browsers keep a page for the way back only if it has no open connection.
        hidden: () => (this.suspended = connection.suspend() || this.suspended),
        shown: () => this.resume(),
        woke: () => this.probe(),
        online: () => {
          connection.elsewhere();
          this.probe();
        },
        // Later: socket.io-client hears of it in the same moment, and a connection that we
        // made before it did would be closed half-way.
        offline: () => {
          connection.disturbed();
          this.surroundings.after(0, () => connection.drop());
        },
      },
      this.surroundings,
    );
  }

  private resume(): void {
    if (!this.suspended) return;
    this.suspended = false;
    this.connection.open();
  }

  /** See whether the connection is alive, and make a new one if not. */
  private probe(): void {
    const { connection } = this;
    if (!connection.up) return connection.hurry();
    const room = this.list().find(({ subscription }) => subscription.joined);
    // Without a room there is nothing to miss.
    if (!room) return;
    const { heard } = connection;
    room.subscription.probe();
    this.surroundings.after(PROBE_WITHIN, () => {
      if (connection.heard === heard) connection.drop();
    });
  }

  private printed(name: string): ReturnType<typeof pagePosition> {
    const { page } = this.surroundings;
    return page && pagePosition(page.document, name);
  }

  // A copy: handlers may leave rooms while it is walked through.
  private list(): FollowedRoom[] {
    return [...this.rooms.values()];
  }
}
