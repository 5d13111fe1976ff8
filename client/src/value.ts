/** A value one can subscribe to, in the form that Svelte and React expect. */

import type { Readable } from "./api.js";
import { Listeners } from "./listeners.js";

export class Value<T> implements Readable<T> {
  private readonly subscribers: Listeners<[T]>;

  constructor(
    private current: T,
    report: (error: unknown) => void,
  ) {
    this.subscribers = new Listeners(report);
  }

  // Arrow functions: React takes both off the object before it calls them.
  readonly getSnapshot = (): T => this.current;

  readonly subscribe = (call: (value: T) => void): (() => void) => {
    const unsubscribe = this.subscribers.add(call);
    this.subscribers.guarded(call, [this.current]);
    return unsubscribe;
  };

  set(value: T): void {
    if (Object.is(value, this.current)) return;
    this.assign(value);
    this.notify();
  }

  /** Change the value without telling yet: several values may have to change at once. */
  assign(value: T): void {
    this.current = value;
  }

  notify(): void {
    this.subscribers.call(this.current);
  }
}
