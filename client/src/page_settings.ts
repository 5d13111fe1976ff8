/** What the server says of itself in the script's own element, as `livepush_script()` prints it. */

/**
 * - `off`: nothing is pushed;
 * - `path`: where Socket.IO is, unless that is the usual place.
 */
export type Setting = "off" | "path";

/** @param server Where a client connects to, if not to where its page came from. */
export function pageSays(setting: Setting, server = ""): string | null {
  if (typeof document !== "object" || !isOurs(server)) return null;
  const attribute = `data-livepush-${setting}`;
  return document.querySelector?.(`script[${attribute}]`)?.getAttribute(attribute) ?? null;
}

// Of another server the page's own knows nothing.
function isOurs(server: string): boolean {
  if (!server) return true;
  try {
    return new URL(server, location.href).host === location.host;
  } catch {
    return false;
  }
}
