/**
 * What happens to the page around the connection: it is put away and brought back, the
 * computer sleeps, the network goes and comes.
 */

import type { Cancel, Page, Surroundings } from "./surroundings.js";

export interface PageWatcher {
  /** The page is left: it may be kept, but only without open connections. */
  hidden(): void;
  /** The page is shown (again). */
  shown(): void;
  /** The page, or the computer, slept: the connection may be dead without saying so. */
  woke(): void;
  offline(): void;
  online(): void;
}

/** Milliseconds between two looks at the clock. */
const TICK = 5_000;
/** Being late by this much means that the page did not run. */
const SLEPT = 15_000;
/** Turning to another tab for less than this is no reason to ask the server anything. */
const GLANCE = 5_000;

/** Watch the page until the returned function is called. */
export function watchPage(page: Page, watcher: PageWatcher, surroundings: Surroundings): Cancel {
  const cleanup: Cancel[] = [];
  const listen = (target: Page["window"], event: string, call: () => void): void => {
    target.addEventListener(event, call);
    cleanup.push(() => target.removeEventListener(event, call));
  };
  listen(page.window, "pagehide", () => watcher.hidden());
  listen(page.window, "pageshow", () => watcher.shown());
  listen(page.window, "offline", () => watcher.offline());
  listen(page.window, "online", () => watcher.online());

  let hiddenSince: number | null = null;
  listen(page.document, "visibilitychange", () => {
    const now = surroundings.now();
    if (page.document.visibilityState === "hidden") {
      hiddenSince = now;
    } else {
      if (hiddenSince !== null && now - hiddenSince >= GLANCE) watcher.woke();
      hiddenSince = null;
    }
  });

  let stop: Cancel;
  const watchClock = (): void => {
    const before = surroundings.now();
    stop = surroundings.after(TICK, () => {
      const late = surroundings.now() - before - TICK;
      // Hidden tabs are slowed down by the browser: being late says nothing there.
      if (late >= SLEPT && page.document.visibilityState !== "hidden") watcher.woke();
      watchClock();
    });
  };
  watchClock();

  return () => {
    stop();
    for (const undo of cleanup) undo();
  };
}
