"""Reading rows as they are in the database, with the stamp of their version.

All SQL of ours that runs inside an application's transaction is in here. An error of
it must not harm that transaction, so it runs in a savepoint where one is needed; but
what the application's own next statement would have met is the application's: a lock
that is waited for in vain is not waited for twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Any, Literal
from uuid import UUID
from weakref import WeakKeyDictionary, WeakSet

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect, Engine

from .declarations import Group
from .logs import logger
from .protocol.stamps import RisingClock
from .readings import fetch
from .row import Values

log = logger(__name__)

PrimaryKey = tuple[Any, ...]
Found = dict[PrimaryKey, tuple[Values, int | None]]
_Lock = Literal["update", "delete"]  # what the rows are locked for

# What databases take as parameters of one statement is limited: SQLite to 999 before
# 3.32 (https://www.sqlite.org/limits.html).
_PARAMETERS = 500

# Whole microseconds since 1970 by the database's clock, at this moment and not at the
# transaction's start: the rows are locked by now, so stamps order their versions as
# their commits do.
_CLOCKS = {
    # https://www.postgresql.org/docs/current/functions-datetime.html
    "postgresql": "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)",
    # https://dev.mysql.com/doc/refman/8.4/en/date-and-time-functions.html
    "mysql": "TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(6))",
    "mariadb": "TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(6))",
}
# The same of a moment before the statement's snapshot of the database: nothing that is
# committed before that moment is missing in it. MySQL's is the statement's start.
_CLOCKS_BEFORE = _CLOCKS | {
    "postgresql": "CAST(EXTRACT(EPOCH FROM now()) * 1000000 AS BIGINT)",
}
# An error in a statement leaves the transaction as it was, or has ended all of it.
_SURVIVES_ERRORS = frozenset({"sqlite", "mysql", "mariadb"})
# A plain SELECT shows the rows as they were when the transaction first read, also those
# it holds the locks of, unless it has changed them itself; setting a column to what
# another transaction has set it to already changes nothing. A locking one shows what is
# committed (https://dev.mysql.com/doc/refman/8.4/en/innodb-consistent-read.html).
_READS_A_SNAPSHOT = frozenset({"mysql", "mariadb"})
_TEXTS = (sa.String, sa.Text, sa.Unicode, sa.UnicodeText, sa.VARCHAR, sa.TEXT, sa.CHAR)
# Errors of InnoDB after which the transaction may be gone, all of it: a deadlock; a row
# that has changed since the snapshot (innodb_snapshot_isolation); and, where
# innodb_rollback_on_timeout is set, a lock that was waited for too long.
# https://mariadb.com/kb/en/mariadb-error-codes/
_ENDS_TRANSACTION = frozenset({1213, 1020, 1205})
# PostgreSQL's serialization failure and deadlock: the transaction is to be run again,
# as the application does anyway (https://www.postgresql.org/docs/current/mvcc-serialization-failure-handling.html).
_RUN_AGAIN = frozenset({"40001", "40P01"})
# A lock that was not to be had, and a statement that took too long waiting for one.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_NO_LOCK = frozenset({"55P03", "57014", 1205, 1969, 3024})


def _code(error: BaseException | None) -> int | str | None:
    """Return the number or SQLSTATE of a database's error, whatever the driver."""
    if isinstance(error, sa.exc.DBAPIError):
        error = error.orig
    first = error.args[0] if error is not None and error.args else None
    if isinstance(first, int):  # of MySQL's drivers, which have an SQLSTATE too
        return first
    if isinstance(first, dict):  # of pg8000
        first = first.get("C")
        return first if isinstance(first, str) else None
    for name in ("errno", "sqlstate", "pgcode"):  # psycopg's and psycopg2's
        code = getattr(error, name, None)
        if isinstance(code, (int, str)) and code:
            return code
    return None


