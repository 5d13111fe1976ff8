/** What the server refused, told to the developer: once, however often it is tried. */

import type { Refusal } from "./wire.js";

export class Refusals {
  private readonly told = new Set<string>();

  constructor(private readonly warn: (message: string) => void) {}

  /**
   * Tell of a refusal, unless the same thing was refused with the same code before.
   *
   * @param allowed Whether the server once said yes to it. A final no is then the end of a
   *   login or of a right, which an application shows its user by the state: no mistake.
   */
  tell(what: string, { code, message, temporary }: Refusal, allowed: boolean): void {
    const key = `${code} ${what}`;
    if ((allowed && !temporary) || this.told.has(key)) return;
    this.told.add(key);
    const next = temporary ? "tried again by itself" : "only connect() tries again";
    this.warn(`LivePush: the server refused ${what} (code ${code}; ${next}): ${message}`);
  }
}
