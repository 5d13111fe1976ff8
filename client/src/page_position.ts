/**
 * The position a server-rendered page was rendered at.
 *
 * The server's template global prints it as a JSON script element, so that pages with a
 * strict Content-Security-Policy can hand it over: nothing of it is executed.
 */

import { isObject, readPosition, type Position } from "./wire.js";

/** What is needed of a document. */
export interface PageDocument {
  querySelectorAll(selectors: string): ArrayLike<{ readonly textContent: string | null }>;
}

/**
 * Find the position of a room in the page, or null where it has none. The last element
 * counts: pages that exchange a part of themselves append newer ones.
 */
export function pagePosition(document: PageDocument, room: string): Position | null {
  const elements = document.querySelectorAll("script[data-livepush-room]");
  for (const element of Array.from(elements).reverse()) {
    const content = parsed(element.textContent ?? "");
    if (isObject(content) && content.room === room) return readPosition(content);
  }
  return null;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
