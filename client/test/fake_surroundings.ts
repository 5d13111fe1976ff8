/** Time that passes when a test says so, chance without surprises, and a page. */

import type { Cancel, Memory, Page, Surroundings } from "../src/surroundings.js";

interface Timer {
  readonly due: number;
  readonly run: () => void;
}

export class FakeSurroundings implements Surroundings {
  readonly reported: unknown[] = [];
  readonly warned: string[] = [];
  /** Requests to renew the login that wait for their answer: called with its status. */
  readonly renewals: ((status: number) => void)[] = [];
  private time = 1_000_000;
  private timers: Timer[] = [];
  private tasks: (() => void)[] = [];

  constructor(
    readonly page: FakePage | null = null,
    readonly random: () => number = () => 0.5,
    readonly memory: FakeMemory = new FakeMemory(),
  ) {}

  readonly now = (): number => this.time;

  readonly report = (error: unknown): void => {
    this.reported.push(error);
  };

  readonly warn = (message: string): void => {
    this.warned.push(message);
  };

  readonly soon = (run: () => void): void => {
    this.tasks.push(run);
  };

  readonly after = (ms: number, run: () => void): Cancel => {
    const timer = { due: this.time + ms, run };
    this.timers.push(timer);
    return () => {
      this.timers = this.timers.filter((other) => other !== timer);
    };
  };

  readonly renew = (answered: (status: number) => void): Cancel => {
    this.renewals.push(answered);
    return () => {
      const index = this.renewals.indexOf(answered);
      if (index >= 0) this.renewals.splice(index, 1);
    };
  };

  /** The server answers the oldest of them. */
  answerRenewal(status: number): void {
    const answered = this.renewals.shift();
    if (!answered) throw new Error("nobody asked to renew the login");
    answered(status);
    this.settle();
  }

  get waiting(): number {
    return this.timers.length;
  }

  /** Let everything happen that is due within so many milliseconds. */
  pass(ms: number): void {
    const end = this.time + ms;
    this.settle();
    for (;;) {
      const [next] = [...this.timers].sort((one, other) => one.due - other.due);
      if (!next || next.due > end) break;
      this.time = Math.max(this.time, next.due);
      this.timers = this.timers.filter((timer) => timer !== next);
      next.run();
      this.settle();
    }
    this.time = end;
  }

  /** Let the microtasks run. */
  settle(): void {
    for (let task = this.tasks.shift(); task; task = this.tasks.shift()) task();
  }

  /** The computer sleeps: time passes, nothing runs. */
  sleep(ms: number): void {
    this.time += ms;
  }
}

/** A tab's, which the next page in it finds as it was left. */
export class FakeMemory implements Memory {
  text: string | null = null;

  load(): string | null {
    return this.text;
  }

  save(text: string | null): void {
    this.text = text;
  }
}

export class FakePage implements Page {
  readonly window = new EventTarget();
  readonly document: FakeDocument;

  constructor(elements: readonly string[] = []) {
    this.document = new FakeDocument(elements);
  }

  fire(event: string): void {
    this.window.dispatchEvent(new Event(event));
  }

  show(visibility: "visible" | "hidden"): void {
    this.document.visibilityState = visibility;
    this.document.dispatchEvent(new Event("visibilitychange"));
  }
}

class FakeDocument extends EventTarget {
  visibilityState = "visible";

  constructor(private readonly elements: readonly string[]) {
    super();
  }

  querySelectorAll(selectors: string): { textContent: string }[] {
    if (selectors !== "script[data-livepush-room]") throw new Error(selectors);
    return this.elements.map((textContent) => ({ textContent }));
  }
}
