/**
 * Renews a login over HTTP where the server asks for it: it lets nobody in by a cookie
 * that remembers a user alone, and a WebSocket can be given no other one.
 * One request at a time, whoever waits for it.
 */

import { backoff } from "./backoff.js";
import type { Cancel, Surroundings } from "./surroundings.js";
import type { Refusal } from "./wire.js";

/** The code by which the server asks. */
export const RENEW = 109;
/** A login that was renewed so often, and in vain, is not renewed again. */
const MOST = 5;
/** Milliseconds after which earlier ones do not count. */
const FORGOTTEN = 60_000;
/** Milliseconds in which an answer should come. */
const WITHIN = 10_000;

/** @param error Why not to connect now; null where that may be tried at once. */
export type Renewed = (error: Refusal | null) => void;

export class Renewal {
  private renewed: Renewed | null = null;
  private cancel: Cancel | null = null;
  private inVain = 0;
  private last = 0;

  constructor(private readonly surroundings: Surroundings) {}

  /** Whether one is under way, or about to be. */
  get busy(): boolean {
    return this.cancel !== null;
  }

  /** A connection was refused until the login is renewed. */
  begin(renewed: Renewed): void {
    this.renewed = renewed;
    if (this.busy) return;
    const { now, after, random } = this.surroundings;
    if (now() - this.last >= FORGOTTEN) this.inVain = 0;
    if (this.inVain >= MOST) {
      return this.end({ code: RENEW, message: "renewing the login does not help", temporary: false });
    }
    this.cancel = after(this.inVain && backoff(this.inVain, random), () => this.request());
  }

  stop(): void {
    this.renewed = null;
    this.cancel?.();
    this.cancel = null;
  }

  private request(): void {
    const { now, after, renew } = this.surroundings;
    this.last = now();
    const answered = (status: number): void => {
      this.cancel?.();
      this.cancel = null;
      if (status === 401) return this.end({ code: 103, message: "signed out", temporary: false });
      if (status < 200 || status > 299) {
        const why = status ? `status ${status}` : "no answer";
        return this.end({ code: 0, message: `the login was not renewed: ${why}`, temporary: true });
      }
      this.inVain++;
      this.end(null);
    };
    const late = after(WITHIN, () => answered(0));
    const drop = renew(answered);
    this.cancel = () => {
      late();
      drop();
    };
  }

  private end(error: Refusal | null): void {
    const { renewed } = this;
    this.renewed = null;
    renewed?.(error);
  }
}
