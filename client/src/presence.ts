/** Who is in one room, as far as the server has said. */

import type { Readable, Unsubscribe, User } from "./api.js";
import { Value } from "./value.js";

export class Presence implements Readable<readonly User[]> {
  /** True once the application wants to know; before that the server is not asked. */
  wanted = false;
  private readonly users: Value<readonly User[]>;

  /** @param ask Called when the application wants to know for the first time. */
  constructor(
    private readonly ask: () => void,
    report: (error: unknown) => void,
  ) {
    this.users = new Value<readonly User[]>([], report);
  }

  // Arrow functions: React takes both off the object before it calls them.
  readonly getSnapshot = (): readonly User[] => {
    this.want();
    return this.users.getSnapshot();
  };

  readonly subscribe = (call: (users: readonly User[]) => void): Unsubscribe => {
    this.want();
    return this.users.subscribe(call);
  };

  replace(users: readonly User[]): void {
    this.users.set(users);
  }

  /** Take who came and who left; who is known already is only brought up to date. */
  change(joined: readonly User[], left: readonly User[]): void {
    const users = new Map(this.users.getSnapshot().map((user) => [user.id, user]));
    for (const { id } of left) users.delete(id);
    for (const user of joined) users.set(user.id, user);
    this.users.set([...users.values()]);
  }

  private want(): void {
    if (this.wanted) return;
    this.wanted = true;
    this.ask();
  }
}
