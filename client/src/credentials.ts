/** What the application gives with each CONNECT, where it needs a moment to find it. */

import type { Cancel, Surroundings } from "./surroundings.js";
import { isObject } from "./wire.js";

/** Returns what goes with a CONNECT, or a promise of it; or hands it over, as socket.io-client has it. */
export type Authenticate = (give: (payload: object) => void) => unknown;

/** Milliseconds in which it should be there. */
const WITHIN = 20_000;

export class Credentials {
  private turn = 0;
  private timer: Cancel | null = null;

  constructor(
    private readonly authenticate: Authenticate,
    private readonly surroundings: Pick<Surroundings, "after">,
  ) {}

  /** Whether the application has still to answer. */
  get pending(): boolean {
    return this.timer !== null;
  }

  /** Ask for one connection; what is said for an earlier one counts no more. */
  ask(give: (payload: object) => void, failed: (error: unknown) => void): void {
    this.forget();
    const { turn } = this;
    const settle = (tell: () => void): void => {
      if (turn !== this.turn) return;
      this.forget();
      tell();
    };
    const fail = (error: unknown) => settle(() => failed(error));
    const given = (payload: unknown): void => {
      if (isObject(payload)) settle(() => give(payload));
      else if (payload === null) settle(() => give({}));
      else fail(new TypeError(`"auth" must give an object such as {token}, or null; it gave ${payload}.`));
    };
    this.timer = this.surroundings.after(WITHIN, () => {
      fail(new Error(`"auth" gave nothing within ${WITHIN / 1_000} seconds.`));
    });
    try {
      const answer = this.authenticate(given);
      // Nothing is no answer from a function that hands it over.
      const told = (payload: unknown) => payload === undefined && this.authenticate.length || given(payload);
      if (isObject(answer) && typeof answer.then === "function") Promise.resolve(answer).then(told, fail);
      else told(answer);
    } catch (error) {
      fail(error);
    }
  }

  forget(): void {
    this.turn++;
    this.timer?.();
    this.timer = null;
  }
}
