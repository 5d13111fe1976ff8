"""The table of ended logins, on each kind of database, and what its faults do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from flask_livepush.brokers.logins import Ended
from flask_livepush.ended_table import NAME, EndedTable
from flask_livepush.errors import ConfigError
from flask_livepush.failures import Failure, Failures
from tests.support.brokers import Clock
from tests.support.ended import (
    LIFETIME,
    LoginRecorder,
    in_memory,
    new_ends,
    new_login,
)
from tests.support.following import sqlite_url
from tests.support.waiting import until


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.now = 1_700_000_000.5
    return clock


def table_in(engine: Engine | None, wall: Callable[[], float] = time.time) -> Any:
    """Make one process's way to the table."""
    return EndedTable(lambda: engine, lifetime=LIFETIME, wall=wall)


def known(table: EndedTable, within: float | None = None) -> dict[str, float]:
    """Return all that the table has, with how long ago."""
    return dict(pair for part in table.read(within) for pair in part)


def test_keeps_each_login_once_with_its_age(engine: Engine, clock: Clock) -> None:
    one, other = table_in(engine, clock), table_in(engine, clock)
    old, young, low = new_login(), new_login(), "a" * 22
    one.add([old], 100.0)
    other.add([old, young], 0.0)
    # They differ in their case alone.
    one.add([low, low.upper()], 0.0)
    found = known(other)
    assert set(found) == {old, young, low, low.upper()}
    assert found[old] == pytest.approx(100, abs=1)
    assert found[young] == pytest.approx(0, abs=1)
    assert set(known(one, within=50)) == {young, low, low.upper()}


def test_reads_in_parts_and_deletes_what_is_over(engine: Engine, clock: Clock) -> None:
    table = table_in(engine, clock)
    logins = {new_login() for _ in range(2100)}
    table.add(sorted(logins), 0.0)
    assert [len(part) for part in table.read(None)] == [1000, 1000, 100]
    assert set(known(table)) == logins
    clock.now += LIFETIME + 1
    kept = new_login()
    table.add([kept], 0.0)
    assert set(known(table)) == {kept}
    table.purge()
    with engine.connect() as connection:
        count = connection.execute(text(f"SELECT count(*) FROM {NAME}")).scalar()
    assert count == 1


def test_uses_a_table_that_a_migration_has_made(engine: Engine) -> None:
    """The statement of the docs, and of the error, does."""
    kind = "CHAR(22)"
    if engine.dialect.name in ("mysql", "mariadb"):
        kind += " CHARACTER SET ascii COLLATE ascii_bin"
    with engine.begin() as connection:
        connection.execute(
            text(
                f"CREATE TABLE {NAME} (login {kind} NOT NULL PRIMARY KEY, "
                "ended_at BIGINT NOT NULL)"
            )
        )
    table = table_in(engine)
    login = new_login()
    table.add([login], 0.0)
    assert set(known(table)) == {login}


def test_is_made_by_two_processes_at_once(engine: Engine) -> None:
    """Bug: whoever came second found a table that it had just not found."""
    one, other = table_in(engine), table_in(engine)
    made = []

    def make_it_first(*_: object) -> None:
        if not made:
            made.append(True)
            other.prepare()

    find = one._find
    one._find = lambda: (make_it_first(), find())[1]
    one.prepare()
    assert known(one) == known(other) == {}


def test_is_not_part_of_what_a_view_has_not_committed(engine: Engine) -> None:
    table = table_in(engine)
    table.prepare()
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE things (id INTEGER PRIMARY KEY)"))
    login = new_login()
    with Session(engine) as session:
        if engine.dialect.name != "sqlite":  # which has one writer at a time
            session.execute(text("INSERT INTO things VALUES (1)"))
        table.add([login], 0.0)
        session.rollback()
    assert set(known(table)) == {login}


