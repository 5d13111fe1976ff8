/** What the package exports. */

import { io, type ManagerOptions, type SocketOptions } from "socket.io-client";
import type { ConnectOptions, LivePush as Live, SocketLike } from "./api.js";
import { checkAuth, checkTransports } from "./calls.js";
import { Client } from "./client.js";
import type { Authenticate } from "./credentials.js";
import { browserSurroundings } from "./surroundings.js";

export type * from "./api.js";

export interface LivePush extends Live {}

type Options = Partial<ManagerOptions & SocketOptions>;

/**
 * Connect to the server, by default the one the page came from.
 *
 * WebSocket comes first, so that a server of several processes needs no sticky sessions;
 * where it does not get through, polling follows, and goes first until the tab is closed
 * or a WebSocket that is tried beside it lasts.
 */
export function connect(options: ConnectOptions = {}): LivePush {
  const { url, auth, loginUrl, autoConnect = true, ...others } = options;
  const settings = {
    transports: typeof WebSocket === "undefined" ? ["polling"] : ["websocket", "polling"],
    tryAllTransports: true,
    reconnectionDelay: 1_000,
    reconnectionDelayMax: 5_000,
    randomizationFactor: 0.5,
    ...others,
    autoConnect: false,
    // A connection shared with others could not be closed when the page is put away.
    forceNew: true,
  };
  checkTransports(settings.transports);
  checkAuth(auth);
  const asked = typeof auth === "function" ? (auth as Authenticate) : null;
  // A copy each: socket.io-client hands out the object itself, to be changed.
  const dial = (authenticate: Authenticate) => {
    const own: Options = auth ? { ...keyed(settings), auth: asked ? authenticate : auth } : { ...settings };
    return url === undefined ? io(own) : io(url, own);
  };
  const live = new Client(dial, browserSurroundings(url, loginUrl), asked);
  if (autoConnect) live.connect();
  return live;
}

/**
 * Have each request of one that polls bear a key of its own. Whoever says in the CONNECT who
 * it is may send no cookie, and a session's id, which access logs show, must not be enough.
 */
function keyed(options: Options): Options {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const key = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  const transportOptions = options.transportOptions as Record<string, Options> | undefined;
  const polling = transportOptions?.polling;
  const extraHeaders = { ...options.extraHeaders, ...polling?.extraHeaders, "Livepush-Key": key };
  return { ...options, transportOptions: { ...transportOptions, polling: { ...polling, extraHeaders } } };
}

/** Follow rooms over a socket that the application made, and closes, itself. */
export function attach(socket: SocketLike): LivePush {
  const live = new Client(socket, browserSurroundings());
  live.connect();
  return live;
}

export const LivePush = { connect, attach };
