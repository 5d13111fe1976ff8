/**
 * What the client needs of the machine it runs on: time, chance, and the page.
 * Nothing else in the client reads a clock, sleeps or touches a global of the browser,
 * so that tests hand in fakes and need no waiting.
 */

import type { PageDocument } from "./page_position.js";

export type Cancel = () => void;

/** The browser's page, or null outside a browser. */
export interface Page {
  readonly window: Pick<EventTarget, "addEventListener" | "removeEventListener">;
  readonly document: PageDocument &
    Pick<EventTarget, "addEventListener" | "removeEventListener"> & {
      readonly visibilityState: string;
    };
}

/** What the tab remembers until it is closed, also when it loads another page. */
export interface Memory {
  load(): string | null;
  /** Remember this instead, or nothing. */
  save(text: string | null): void;
}

export interface Surroundings {
  /** Milliseconds of the wall clock: unlike others it goes on while a laptop sleeps. */
  now(): number;
  /** A number from 0 up to, not including, 1. */
  random(): number;
  /** Run once, `ms` milliseconds from now. */
  after(ms: number, run: () => void): Cancel;
  /** Run once, after the code that is running now. */
  soon(run: () => void): void;
  /** Tell the developer about an error in code that is not ours. */
  report(error: unknown): void;
  /** Tell the developer in words about what is no error of any code. */
  warn(message: string): void;
  /** Renew the login over HTTP; `answered` gets the status, or 0 where no answer came. */
  renew(answered: (status: number) => void): Cancel;
  readonly page: Page | null;
  readonly memory: Memory;
}

/** Where this script came from, as long as it is a <script> of its own. */
const script = typeof document === "object" && (document.currentScript as HTMLScriptElement)?.src;

/**
 * @param server Where the server is; tells what is remembered of one from that of another.
 * @param loginUrl Where to renew a login there, if that is not where it usually is.
 */
export function browserSurroundings(server = "", loginUrl = ""): Surroundings {
  return {
    now: () => Date.now(),
    random: () => Math.random(),
    after(ms, run) {
      const timer = setTimeout(run, ms);
      return () => clearTimeout(timer);
    },
    soon: (run) => queueMicrotask(run),
    report(error) {
      if (typeof reportError === "function") reportError(error);
      else console.error(error);
    },
    // Not reported as an error: error trackers would hear of each visitor without a login.
    warn: (message) => console.warn(message),
    renew(answered) {
      const controller = new AbortController();
      const { signal } = controller;
      // What cannot be asked for at all, too, is told later.
      Promise.resolve()
        .then(() => fetch(loginAt(server, loginUrl), { cache: "no-store", credentials: "include", signal }))
        .then(
          ({ status }) => signal.aborted || answered(status),
          () => signal.aborted || answered(0),
        );
      return () => controller.abort();
    },
    page: typeof document === "object" ? { window, document } : null,
    memory: sessionMemory(`livepush.websocket:${server}`),
  };
}

/**
 * The address of the view that renews logins: beside this script where it came from the
 * server, and so with the application's own prefix; else under the usual one.
 */
function loginAt(server: string, loginUrl: string): URL {
  const { href, protocol } = location;
  const named = /^(\w+:)?\/|^$/.test(server) ? server : `${protocol}//${server}`;
  const { origin } = new URL(named.replace(/^ws/, "http"), href);
  if (loginUrl) return new URL(loginUrl, origin);
  const beside = script && /\/livepush\.js$/.test(new URL(script).pathname) && new URL("login", script);
  return beside && beside.origin === origin ? beside : new URL("/livepush/login", origin);
}

// There may be no storage, or none for this page: then looking at it throws, or writing
// to it. Nothing is remembered there, and nothing else is lost.
function sessionMemory(key: string): Memory {
  const guarded = (work: () => string | null | void): string | null => {
    try {
      return work() ?? null;
    } catch {
      return null;
    }
  };
  return {
    load: () => guarded(() => sessionStorage.getItem(key)),
    save(text) {
      guarded(() => (text === null ? sessionStorage.removeItem(key) : sessionStorage.setItem(key, text)));
    },
  };
}