def test_a_view_that_writes_waits_no_longer_than_it_may(tmp_path: Path) -> None:
    """Bug: a logout after a write on SQLite waited for itself for five seconds."""
    engine = create_engine(sqlite_url(tmp_path))
    table = table_in(engine)
    table.prepare()
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE things (id INTEGER PRIMARY KEY)"))
    told: list[Failure] = []
    logins = in_memory(table=table, failures=Failures(told.append))
    (end,) = new_ends(1)
    with Session(engine) as session:
        session.execute(text("INSERT INTO things VALUES (1)"))
        began = time.monotonic()
        logins.end([end])
        assert time.monotonic() - began < 5.0  # SQLite's own
        assert logins.has_ended(end.login)
        assert told
        session.commit()
    until(lambda: logins.finish(0))
    assert set(known(table)) == {end.login}
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 5000
    logins.close()
    engine.dispose()


def test_says_what_to_do_where_there_is_no_database() -> None:
    with pytest.raises(ConfigError, match=r"there is none: set up Flask-SQLAlchemy"):
        table_in(None).prepare()


def test_refuses_a_database_in_memory() -> None:
    """Its one connection would share the transaction of a view."""
    for options in ({"poolclass": StaticPool}, {}):
        engine = create_engine("sqlite://", **options)
        with pytest.raises(ConfigError, match="in memory, which keeps nothing"):
            table_in(engine).prepare()
        engine.dispose()


def test_says_what_to_do_where_the_table_may_not_be_created(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    create_engine(url).connect().close()
    file = Path(str(sqlalchemy.make_url(url).database)).resolve()
    engine = create_engine(f"sqlite:///file:{file}?mode=ro&uri=true")
    with pytest.raises(ConfigError, match=r"can't be created.*CREATE TABLE livepush"):
        table_in(engine).prepare()
    engine.dispose()


def test_a_database_that_is_away_is_no_wrong_setting(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/no/such/folder/file.db")
    with pytest.raises(sqlalchemy.exc.OperationalError):
        table_in(engine).prepare()
    engine.dispose()


class Faulty:
    """A table whose database is away when a test says so."""

    def __init__(self) -> None:
        self.away = False
        self.rows: dict[str, float] = {}
        self.attempts = 0

    def _answer(self) -> None:
        self.attempts += 1
        if self.away:
            raise OSError("the database is away")

    def add(self, logins: Any, age: float) -> None:
        """Add rows."""
        self._answer()
        self.rows.update(dict.fromkeys(logins, age))

    def read(self, within: float | None) -> Iterator[list[tuple[str, float]]]:
        """Read rows."""
        self._answer()
        yield list(self.rows.items())

    def purge(self) -> None:
        """Do nothing."""
        self._answer()


def test_a_database_that_is_away_breaks_no_logout_and_has_it_later() -> None:
    table, told = Faulty(), list[Failure]()
    table.away = True
    logins = in_memory(table=table, failures=Failures(told.append))
    recorder = LoginRecorder()
    logins.listen(recorder)
    ends = new_ends(3)
    for end in ends:
        logins.end([end])
    assert recorder.ends == ends
    assert all(logins.has_ended(end.login) for end in ends)
    assert not logins.finish(0)
    assert "livepush_ended_logins did not take" in told[0].reason
    table.away = False
    until(lambda: logins.finish(0))
    assert set(table.rows) == {end.login for end in ends}


def test_nobody_vouches_before_the_table_is_read() -> None:
    table = Faulty()
    (end,) = new_ends(1)
    table.rows[end.login] = 5.0
    table.away = True
    logins = in_memory(table=table)
    assert not logins.is_current()
    until(lambda: table.attempts)
    assert not logins.is_current()
    table.away = False
    until(logins.is_current)
    logins.confirm()
    assert logins.has_ended(end.login)


def test_a_login_that_ended_is_in_the_table_when_it_has_ended() -> None:
    table = Faulty()
    logins = in_memory(table=table)
    (end,) = new_ends(1)
    logins.end([end, Ended(end.login)])
    assert set(table.rows) == {end.login}
