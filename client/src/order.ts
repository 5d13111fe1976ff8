/** The order of a store's rows. */

export type Compare<R> = (one: R, other: R) => number;

/** A field name, "-" and a field name for descending, or a comparison. */
export type Sort<R> = string | Compare<R>;

/** How rows are shown, and from which end a limit takes away. */
export interface Order<R> {
  readonly compare: Compare<R>;
  /** True when the rows to keep stand first: descending by a field, newest on top. */
  readonly newestFirst: boolean;
}

/** Make the order for `sort`; rows that it does not tell apart stand by their key. */
export function orderBy<R extends object>(sort: Sort<R> | undefined, key: string): Order<R> {
  const byKey: Compare<R> = (one, other) => compareKeys(field(one, key), field(other, key));
  if (sort === undefined) return { compare: byKey, newestFirst: false };
  if (typeof sort === "function") {
    return { compare: (one, other) => sort(one, other) || byKey(one, other), newestFirst: false };
  }
  const newestFirst = sort.startsWith("-");
  const name = newestFirst ? sort.slice(1) : sort;
  const ascending: Compare<R> = (one, other) =>
    (name === key ? 0 : compareValues(field(one, name), field(other, name))) ||
    byKey(one, other);
  const compare: Compare<R> = newestFirst ? (one, other) => ascending(other, one) : ascending;
  return { compare, newestFirst };
}

/**
 * Compare keys: integers by value, also those that came as strings of digits because
 * JavaScript could not hold them, before all others; the others letter by letter.
 */
export function compareKeys(one: unknown, other: unknown): number {
  if (typeof one === "number" && typeof other === "number") return one - other;
  const [a, b] = [String(one), String(other)];
  const [aIsInteger, bIsInteger] = [INTEGER.test(a), INTEGER.test(b)];
  // Both groups apart, or "9" < "10" < "1a" < "9" would be a circle.
  if (aIsInteger !== bIsInteger) return aIsInteger ? -1 : 1;
  if (aIsInteger) {
    const difference = BigInt(a) - BigInt(b);
    return difference < 0n ? -1 : difference > 0n ? 1 : 0;
  }
  return a < b ? -1 : a > b ? 1 : 0;
}

const INTEGER = /^-?\d+$/;

/** Compare field values: nothing first, then numbers, booleans and text in their order. */
export function compareValues(one: unknown, other: unknown): number {
  if (one == null || other == null) return Number(one != null) - Number(other != null);
  if (typeof one === typeof other && typeof one !== "object") {
    return (one as string) < (other as string) ? -1 : (one as string) > (other as string) ? 1 : 0;
  }
  return compareKeys(one, other);
}

export function field(row: object, name: string): unknown {
  return (row as Record<string, unknown>)[name];
}