def ends_transaction(error: BaseException | None) -> bool:
    """Say whether the database may have rolled back all of the transaction.

    It then has no transaction at all, in which the next statement begins another.
    Nobody may keep such an error from the application: what it wrote is gone.
    """
    return _code(error) in _ENDS_TRANSACTION


def is_application_s(error: BaseException, *, waiting: bool = False) -> bool:
    """Say whether an error of a statement of ours is to reach the application.

    Args:
        waiting: Whether the statement has waited for a lock that the application's own
            next statement takes: it would only wait in vain once more.
    """
    if isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated:
        return True
    code = _code(error)
    if code in _ENDS_TRANSACTION or code in _RUN_AGAIN:
        return True
    return waiting and (code in _NO_LOCK or _is_locked(error))


def _is_locked(error: BaseException) -> bool:
    """Say whether SQLite has another writer (https://www.sqlite.org/rescode.html#busy)."""
    original = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    return type(original).__module__ == "sqlite3" and "locked" in str(original)


class ProcessClock:
    """Microseconds of this machine's wall clock that never fall nor repeat.

    Args:
        wall: Seconds since 1970.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._lock = threading.Lock()  # guards the last one
        self._last = 0

    def __call__(self) -> int:
        with self._lock:
            self._last = max(self._last + 1, int(self._wall() * 1_000_000))
            return self._last


class Rows:
    """Reads rows of tracked models.

    Args:
        clock: Stamps for databases whose clock is not asked: SQLite, which has one
            writer on one machine.
        monotonic: Seconds of a clock that never falls, which databases' clocks are
            compared with.
    """

    def __init__(
        self, clock: Callable[[], int], monotonic: Callable[[], float]
    ) -> None:
        self.clock = clock
        self.monotonic = monotonic
        # Guards what is known of databases' clocks.
        self._lock = threading.Lock()
        self._risen: WeakKeyDictionary[Dialect, RisingClock] = WeakKeyDictionary()
        self._fallen: WeakSet[Dialect] = WeakSet()
        self._statements: WeakKeyDictionary[Group, dict[Any, Any]] = WeakKeyDictionary()
        self._unordered: set[str] = set()

    # -- in the transaction that writes ----------------------------------------------

    def written(
        self,
        connection: Connection,
        group: Group,
        keys: Iterable[PrimaryKey],
        *,
        names: frozenset[str],
    ) -> Found:
        """Read rows of one table that this transaction has written, and so locked.

        Args:
            group: With a home.
            keys: Primary keys; a row that is gone is missing in the answer.
            names: The columns to read.

        Returns:
            The values and the stamp of each row; no stamp while the database's
            clock is behind what it was.
        """
        assert group.home is not None
        dialect = connection.dialect.name
        statements = self.select(group, ("written", names, dialect), lambda: self._in(
            group, group.home, names, self.database_clock(connection),
            lock="delete" if dialect in _READS_A_SNAPSHOT else None,
        ))  # fmt: skip
        asked = self.monotonic()
        found = _read(connection, group, statements, list(keys))
        return self.stamped(connection, found, asked)

    def about_to_change(
        self,
        connection: Connection,
        group: Group,
        table: sa.Table,
        keys: Iterable[PrimaryKey],
        *,
        deleted: bool,
    ) -> dict[PrimaryKey, Values]:
        """Lock rows that the next statement is to change, and read where they are.

        What the session remembers may be stale: another transaction may have moved
        the row since. Locks are taken in the order of the primary keys, as firmly as
        the statement does that follows: an UPDATE lets others go on inserting rows
        with foreign keys to its row, a DELETE does not
        (https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-ROWS).

        Args:
            table: The table that the statement changes.

        Returns:
            What the group wants of that table; without the rows that are not there.
        """
        names = group.parts[table]
        lock: _Lock = "delete" if deleted else "update"
        dialect = connection.dialect.name
        postgresql = dialect == "postgresql"
        statements = self.select(group, (table, lock, dialect), lambda: self._in(
            group, table, names, None, lock=lock, postgresql=postgresql
        ))  # fmt: skip
        ordered = sorted(keys, key=lambda key: _order(group, key))
        found: Found = {}
        with harmless(connection):
            for some in _in_order(connection, ordered):
                found |= _read(connection, group, statements, some)
        return {key: values for key, (values, _) in found.items()}

    def unlocked(
        self,
        connection: Connection,
        group: Group,
        names: frozenset[str],
        keys: Iterable[PrimaryKey],
    ) -> dict[PrimaryKey, Values]:
        """Read columns of tables that the next statement does not lock."""
        cached = ("unlocked", names, connection.dialect.name)
        statements = self.select(group, cached, lambda: self.across(group, names, None))
        with harmless(connection):
            found = _read(connection, group, statements, list(keys))
        return {key: values for key, (values, _) in found.items()}

    def become_writer(self, connection: Connection, table: sa.Table) -> None:
        """Become SQLite's writer, as the next statement is about to, before reading.

        SQLite has no FOR UPDATE, and a transaction that reads first may find later that
        it can't write any more (https://www.sqlite.org/isolation.html); so write
        nothing. To be called for SQLite alone.
        """
        quote = connection.dialect.identifier_preparer
        name = quote.format_table(table)
        column = quote.format_column(next(iter(table.primary_key)))
        connection.exec_driver_sql(f"UPDATE {name} SET {column} = {column} WHERE 0")

    def now(self, connection: Connection) -> int | None:
        """Return a stamp of this moment, for rows that this transaction has locked.

        None while the database's clock is behind what it was.
        """
        clock = self.database_clock(connection)
        if clock is None:
            return self.clock()
        asked = self.monotonic()
        stamp = int(connection.execute(sa.select(clock)).scalar_one())
        return self.believed(connection, stamp, asked)

    # -- after the commit ------------------------------------------------------------

    @contextmanager
    def afterwards(
        self, bind: Engine | Connection, translated: Any
    ) -> Iterator[Afterwards]:
        """Read rows of several tables as they are committed.

        Args:
            bind: An engine; or the connection of an application that has begun a
                transaction on it itself, beside all that it does in sessions.
            translated: The ``schema_translate_map`` of who has written them, if any.
        """
        if isinstance(bind, Connection):
            yield Afterwards(self, bind, own=False)
            return
        with bind.connect() as connection:
            if translated is not None:
                connection = connection.execution_options(
                    schema_translate_map=translated
                )
            yield Afterwards(self, connection, own=True)

    # -- statements ------------------------------------------------------------------

    def select(self, group: Group, cached: Any, make: Callable[[], Any]) -> Any:
        known = self._statements.setdefault(group, {})
        found = known.get(cached)
        if found is None:
            found = known[cached] = make()
        return found

    def _in(
        self,
        group: Group,
        table: sa.Table | None,
        names: frozenset[str],
        clock: Any,
        *,
        lock: _Lock | None,
        postgresql: bool = False,
    ) -> _Statements:
        assert table is not None
        columns = sorted(names - set(group.source.primary_key))
        keys = group.source.key_in(table)
        bare = group.source.select_in(table, columns)
        statements = _Statements(bare, columns, keys, clock)
        # FOR NO KEY UPDATE where there is such a thing: PostgreSQL.
        if lock is not None:
            statements.locking(key_share=lock == "update", postgresql=postgresql)
        return statements

    def across(self, group: Group, names: frozenset[str], clock: Any) -> _Statements:
        columns = sorted(names - set(group.source.primary_key))
        keys = [group.source.columns[name] for name in group.source.primary_key]
        return _Statements(group.source.select(columns), columns, keys, clock)

    def database_clock(
        self, connection: Connection, clocks: dict[str, str] | None = None
    ) -> Any:
        name = connection.dialect.name
        text = (clocks or _CLOCKS).get(name)
        if text is not None:
            return sa.literal_column(text, sa.BigInteger)
        if name != "sqlite" and name not in self._unordered:
            self._unordered.add(name)
            log.warning(
                "flask_livepush does not know how to read the clock of %r; versions of "
                "a row are ordered by the clocks of the processes that write it.",
                name,
            )
        return None

    # -- clocks ----------------------------------------------------------------------

    def stamped(self, connection: Connection, found: Found, asked: float) -> Found:
        return {
            key: (
                values,
                self.clock()
                if stamp is None
                else self.believed(connection, stamp, asked),
            )
            for key, (values, stamp) in found.items()
        }

    def believed(self, connection: Connection, stamp: int, asked: float) -> int | None:
        answered = self.monotonic()
        dialect = connection.dialect  # one for all of an engine's variants
        with self._lock:
            risen = self._risen.setdefault(dialect, RisingClock())
            believed = risen.believes(stamp, asked=asked, answered=answered)
            tells = not believed and dialect not in self._fallen
            if believed:
                self._fallen.discard(dialect)
            else:
                self._fallen.add(dialect)
        if tells:
            log.warning(
                "The clock of the database at %r has fallen; until it has caught up, "
                "screens are told to read anew what is changed",
                connection.engine.url.render_as_string(hide_password=True),
            )
        return stamp if believed else None


class Afterwards:
    """Reads rows after their commit, each statement from a snapshot of its own.

    The stamp of a row is a moment before that snapshot: who has written last reads
    last, and the highest stamp shows all that was committed before.

    Args:
        rows: Has the statements and clocks.
        connection: What is read with.
        own: Whether it is nobody else's.
    """

    def __init__(self, rows: Rows, connection: Connection, *, own: bool) -> None:
        self._rows = rows
        self._connection = connection
        self._own = own
        # A transaction of the application began long ago, and so did its now().
        self._clock = rows.database_clock(
            connection, _CLOCKS_BEFORE if own else _CLOCKS
        )

    def now(self) -> int | None:
        """Return a stamp of this moment; None while the clock is behind."""
        stamp = self._rows.now(self._connection)
        self._end()
        return stamp

    def committed(
        self,
        group: Group,
        keys: Sequence[PrimaryKey],
        *,
        gone: frozenset[PrimaryKey] = frozenset(),
    ) -> Found:
        """Read rows; returns as :meth:`Rows.written` does.

        Args:
            gone: The keys of those that are not expected to be there.
        """
        statements = self._rows.select(
            group,
            ("committed", self._connection.dialect.name, self._own),
            lambda: self._rows.across(group, group.reads, self._clock),
        )
        found: Found = {}
        for chunk in _chunks(keys, statements):
            read = self._read(group, statements, chunk)
            if len(chunk) == 1:
                read = dict.fromkeys(chunk, *read.values()) if read else {}
            found |= read
            for key in chunk if len(chunk) > 1 else ():
                # Its type may be another than the column's.
                if key not in found and key not in gone:
                    for entry in self._read(group, statements, [key]).values():
                        found[key] = entry
        return found

    def _read(
        self, group: Group, statements: _Statements, keys: list[PrimaryKey]
    ) -> Found:
        rows = self._rows
        asked, before = rows.monotonic(), rows.clock()
        found = dict(_rows(self._connection, group, statements, keys))
        self._end()
        if self._clock is None:
            return {key: (values, before) for key, (values, _) in found.items()}
        return rows.stamped(self._connection, found, asked)

    def _end(self) -> None:
        if self._own:
            self._connection.rollback()  # the next statement has its own snapshot


class _Statements:
    """A SELECT of rows by their primary keys: of one, and of many.

    Args:
        bare: Selects the columns.
        columns: Their names, without the primary key's.
        keys: The columns of the primary key.
        clock: An expression; None: no stamp is read.
    """

    def __init__(
        self,
        bare: sa.Select[Any],
        columns: list[str],
        keys: list[Any],
        clock: Any,
    ) -> None:
        self.columns = columns
        self.keys = keys
        whole = bare.add_columns(*keys, sa.null() if clock is None else clock)
        target = keys[0] if len(keys) == 1 else sa.tuple_(*keys)
        self.many = whole.where(target.in_(sa.bindparam("keys", expanding=True)))
        # One row is the common case, and IN is expanded anew each time.
        self.one = whole.where(
            *(key == sa.bindparam(f"k{i}") for i, key in enumerate(keys))
        )

    def locking(self, *, key_share: bool, postgresql: bool) -> None:
        """Lock what is found, in the order of the keys."""
        ordered = (
            # As Python sorts texts, whatever the column's collation.
            key.collate("C") if postgresql and type(key.type) in _TEXTS else key
            for key in self.keys
        )
        self.many = self.many.order_by(*ordered).with_for_update(key_share=key_share)
        self.one = self.one.with_for_update(key_share=key_share)


def _read(
    connection: Connection,
    group: Group,
    statements: _Statements,
    keys: list[PrimaryKey],
) -> Found:
    found: Found = {}
    for chunk in [keys] if len(keys) == 1 else _chunks(keys, statements):
        for key, entry in _rows(connection, group, statements, chunk):
            # Of one key this is the row, whatever type the application gave it.
            found[chunk[0] if len(chunk) == 1 else key] = entry
        for key in chunk:
            if key not in found:
                # PostgreSQL waits for the lock of a row that another transaction
                # then turns out to have deleted; if it has inserted one of the same
                # key, only a new statement sees that. And a key of another type
                # than the column's is found by asking for it alone.
                for _, entry in _rows(connection, group, statements, [key]):
                    found[key] = entry
    return found


def _rows(
    connection: Connection,
    group: Group,
    statements: _Statements,
    keys: list[PrimaryKey],
) -> Iterator[tuple[PrimaryKey, tuple[Values, int | None]]]:
    if len(keys) == 1:
        (key,) = keys
        named = {f"k{i}": value for i, value in enumerate(key)}
        rows = fetch(connection, statements.one, named, keys=statements.keys)
    else:
        values = [key[0] if len(key) == 1 else key for key in keys]
        given = {"keys": values}
        rows = fetch(connection, statements.many, given, keys=statements.keys)
    names = (*statements.columns, *group.source.primary_key)
    for *read, stamp in rows:
        found = dict(zip(names, read, strict=True))
        key = tuple(read[len(statements.columns) :])
        yield key, (found, None if stamp is None else int(stamp))


def _in_order(connection: Connection, keys: list[PrimaryKey]) -> list[list[PrimaryKey]]:
    """Divide keys so that rows are locked in this order.

    Databases sort numbers as Python does. Texts they sort by a collation, and InnoDB
    locks rows as it finds them, by its index.
    """
    sorted_alike: tuple[type, ...] = (int, UUID, date)
    if connection.dialect.name == "postgresql":
        sorted_alike += (str,)
    if all(isinstance(value, sorted_alike) for key in keys for value in key):
        return [keys]
    return [[key] for key in keys]


def _chunks(
    keys: Sequence[PrimaryKey], statements: _Statements
) -> Iterator[list[PrimaryKey]]:
    size = max(1, _PARAMETERS // len(statements.keys))
    for start in range(0, len(keys), size):
        yield list(keys[start : start + size])


def _order(group: Group, key: PrimaryKey) -> tuple[Any, ...]:
    """Return what SQLAlchemy sorts rows by before it writes them."""
    functions = (c.type.sort_key_function for c in group.mapper.primary_key)
    return tuple(
        value if function is None else function(value)
        for function, value in zip(functions, key, strict=True)
    )


@contextmanager
def harmless(connection: Connection) -> Iterator[None]:
    """Keep an error of our statements from ending the application's transaction."""
    if connection.dialect.name in _SURVIVES_ERRORS:
        yield
    else:
        with connection.begin_nested():
            yield
