"""The table of ended logins, for ``LIVEPUSH_LOGINS = "database"``, behind SQLAlchemy.

It has connections and transactions of its own, so that it neither commits nor waits for
what a view has not committed. Nothing in here may know a broker.

It is created where it is missing. By a migration it is made as follows::

    CREATE TABLE livepush_ended_logins (
        login CHAR(22) NOT NULL PRIMARY KEY,
        ended_at BIGINT NOT NULL
    );
    CREATE INDEX ix_livepush_ended_logins_ended_at
        ON livepush_ended_logins (ended_at);

In MariaDB and MySQL the login is ``CHAR(22) CHARACTER SET ascii COLLATE ascii_bin``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    CHAR,
    BigInteger,
    Column,
    Connection,
    Engine,
    Insert,
    MetaData,
    Table,
    delete,
    exc,
    insert,
    select,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from .errors import ConfigError

NAME = "livepush_ended_logins"
# Rows that are read at once.
_PART = 1000
# Milliseconds that a view waits for the table.
_WITHIN = 250
_REMEDY = (
    "Let the application's database user create it, or create it by a migration: "
    f"CREATE TABLE {NAME} (login CHAR(22) NOT NULL PRIMARY KEY, ended_at BIGINT NOT "
    f"NULL), with an index on ended_at."
)

metadata = MetaData()
_table = Table(
    NAME,
    metadata,
    Column(
        "login",
        # Ids differ by upper and lower case, which MariaDB takes for the same.
        CHAR(22).with_variant(
            mysql.CHAR(22, charset="ascii", collation="ascii_bin"), "mysql", "mariadb"
        ),
        primary_key=True,
    ),
    Column("ended_at", BigInteger, nullable=False, index=True),
)


class EndedTable:
    """The table in one database.

    Args:
        engine: Returns the database's engine; asked when it is first needed.
        lifetime: Seconds after which a row is of no use any more.
        wall: Seconds since 1970.
    """

    def __init__(
        self,
        engine: Callable[[], Engine | None],
        *,
        lifetime: float,
        wall: Callable[[], float],
    ) -> None:
        self._find = engine
        self._lifetime = lifetime
        self._wall = wall
        self._engine: Engine | None = None

    def prepare(self) -> Engine:
        """Create the table where it is missing; return the engine.

        Raises:
            ConfigError: There is no database that can keep it, or no right to create
                it; the message has the remedy.
            sqlalchemy.exc.SQLAlchemyError: The database does not answer.
        """
        if self._engine is not None:
            return self._engine
        engine = self._find()
        if engine is None:
            raise ConfigError(
                "LIVEPUSH_LOGINS is 'database', and there is none: set up "
                "Flask-SQLAlchemy before, or take 'broker'."
            )
        # All share one connection there, and the transaction of a view would be ours.
        if isinstance(engine.pool, (StaticPool, SingletonThreadPool)):
            raise ConfigError(
                "LIVEPUSH_LOGINS is 'database', and the database is in memory, which "
                "keeps nothing: name a file or a server, or take 'broker'."
            )
        engine.connect().close()  # one that is away is no matter of rights
        try:
            metadata.create_all(engine, checkfirst=True)
        except exc.DBAPIError as error:
            # Two processes that start at once may both find it missing.
            if not _is_there(engine):
                if error.connection_invalidated:
                    raise
                raise ConfigError(
                    f"LIVEPUSH_LOGINS is 'database', and the table {NAME} can't be "
                    f"created ({error.orig}). {_REMEDY}"
                ) from error
        self._engine = engine
        return engine

    def add(self, logins: Sequence[str], age: float) -> None:
        at = int(self._wall() - age)
        rows = [{"login": login, "ended_at": at} for login in logins]
        with self._within() as connection:
            statement = _insert(connection.dialect.name)
            if statement is not None:
                connection.execute(statement, rows)
                return
            for row in rows:
                try:
                    with connection.begin_nested():
                        connection.execute(insert(_table), row)
                except exc.IntegrityError:
                    pass  # it is there

    def read(self, within: float | None) -> Iterator[Sequence[tuple[str, float]]]:
        engine = self.prepare()
        seconds = self._lifetime if within is None else min(within, self._lifetime)
        now = self._wall()
        columns = select(_table.c.login, _table.c.ended_at)
        recent = columns.where(_table.c.ended_at >= int(now - seconds))
        last = ""
        while True:
            page = recent.where(_table.c.login > last)
            page = page.order_by(_table.c.login).limit(_PART)
            with engine.begin() as connection:
                rows = connection.execute(page).all()
            if not rows:
                return
            yield [(login, now - at) for login, at in rows]
            last = rows[-1][0]

    def purge(self) -> None:
        engine = self.prepare()
        with engine.begin() as connection:
            old = _table.c.ended_at < int(self._wall() - self._lifetime)
            connection.execute(delete(_table).where(old))

    @contextmanager
    def _within(self) -> Iterator[Connection]:
        """Begin a transaction that does not wait for others for long."""
        engine = self.prepare()
        name = engine.dialect.name
        with engine.connect() as connection:
            before: Any = None
            if name == "sqlite":
                # A view that has written and not committed would wait for itself.
                before = connection.exec_driver_sql("PRAGMA busy_timeout").scalar()
                connection.exec_driver_sql(f"PRAGMA busy_timeout = {_WITHIN}")
                connection.rollback()
            try:
                with connection.begin():
                    if name == "postgresql":
                        connection.exec_driver_sql(
                            f"SET LOCAL statement_timeout = {_WITHIN}"
                        )
                    yield connection
            finally:
                if before is not None:
                    connection.exec_driver_sql(f"PRAGMA busy_timeout = {before}")
                    connection.rollback()


def _insert(dialect: str) -> Insert | None:
    """Return what adds rows and passes over those that are there; None: it can't."""
    if dialect == "sqlite":
        return sqlite.insert(_table).on_conflict_do_nothing()
    if dialect == "postgresql":
        return postgresql.insert(_table).on_conflict_do_nothing()
    if dialect in ("mysql", "mariadb"):
        return insert(_table).prefix_with("IGNORE")
    return None


def _is_there(engine: Engine) -> bool:
    try:
        with engine.connect() as connection:
            connection.execute(select(_table.c.login, _table.c.ended_at).limit(1))
    except exc.DBAPIError:
        return False
    return True
