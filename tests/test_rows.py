"""Reading flushed rows: as they are in the database, with stamps that order them."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

import psycopg
import pymysql
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from flask_livepush.rows import _CLOCKS, ProcessClock, ends_transaction
from tests.support.following import (
    BUT_MARIADB,
    Chat,
    World,
    broker_of,
    check,
    closing,
    events,
)


def test_the_process_s_clock_never_falls_nor_repeats() -> None:
    times = iter([5.0, 5.0, 3.0, 5.000001, 6.0])
    clock = ProcessClock(lambda: next(times))
    assert [clock() for _ in range(5)] == [
        5_000_000,
        5_000_001,
        5_000_002,
        5_000_003,
        6_000_000,
    ]


def stamps(chat: Chat, room: str, since: Any) -> list[int | None]:
    """Return the stamps of a room's publications."""
    found = broker_of(chat.livepush).history(room, since).publications
    return [publication.stamp for publication in found or ()]


def test_stamps_rise_with_each_version_of_a_row(chat: Chat) -> None:
    since = chat.livepush.position("chat:1")
    id = chat.post(1)
    with chat.Session() as session:
        message = chat.get(session, id)
        for n in range(1, 4):
            message.n = n
            session.commit()
        session.delete(message)
        session.commit()
    chat.post(1, id=id)
    found = stamps(chat, "chat:1", since)
    assert len(found) == 6
    assert found == sorted({stamp for stamp in found if stamp is not None})


def test_stamps_are_of_the_flush_and_not_of_the_transaction_s_start(
    server_chat: Chat,
) -> None:
    chat = server_chat
    dialect = chat.engine.dialect.name
    begun_at = _CLOCKS[dialect]
    if dialect == "postgresql":
        begun_at = "(EXTRACT(EPOCH FROM now()) * 1000000)::bigint"
    since = chat.livepush.position("chat:1")
    with chat.Session() as session:
        begun = session.scalar(sa.text(f"SELECT {begun_at}"))
        session.add(chat.Message(room_id=1))
        session.commit()
    [stamp] = stamps(chat, "chat:1", since)
    assert stamp is not None
    assert begun < stamp
    # Whatever the time zone of the server.
    assert abs(stamp / 1_000_000 - time.time()) < 3600


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (pymysql.err.OperationalError(1213, "Deadlock found"), True),
        (pymysql.err.OperationalError(1205, "Lock wait timeout exceeded"), True),
        (pymysql.err.OperationalError(1020, "Record has changed"), True),
        (pymysql.err.ProgrammingError(1146, "Table doesn't exist"), False),
        (psycopg.errors.DeadlockDetected("deadlock detected"), False),
        (sqlite3.OperationalError("database is locked"), False),
        (sqlite3.OperationalError(), False),
    ],
)
def test_knows_the_errors_with_which_a_database_ends_a_transaction(
    error: Exception, ends: bool
) -> None:
    assert ends_transaction(error) == ends
    assert ends_transaction(sa.exc.OperationalError("SELECT 1", {}, error)) == ends


@BUT_MARIADB
@pytest.mark.parametrize("count", [1, 499, 500, 501, 1201])
def test_reads_any_number_of_rows(chat: Chat, count: int) -> None:
    screens = chat.screens("chat:1", "chat:2")
    with chat.Session() as session:
        messages = [chat.Message(room_id=1, body=str(i)) for i in range(count)]
        session.add_all(messages)
        session.commit()
        assert events(*screens) == [["message.created"] * count, []]
        for message in messages:
            message.room_id = 2
        session.commit()
        assert events(*screens) == [
            ["message.deleted"] * count,
            ["message.created"] * count,
        ]
        for message in messages:
            session.delete(message)
        session.commit()
    assert events(*screens) == [[], ["message.deleted"] * count]
    check(screens)


def test_becomes_sqlite_s_writer_before_it_reads(sqlite_chat: Chat) -> None:
    """Else a second writer fails at once, however long it would have waited."""
    id = sqlite_chat.post(1)
    seen: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        seen.append(statement.split()[0])

    with sqlite_chat.Session(expire_on_commit=False) as session:
        message = sqlite_chat.get(session, id)
        session.commit()
        sa.event.listen(sqlite_chat.engine, "before_cursor_execute", note)
        session.delete(message)
        session.commit()
    # What the flush itself reads first is the application's own business.
    assert seen[seen.index("DELETE") :] == ["DELETE", "UPDATE", "SELECT"]


def test_changes_nothing_when_it_becomes_the_writer(database_url: str) -> None:
    """Neither a value, nor a column that has onupdate=."""
    with closing(World(database_url)) as world:

        @world.livepush.track(rooms=world.room("all"), fields=("id", "at"))
        class Note(world.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "note"
            id: Mapped[int] = mapped_column(primary_key=True)
            at: Mapped[int] = mapped_column(default=1, onupdate=2)

        world.create_tables()
        screen = world.screen("all")
        with world.Session() as session:
            session.add_all([Note(id=1), Note(id=2)])
            session.commit()
            session.delete(session.get(Note, 1))
            session.commit()
        assert world.scalar("SELECT at FROM note") == 1
        screen.check()
