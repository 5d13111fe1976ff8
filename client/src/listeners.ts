/** Functions of the application, called so that one that throws harms no other. */

export type Unsubscribe = () => void;

interface Entry<A extends unknown[]> {
  readonly call: (...args: A) => void;
  removed: boolean;
}

export class Listeners<A extends unknown[]> {
  private entries: readonly Entry<A>[] = [];

  constructor(private readonly report: (error: unknown) => void) {}

  /** Add a function; the same one added twice is called twice. */
  add(call: (...args: A) => void): Unsubscribe {
    const entry = { call, removed: false };
    this.entries = [...this.entries, entry];
    return () => this.keep((other) => other !== entry);
  }

  /** Remove a function wherever it was added, or all functions. */
  remove(call?: (...args: A) => void): void {
    this.keep((entry) => call !== undefined && entry.call !== call);
  }

  get size(): number {
    return this.entries.length;
  }

  /** Call all that are there now; those removed meanwhile are left out. */
  call(...args: A): void {
    for (const entry of this.entries) {
      if (!entry.removed) this.guarded(entry.call, args);
    }
  }

  /** Call one function as `call` would. */
  guarded(call: (...args: A) => void, args: A): void {
    try {
      call(...args);
    } catch (error) {
      this.report(error);
    }
  }

  private keep(stays: (entry: Entry<A>) => boolean): void {
    this.entries = this.entries.filter((entry) => {
      entry.removed ||= !stays(entry);
      return !entry.removed;
    });
  }
}
