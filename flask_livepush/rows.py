"""Reading flushed rows as they are in the database, with the stamp of their version.

All SQL that runs inside an application's transaction is in here. An error of ours must
not harm that transaction, so each read is made in a savepoint where one is needed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from weakref import WeakKeyDictionary, WeakSet

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session

from .protocol.stamps import RisingClock
from .tracking import Tracked, Values

log = logging.getLogger(__name__)

PrimaryKey = tuple[Any, ...]
_Lock = Literal["update", "delete"]  # what the rows are locked for

# What databases take as parameters of one IN (...) is limited: SQLite to 999 before
# 3.32 (https://www.sqlite.org/limits.html).
_CHUNK = 500

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
# An error in a statement leaves the transaction as it was, or has ended all of it.
_SURVIVES_ERRORS = frozenset({"sqlite", "mysql", "mariadb"})
# A plain SELECT shows the rows as they were when the transaction first read, also those
# it holds the locks of, unless it has changed them itself; setting a column to what
# another transaction has set it to already changes nothing. A locking one shows what is
# committed (https://dev.mysql.com/doc/refman/8.4/en/innodb-consistent-read.html).
_READS_A_SNAPSHOT = frozenset({"mysql", "mariadb"})
# Errors of InnoDB after which the transaction may be gone, all of it: a deadlock; a row
# that has changed since the snapshot (innodb_snapshot_isolation); and, where
# innodb_rollback_on_timeout is set, a lock that was waited for too long.
# https://mariadb.com/kb/en/mariadb-error-codes/
_ENDS_TRANSACTION = frozenset({1213, 1020, 1205})


def ends_transaction(error: BaseException | None) -> bool:
    """Say whether the database may have rolled back all of the transaction.

    It then has no transaction at all, in which the next statement begins another.
    Nobody may keep such an error from the application: what it wrote is gone.
    """
    if isinstance(error, sa.exc.DBAPIError):
        error = error.orig
    number = error.args[0] if error is not None and error.args else None
    return getattr(error, "errno", number) in _ENDS_TRANSACTION


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
    """Reads rows of tracked models on the connection of a session.

    Args:
        clock: Stamps for databases whose clock is not asked: SQLite, which has one
            writer on one machine.
        monotonic: Seconds of a clock that never falls, which databases' clocks are
            compared with.
    """

    def __init__(
        self, clock: Callable[[], int], monotonic: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        # Guards what is known of databases' clocks.
        self._lock = threading.Lock()
        self._risen: WeakKeyDictionary[Engine, RisingClock] = WeakKeyDictionary()
        self._fallen: WeakSet[Engine] = WeakSet()
        self._statements: dict[tuple[Any, ...], Any] = {}
        self._unordered: set[str] = set()

    def written(
        self,
        session: Session,
        tracked: tuple[Tracked, ...],
        keys: Iterable[PrimaryKey],
    ) -> dict[PrimaryKey, tuple[Values, int | None]]:
        """Read rows that this transaction has written, after their flush.

        Args:
            tracked: Declarations of one model; all columns they read are read.
            keys: Primary keys; a row that is gone is missing in the answer.

        Returns:
            The values and the stamp of each row; no stamp while the database's
            clock is behind what it was.
        """
        names = frozenset().union(*(t.reads for t in tracked))
        asked = self._monotonic()
        found = self._read(session, tracked[0], names, list(keys), lock=None)
        engine = _connection(session, tracked[0]).engine
        return {
            key: (values, self._stamp(engine, stamp, asked))
            for key, (values, stamp) in found.items()
        }

    def about_to_change(
        self,
        session: Session,
        tracked: tuple[Tracked, ...],
        keys: Iterable[PrimaryKey],
        *,
        deleted: bool,
    ) -> dict[PrimaryKey, Values]:
        """Lock rows that a flush is about to move or delete, and read where they are.

        What the session remembers may be stale: another transaction may have moved
        the row since. Locks are taken in the order of the primary keys, as firmly as
        the statement does that follows: an UPDATE lets others go on inserting rows
        with foreign keys to its row, a DELETE does not
        (https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-ROWS).
        """
        names = frozenset().union(*(t.membership for t in tracked))
        self.become_writer(session, tracked[0])
        lock: _Lock = "delete" if deleted else "update"
        ordered = sorted(keys, key=lambda key: _order(tracked[0], key))
        found = self._read(session, tracked[0], names, ordered, lock=lock)
        return {key: values for key, (values, _) in found.items()}

    def become_writer(self, session: Session, tracked: Tracked) -> None:
        """Become SQLite's writer, as a flush is about to, before anything is read.

        SQLite has no FOR UPDATE, and a transaction that reads first may find later that
        it can't write any more (https://www.sqlite.org/isolation.html); so write
        nothing. Other databases are left alone.
        """
        if session.get_bind(mapper=tracked.mapper).dialect.name == "sqlite":
            column = tracked.mapper.primary_key[0]
            name: sa.ColumnClause[Any] = sa.column(column.name)
            # A bare table, so that no onupdate= of the model's columns is run.
            table = sa.table(column.table.name, name, schema=column.table.schema)
            nothing = sa.update(table).where(sa.false()).values({name: name})
            _connection(session, tracked).execute(nothing)

    def now(self, session: Session, tracked: Tracked) -> int | None:
        """Return a stamp of this moment for a model's database.

        None while its clock is behind what it was.
        """
        connection = _connection(session, tracked)
        clock = self._database_clock(connection)
        if clock is None:
            return self._clock()
        asked = self._monotonic()
        with _harmless(connection):
            stamp = int(connection.execute(sa.select(clock)).scalar_one())
        return self._stamp(connection.engine, stamp, asked)

    def _stamp(self, engine: Engine, stamp: int | None, asked: float) -> int | None:
        if stamp is None:
            return self._clock()
        answered = self._monotonic()
        with self._lock:
            risen = self._risen.setdefault(engine, RisingClock())
            believed = risen.believes(stamp, asked=asked, answered=answered)
            tells = not believed and engine not in self._fallen
            if believed:
                self._fallen.discard(engine)
            else:
                self._fallen.add(engine)
        if tells:
            log.warning(
                "The clock of the database at %r has fallen; until it has caught up, "
                "screens are told to read anew what is changed",
                engine.url.render_as_string(hide_password=True),
            )
        return stamp if believed else None

    def _read(
        self,
        session: Session,
        tracked: Tracked,
        names: frozenset[str],
        keys: list[PrimaryKey],
        *,
        lock: _Lock | None,
    ) -> dict[PrimaryKey, tuple[Values, int | None]]:
        if not keys:
            return {}
        connection = _connection(session, tracked)
        columns, statement, single = self._statement(
            tracked, names, connection, lock=lock
        )
        found: dict[PrimaryKey, tuple[Values, int | None]] = {}
        with _harmless(connection):
            for start in range(0, len(keys), _CHUNK):
                chunk = keys[start : start + _CHUNK]
                rows = _execute(
                    connection, statement if len(chunk) > 1 else single, chunk
                )
                for key, entry in _keyed(tracked, columns, rows):
                    # Of one key this is the row, whatever type the application gave it.
                    found[chunk[0] if len(chunk) == 1 else key] = entry
            for key in keys:
                if key not in found:
                    # PostgreSQL waits for the lock of a row that another transaction
                    # then turns out to have deleted; if it has inserted one of the same
                    # key, only a new statement sees that. And a key of another type
                    # than the column's is found by asking for it alone.
                    rows = _execute(connection, single, [key])
                    for _, entry in _keyed(tracked, columns, rows):
                        found[key] = entry
        return {key: found[key] for key in keys if key in found}

    def _statement(
        self,
        tracked: Tracked,
        names: frozenset[str],
        connection: Connection,
        *,
        lock: _Lock | None,
    ) -> tuple[list[str], Any, Any]:
        identity = (tracked.model, names, connection.dialect.name, lock)
        cached = self._statements.get(identity)
        if cached is None:
            columns = sorted(names)
            attributes = [getattr(tracked.model, name) for name in columns]
            primary = [getattr(tracked.model, name) for name in tracked.primary_key]
            target = primary[0] if len(primary) == 1 else sa.tuple_(*primary)
            clock = self._database_clock(connection)
            bare = sa.select(*attributes, sa.null() if clock is None or lock else clock)
            statement = bare.where(target.in_(sa.bindparam("keys", expanding=True)))
            # One row is the common case, and IN is expanded anew each time.
            single = bare.where(
                *(p == sa.bindparam(f"k{i}") for i, p in enumerate(primary))
            )
            if lock or connection.dialect.name in _READS_A_SNAPSHOT:
                # FOR NO KEY UPDATE where there is such a thing: PostgreSQL.
                weak = lock == "update"
                statement = statement.order_by(*primary).with_for_update(key_share=weak)
                single = single.with_for_update(key_share=weak)
            cached = self._statements[identity] = (columns, statement, single)
        return cached

    def _database_clock(self, connection: Connection) -> Any:
        name = connection.dialect.name
        if name in _CLOCKS:
            return sa.literal_column(_CLOCKS[name], sa.BigInteger)
        if name != "sqlite" and name not in self._unordered:
            self._unordered.add(name)
            log.warning(
                "flask_livepush does not know how to read the clock of %r; versions of "
                "a row are ordered by the clocks of the processes that write it.",
                name,
            )
        return None


def _connection(session: Session, tracked: Tracked) -> Connection:
    return session.connection(bind_arguments={"mapper": tracked.mapper})


def _order(tracked: Tracked, key: PrimaryKey) -> tuple[Any, ...]:
    """Return what SQLAlchemy sorts rows by before it writes them."""
    functions = (c.type.sort_key_function for c in tracked.mapper.primary_key)
    return tuple(
        value if function is None else function(value)
        for function, value in zip(functions, key, strict=True)
    )


def _execute(
    connection: Connection, statement: Any, keys: list[PrimaryKey]
) -> list[Any]:
    if len(keys) == 1:
        (key,) = keys
        named = {f"k{i}": value for i, value in enumerate(key)}
        return list(connection.execute(statement, named))
    values = [key[0] if len(key) == 1 else key for key in keys]
    return list(connection.execute(statement, {"keys": values}))


def _keyed(
    tracked: Tracked, columns: list[str], rows: list[Any]
) -> Iterator[tuple[PrimaryKey, tuple[Values, int | None]]]:
    for row in rows:
        *values, stamp = row
        named = dict(zip(columns, values, strict=True))
        key = tuple(named[name] for name in tracked.primary_key)
        yield key, (named, None if stamp is None else int(stamp))


@contextmanager
def _harmless(connection: Connection) -> Iterator[None]:
    """Keep an error of our statements from ending the application's transaction."""
    if connection.dialect.name in _SURVIVES_ERRORS:
        yield
    else:
        with connection.begin_nested():
            yield
