"""What is ordinary: errors of databases, engines made for a request, two clicks."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column
from sqlalchemy.orm.exc import StaleDataError

from flask_livepush.rows import ends_transaction, is_application_s
from tests.support.following import Chat, World, check, closing, events

STALE = "message.invalidated"


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]


# -- errors whose arguments are of any kind ------------------------------------------


@pytest.mark.parametrize(
    ("argument", "application_s"),
    [
        ({"S": "ERROR", "C": "23505", "M": "duplicate key"}, False),
        ({"C": "40001"}, True),
        ({"C": "40P01"}, True),
        ({}, False),
        ({"C": ["40001"]}, False),
        ([1, 2], False),
        ({1}, False),
        (None, False),
        ((1213, "x"), False),
        (b"x", False),
    ],
)
def test_asks_an_error_s_arguments_whatever_they_are(
    argument: Any, application_s: bool
) -> None:
    """Bug: pg8000's errors have a dict, which can't be looked up in a set."""
    error = sa.exc.DBAPIError("SELECT 1", {}, sqlite3.DatabaseError(argument))
    assert not ends_transaction(error)
    assert is_application_s(error) == application_s
    assert not ends_transaction(sqlite3.DatabaseError(argument))


@pytest.mark.parametrize("argument", [{"C": "23505"}, ["a"], {"C": {}}], ids=repr)
def test_the_application_gets_its_own_error(
    sqlite_chat: Chat, argument: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: it got a TypeError of ours in place of its IntegrityError."""
    chat = sqlite_chat
    works = chat.engine.dialect.do_execute

    def refuse(cursor: Any, statement: str, *args: Any) -> None:
        if statement.startswith("INSERT"):
            raise sqlite3.IntegrityError(argument)
        works(cursor, statement, *args)

    monkeypatch.setattr(chat.engine.dialect, "do_execute", refuse)
    with chat.Session() as session:
        session.add(chat.Message(room_id=1))
        with pytest.raises(sa.exc.IntegrityError):
            session.commit()


# -- engines -------------------------------------------------------------------------


def _listeners(engine: sa.Engine) -> int:
    names = ("handle_error", "do_execute", "do_executemany")
    on_dialect = sum(len(list(getattr(engine.dialect.dispatch, n))) for n in names)
    return on_dialect + sum(
        len(list(getattr(engine.dispatch, n)))
        for n in ("before_cursor_execute", "after_cursor_execute", "commit", "begin")
    )


def test_nothing_piles_up_with_an_engine_for_each_request(chat: Chat) -> None:
    """Bug: each ``engine.execution_options()`` got listeners of its own."""
    screen = chat.screen("chat:1")
    chat.post(1)
    before = _listeners(chat.engine)
    for number in range(20):
        engine = chat.engine.execution_options(request=number)
        with chat.Session(bind=engine) as session:
            session.add(chat.Message(room_id=1, body=str(number)))
            session.commit()
        with chat.Session() as session:
            session.connection(execution_options={"request": number})
            session.add(chat.Message(room_id=1, body=str(number)))
            session.commit()
        assert _listeners(engine) == before
    assert _listeners(chat.engine) == before
    assert events(screen) == ["message.created"] * 41
    screen.check()


# -- transactions that are to be run again -------------------------------------------


def _body(chat: Chat, session: Session, id: Any) -> None:
    chat.get(session, id).body = "new"


def _move(chat: Chat, session: Session, id: Any) -> None:
    chat.get(session, id).room_id = 2


def _delete(chat: Chat, session: Session, id: Any) -> None:
    session.delete(chat.get(session, id))


