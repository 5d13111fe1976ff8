/**
 * What travels on the wire, and the readers that turn untrusted values into it.
 * Never here: a socket, a clock, or anything that remembers.
 */

/** A place in a room's history. Offsets grow by one per publication. */
export interface Position {
  readonly epoch: string;
  readonly offset: number;
}

/** What stands beside the data of every live publication. */
export interface Meta extends Position {
  readonly room: string;
  /** Orders the versions of one row. */
  readonly stamp?: number;
  /** True on all but the last publication of one commit in this room. */
  readonly more?: boolean;
  /**
   * True for what another subscriber of the room whispered, whatever its data says: it has
   * no place in the history, so its epoch is empty and its offset 0.
   */
  readonly whisper?: boolean;
  /** The id of the user that a whisper is from; missing for an anonymous visitor. */
  readonly from?: string;
}

/** Somebody who is in a room. */
export interface User {
  readonly id: string;
  /** What the application's identity hook tells of the user. */
  readonly info?: any;
}

/** A publication inside the answer to a subscribe. */
export interface Publication {
  readonly event: string;
  readonly data: unknown;
  readonly offset: number;
  readonly stamp?: number;
  readonly more?: boolean;
}

/** The rows of one kind in a snapshot; `partial` when the server has older ones. */
export interface KindSnapshot {
  readonly key: string;
  readonly rows: readonly object[];
  readonly partial: boolean;
}

/** The state a newcomer starts from. */
export interface Snapshot {
  readonly kinds: Readonly<Record<string, KindSnapshot>>;
  readonly state?: unknown;
}

/** Why the server refused. Code 0 means that it gave none. */
export interface Refusal {
  readonly code: number;
  readonly message: string;
  /** True when trying again later may help; the client does so by itself. */
  readonly temporary: boolean;
}

/** The server's answer to a subscribe. */
export type Answer =
  | { readonly ok: false; readonly error: Refusal }
  | {
      readonly ok: true;
      readonly position: Position;
      readonly recovered: boolean;
      readonly publications: readonly Publication[];
      readonly snapshot: Snapshot;
      /** Who is in the room, if that was asked. */
      readonly presence: readonly User[] | null;
    };

type Fields = Record<string, unknown>;

/** Seconds; timers of browsers cannot wait for longer than 24 of them. */
const DAY = 86_400;

export function isObject(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Read a position, or null where there is none or it makes no sense. */
export function readPosition(value: unknown): Position | null {
  if (!isObject(value)) return null;
  const { epoch, offset } = value;
  if (typeof epoch !== "string" || !isOffset(offset)) return null;
  return { epoch, offset };
}

/** Read what accompanies a publication, or null for an event that is none of ours. */
export function readMeta(value: unknown): Meta | null {
  const position = readPosition(value);
  if (!position || !isObject(value) || typeof value.room !== "string") return null;
  return { room: value.room, ...position, ...readMarks(value) };
}

/** Read what accompanies a whisper, or null for an event that is none. */
export function readWhisper(value: unknown): Meta | null {
  if (!isObject(value) || value.whisper !== true || typeof value.room !== "string") return null;
  const from = typeof value.from === "string" && { from: value.from };
  return { room: value.room, epoch: "", offset: 0, whisper: true, ...from };
}

export function readUsers(value: unknown): User[] {
  const users = Array.isArray(value) ? value.filter(isObject) : [];
  return users.filter(({ id }) => typeof id === "string") as unknown as User[];
}

/** Read a refusal; `fallback` is the message where the server gave none. */
export function readRefusal(value: unknown, fallback: string): Refusal {
  const { code, message, temporary } = isObject(value) ? value : ({} as Fields);
  return {
    code: typeof code === "number" ? code : 0,
    message: typeof message === "string" ? message : fallback,
    temporary: temporary === true,
  };
}

/** Read in how many seconds to come at the latest; `usual` where that makes no sense. */
export function readWithin(value: unknown, usual: number): number {
  return typeof value === "number" && value >= 0 ? Math.min(value, DAY) : usual;
}

/**
 * Read the answer to a subscribe. One that makes no sense is a temporary refusal: the
 * client then tries again, more and more slowly, instead of showing something wrong.
 */
export function readAnswer(value: unknown): Answer {
  const answer = isObject(value) ? value : {};
  if (answer.ok === false) {
    return { ok: false, error: readRefusal(answer.error, "refused") };
  }
  const position = readPosition(answer);
  if (answer.ok !== true || !position) {
    return { ok: false, error: unreadable };
  }
  const publications = Array.isArray(answer.publications) ? answer.publications : [];
  return {
    ok: true,
    position,
    recovered: answer.recovered === true,
    publications: publications.map(readPublication),
    snapshot: readSnapshot(answer.snapshot),
    presence: Array.isArray(answer.presence) ? readUsers(answer.presence) : null,
  };
}

export const unreadable: Refusal = {
  code: 0,
  message: "the answer could not be read",
  temporary: true,
};

// Offset -1 follows nothing, so a publication that cannot be read is passed over.
function readPublication(value: unknown): Publication {
  const { event, data, offset, ...marks } = isObject(value) ? value : ({} as Fields);
  return {
    event: typeof event === "string" ? event : "",
    data,
    offset: isOffset(offset) ? offset : -1,
    ...readMarks(marks),
  };
}

function readMarks(value: Fields): { stamp?: number; more?: boolean } {
  return {
    ...(typeof value.stamp === "number" && { stamp: value.stamp }),
    ...(value.more === true && { more: true }),
  };
}

function readSnapshot(value: unknown): Snapshot {
  if (!isObject(value)) return { kinds: {} };
  const kinds: Record<string, KindSnapshot> = {};
  for (const [kind, content] of Object.entries(isObject(value.kinds) ? value.kinds : {})) {
    if (!isObject(content)) continue;
    kinds[kind] = {
      key: typeof content.key === "string" ? content.key : "id",
      rows: Array.isArray(content.rows) ? content.rows.filter(isObject) : [],
      partial: content.partial === true,
    };
  }
  return { kinds, state: value.state };
}

function isOffset(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
