/**
 * This page's part in one room: joins it, keeps its place in the history, mends gaps.
 * Never here: stores, handlers, Socket.IO.
 */

import { backoff } from "./backoff.js";
import type { Presence } from "./presence.js";
import { isNothing, placeOf } from "./sequence.js";
import type { Cancel, Surroundings } from "./surroundings.js";
import { readAnswer, unreadable, type Answer, type Meta, type Position } from "./wire.js";
import type { Publication, Refusal, Snapshot } from "./wire.js";

/** What a subscription needs of its room. */
export interface Subscriber {
  readonly name: string;
  /** False while some store needs a snapshot to have the rows of the position. */
  readonly filled: boolean;
  /** Who is in the room. */
  readonly presence: Presence;
  /** A publication, in order and once. */
  deliver(event: string, data: unknown, meta: Meta): void;
  /** Start over from here. */
  replace(snapshot: Snapshot, position: Position): void;
  /** Run `work`, which delivers many publications, as if they were one commit. */
  together(work: () => void): void;
  /**
   * The server said no.
   *
   * @param allowed Whether it let us into the room before.
   */
  refused(error: Refusal, allowed: boolean): void;
  /** The state may have changed. */
  refresh(): void;
}

/** The way to the server. */
export interface Wire {
  readonly up: boolean;
  send(room: string, event: string, message: object, answered: (answer: unknown) => void): void;
}

/** Milliseconds within which all pages come for a snapshot after an invalidation. */
const INVALIDATED_WITHIN = 2_000;

export class Subscription {
  error: Refusal | null = null;
  /** True once the server has answered on this connection, or on the one before a move. */
  joined = false;
  private everJoined = false;
  /** True while something is known to be missing or wrong. */
  private behind = false;
  /** True while only a snapshot will do. */
  private stale = false;
  private asking = false;
  /** True once this connection's server was asked who is in the room. */
  private askedWho = false;
  /** True when the question under way came too early to answer a later need. */
  private again = false;
  /** Grows where the answer to a question under way counts no more. */
  private turn = 0;
  private left = false;
  private failures = 0;
  private mends = 0;
  private due = 0;
  private timer: Cancel | null = null;

  constructor(
    private readonly room: Subscriber,
    private readonly wire: Wire,
    private readonly surroundings: Surroundings,
    /** Everything up to here was seen. */
    public position: Position | null,
  ) {}

  get refused(): boolean {
    return this.error !== null && !this.error.temporary;
  }

  get state(): "connecting" | "live" | "recovering" {
    if (this.joined && !this.behind) return "live";
    return this.everJoined ? "recovering" : "connecting";
  }

  /** Subscribe, after the stores and handlers made in the same breath as the room. */
  start(): void {
    this.surroundings.soon(() => this.joined || this.probe());
  }

  /** A connection is there: nothing of an earlier one counts. */
  up(): void {
    this.down();
    this.ask();
  }

  /** Another connection has taken over before the last one ended. */
  moved(): void {
    const { joined } = this;
    this.up();
    // Nothing is known to be missing. If something is, the answer brings it.
    this.joined = joined;
  }

  down(): void {
    this.joined = false;
    this.asking = false;
    this.askedWho = false;
    this.again = false;
    this.unschedule();
  }

  /** Try a refused room again. */
  retry(): void {
    if (!this.refused) return;
    this.error = null;
    this.ask();
    this.room.refresh();
  }

  leave(): void {
    this.left = true;
    this.pause();
  }

  /** Be no subscriber until the next `up`. */
  pause(): void {
    this.unschedule();
    if (this.wire.up && (this.joined || this.asking)) {
      this.wire.send(this.room.name, "livepush.unsubscribe", {}, () => {});
    }
  }

  /** Subscribe, or subscribe again: the answer brings what is missing. */
  ask(): void {
    if (this.left || this.refused || !this.wire.up) return;
    this.unschedule();
    this.again = this.asking;
    if (this.asking) return;
    this.asking = true;
    const since = this.stale || !this.room.filled ? null : this.position;
    this.askedWho = this.room.presence.wanted;
    const message = { ...(since && { since }), ...(this.askedWho && { presence: true }) };
    const { turn } = this;
    this.wire.send(this.room.name, "livepush.subscribe", message, (answer) => {
      if (this.left || turn !== this.turn) return;
      this.asking = false;
      if (answer === undefined) this.failed(timedOut);
      else this.answered(readAnswer(answer), since);
      this.room.refresh();
    });
  }

  /** Ask for nothing new: whether an answer comes is the question. */
  probe(): void {
    if (!this.asking) this.ask();
  }

  /** Somebody wants to know who is in the room. */
  askWho(): void {
    this.surroundings.soon(() => {
      if (!this.askedWho && (this.joined || this.asking)) this.ask();
    });
  }

