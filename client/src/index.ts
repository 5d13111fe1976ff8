/** What the package exports. */

import { io } from "socket.io-client";
import type { ConnectOptions, LivePush as Live, SocketLike } from "./api.js";
import { checkTransports } from "./calls.js";
import { Client } from "./client.js";
import { pageSays } from "./page_settings.js";
import { browserSurroundings } from "./surroundings.js";

export type * from "./api.js";

export interface LivePush extends Live {}

/**
 * Connect to the server, by default the one the page came from.
 *
 * WebSocket comes first, so that a server of several processes needs no sticky sessions;
 * where it does not get through, polling follows, and goes first until the tab is closed
 * or a WebSocket that is tried beside it lasts.
 */
export function connect(options: ConnectOptions = {}): LivePush {
  const { url, autoConnect = true, ...others } = options;
  const settings = {
    transports: typeof WebSocket === "undefined" ? ["polling"] : ["websocket", "polling"],
    tryAllTransports: true,
    reconnectionDelay: 1_000,
    reconnectionDelayMax: 5_000,
    randomizationFactor: 0.5,
    path: pageSays("path", url) ?? "/socket.io",
    ...others,
    autoConnect: false,
    // A connection shared with others could not be closed when the page is put away.
    forceNew: true,
  };
  checkTransports(settings.transports);
  // A copy each: socket.io-client hands out the object itself, to be changed.
  const dial = () => (url === undefined ? io({ ...settings }) : io(url, { ...settings }));
  const live = new Client(dial, browserSurroundings(url));
  if (autoConnect) live.connect();
  return live;
}

/** Follow rooms over a socket that the application made, and closes, itself. */
export function attach(socket: SocketLike): LivePush {
  const live = new Client(socket, browserSurroundings());
  live.connect();
  return live;
}

export const LivePush = { connect, attach };
