/**
 * Messages that the server acknowledges, one at a time for each room.
 *
 * A server with threads may handle two messages of one connection at once. Without
 * waiting, leaving a room and joining it again in the same moment (as React's strict mode
 * does) could end with the page outside.
 */

import type { Connection } from "./connection.js";

/** Called with the answer, or undefined when none came in time. */
export type Answered = (answer: unknown) => void;

interface Request {
  readonly event: string;
  readonly message: object;
  readonly answered: Answered;
}

/** Milliseconds to wait for an answer. */
const PATIENCE = 10_000;

export class Requests {
  // The first of each list is under way.
  private waiting = new Map<string, Request[]>();

  constructor(private readonly connection: Connection) {}

  get up(): boolean {
    return this.connection.up;
  }

  send(room: string, event: string, message: object, answered: Answered): void {
    const requests = this.waiting.get(room);
    const request = { event, message: { v: 1, room, ...message }, answered };
    if (requests) {
      requests.push(request);
    } else {
      this.waiting.set(room, [request]);
      this.transmit(room, request);
    }
  }

  /** Forget all: the connection they were for is gone, and so are their answers. */
  drop(): void {
    this.waiting = new Map();
  }

  private transmit(room: string, request: Request): void {
    const connectionOf = this.waiting;
    this.connection.request(request.event, request.message, PATIENCE, (answer) => {
      if (this.waiting !== connectionOf) return;
      const requests = connectionOf.get(room) as Request[];
      requests.shift();
      request.answered(answer);
      if (this.waiting !== connectionOf) return;
      const next = requests[0];
      if (next) this.transmit(room, next);
      else connectionOf.delete(room);
    });
  }
}