  /** A store was made that needs a snapshot. */
  refill(): void {
    this.surroundings.soon(() => {
      // An answer that is under way looks after it by itself.
      if (!this.joined || this.asking || this.room.filled) return;
      this.behind = true;
      this.ask();
      this.room.refresh();
    });
  }

  /** A live publication came. */
  receive(event: string, data: unknown, meta: Meta): void {
    if (this.joined && !this.left && !this.take(event, data, meta)) this.mend();
  }

  /** The server cannot vouch for our position: come back within so many seconds. */
  reset(within: number): void {
    if (!this.joined) return;
    this.behind = true;
    this.askWithin(within * 1_000);
    this.room.refresh();
  }

  /** The server has put us out of the room. */
  revoked(error: Refusal): void {
    if (this.left || this.refused) return;
    this.turn++;
    this.asking = false;
    this.failed({ ...error, temporary: false });
    this.room.refresh();
  }

  /** Copies are stale: only a snapshot will do, but not for all pages at once. */
  invalidate(): void {
    this.stale = true;
    this.behind = true;
    this.askWithin(INVALIDATED_WITHIN);
    this.room.refresh();
  }

  /** Start over from a snapshot, now. */
  renew(): void {
    this.stale = true;
    this.behind = true;
    this.ask();
    this.room.refresh();
  }

  private answered(answer: Answer, since: Position | null): void {
    if (!answer.ok) {
      this.room.refused(answer.error, this.everJoined);
      return this.failed(answer.error);
    }
    const { position, recovered, publications, snapshot, presence } = answer;
    // The page was rendered before the room had a history; it has begun since.
    const begun = recovered && since !== null && isNothing(since);
    // Recovered from where, if we named no position or one of another history?
    if (recovered && !begun && since?.epoch !== position.epoch) {
      this.stale = true;
      return this.failed(unreadable);
    }
    if (begun) this.position = { epoch: position.epoch, offset: 0 };
    this.error = null;
    this.failures = 0;
    this.joined = this.everJoined = true;
    // What is still scheduled was asked for after this question was.
    this.behind = this.timer !== null;
    if (presence) this.room.presence.replace(presence);
    if (recovered) this.replay(publications, position.epoch);
    else this.restart(snapshot, position);
    if (this.again || !this.room.filled || (this.stale && !this.timer)) {
      this.behind = true;
      this.ask();
    }
  }

  private failed(error: Refusal): void {
    this.error = error;
    this.again = false;
    if (error.temporary) {
      this.behind = true;
      this.schedule(backoff(++this.failures, this.surroundings.random));
    } else {
      this.joined = false;
      this.unschedule();
    }
  }

  // The position moves with what is delivered, not to the answer's own: a publication
  // between the two may still be on its way.
  private replay(publications: readonly Publication[], epoch: string): void {
    this.room.together(() => {
      for (const { event, data, ...marks } of publications) {
        const meta = { room: this.room.name, epoch, ...marks };
        if (this.left) return;
        if (!this.take(event, data, meta)) return this.mend();
      }
    });
  }

  private restart(snapshot: Snapshot, position: Position): void {
    this.stale = false;
    this.mends = 0;
    this.position = position;
    this.room.replace(snapshot, position);
  }

  /** Deliver what follows; false when something before it is missing. */
  private take(event: string, data: unknown, meta: Meta): boolean {
    if (!this.position) return false;
    const place = placeOf(this.position, meta);
    if (place === "next") {
      this.mends = 0;
      this.position = { epoch: meta.epoch, offset: meta.offset };
      this.room.deliver(event, data, meta);
    }
    return place === "next" || place === "duplicate";
  }

  private mend(): void {
    this.behind = true;
    // While asking, the answer will bring what is missing. Otherwise ask at once, but a
    // server whose answers leave the gap open must not be asked without end.
    if (!this.asking) {
      if (this.mends++ === 0) this.ask();
      else this.schedule(backoff(this.mends, this.surroundings.random));
    }
    this.room.refresh();
  }

  private askWithin(longest: number): void {
    this.schedule(this.surroundings.random() * longest);
  }

  /** Ask after so many milliseconds, or when that was due anyway, whichever is first. */
  private schedule(wait: number): void {
    const due = this.surroundings.now() + wait;
    if (this.timer && this.due <= due) return;
    this.unschedule();
    this.due = due;
    this.timer = this.surroundings.after(wait, () => {
      this.timer = null;
      this.ask();
    });
  }

  private unschedule(): void {
    this.timer?.();
    this.timer = null;
  }
}

const timedOut: Refusal = {
  code: 0,
  message: "the server did not answer in time",
  temporary: true,
};