def _by_key(chat: Chat, session: Session, id: Any) -> None:
    session.execute(
        sa.update(chat.Message).where(chat.Message.id == id).values(room_id=3)
    )


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("write", [_body, _move, _delete, _by_key])
def test_a_serialization_failure_is_the_application_s(
    postgres_chat: Chat,
    level: Any,
    write: Callable[[Chat, Session, Any], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Bug: 48 tracebacks at ERROR for ordinary failures in 100 commits."""
    chat = postgres_chat
    id = chat.post(1, body="old")
    screens = chat.screens("chat:1", "chat:2", "chat:3")
    engine = chat.engine.execution_options(isolation_level=level)
    with chat.Session(bind=engine) as session:
        chat.get(session, id)
        with chat.Session() as other:
            chat.get(other, id).n = 7
            other.commit()
        with pytest.raises(sa.exc.OperationalError) as raised:
            _do(chat, session, write, id)
        assert raised.value.orig is not None
        assert getattr(raised.value.orig, "sqlstate", None) == "40001"
        session.rollback()
        assert events(*screens) == [["message.updated"], [], []]
        _do(chat, session, write, id)
    check(screens)
    assert errors(caplog) == []


def _do(chat: Chat, session: Session, write: Any, id: Any) -> None:
    write(chat, session, id)
    session.commit()


def test_a_write_skew_that_shows_at_commit_is_the_application_s(
    postgres_chat: Chat, caplog: pytest.LogCaptureFixture
) -> None:
    """SERIALIZABLE may refuse COMMIT itself, or a read of ours just before it."""
    chat = postgres_chat
    first, second = chat.post(1, body="a"), chat.post(1, body="b")
    screens = chat.screens("chat:1", "chat:2")
    engine = chat.engine.execution_options(isolation_level="SERIALIZABLE")
    count = sa.select(sa.func.count()).where(chat.Message.body == "on duty")
    with chat.Session(bind=engine) as one, chat.Session(bind=engine) as two:
        for session, id in ((one, first), (two, second)):
            session.scalar(count)
            chat.get(session, id).body = "on duty"
            session.flush()
        one.commit()
        with pytest.raises(sa.exc.OperationalError):
            two.commit()
        two.rollback()
    assert events(*screens) == [["message.updated"], []]
    check(screens)
    assert errors(caplog) == []


# -- the same, twice -----------------------------------------------------------------


@pytest.mark.parametrize("how", ["object", "statement"])
def test_a_second_click_on_delete_tells_nobody(
    chat: Chat, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Bug: every live room of the model read anew."""
    id = chat.post(1)
    screens = chat.screens("chat:1", "chat:2", "chat:3")
    with (
        chat.Session(expire_on_commit=False) as one,
        chat.Session(expire_on_commit=False) as two,
    ):
        rows = [chat.get(session, id) for session in (one, two)]
        one.commit()
        two.commit()
        for session, row in zip((one, two), rows, strict=True):
            with suppress(sa.exc.SAWarning, StaleDataError):
                if how == "object":
                    session.delete(row)
                else:
                    session.execute(
                        sa.delete(chat.Message).where(chat.Message.id == id)
                    )
                session.commit()
            session.rollback()
    assert events(*screens) == [["message.deleted"], [], []]
    check(screens)
    assert errors(caplog) == []


@pytest.mark.filterwarnings("ignore:DELETE statement on table")
def test_a_second_click_tells_nobody_though_it_is_committed(chat: Chat) -> None:
    """Where its warning is no error: with another row that was there."""
    first, second = chat.post(1), chat.post(1)
    screens = chat.screens("chat:1", "chat:2")
    with chat.Session(expire_on_commit=False) as session:
        rows = [chat.get(session, id) for id in (first, second)]
        session.commit()
        with chat.Session() as other:
            other.delete(chat.get(other, first))
            other.commit()
        assert events(*screens) == [["message.deleted"], []]
        for row in rows:
            session.delete(row)
        session.commit()
    assert events(*screens) == [["message.deleted"], []]
    check(screens)


# -- many ----------------------------------------------------------------------------


def test_10_001_rows_of_a_room_invalidate_that_room_alone(sqlite_chat: Chat) -> None:
    """Bug: every room of the kind read anew."""
    chat = sqlite_chat
    screens = chat.screens("chat:1", "chat:2", "chat:3")
    with chat.Session() as session:
        session.add_all([chat.Message(room_id=1) for _ in range(10_001)])
        session.commit()
        assert events(*screens) == [[STALE], [], []]
    with chat.Session() as session:
        for message in session.scalars(sa.select(chat.Message)):
            message.room_id = 3
        session.commit()
        assert events(*screens) == [[STALE], [], [STALE]]
    check(screens)


def test_no_statement_has_more_parameters_than_sqlite_takes(world: World) -> None:
    """Bug: 999 before SQLite 3.32, and a key may have several columns."""
    box = world.room("box:<int:box_id>")

    class Cell(world.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "cells"
        x: Mapped[int] = mapped_column(primary_key=True)
        y: Mapped[int] = mapped_column(primary_key=True)
        z: Mapped[int] = mapped_column(primary_key=True)
        id: Mapped[int] = mapped_column(unique=True)
        box_id: Mapped[int]
        up: Mapped[int | None]

    class Owner(world.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "owners"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str | None]

    Cell.owner = sa.orm.relationship(
        Owner,
        primaryjoin=sa.orm.foreign(Cell.up) == Owner.id,
        viewonly=True,
    )
    world.livepush.track(rooms=box, fields=("id",), latest=5_000)(Cell)
    world.livepush.track(
        rooms=box, fields={"id": "id", "by": "owner.name"}, kind="late", latest=5_000
    )(Cell)
    world.create_tables()
    screens = world.screens("box:1", "box:2")
    most: list[int] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if statement.startswith("SELECT"):
            most.append(len(parameters))

    with world.Session(expire_on_commit=False) as session:
        cells = [Cell(x=i % 7, y=i // 7, z=i, id=i, box_id=1) for i in range(1_200)]
        session.add_all(cells)
        sa.event.listen(world.engine, "before_cursor_execute", note)
        session.commit()
        for cell in cells:
            cell.box_id = 2
        session.commit()
        for cell in cells[:600]:
            session.delete(cell)
        session.commit()
    sa.event.remove(world.engine, "before_cursor_execute", note)
    assert 100 < max(most) <= 999
    check(screens)


def test_rows_of_keys_whose_type_is_not_the_column_s_are_found(
    database_url: str,
) -> None:
    """As an application gives them, from a form or a URL."""
    with closing(Chat(database_url)) as chat:
        if chat.engine.dialect.name == "postgresql":
            return  # which refuses them
        screens = chat.screens("chat:1", "chat:2")
        with chat.Session() as session:
            session.add_all([chat.Message(id=i, room_id="1") for i in ("7", "8", 9)])
            session.commit()
            check(screens)
        with chat.Session() as session:
            session.get(chat.Message, "7").room_id = "2"
            session.delete(session.get(chat.Message, "8"))
            session.commit()
            check(screens)
            session.execute(
                sa.update(chat.Message)
                .where(chat.Message.id == "9")
                .values(room_id="2")
            )
            session.commit()
        check(screens)
