/** A room as the application sees it: its state, its handlers and its stores. */

import type { Handler, OnRefused, Room, State, Store, StoreOptions, Unsubscribe } from "./api.js";
import { checkStore } from "./calls.js";
import { Kinds, splitEvent } from "./kinds.js";
import { Listeners } from "./listeners.js";
import { Presence } from "./presence.js";
import type { Refusals } from "./refusals.js";
import type { StoreRoom } from "./store.js";
import { Subscription, type Subscriber, type Wire } from "./subscription.js";
import type { Cancel, Surroundings } from "./surroundings.js";
import { Value } from "./value.js";
import { isObject, readRefusal, type Meta, type Position, type Refusal, type Snapshot } from "./wire.js";

/** What a room needs of its client. */
export interface RoomClient {
  readonly connectionState: "up" | State;
  readonly refusals: Refusals;
  /** A room's state changed. */
  refresh(): void;
  /** The room is to be forgotten. */
  forget(room: Room): void;
}

/** Milliseconds in which the echo of a merged row should come. */
const ECHO_WITHIN = 5_000;

export class FollowedRoom implements Room, Subscriber, StoreRoom {
  snapshotState: unknown = undefined;
  readonly subscription: Subscription;
  readonly status: Value<State>;
  readonly report: (error: unknown) => void;
  readonly presence: Presence;
  private readonly kinds: Kinds;
  private readonly handlers = new Map<string, Listeners<[any, Meta]>>();
  /** True once a snapshot was seen. */
  private started = false;
  /** True while the rest of a commit is still to come. */
  private arriving = false;
  private replaying = false;
  private left = false;
  private echo: Cancel | null = null;
  private echoAsked = false;

  constructor(
    readonly name: string,
    /** Up to where the page already shows everything. */
    private readonly since: Position | null,
    private readonly client: RoomClient,
    private readonly wire: Wire,
    private readonly surroundings: Surroundings,
  ) {
    this.report = surroundings.report;
    this.kinds = new Kinds(this);
    this.subscription = new Subscription(this, wire, surroundings, since);
    this.presence = new Presence(() => this.subscription.askWho(), this.report);
    this.status = new Value(this.stateNow(), this.report);
    this.subscription.start();
  }

  get state(): State {
    return this.status.getSnapshot();
  }

  get error(): Refusal | null {
    return this.subscription.error;
  }

  get position(): Position | null {
    return this.subscription.position;
  }

  get filled(): boolean {
    return this.kinds.filled;
  }

  on(event: string, handler: Handler<any>): Unsubscribe {
    let handlers = this.handlers.get(event);
    if (!handlers) this.handlers.set(event, (handlers = new Listeners(this.report)));
    return handlers.add(handler);
  }

  off(event: string, handler?: Handler<any>): void {
    this.handlers.get(event)?.remove(handler);
  }

  store<R extends object>(kind: string, options: StoreOptions<R> = {}): Store<R> {
    checkStore(kind, options);
    // The page's rows are those of the position as long as nothing came after them.
    const current = !this.started && this.position === this.since;
    const store = this.kinds.store(kind, options, current, this.started);
    if (!this.filled) this.subscription.refill();
    return store;
  }

  whisper(event: string, data: unknown = null): void {
    if (!this.subscription.joined || !this.wire.up) return;
    this.wire.send(this.name, "livepush.whisper", { event, data }, (answer) => {
      if (!isObject(answer) || answer.ok !== false) return;
      const { message } = readRefusal(answer.error, "refused");
      this.report(new Error(`The whisper "${event}" was refused: ${message}`));
    });
  }

  readonly onRefused: OnRefused = (call) => {
    return this.status.subscribe(() => {
      // The connection may be refused, and this room with it; that is not about the room.
      const { error, refused } = this.subscription;
      if (refused && error) call(error);
    });
  };

  hear(event: string, data: unknown, meta: Meta): void {
    if (!this.subscription.refused) this.handlers.get(event)?.call(data, meta);
  }

  leave(): void {
    if (this.left) return;
    this.left = true;
    this.subscription.leave();
    this.echo?.();
    for (const handlers of this.handlers.values()) handlers.remove();
    this.client.forget(this);
  }

  deliver(event: string, data: unknown, meta: Meta): void {
    this.kinds.apply(event, data, meta);
    if (splitEvent(event)[1] === "invalidated") this.subscription.invalidate();
    this.arriving = meta.more === true;
    this.settle();
    this.handlers.get(event)?.call(data, meta);
  }

  refused(error: Refusal, allowed: boolean): void {
    this.client.refusals.tell(`the room "${this.name}"`, error, allowed);
  }

  replace(snapshot: Snapshot, position: Position): void {
    this.started = true;
    this.arriving = false;
    this.snapshotState = snapshot.state;
    this.kinds.replace(snapshot, position);
    this.settle();
    this.handlers.get("livepush.snapshot")?.call(snapshot, { room: this.name, ...position });
  }

  together(work: () => void): void {
    this.replaying = true;
    work();
    this.replaying = false;
    this.settle();
  }

  settle(): void {
    if (!this.arriving && !this.replaying && !this.left) this.kinds.flush();
  }

  refresh(): void {
    const state = this.stateNow();
    if (this.left || state === this.state) return;
    // What is missing of a commit may never come now; while catching up, it will.
    if (state !== "recovering") {
      this.arriving = false;
      this.settle();
    }
    // Nobody will tell who comes and goes.
    if (state === "refused") this.presence.replace([]);
    this.status.set(state);
    this.client.refresh();
  }

  awaitMerges(): void {
    if (this.left) return;
    this.echo ??= this.surroundings.after(ECHO_WITHIN, () => this.checkMerges());
  }

  // Asking again with the position mends a lost echo. Where that did not help, the
  // position that was merged is of another history.
  private checkMerges(): void {
    this.echo = null;
    const asked = this.echoAsked;
    this.echoAsked = false;
    if (!this.kinds.pendingMerges) return;
    if (this.state === "live" && asked) {
      this.kinds.forgetMerges();
      this.subscription.renew();
    } else {
      if (this.state === "live") {
        this.echoAsked = true;
        this.subscription.probe();
      }
      this.awaitMerges();
    }
  }

  private stateNow(): State {
    const { connectionState } = this.client;
    if (this.subscription.refused) return "refused";
    return connectionState === "up" ? this.subscription.state : connectionState;
  }
}
